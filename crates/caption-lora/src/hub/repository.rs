use std::fmt;

use super::RepoId;

/// A repository of the hub and the kind of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The kind of content.
    pub kind: Kind,
    /// Its name and revision.
    pub id: RepoId,
}

/// The kind of a repository's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint.
    Model,
    /// A LoRA adapter, which the hub keeps among the models.
    Adapter,
    /// Captioned images.
    Dataset,
}

impl Repository {
    pub(super) fn revision(&self) -> &str {
        self.id.revision.as_deref().unwrap_or("main")
    }

    /// The path of the repository's page on the hub.
    pub(super) fn web_path(&self) -> String {
        match self.kind {
            Kind::Model | Kind::Adapter => self.id.name.clone(),
            Kind::Dataset => format!("datasets/{}", self.id.name),
        }
    }
}

/// Whether a revision is the full hash of a commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Adapter => "adapter",
            Kind::Dataset => "dataset",
        };
        write!(f, "{kind} {}", self.id)
    }
}
