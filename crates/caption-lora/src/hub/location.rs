use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{Error, Result};

/// Where a model, a dataset or an adapter comes from, as given on the command line. A text is read as the first
/// of these that fits: the word `embedded`; an existing local path; a hub id `owner/name`, optionally with
/// `@revision` (a branch, a tag or a commit) and, for a dataset, with `:split`. A folder with the name
/// `embedded` is written `./embedded`. An empty folder with the name of a hub id is an error, because it was
/// probably made by mistake.
///
/// ```
/// use caption_lora::hub::{Location, RepoId};
///
/// let location: Location = "microsoft/git-base".parse()?;
/// assert_eq!(location, Location::Hub(RepoId { name: "microsoft/git-base".into(), revision: None, split: None }));
/// assert_eq!("embedded".parse::<Location>()?, Location::Embedded);
/// assert!("./no-such-folder".parse::<Location>().is_err());
/// # Ok::<(), caption_lora::hub::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The model or the drawings that are part of this project. Needs no network.
    Embedded,
    /// A file or a folder on this machine.
    Local(PathBuf),
    /// A repository of the hub.
    Hub(RepoId),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let folder = || std::env::current_dir().unwrap_or_else(|_| ".".into());
        let path = Path::new(text);
        match RepoId::parse(text) {
            _ if text == "embedded" => Ok(Self::Embedded),
            Some(id) if is_empty_folder(path) => Err(Error::EmptyFolder { id, folder: folder() }),
            _ if path.exists() || caption_data::is_pattern(text) => Ok(Self::Local(text.into())),
            Some(RepoId { split: Some(split), name, .. }) if Path::new(&name).exists() => {
                Err(Error::SplitOfFolder { path: name.into(), split })
            }
            Some(id) => Ok(Self::Hub(id)),
            None => Err(Error::NoSuchLocation { text: text.into(), folder: folder() }),
        }
    }
}

impl Location {
    /// The hub id that is hidden by a local path of the same name.
    pub fn hidden_id(&self) -> Option<RepoId> {
        match self {
            Self::Local(path) => RepoId::parse(path.to_str()?),
            _ => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(id) => write!(f, "{id}"),
        }
    }
}

/// The name of a hub repository, or of a split of it: `owner/name`, `owner/name@revision`, `owner/name:split` or
/// `owner/name@revision:split`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    /// `owner/name`.
    pub name: String,
    /// A branch, a tag or a commit; `main` if none is given.
    pub revision: Option<String>,
    /// The split of a dataset, such as `validation`; the training split if none is given.
    pub split: Option<String>,
}

impl RepoId {
    /// Parses `owner/name[@revision][:split]`; `None` for any other text, such as the path `./a/b`.
    fn parse(text: &str) -> Option<Self> {
        // Git forbids colons in revisions, so the first colon begins the split.
        let (repository, split) = parted(text, ':');
        let (name, revision) = parted(repository, '@');
        let (owner, model) = name.split_once('/')?;
        let is_id = is_word(owner) && is_word(model);
        (is_id && revision.is_none_or(is_revision) && split.is_none_or(is_word)).then(|| Self {
            name: name.into(),
            revision: revision.map(str::to_owned),
            split: split.map(str::to_owned),
        })
    }
}

/// The parts of a text before and after the first `separator`.
fn parted(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.split {
            Some(split) => write!(f, ":{split}"),
            None => Ok(()),
        }
    }
}

/// Whether the hub allows a name on either side of the slash, or for a split. A leading dot or hyphen indicates a path or a
/// misplaced flag.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether Git allows a name for a branch or a tag. As a path, such a name stays inside its folder.
fn is_revision(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock");
    let is_allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\@".contains(c);
    !text.contains("..") && text.chars().all(is_allowed) && text.split('/').all(is_part)
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_path_wins_over_a_hub_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(path.parse::<Location>().unwrap(), Location::Local(path.into()));
        // The tests run in the crate's folder, where `src/hub` looks like an id and is a folder.
        let local = "src/hub".parse::<Location>().unwrap();
        assert_eq!(local, Location::Local("src/hub".into()));
        assert_eq!(local.hidden_id().unwrap().to_string(), "src/hub");
        assert_eq!("./src/hub".parse::<Location>().unwrap().hidden_id(), None);
    }

    #[test]
    fn a_revision_may_be_a_branch_with_slashes() {
        let id = RepoId::parse("reach-vb/pokemon-blip-captions@refs/convert/parquet").unwrap();
        assert_eq!(id.name, "reach-vb/pokemon-blip-captions");
        assert_eq!(id.revision.as_deref(), Some("refs/convert/parquet"));
        assert_eq!(id.to_string(), "reach-vb/pokemon-blip-captions@refs/convert/parquet");
    }

    #[test]
    fn a_revision_is_what_git_allows_and_is_printed_as_it_was_read() {
        for text in [
            "a/b@v1.0+cu118",
            "a/b@feature/x",
            "a/b@refs/pr/3",
            "a/b@0f3cc6e",
            "a/b@gr\u{fc}n",
            "a/b:val",
            "a/b@v1:val",
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_split_follows_the_name_or_the_revision() {
        let parse = |text: &str| RepoId::parse(text).map(|id| (id.revision, id.split));
        assert_eq!(parse("a/b:validation"), Some((None, Some("validation".to_owned()))));
        assert_eq!(parse("a/b@v1:test_2"), Some((Some("v1".to_owned()), Some("test_2".to_owned()))));
        for text in ["a/b:", "a/b:x y", "a/b:-x", "a/b:x:y", "a/b:x@v1", "a/b:x/y"] {
            assert_eq!(parse(text), None, "{text}");
        }
        // A folder of the crate: it is not asked for on the hub.
        let message = "src/hub:validation".parse::<Location>().unwrap_err().to_string();
        assert!(
            message.contains("src/hub is on this machine") && message.contains("`validation`"),
            "{message}"
        );
    }

    #[test]
    fn an_empty_folder_that_hides_a_hub_id_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("git-base");
        fs::create_dir(&empty).unwrap();
        // A path that cannot be a hub id is checked when it is opened.
        assert_eq!(empty.to_str().unwrap().parse::<Location>().unwrap(), Location::Local(empty.clone()));
        assert!(is_empty_folder(&empty));
        fs::write(empty.join("config.json"), "{}").unwrap();
        assert!(!is_empty_folder(&empty) && !is_empty_folder(&empty.join("config.json")));
    }

    #[test]
    fn the_error_for_neither_path_nor_id_says_what_was_searched() {
        for text in [
            "", "gpt2", "a/b/c", "./a/b", "/no/such", "a/", "/a", "a b/c", "a/b@", "a/b@../c", "../x",
            "-a/b", "a/b@x y", "a/b@/x", "a/b@x@y", "a/b@.x",
        ] {
            let message = text.parse::<Location>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("owner/name"), "{message}");
        }
    }

    #[test]
    fn the_address_of_a_page_is_no_id_and_holds_one() {
        for (text, id) in [
            ("https://huggingface.co/microsoft/git-base", "`microsoft/git-base`"),
            ("https://huggingface.co/microsoft/git-base/tree/main", "`microsoft/git-base`"),
            ("https://huggingface.co/datasets/reach-vb/pokemon", "`reach-vb/pokemon`"),
            ("hf://datasets/reach-vb/pokemon", "owner/name"),
        ] {
            let message = text.parse::<Location>().unwrap_err().to_string();
            assert!(message.contains(id), "{message}");
        }
    }
}
