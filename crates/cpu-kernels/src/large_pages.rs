/// Asks the system for large pages where `memory` will be touched for the first time: products walk through megabytes in
/// strides of rows, and with small pages the processor would look up an address for every few lines it reads.
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
            // SAFETY: the range lies within `memory`, and its contents do not depend on the size of its pages. A refusal
            // costs speed alone.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = memory;
}
