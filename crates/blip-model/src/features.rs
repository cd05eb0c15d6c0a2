use candle_core::Tensor;

use crate::{Error, Result};

/// Checks that the states that a decoder attends to, an `input` of that name, have `width` features, and that there are those of
/// `batch` pictures if that is known.
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
