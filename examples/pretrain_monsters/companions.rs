//! The files beside the weights: the model's configuration, its tokenizer and its image processor.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use caption_lora::files;
use git_model::GitConfig;
use monster_drawings::vocabulary;
use serde_json::{Value, json};

/// Width and height of the model's pictures.
pub(crate) const IMAGE_SIZE: usize = 64;
/// Most tokens of a caption.
const POSITIONS: usize = 64;
const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Writes the files; returns the configuration.
pub(crate) fn write_companions(dir: &Path) -> Result<GitConfig> {
    let vocabulary = vocabulary();
    let config = config(&vocabulary);
    for (name, value) in [
        ("config.json", &config),
        ("preprocessor_config.json", &image_processor()),
        ("tokenizer_config.json", &tokenizer_config()),
        ("tokenizer.json", &tokenizer(&vocabulary)),
    ] {
        files::replace(&dir.join(name), (serde_json::to_string_pretty(value)? + "\n").as_bytes())?;
    }
    Ok(serde_json::from_value(config)?)
}

fn id(token: &str, vocabulary: &[String]) -> Option<usize> {
    vocabulary.iter().position(|word| word == token)
}

fn config(vocabulary: &[String]) -> Value {
    let id = |token| id(token, vocabulary);
    json!({
        "architectures": ["GitForCausalLM"], "model_type": "git", "vocab_size": vocabulary.len(),
        "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": id("[PAD]"), "bos_token_id": id("[CLS]"), "eos_token_id": id("[SEP]"),
        "vision_config": {
            "model_type": "git_vision_model", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 384, "image_size": IMAGE_SIZE, "patch_size": 8
        }
    })
}

fn image_processor() -> Value {
    json!({
        "image_processor_type": "CLIPImageProcessor", "processor_class": "GitProcessor", "do_resize": true,
        "do_center_crop": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true, "resample": 3,
        "rescale_factor": 1.0 / 255.0, "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": POSITIONS,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        "mask_token": "[MASK]"
    })
}

/// A WordPiece tokenizer as BERT has it, in the format of the tokenizers library.
fn tokenizer(vocabulary: &[String]) -> Value {
    let id = |token| id(token, vocabulary);
    let added = SPECIAL_TOKENS.map(|token| {
        json!({"id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let ids: BTreeMap<&String, usize> = vocabulary.iter().zip(0..).collect();
    let (cls, sep) = (id("[CLS]"), id("[SEP]"));
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]}}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": ids}
    })
}
