//! The names and shapes of the tensors of a GIT checkpoint.

use caption_model::TensorSchema;

use crate::GitConfig;

pub(crate) const VISION: &str = "git.image_encoder.vision_model";
const WORD_EMBEDDINGS: &str = "git.embeddings.word_embeddings.weight";
const LM_HEAD: &str = "output";

/// Name and shape of every tensor of a checkpoint with the configuration `config`, without a tied head.
pub(crate) fn tensors(config: &GitConfig) -> TensorSchema {
    let hidden = config.hidden_size;
    let words = [config.vocab_size, hidden];
    let bias = format!("{LM_HEAD}.bias");
    let mut schema = TensorSchema::new(WORD_EMBEDDINGS, LM_HEAD, &bias, words, config.tie_word_embeddings);
    // Buffers that older versions of transformers wrote. They contain `0, 1, 2, …`.
    schema.buffer("git.embeddings.position_ids");
    schema.buffer(&format!("{VISION}.embeddings.position_ids"));
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
        let name = format!("git.img_temporal_embedding.{frame}");
        schema.tensor(&name, &[1, 1, width]);
        // Spelled like this by transformers before version 5.
        schema.alias(&format!("git.img_temperal_embedding.{frame}"), &name);
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
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_model_has_the_published_number_of_parameters() {
        let count: usize = tensors(&GitConfig::default())
            .shapes()
            .values()
            .map(|shape| shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, 176_619_066);
    }
}
