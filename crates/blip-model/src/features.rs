use candle_core::Tensor;

use crate::{Error, Result};

/// Checks that the states that a decoder attends to have `width` features and, if `batch` is given, that they
/// belong to `batch` pictures. `input` is their name in the error.
pub(crate) fn check(input: &'static str, states: &Tensor, batch: Option<usize>, width: usize) -> Result<()> {
    match states.dims() {
        &[pictures, _, found] if found == width && batch.is_none_or(|batch| batch == pictures) => Ok(()),
        got => Err(Error::Shape {
            input,
            expected: match batch {
                Some(batch) => format!("({batch}, tokens, {width})"),
                None => format!("(pictures, tokens, {width})"),
            },
            got: got.to_vec(),
        }),
    }
}
