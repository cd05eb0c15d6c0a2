use crate::buffer::release_buffers;

/// Makes the allocator keep freed memory for the next step instead of returning it to the system page by page,
/// because every training step allocates as much as the step before it freed. Call it once, at the start of the
/// process.
///
/// It sets thresholds of glibc's allocator; with another allocator it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` may be called at any time; these options take a number of bytes.
    #[allow(unsafe_code)]
    unsafe {
        // The largest threshold that glibc accepts: larger allocations have their own mapping.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        // One heap for all threads, because other heaps are returned in pieces of 64 MiB, whatever the
        // thresholds.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns unused memory to the system. Call it after a phase whose allocations are not repeated, for example
/// when all image features are cached and the encoder is dropped.
pub fn release_memory() {
    release_buffers();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time; memory in use stays where it is.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
