use std::error::Error as _;

use candle_core::Error;

/// Converts an error of train-ops to candle's, since candle's modules return candle's errors. These have no
/// source, so the text contains the causes too.
pub(crate) fn to_candle(error: train_ops::Error) -> Error {
    let mut text = match error {
        train_ops::Error::Candle(error) => return error,
        ref error => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Error::Msg(text)
}
