use std::path::PathBuf;

/// Where features are cached.
#[derive(Clone, Debug)]
pub struct CachePlace {
    /// Memory budget in bytes. If the features are larger, all are read from files.
    pub memory: usize,
    /// A folder that caches features between runs, and the [fingerprint](super::encoder_fingerprint) of the
    /// encoder.
    pub between_runs: Option<(PathBuf, u128)>,
    /// Folder for a temporary file, if one is needed and no cache folder is given.
    pub scratch: PathBuf,
}
