use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::SavedOptions;
use crate::files;

/// The file of [`RunRecord`] in a run's folder.
pub const RECORD: &str = "run.json";
/// The new name of a damaged record, when its run is resumed.
const DAMAGED: &str = "run.json.damaged";

/// The run record in a run's folder: `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name, which its checkpoints have too.
    pub run: String,
    /// The state of the run.
    pub state: RunState,
    /// The run's options.
    pub options: SavedOptions,
    /// Whether it is a sweep, whose runs have folders of their own.
    #[serde(default)]
    pub sweep: bool,
    /// The files that the run wrote or is about to write, and the folders that contain them. Paths are
    /// relative to the run's folder, with `/` as separator. Checkpoints are not included.
    pub files: BTreeSet<String>,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Training, or ended unexpectedly.
    Running,
    /// Stopped and saved.
    Interrupted,
    /// All results are written.
    Finished,
}

impl RunRecord {
    /// Reads the record in a folder; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or parsed; the message has its path.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECORD);
        let text = match fs::read(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let understood = serde_json::from_slice(&text);
        let record = understood.with_context(|| {
            format!(
                "{} is not the record of a run: move it away, or choose another --output-dir",
                path.display()
            )
        })?;
        Ok(Some(record))
    }

    /// Restores the lost record of a run from a folder with checkpoints of the run. Its files are those of
    /// `names` that exist in the folder.
    pub fn recovered(folder: &Path, run: &str, options: &SavedOptions, names: &[&str]) -> Self {
        let is_there = |name: &&str| folder.join(name).symlink_metadata().is_ok();
        Self {
            run: run.to_owned(),
            state: RunState::Interrupted,
            options: options.clone(),
            sweep: false,
            files: names.iter().copied().filter(is_there).map(str::to_owned).collect(),
        }
    }

    /// Renames a file that is not a readable record, so that a record can be written in its place.
    ///
    /// # Errors
    /// If it cannot be renamed; the message has its path.
    pub fn set_damaged_aside(folder: &Path) -> Result<()> {
        let path = folder.join(RECORD);
        fs::rename(&path, folder.join(DAMAGED)).with_context(|| format!("cannot rename {}", path.display()))
    }

    /// Writes the record to a folder.
    ///
    /// # Errors
    /// If it cannot be written; the message has its path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        files::replace(&folder.join(RECORD), &json)
    }

    /// The files of `names` that exist in the folder and that no run wrote according to the record. Without a
    /// record, all that exist.
    pub fn foreign(record: Option<&Self>, folder: &Path, names: &[&str]) -> Vec<String> {
        let is_own = |name: &str| record.is_some_and(|record| record.files.contains(name));
        let taken = names.iter().filter(|name| !is_own(name) && folder.join(name).symlink_metadata().is_ok());
        taken.map(|name| (*name).to_owned()).collect()
    }

    /// Adds a file of the folder to the record, or a subfolder with everything in it.
    pub fn add(&mut self, folder: &Path, name: &str) {
        if let Ok(entries) = fs::read_dir(folder.join(name)) {
            for entry in entries.flatten() {
                self.add(folder, &format!("{name}/{}", entry.file_name().to_string_lossy()));
            }
        }
        self.files.insert(name.to_owned());
    }

    /// Removes the recorded files from the folder, and the recorded subfolders that are empty then.
    ///
    /// # Errors
    /// If something cannot be removed; the message has its path.
    pub fn remove_files(&self, folder: &Path) -> Result<()> {
        // In reverse order, a folder's contents are removed before the folder.
        for name in self.files.iter().rev() {
            let path = folder.join(name);
            let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            let removed = if is_folder { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether [`remove_files`](Self::remove_files) would remove `path`, or a folder that contains it.
    pub fn removes(&self, folder: &Path, path: &Path) -> bool {
        let (Ok(path), Ok(folder)) = (path.canonicalize(), folder.canonicalize()) else { return false };
        let Ok(inside) = path.strip_prefix(&folder) else { return false };
        let first = inside.components().next().map(|part| part.as_os_str().to_string_lossy());
        first.is_some_and(|first| self.files.contains(&*first) || first.starts_with("checkpoint-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Flags;

    fn record(folder: &Path, names: &[&str]) -> RunRecord {
        let options = SavedOptions {
            version: "0.1.0".into(),
            command: "pokemon_finetune".into(),
            directory: folder.to_owned(),
            flags: Flags::default(),
            adapter_config: None,
            commits: None,
            sweep: Vec::new(),
        };
        let mut record = RunRecord {
            run: "a".into(),
            state: RunState::Running,
            options,
            sweep: false,
            files: BTreeSet::new(),
        };
        names.iter().for_each(|name| record.add(folder, name));
        record
    }

    #[test]
    fn a_run_removes_only_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["adapter", "model"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["adapter/weights", "model/mine", "metrics.json", "notes.txt"] {
            fs::write(path(name), "").unwrap();
        }
        let record = record(folder.path(), &["adapter", "metrics.json", "report.html"]);
        assert_eq!(
            RunRecord::foreign(Some(&record), folder.path(), &["adapter", "model", "loss.svg"]),
            ["model"]
        );
        assert_eq!(RunRecord::foreign(None, folder.path(), &["adapter", "loss.svg"]), ["adapter"]);
        fs::write(path("adapter/README.md"), "mine").unwrap();

        record.remove_files(folder.path()).unwrap();
        for (name, stays) in [
            ("adapter/weights", false),
            ("metrics.json", false),
            ("adapter/README.md", true),
            ("model/mine", true),
            ("notes.txt", true),
        ] {
            assert_eq!(path(name).exists(), stays, "{name}");
        }
        fs::remove_file(path("adapter/README.md")).unwrap();
        record.remove_files(folder.path()).unwrap();
        assert!(!path("adapter").exists());
    }

    #[test]
    fn it_is_read_back_as_it_was_written_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RunRecord::read(folder.path()).unwrap(), None);
        let record = record(folder.path(), &["log.jsonl"]);
        record.write(folder.path()).unwrap();
        assert_eq!(RunRecord::read(folder.path()).unwrap(), Some(record));
        fs::write(folder.path().join(RECORD), r#"{"name": "my own"}"#).unwrap();
        let error = RunRecord::read(folder.path()).unwrap_err();
        assert!(error.is::<serde_json::Error>(), "it can be told from a file that cannot be read");
        let error = format!("{error:#}");
        assert!(error.contains("run.json is not the record of a run: move it away"), "{error}");
    }

    #[test]
    fn a_lost_record_is_made_again_from_the_files_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("adapter")).unwrap();
        for name in ["adapter/mine", "log.jsonl", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let options = record(folder.path(), &[]).options;
        let names = ["log.jsonl", "adapter", "metrics.json"];
        let recovered = RunRecord::recovered(folder.path(), "a", &options, &names);
        let files: Vec<&str> = recovered.files.iter().map(String::as_str).collect();
        assert_eq!((recovered.run.as_str(), files), ("a", vec!["adapter", "log.jsonl"]));

        fs::write(folder.path().join(RECORD), "{\"run\": ").unwrap();
        RunRecord::set_damaged_aside(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(DAMAGED)).unwrap(), "{\"run\": ");
        assert_eq!(RunRecord::read(folder.path()).unwrap(), None);
    }

    #[test]
    fn paths_that_a_new_run_would_remove_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["adapter", "checkpoint-2", "mine"] {
            fs::create_dir(path(name)).unwrap();
        }
        let record = record(folder.path(), &["adapter"]);
        let removed =
            ["adapter", "checkpoint-2", "mine", "."].map(|name| record.removes(folder.path(), &path(name)));
        assert_eq!(removed, [true, true, false, false]);
    }
}
