//! Encoders of text and pictures: outputs of candle-transformers, gradients for every adapter, and a loss that falls.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use candle::{Device, Tensor};
use common::prove;

fn ids() -> Tensor {
    Tensor::new(&[[1u32, 5, 9, 3, 11], [2, 2, 7, 4, 8]], &Device::Cpu).unwrap()
}

fn ones() -> Tensor {
    ids().ones_like().unwrap()
}

fn picture(size: usize) -> Tensor {
    let values = (0..2 * 3 * size * size).map(|i| (i as f32 * 12.9898).sin());
    Tensor::from_vec(values.collect::<Vec<_>>(), (2, 3, size, size), &Device::Cpu).unwrap()
}

const BERT: &str = r#"{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 16,
    "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert"}"#;
prove!(
    bert,
    targets: ["query", "key", "value", "dense"],
    build: |models, vb| models::bert::BertModel::load(vb, &serde_json::from_str(BERT).unwrap()),
    forward: |model| model.forward(&ids(), &ids().zeros_like()?, None),
);

const DISTILBERT: &str = r#"{"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "activation": "gelu",
    "max_position_embeddings": 16, "initializer_range": 0.02, "pad_token_id": 0, "model_type": "distilbert"}"#;
prove!(
    distilbert,
    targets: ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2", "vocab_transform"],
    build: |models, vb| {
        models::distilbert::DistilBertForMaskedLM::load(vb, &serde_json::from_str(DISTILBERT).unwrap())
    },
    forward: |model| model.forward(&ids(), &candle::Tensor::zeros((5, 5), candle::DType::U8, &Device::Cpu)?),
);

const XLM_ROBERTA: &str = r#"{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 16, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    "position_embedding_type": "absolute"}"#;
prove!(
    xlm_roberta,
    targets: ["query", "key", "value", "dense"],
    build: |models, vb| models::xlm_roberta::XLMRobertaModel::new(&serde_json::from_str(XLM_ROBERTA).unwrap(), vb),
    forward: |model| model.forward(&ids(), &ones(), &ids().zeros_like()?, None, None, None),
);

const MODERNBERT: &str = r#"{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 16, "layer_norm_eps": 1e-5, "pad_token_id": 0,
    "global_attn_every_n_layers": 2, "global_rope_theta": 160000.0, "local_attention": 4, "local_rope_theta": 10000.0}"#;
prove!(
    modernbert,
    targets: ["Wqkv", "Wo", "Wi"],
    build: |models, vb| models::modernbert::ModernBert::load(vb, &serde_json::from_str(MODERNBERT).unwrap()),
    forward: |model| model.forward(&ids(), &ones()),
);

const VIT: &str = r#"{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 16, "patch_size": 8, "num_channels": 3, "qkv_bias": true}"#;
prove!(
    vit,
    targets: ["query", "key", "value", "dense"],
    build: |models, vb| models::vit::Model::new(&serde_json::from_str(VIT).unwrap(), 3, vb),
    forward: |model| model.forward(&picture(16)),
);

const SIGLIP: &str = r#"{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "image_size": 16, "patch_size": 8, "num_channels": 3}"#;
prove!(
    siglip,
    targets: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    build: |models, vb| models::siglip::VisionModel::new(&serde_json::from_str(SIGLIP).unwrap(), false, vb),
    forward: |model| candle::Module::forward(model, &picture(16)),
);
