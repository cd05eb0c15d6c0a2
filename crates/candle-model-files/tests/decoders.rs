//! Decoders of text: outputs of candle-transformers, gradients for every adapter, and a loss that falls.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use candle::{DType, Device, Tensor};
use common::prove;

fn ids() -> Tensor {
    Tensor::new(&[[1u32, 5, 9, 3, 11], [2, 2, 7, 4, 8]], &Device::Cpu).unwrap()
}

const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const BLIP_TEXT: &str = r#"{"vocab_size": 50, "hidden_size": 32, "encoder_hidden_size": 24, "intermediate_size": 64,
    "projection_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "is_decoder": true}"#;
prove!(
    blip_text,
    targets: ["query", "key", "value", "dense"],
    build: |models, vb| models::blip_text::TextLMHeadModel::new(&serde_json::from_str(BLIP_TEXT).unwrap(), vb),
    forward: |model| {
        model.reset_kv_cache();
        let image = (0..6 * 24).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<_>>();
        // The file adds position embeddings of one sequence, so batches are of one.
        model.forward(&ids().narrow(0, 0, 1)?, &Tensor::from_vec(image, (1, 6, 24), &Device::Cpu)?)
    },
);

const QWEN2: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "sliding_window": 16,
    "max_window_layers": 2, "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
    "use_sliding_window": false, "hidden_act": "silu"}"#;
prove!(
    qwen2,
    targets: PROJECTIONS,
    build: |models, vb| models::qwen2::ModelForCausalLM::new(&serde_json::from_str(QWEN2).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const QWEN3: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_bias": false,
    "max_position_embeddings": 16, "max_window_layers": 2, "tie_word_embeddings": false, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6, "use_sliding_window": false, "hidden_act": "silu"}"#;
prove!(
    qwen3,
    targets: PROJECTIONS,
    build: |models, vb| models::qwen3::ModelForCausalLM::new(&serde_json::from_str(QWEN3).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const LLAMA: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": false}"#;
macro_rules! llama_config {
    ($models:ident) => {{
        let config: $models::llama::LlamaConfig = serde_json::from_str(LLAMA).unwrap();
        config.into_config(false)
    }};
}
prove!(
    llama,
    targets: PROJECTIONS,
    build: |models, vb| {
        let config = llama_config!(models);
        let cache = models::llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        models::llama::Llama::load(vb, &config).map(|model| (model, cache))
    },
    forward: |model| model.0.forward(&ids(), 0, &mut model.1),
);

const MISTRAL: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 3, "use_flash_attn": false}"#;
prove!(
    mistral,
    targets: PROJECTIONS,
    build: |models, vb| models::mistral::Model::new(&serde_json::from_str(MISTRAL).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const PHI: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "hidden_act": "gelu_new", "max_position_embeddings": 16, "layer_norm_eps": 1e-5,
    "tie_word_embeddings": false, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "qk_layernorm": false}"#;
prove!(
    phi,
    targets: ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    build: |models, vb| models::phi::Model::new(&serde_json::from_str(PHI).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids())
    },
);

const PHI3: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0}"#;
prove!(
    phi3,
    targets: ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    build: |models, vb| models::phi3::Model::new(&serde_json::from_str(PHI3).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const GEMMA: &str = r#"{"attention_bias": false, "head_dim": 8, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32,
    "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": 50, "max_position_embeddings": 16}"#;
prove!(
    gemma,
    targets: PROJECTIONS,
    build: |models, vb| models::gemma::Model::new(false, &serde_json::from_str(GEMMA).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

// Every layer slides: candle-nn's cache of the others refuses more than one token at a time.
const GEMMA3: &str = r#"{"attention_bias": false, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_local_base_freq": 1000.0,
    "vocab_size": 50, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 8, "sliding_window": 3,
    "sliding_window_pattern": 4, "max_position_embeddings": 16}"#;
prove!(
    gemma3,
    targets: PROJECTIONS,
    build: |models, vb| models::gemma3::Model::new(false, &serde_json::from_str(GEMMA3).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const FALCON: &str = r#"{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "use_cache": false, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "alibi": false, "new_decoder_architecture": false,
    "multi_query": true, "parallel_attn": true, "bias": false}"#;
prove!(
    falcon,
    targets: ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    build: |models, vb| models::falcon::Falcon::load(vb, serde_json::from_str(FALCON).unwrap()),
    forward: |model| {
        model.clear_kv_cache();
        // The file's attention mask is of one sequence.
        model.forward(&ids().narrow(0, 0, 1)?)
    },
);

const STARCODER2: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 16, "norm_epsilon": 1e-5, "rope_theta": 10000.0, "use_bias": true}"#;
prove!(
    starcoder2,
    targets: ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
    build: |models, vb| models::starcoder2::Model::new(&serde_json::from_str(STARCODER2).unwrap(), vb),
    forward: |model| {
        model.clear_kv_cache();
        model.forward(&ids(), 0)
    },
);

const STABLE_LM: &str = r#"{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "silu", "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0, "max_position_embeddings": 16, "layer_norm_eps": 1e-5, "use_cache": false}"#;
prove!(
    stable_lm,
    targets: PROJECTIONS,
    build: |models, vb| models::stable_lm::Model::new(&serde_json::from_str(STABLE_LM).unwrap(), vb),
    forward: |model| model.forward(&ids(), 0),
);

const WHISPER: &str = r#"{"num_mel_bins": 8, "max_source_positions": 10, "d_model": 32, "encoder_attention_heads": 4,
    "encoder_layers": 2, "vocab_size": 50, "max_target_positions": 16, "decoder_attention_heads": 4, "decoder_layers": 2}"#;
prove!(
    whisper,
    targets: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    build: |models, vb| {
        models::whisper::model::Whisper::load(&vb, serde_json::from_str(WHISPER).unwrap())
    },
    forward: |model| {
        let sound = (0..2 * 8 * 20).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<_>>();
        let sound = model.encoder.forward(&Tensor::from_vec(sound, (2, 8, 20), &Device::Cpu)?, true)?;
        let words = model.decoder.forward(&ids(), &sound, true)?;
        model.decoder.final_linear(&words)
    },
);
