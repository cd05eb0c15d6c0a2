use std::fmt;

use hf_hub::{Repo, RepoType};

use super::RepoId;

/// A repository of the hub and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// What it holds.
    pub kind: Kind,
    /// Its name and revision.
    pub id: RepoId,
}

/// What a repository holds.
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
    pub(super) fn new(kind: Kind, id: &RepoId) -> Self {
        Self { kind, id: id.clone() }
    }

    pub(super) fn revision(&self) -> &str {
        self.id.revision.as_deref().unwrap_or("main")
    }

    /// The name under which the hub's client knows the repository.
    pub(super) fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model | Kind::Adapter => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.id.name.clone(), kind, self.revision().into())
    }

    /// The path of the repository's page on the hub.
    pub(super) fn web_path(&self) -> String {
        self.repo().url()
    }
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
