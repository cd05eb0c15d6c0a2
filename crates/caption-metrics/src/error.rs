/// What can go wrong in this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As many candidates as pictures are needed.
    #[error("{candidates} candidates for {references} pictures with references; give one for each picture")]
    Lengths {
        /// Captions to score.
        candidates: usize,
        /// Pictures that references were given for.
        references: usize,
    },
    /// A picture without a reference.
    #[error("picture {picture} (from 0) has no reference; leave it out of both lists")]
    NoReference {
        /// Its place in the list.
        picture: usize,
    },
    /// Nothing to score.
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
