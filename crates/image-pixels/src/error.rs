/// Why a file has no pixels. The messages do not say which file it is, since only the caller knows its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A picture that was cloned without Git LFS.
    #[error("the picture is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")]
    LfsPointer,
    /// A picture whose format is unknown.
    #[error("not a {} picture: it begins with \"{start}\"", crate::kind::KINDS)]
    UnknownFormat {
        /// Its first bytes, escaped.
        start: String,
    },
    /// A picture in a known format that is not supported.
    #[error("{kind} pictures are not read; convert this one to PNG or JPEG")]
    UnreadFormat {
        /// The format, such as `AVIF`.
        kind: &'static str,
    },
    /// A picture that is broken or truncated.
    #[error("the picture cannot be decoded: {why}")]
    Decode {
        /// The decoder's message.
        why: String,
    },
    /// A picture too large to be decoded safely.
    #[error(
        "the picture's header gives {width} x {height} pixels, more than {max_pixels}; \
         make it smaller, or raise the limit if it is not a decompression bomb"
    )]
    TooManyPixels {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
