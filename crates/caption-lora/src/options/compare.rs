use std::path::PathBuf;

/// The options of comparing finished runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare {
    /// Output folders of the runs, or of sweeps. Default: none.
    pub runs: Vec<PathBuf>,
    /// The page. Default: `runs/compare.html`.
    pub output: PathBuf,
}

impl Default for Compare {
    fn default() -> Self {
        Self { runs: Vec::new(), output: "runs/compare.html".into() }
    }
}
