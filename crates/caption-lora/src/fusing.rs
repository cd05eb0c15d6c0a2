//! How many micro-batches of a step are fused into one forward and backward pass.

use crate::options::Dtype;

/// Memory for the saved activations of one pass, in bytes: enough for two micro-batches of the recipe with
/// git-base, about 0.13 GB each. Two fused are 6 % faster than one at a time; four take twice the memory and
/// are hardly faster than two.
const MEMORY: usize = 307 << 20;
/// The same for weights in 8 bits: enough for one micro-batch of git-base. Two fused are no faster there.
const INT8_MEMORY: usize = MEMORY / 2;

/// The number of micro-batches to fuse. Each has `pictures` pictures, for each of which a pass saves
/// `activations` numbers in f32. Many are fused for a small model, whose products are small; one for a large
/// batch. The result depends only on the arguments, so that a resumed run has the same passes.
pub fn fused(dtype: Dtype, pictures: usize, activations: usize) -> usize {
    let memory = if dtype == Dtype::Int8 { INT8_MEMORY } else { MEMORY };
    (memory / (pictures * activations * size_of::<f32>()).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use git_model::{CaptionConfig as _, GitConfig};

    use super::*;

    #[test]
    fn small_passes_are_fused_and_large_ones_are_not() {
        let fused = |pictures, activations| super::fused(Dtype::F32, pictures, activations);
        let base = GitConfig::default();
        let megabytes = 2 * base.saved_activations(20, false) * size_of::<f32>() / 1_000_000;
        assert!((115..140).contains(&megabytes), "{megabytes}");
        assert_eq!(fused(2, base.saved_activations(20, false)), 2);
        assert_eq!(fused(2, base.saved_activations(64, false)), 2);
        assert_eq!(fused(4, base.saved_activations(20, false)), 1);
        assert_eq!(fused(2, base.saved_activations(20, true)), 1);
        assert_eq!(fused(64, base.saved_activations(20, false)), 1);
        let embedded = GitConfig::read(&crate::embedded::checkpoint().unwrap().join("config.json")).unwrap();
        let alone = fused(2, embedded.saved_activations(20, false));
        assert!((24..192).contains(&alone), "{alone}");
        assert!(fused(2, embedded.saved_activations(20, true)) < alone);
        let in_8_bits =
            |config: &GitConfig| super::fused(Dtype::Int8, 2, config.saved_activations(20, false));
        assert_eq!(in_8_bits(&base), 1);
        assert!((4..alone).contains(&in_8_bits(&embedded)));
        assert!(fused(2, embedded.saved_activations(64, false)) < alone);
    }
}
