//! Checkpoints and datasets, from wherever they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use caption_data::drawings::DrawingSource;
use caption_data::{
    CaptionSource, CaptionTokenizer, ImageFolder, ImageProcessor, ParquetSource, SourceOptions, Subset,
};
use git_model::Checkpoint;

use crate::folders;
use crate::hub::{DatasetFiles, Hub, Location};

/// Everything that a checkpoint's folder holds.
pub struct Pretrained {
    /// The name that it was asked for by.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// The weights and their configuration.
    pub checkpoint: Checkpoint,
    /// Captions to ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Pictures to pixel values.
    pub processor: ImageProcessor,
}

/// The folder of the small checkpoint in this repository.
pub fn embedded_checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/git-monsters")
}

/// Opens a checkpoint, downloading it if it is on the hub.
///
/// # Errors
/// If it is not there, damaged, or its parts do not fit each other.
pub fn pretrained(location: &Location) -> Result<Pretrained> {
    let dir = match location {
        Location::Embedded => embedded_checkpoint(),
        Location::Local(dir) => dir.clone(),
        Location::Hub(id) => Hub::from_env()?.model_dir(id)?,
    };
    folders::check_checkpoint(&dir)?;
    let checkpoint = Checkpoint::open(&dir)?;
    let tokenizer = CaptionTokenizer::from_pretrained(&dir)?;
    let processor = ImageProcessor::from_pretrained(&dir)?;
    let (words, rows) = (tokenizer.vocab_size(), checkpoint.config().vocab_size);
    if words > rows {
        bail!(
            "the tokenizer in {} has {words} tokens, but the model's vocabulary has {rows}; they belong to different models",
            dir.display()
        );
    }
    let size = checkpoint.config().vision_config.image_size;
    if let Some(output) = processor.output_size()
        && output != (size, size)
    {
        bail!(
            "{} makes pictures of {output:?}, but config.json needs ({size}, {size})",
            ImageProcessor::file(&dir).display()
        );
    }
    Ok(Pretrained { name: location.to_string(), dir, checkpoint, tokenizer, processor })
}

/// Opens the first `subset` rows of a dataset, downloading it if it is on the hub.
///
/// # Errors
/// If it is not there, or has no usable rows.
pub fn dataset(location: &Location, subset: Option<usize>) -> Result<Arc<dyn CaptionSource>> {
    let options = SourceOptions::default();
    let source: Arc<dyn CaptionSource> = match location {
        Location::Embedded => Arc::new(DrawingSource::default()),
        Location::Local(path) => caption_data::open(path, &options)?,
        Location::Hub(id) => {
            let opened: Arc<dyn CaptionSource> = match Hub::from_env()?.dataset_files(id)? {
                DatasetFiles::Parquet(files) => Arc::new(ParquetSource::open(&files, &options)?),
                DatasetFiles::ImageFolder(folder) => Arc::new(ImageFolder::open(folder, &options)?),
            };
            opened
        }
    };
    Ok(match subset {
        Some(count) if count < source.len() => Arc::new(Subset::first(source, count)),
        _ => source,
    })
}

/// The folder of an adapter, downloaded if it is on the hub.
///
/// # Errors
/// If it is not there.
pub fn adapter_dir(location: &Location) -> Result<PathBuf> {
    match location {
        Location::Embedded => bail!("there is no embedded adapter: give a folder or a hub id"),
        Location::Local(dir) => {
            folders::check_adapter(dir, "--adapter")?;
            Ok(dir.clone())
        }
        Location::Hub(id) => Hub::from_env()?.adapter_dir(id).context("the adapter"),
    }
}
