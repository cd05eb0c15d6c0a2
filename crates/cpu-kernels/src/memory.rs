use crate::buffer::release_buffers;

/// Has the allocator keep freed memory for the next step instead of giving it back to the system page by page: every
/// training step allocates as much as the step before it freed. Call it once, at the start of the process.
///
/// It sets thresholds of glibc's allocator; with another allocator it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` may be called at any time; these options take a number of bytes.
    #[allow(unsafe_code)]
    unsafe {
        // The largest that glibc accepts: larger allocations are mapped on their own.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        // One heap for all threads: further ones are given back in pieces of 64 MiB, whatever the thresholds.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that is kept and unused back to the system. Call it at the end of a phase whose sizes do not come back, as
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
