use crate::buffer::release_buffers;

/// Keeps freed memory for the next step instead of giving it back to the system and asking for it again, page by page:
/// every training step allocates what the one before it freed. Call it once, first thing in `main`.
///
/// Here it sets thresholds of glibc's allocator, up to which memory is kept; elsewhere it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` may be called at any time; these options take a number of bytes.
    #[allow(unsafe_code)]
    unsafe {
        // The largest that glibc accepts: what is larger is mapped on its own.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        // One heap for all threads: further ones are given back in pieces of 64 MiB, whatever the thresholds.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Asks the system for large pages where `memory` will be touched for the first time: products walk through megabytes in
/// strides of rows, and with small pages the processor would look up an address for every few lines it reads.
///
/// Linux gives pages of 2 MiB to whoever asks; elsewhere this does nothing.
pub(crate) fn ask_for_large_pages<T>(memory: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        let range = memory.as_ptr_range();
        let start = (range.start as usize).next_multiple_of(LARGE);
        let end = range.end as usize / LARGE * LARGE;
        if start < end {
            // SAFETY: the range lies within `memory`, and how it is paged makes no difference to what is in it. A refusal
            // costs nothing but speed.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
            }
        }
    }
}

/// Gives memory that is kept and not used back to the system: for the end of a phase whose sizes do not come back, as when
/// the features of all pictures are known and the encoder is let go.
pub fn release_memory() {
    release_buffers();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time; what is in use stays where it is.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
