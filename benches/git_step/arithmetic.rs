//! The floating-point operations that a part of a training step requires.

use git_model::GitConfig;

use crate::common::arithmetic::{decoder, encoder};
use crate::training::{BATCH, Part, TOKENS};

/// Operations of a part, for those that need many.
pub(crate) fn flops(config: &GitConfig, part: Part) -> Option<f64> {
    let decoder = decoder(config, TOKENS);
    let of_one = match part {
        Part::VisionForward => encoder(config),
        Part::DecoderForward => decoder.forward,
        Part::DecoderBackward => decoder.backward,
        Part::Passes | Part::WholeStep => decoder.forward + decoder.backward,
        Part::Optimizer => return None,
    };
    Some(BATCH as f64 * of_one)
}
