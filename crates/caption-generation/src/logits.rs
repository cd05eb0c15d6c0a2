use crate::error::{Error, Result};

/// Checks that there is a row of logits for each sequence.
pub(crate) fn check_logits(logits: &[f32], sequences: usize, vocab_size: usize) -> Result<()> {
    match logits.len() == sequences * vocab_size {
        true => Ok(()),
        false => Err(Error::LogitCount { got: logits.len(), sequences, vocab_size }),
    }
}

/// Refuses logits with NaN or plus infinity, among which none is the best. Minus infinity forbids a token.
pub(crate) fn check_numbers(logits: &[f32], tokens: usize) -> Result<()> {
    // Without an early exit, as that is faster with vector instructions.
    match logits.iter().fold(true, |all, logit| all & (*logit < f32::INFINITY)) {
        true => Ok(()),
        false => Err(Error::NotNumbers { tokens }),
    }
}
