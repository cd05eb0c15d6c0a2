use candle_core::Error;

/// Candle's error of one of train-ops, since candle's modules return candle's errors.
pub(crate) fn to_candle(error: train_ops::Error) -> Error {
    match error {
        train_ops::Error::Candle(error) => error,
        error => Error::wrap(error),
    }
}
