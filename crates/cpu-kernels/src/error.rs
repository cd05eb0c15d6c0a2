/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment variable [`ISA_VARIABLE`](crate::ISA_VARIABLE) names an instruction set that this processor does not
    /// have, or that does not exist.
    #[error(
        "{variable}={value}: this processor has no such instruction set; unset {variable} or set it to one of {supported}"
    )]
    UnknownIsa {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The names that it may have, best first, with commas between them.
        supported: String,
    },
}

/// The result of a function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
