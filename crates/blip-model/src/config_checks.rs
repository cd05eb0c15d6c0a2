//! Refusals of configurations that this crate does not implement.

use std::path::Path;

use caption_model::check_heads;

use crate::{BlipConfig, BlipTask, Error, Result};

impl BlipConfig {
    /// Checks the configuration that was read from `path`.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let refuse = |field: &'static str, got: String, supported: &str| {
            Err(Error::Unsupported { path: path.to_owned(), field, got, supported: supported.to_owned() })
        };
        if self.model_type != "blip" {
            return refuse("model_type", format!("{:?}", self.model_type), "\"blip\"");
        }
        let class = self.task().class();
        if let Some(class) = self.architectures.iter().flatten().find(|other| *other != class) {
            let [captions, questions] = [BlipTask::Captions, BlipTask::Questions].map(BlipTask::class);
            let supported = format!("{captions:?}, which captions, or {questions:?}");
            return refuse("architectures", format!("{class:?}"), &supported);
        }
        let (text, vision) = (&self.text_config, &self.vision_config);
        if self.task() == BlipTask::Questions {
            if text.hidden_size != vision.hidden_size {
                let supported = format!("that of vision_config, {},", vision.hidden_size);
                return refuse("text_config.hidden_size", text.hidden_size.to_string(), &supported);
            }
            if self.question_token() as usize >= text.vocab_size {
                let supported = format!("a number below {} - 1, as [ENC] follows [DEC],", text.vocab_size);
                return refuse("text_config.bos_token_id", text.bos_token_id.to_string(), &supported);
            }
        }
        check_heads(path, "text_config.num_attention_heads", text.num_attention_heads, text.hidden_size)?;
        check_heads(
            path,
            "vision_config.num_attention_heads",
            vision.num_attention_heads,
            vision.hidden_size,
        )?;
        if vision.patch_size == 0 || vision.image_size < vision.patch_size {
            let supported = format!("1 to the image_size, {},", vision.image_size);
            return refuse("vision_config.patch_size", vision.patch_size.to_string(), &supported);
        }
        if text.num_hidden_layers == 0 {
            return refuse("text_config.num_hidden_layers", "0".to_owned(), "1 or more");
        }
        if !text.is_decoder {
            return refuse("text_config.is_decoder", "false".to_owned(), "true");
        }
        if !(0.0..1.0).contains(&text.label_smoothing) {
            return refuse("text_config.label_smoothing", text.label_smoothing.to_string(), "0 to below 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BlipConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        BlipConfig::read(&path)
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (text, words) in [
            (r#"{"model_type": "git"}"#, "model_type"),
            (r#"{"architectures": ["BlipForImageTextRetrieval"]}"#, "\"BlipForImageTextRetrieval\""),
            (
                r#"{"architectures": ["BlipForQuestionAnswering"], "text_config": {"hidden_size": 384}}"#,
                "text_config.hidden_size is 384, but only that of vision_config, 768,",
            ),
            (
                r#"{"architectures": ["BlipForQuestionAnswering"], "text_config": {"bos_token_id": 30523}}"#,
                "text_config.bos_token_id is 30523",
            ),
            (r#"{"architectures": ["BlipForQuestionAnswering", "BlipModel"]}"#, "\"BlipModel\""),
            (r#"{"text_config": {"num_attention_heads": 7}}"#, "text_config.num_attention_heads is 7"),
            (r#"{"text_config": {"is_decoder": false}}"#, "is_decoder"),
            (r#"{"text_config": {"label_smoothing": 1.0}}"#, "label_smoothing"),
            (r#"{"text_config": {"hidden_act": "relu"}}"#, "\"relu\""),
            (r#"{"vision_config": {"image_size": [32, 16]}}"#, "height and width differ"),
            (r#"{"vision_config": {"patch_size": 0}}"#, "patch_size"),
        ] {
            let error = read(text).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(format!("{error}: {cause}").contains(words), "{text}: {error}: {cause}");
        }
    }
}
