//! The floating-point operations that a training step of GIT requires: products of the model, of its adapters and of attention, without
//! what is computed again to save memory.

use git_model::GitConfig;

/// Operations of both passes.
#[derive(Clone, Copy)]
pub(crate) struct Passes {
    pub(crate) forward: f64,
    pub(crate) backward: f64,
}

impl Passes {
    fn times(self, count: f64) -> Self {
        Self { forward: count * self.forward, backward: count * self.backward }
    }

    fn sum(parts: &[Self]) -> Self {
        Self {
            forward: parts.iter().map(|part| part.forward).sum(),
            backward: parts.iter().map(|part| part.backward).sum(),
        }
    }
}

fn image_tokens(config: &GitConfig) -> f64 {
    let vision = &config.vision_config;
    (vision.image_size / vision.patch_size).pow(2) as f64 + 1.0
}

/// The vision encoder for one picture, which has no adapters, forward.
pub(crate) fn encoder(config: &GitConfig) -> f64 {
    let (vision, tokens) = (&config.vision_config, image_tokens(config));
    let (width, inner) = (vision.hidden_size as f64, vision.intermediate_size as f64);
    let linear = 2.0 * tokens * width * (4.0 * width + 2.0 * inner);
    vision.num_hidden_layers as f64 * (linear + 4.0 * tokens * tokens * width)
}

/// The decoder for one picture and its caption of `tokens` tokens.
pub(crate) fn decoder(config: &GitConfig, tokens: usize) -> Passes {
    let (image, text) = (image_tokens(config), tokens as f64);
    let rank = super::lora_config().r as f64;
    let (width, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let all = image + text;
    let linear = |rows: f64, n_in: f64, n_out: f64| Passes {
        forward: 2.0 * rows * (n_in * n_out + rank * (n_in + n_out)),
        // The adapter's products for the gradients of its matrices, of its hidden values and of the input.
        backward: 2.0 * rows * (n_in * n_out + 2.0 * rank * (n_in + n_out)),
    };
    // Scores and values forward; the gradients of queries, keys, values and probabilities backward.
    let attention = |pairs: f64| Passes { forward: 4.0 * pairs * width, backward: 8.0 * pairs * width };
    // All rows have keys and values; `rows` pass through the rest of the layer.
    let layer = |rows: f64, pairs: f64| {
        Passes::sum(&[
            linear(all, width, width).times(2.0),
            linear(rows, width, width).times(2.0),
            linear(rows, width, inner),
            linear(rows, inner, width),
            attention(pairs),
        ])
    };
    // Text attends to all, the image to itself. In the last layer, only text is needed.
    let inner_layers = layer(all, image * image + text * all).times(config.num_hidden_layers as f64 - 1.0);
    let last_layer = layer(text, text * all);
    let head = 2.0 * (text - 1.0) * width * config.vocab_size as f64;
    // The image needs no gradient through the first layer's query, key and value.
    let no_gradient = 3.0 * 2.0 * image * width * (width + rank);
    Passes::sum(&[inner_layers, last_layer, Passes { forward: head, backward: head - no_gradient }])
}
