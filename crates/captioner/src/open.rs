use std::path::Path;

use caption_model::{CaptionCheckpoint, Error, Result};
use serde::Deserialize;

/// Opens the checkpoint in the folder `dir`: GIT or BLIP, by the `model_type` in its `config.json`.
///
/// # Errors
/// If a file is missing or damaged, the weights are not those of the configuration, or the model is of another kind.
pub fn open_checkpoint(dir: impl AsRef<Path>) -> Result<Box<dyn CaptionCheckpoint>> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let dir = dir.as_ref();
    let path = dir.join("config.json");
    if !path.is_file() {
        return Err(Error::Missing { dir: dir.to_owned(), wanted: "config.json" });
    }
    let kind: Kind = caption_model::read_json(&path)?;
    match kind.model_type.as_deref() {
        // transformers writes `model_type`; older files of GIT may lack it.
        None => Ok(Box::new(git_model::Checkpoint::open(dir)?)),
        Some(name) if name == git_model::GIT.model_type => Ok(Box::new(git_model::Checkpoint::open(dir)?)),
        Some(name) if name == blip_model::BLIP.model_type => Ok(Box::new(blip_model::Checkpoint::open(dir)?)),
        Some(other) => Err(Error::Unsupported {
            path,
            field: "model_type",
            got: format!("{other:?}"),
            supported: "\"git\" or \"blip\"".to_owned(),
        }),
    }
}

/// The start token that captions of a checkpoint begin with, if it is not the tokenizer's own.
pub fn start_token(checkpoint: &dyn CaptionCheckpoint) -> Option<u32> {
    checkpoint.architecture().replaces_start_token.then(|| checkpoint.tokens().start_token)
}
