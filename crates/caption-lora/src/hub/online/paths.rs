//! The paths of a repository on the hub and in the cache.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Kind, RepoId, Repository, is_commit};

/// Characters that are escaped between the slashes of an address: all except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Repository {
    pub(super) fn new(kind: Kind, id: &RepoId) -> Self {
        Self { kind, id: id.clone() }
    }

    /// The revision, if it is the full hash of a commit, whose files never change.
    pub(super) fn pinned_commit(&self) -> Option<&str> {
        self.id.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The path of the description of a revision.
    pub(super) fn info_path(&self) -> String {
        let revision = utf8_percent_encode(self.revision(), RESERVED);
        format!("api/{}/{}/revision/{revision}", self.kinds(), self.id.name)
    }

    /// The path of a file at a commit.
    pub(super) fn file_path(&self, commit: &str, name: &str) -> String {
        let name: Vec<_> =
            name.split('/').map(|part| utf8_percent_encode(part, RESERVED).to_string()).collect();
        format!("{}/resolve/{commit}/{}", self.web_path(), name.join("/"))
    }

    /// The name of the folder in which the cache keeps the repository.
    pub(super) fn folder_name(&self) -> String {
        format!("{}--{}", self.kinds(), self.id.name.replace('/', "--"))
    }

    fn kinds(&self) -> &'static str {
        match self.kind {
            Kind::Model | Kind::Adapter => "models",
            Kind::Dataset => "datasets",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_folders_are_those_of_huggingface_hub() {
        let id = |revision: Option<&str>| RepoId {
            name: "a/b".into(),
            revision: revision.map(str::to_owned),
            split: None,
        };
        let model = Repository::new(Kind::Model, &id(None));
        assert_eq!(model.info_path(), "api/models/a/b/revision/main");
        assert_eq!(model.file_path("0f", "sub dir/é#1.png"), "a/b/resolve/0f/sub%20dir/%C3%A9%231.png");
        assert_eq!(model.folder_name(), "models--a--b");
        let data = Repository::new(Kind::Dataset, &id(Some("refs/convert/parquet")));
        assert_eq!(data.info_path(), "api/datasets/a/b/revision/refs%2Fconvert%2Fparquet");
        assert_eq!(data.file_path("0f", "x"), "datasets/a/b/resolve/0f/x");
        assert_eq!(data.folder_name(), "datasets--a--b");
    }

    #[test]
    fn only_a_full_hash_pins_a_commit() {
        let pinned = |revision: &str| {
            let id = RepoId { name: "a/b".into(), revision: Some(revision.to_owned()), split: None };
            Repository::new(Kind::Model, &id).pinned_commit().is_some()
        };
        assert!(pinned(&"0f".repeat(20)));
        assert!(!pinned("0f3cc6e") && !pinned("main") && !pinned(&"0g".repeat(20)));
    }
}
