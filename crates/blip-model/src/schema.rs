//! The names and shapes of the tensors of a BLIP checkpoint.

use caption_model::TensorSchema;

use crate::{BlipConfig, BlipTask};

pub(crate) const VISION: &str = "vision_model";
pub(crate) const TEXT: &str = "text_decoder.bert";
/// The question encoder.
pub(crate) const QUESTION: &str = "text_encoder";
pub(crate) const HEAD: &str = "text_decoder.cls.predictions";

/// Name and shape of every tensor of a checkpoint with the configuration `config`, without a tied head.
pub(crate) fn tensors(config: &BlipConfig) -> TensorSchema {
    let text = &config.text_config;
    let hidden = text.hidden_size;
    let words = format!("{TEXT}.embeddings.word_embeddings.weight");
    let (head, bias, head_bias) =
        (format!("{HEAD}.decoder"), format!("{HEAD}.bias"), format!("{HEAD}.decoder.bias"));
    let shape = [text.vocab_size, hidden];
    let mut schema = if config.ties() {
        // Two names of one bias; files have either or both.
        let mut schema = TensorSchema::new(&words, &head, &bias, shape, true);
        schema.alias(&head_bias, &bias);
        schema
    } else {
        // Then the other bias is not used.
        let mut schema = TensorSchema::new(&words, &head, &head_bias, shape, false);
        schema.buffer(&bias);
        schema
    };
    schema.linear(&format!("{HEAD}.transform.dense"), hidden, hidden);
    schema.norm(&format!("{HEAD}.transform.LayerNorm"), hidden);

    add_text(&mut schema, config, TEXT);
    if config.task() == BlipTask::Questions {
        schema.tensor(&format!("{QUESTION}.embeddings.word_embeddings.weight"), &shape);
        add_text(&mut schema, config, QUESTION);
    }
    add_vision(&mut schema, config);
    schema
}

/// The layers of a text model with cross-attention at `path`, and its embeddings except the word embedding.
fn add_text(schema: &mut TensorSchema, config: &BlipConfig, path: &str) {
    let text = &config.text_config;
    let hidden = text.hidden_size;
    schema.tensor(
        &format!("{path}.embeddings.position_embeddings.weight"),
        &[text.max_position_embeddings, hidden],
    );
    schema.norm(&format!("{path}.embeddings.LayerNorm"), hidden);
    // A buffer that older versions of transformers wrote. It contains `0, 1, 2, …`.
    schema.buffer(&format!("{path}.embeddings.position_ids"));
    let vision_width = config.vision_config.hidden_size;
    for layer in 0..text.num_hidden_layers {
        let layer = format!("{path}.encoder.layer.{layer}");
        for (attention, width) in [("attention", hidden), ("crossattention", vision_width)] {
            schema.linear(&format!("{layer}.{attention}.self.query"), hidden, hidden);
            schema.linear(&format!("{layer}.{attention}.self.key"), width, hidden);
            schema.linear(&format!("{layer}.{attention}.self.value"), width, hidden);
            schema.linear(&format!("{layer}.{attention}.output.dense"), hidden, hidden);
            schema.norm(&format!("{layer}.{attention}.output.LayerNorm"), hidden);
        }
        schema.linear(&format!("{layer}.intermediate.dense"), hidden, text.intermediate_size);
        schema.linear(&format!("{layer}.output.dense"), text.intermediate_size, hidden);
        schema.norm(&format!("{layer}.output.LayerNorm"), hidden);
    }
}

fn add_vision(schema: &mut TensorSchema, config: &BlipConfig) {
    let vision = &config.vision_config;
    let (width, patch) = (vision.hidden_size, vision.patch_size);
    schema.tensor(&format!("{VISION}.embeddings.class_embedding"), &[1, 1, width]);
    schema.tensor(&format!("{VISION}.embeddings.position_embedding"), &[1, vision.tokens(), width]);
    schema.tensor(&format!("{VISION}.embeddings.patch_embedding.weight"), &[width, 3, patch, patch]);
    schema.tensor(&format!("{VISION}.embeddings.patch_embedding.bias"), &[width]);
    for layer in 0..vision.num_hidden_layers {
        let layer = format!("{VISION}.encoder.layers.{layer}");
        schema.linear(&format!("{layer}.self_attn.qkv"), width, 3 * width);
        schema.linear(&format!("{layer}.self_attn.projection"), width, width);
        schema.linear(&format!("{layer}.mlp.fc1"), width, vision.intermediate_size);
        schema.linear(&format!("{layer}.mlp.fc2"), vision.intermediate_size, width);
        schema.norm(&format!("{layer}.layer_norm1"), width);
        schema.norm(&format!("{layer}.layer_norm2"), width);
    }
    schema.norm(&format!("{VISION}.post_layernorm"), width);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_has_the_number_of_parameters_of_transformers() {
        let schema = tensors(&BlipConfig::default());
        let count: usize = schema.shapes().values().map(|shape| shape.iter().product::<usize>()).sum();
        // The number of parameters of `BlipForConditionalGeneration(BlipConfig())` in transformers 5.23.
        assert_eq!(count, PARAMETERS);
    }

    const PARAMETERS: usize = 223_971_644;
}
