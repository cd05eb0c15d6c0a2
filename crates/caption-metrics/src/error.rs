/// The errors of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The numbers of candidates and of pictures differ.
    #[error("{candidates} candidates for {references} pictures with references; give one for each picture")]
    Lengths {
        /// Number of captions to score.
        candidates: usize,
        /// Number of pictures that have references.
        references: usize,
    },
    /// A picture without a reference.
    #[error("picture {picture} (from 0) has no reference; leave it out of both lists")]
    NoReference {
        /// Its index in the list.
        picture: usize,
    },
    /// No captions.
    #[error("there is no caption to score")]
    Empty,
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Checks that every candidate has references.
pub(crate) fn check<C, R>(candidates: &[C], references: &[Vec<R>]) -> Result<()> {
    if candidates.len() != references.len() {
        return Err(Error::Lengths { candidates: candidates.len(), references: references.len() });
    }
    if candidates.is_empty() {
        return Err(Error::Empty);
    }
    match references.iter().position(Vec::is_empty) {
        Some(picture) => Err(Error::NoReference { picture }),
        None => Ok(()),
    }
}
