//! The names and shapes of the tensors of a GIT checkpoint.

use std::collections::BTreeMap;

use crate::GitConfig;

pub(crate) const WORD_EMBEDDINGS: &str = "git.embeddings.word_embeddings.weight";
pub(crate) const LM_HEAD: &str = "output";
pub(crate) const VISION: &str = "git.image_encoder.vision_model";

/// Buffers that older versions of transformers wrote. They hold `0, 1, 2, …` and are not needed.
const BUFFERS: [&str; 2] =
    ["git.embeddings.position_ids", "git.image_encoder.vision_model.embeddings.position_ids"];

/// Whether a tensor of the file is a buffer without weights.
pub(crate) fn is_buffer(name: &str) -> bool {
    BUFFERS.contains(&name)
}

/// The spelling of a name that this crate uses: transformers before version 5 wrote `img_temperal_embedding`.
pub(crate) fn canonical(name: &str) -> String {
    name.replace("img_temperal_embedding", "img_temporal_embedding")
}

/// Name and shape of every tensor of a checkpoint with the configuration `config`, without a tied head.
pub(crate) fn tensors(config: &GitConfig) -> BTreeMap<String, Vec<usize>> {
    let mut schema = Schema(BTreeMap::new());
    let hidden = config.hidden_size;
    schema.tensor(WORD_EMBEDDINGS, &[config.vocab_size, hidden]);
    schema.tensor("git.embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden]);
    schema.norm("git.embeddings.LayerNorm", hidden);

    let vision = &config.vision_config;
    let width = vision.hidden_size;
    let patch = [width, vision.num_channels, vision.patch_size, vision.patch_size];
    schema.tensor(&format!("{VISION}.embeddings.class_embedding"), &[width]);
    schema.tensor(&format!("{VISION}.embeddings.patch_embedding.weight"), &patch);
    schema.tensor(&format!("{VISION}.embeddings.position_embedding.weight"), &[vision.tokens(), width]);
    schema.norm(&format!("{VISION}.pre_layrnorm"), width);
    for layer in 0..vision.num_hidden_layers {
        let layer = format!("{VISION}.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            schema.linear(&format!("{layer}.self_attn.{projection}"), width, width);
        }
        schema.linear(&format!("{layer}.mlp.fc1"), width, vision.intermediate_size);
        schema.linear(&format!("{layer}.mlp.fc2"), vision.intermediate_size, width);
        schema.norm(&format!("{layer}.layer_norm1"), width);
        schema.norm(&format!("{layer}.layer_norm2"), width);
    }
    schema.norm(&format!("{VISION}.post_layernorm"), width);

    for frame in 0..config.num_image_with_embedding.unwrap_or(0) {
        schema.tensor(&format!("git.img_temporal_embedding.{frame}"), &[1, 1, width]);
    }
    schema.linear("git.visual_projection.visual_projection.0", width, hidden);
    schema.norm("git.visual_projection.visual_projection.1", hidden);

    for layer in 0..config.num_hidden_layers {
        let layer = format!("git.encoder.layer.{layer}");
        for projection in ["self.query", "self.key", "self.value", "output.dense"] {
            schema.linear(&format!("{layer}.attention.{projection}"), hidden, hidden);
        }
        schema.norm(&format!("{layer}.attention.output.LayerNorm"), hidden);
        schema.linear(&format!("{layer}.intermediate.dense"), hidden, config.intermediate_size);
        schema.linear(&format!("{layer}.output.dense"), config.intermediate_size, hidden);
        schema.norm(&format!("{layer}.output.LayerNorm"), hidden);
    }
    schema.linear(LM_HEAD, hidden, config.vocab_size);
    if config.tie_word_embeddings {
        schema.0.remove(&format!("{LM_HEAD}.weight"));
    }
    schema.0
}

struct Schema(BTreeMap<String, Vec<usize>>);

impl Schema {
    fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.0.insert(name.to_owned(), shape.to_vec());
    }

    fn linear(&mut self, path: &str, in_features: usize, out_features: usize) {
        self.tensor(&format!("{path}.weight"), &[out_features, in_features]);
        self.tensor(&format!("{path}.bias"), &[out_features]);
    }

    fn norm(&mut self, path: &str, features: usize) {
        self.tensor(&format!("{path}.weight"), &[features]);
        self.tensor(&format!("{path}.bias"), &[features]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_model_has_the_published_number_of_parameters() {
        let count: usize =
            tensors(&GitConfig::default()).values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(count, 176_619_066);
    }
}
