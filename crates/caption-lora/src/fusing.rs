//! How many micro-batches of a step are fused into one forward and backward pass.

use git_model::GitConfig;

/// Memory for the saved activations of one pass, in bytes: enough for two micro-batches of the recipe with
/// git-base, about 0.15 GB each. Two fused are 6 % faster than one at a time; four take twice the memory and
/// are hardly faster than two.
const MEMORY: usize = 384 << 20;

/// One micro-batch in training.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch {
    /// Its pictures.
    pub pictures: usize,
    /// Tokens of its longest caption.
    pub caption: usize,
    /// Whether the vision encoder is trained too.
    pub vision_trains: bool,
}

impl MicroBatch {
    /// Estimated bytes of saved activations: 0.08 GB per picture for the decoder of git-base, where 0.09 are
    /// measured.
    pub fn memory(&self, config: &GitConfig) -> usize {
        let vision = &config.vision_config;
        // Saved values per token of a layer: ten times its width and 2.5 times the feed-forward block's.
        let layer = |width: usize, intermediate: usize| 10 * width + 5 * intermediate / 2;
        let tokens = vision.tokens() + self.caption;
        let text = tokens * config.num_hidden_layers * layer(config.hidden_size, config.intermediate_size);
        let encoder =
            vision.tokens() * vision.num_hidden_layers * layer(vision.hidden_size, vision.intermediate_size);
        let numbers = if self.vision_trains { text + encoder } else { text };
        self.pictures * numbers * size_of::<f32>()
    }

    /// How many such micro-batches to fuse: many for a small model, whose products are small; one for a large
    /// batch. The result depends on the arguments only, so that a resumed run makes the same passes.
    pub fn fused(&self, config: &GitConfig) -> usize {
        (MEMORY / self.memory(config).max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_passes_are_fused_and_large_ones_are_not() {
        let batch = MicroBatch { pictures: 2, caption: 20, vision_trains: false };
        let base = GitConfig::default();
        assert!((140..200).contains(&(batch.memory(&base) / 1_000_000)), "{}", batch.memory(&base));
        assert_eq!(batch.fused(&base), 2);
        assert_eq!(MicroBatch { caption: 64, ..batch }.fused(&base), 2);
        assert_eq!(MicroBatch { pictures: 4, ..batch }.fused(&base), 1);
        assert_eq!(MicroBatch { vision_trains: true, ..batch }.fused(&base), 1);
        assert_eq!(MicroBatch { pictures: 64, ..batch }.fused(&base), 1);
        let embedded = GitConfig::read(&crate::embedded::checkpoint().unwrap().join("config.json")).unwrap();
        let fused = batch.fused(&embedded);
        assert!((24..192).contains(&fused), "{fused}");
        assert!(MicroBatch { vision_trains: true, ..batch }.fused(&embedded) < fused);
        assert!(MicroBatch { caption: 64, ..batch }.fused(&embedded) < fused);
    }
}
