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
