/// Asks the system for large pages for `memory`, before it is touched for the first time. Products read
/// megabytes in strides of rows, and with small pages the processor would translate an address for every few
/// lines that it reads.
///
/// Linux gives pages of 2 MiB on request; elsewhere this does nothing.
pub(crate) fn ask_for_large_pages<T>(memory: &[T]) {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        const LARGE: usize = 2 << 20;
        let range = memory.as_ptr_range();
        let start = (range.start as usize).next_multiple_of(LARGE);
        let end = range.end as usize / LARGE * LARGE;
        if start < end {
            // SAFETY: the range lies within `memory`, and its contents do not depend on the size of its pages.
            // A refusal affects only speed.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = memory;
}
