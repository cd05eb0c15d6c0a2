//! Opens checkpoints and datasets from any location.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use caption_data::{
    CaptionSource, CaptionTokenizer, ColumnRole, ImageFolder, ImageProcessor, LeftOut, ParquetSource,
    RgbImage, SourceOptions,
};
use git_model::Checkpoint;
use monster_drawings::DrawingSource;

use crate::embedded;
use crate::folders;
use crate::hub::{DatasetFiles, Fetched, FetchedDataset, Hub, Location};

/// The contents of a checkpoint's folder.
pub struct Pretrained {
    /// The requested name, without a revision.
    pub name: String,
    /// The commit, for a checkpoint of the hub.
    pub commit: Option<String>,
    /// The folder.
    pub dir: PathBuf,
    /// The weights and their configuration.
    pub checkpoint: Checkpoint,
    /// Converts captions to token ids and back.
    pub tokenizer: CaptionTokenizer,
    /// Converts pictures to pixel values.
    pub processor: ImageProcessor,
}

/// Captioned pictures, and their origin.
pub struct Dataset {
    /// The pictures with their captions.
    pub source: Arc<dyn CaptionSource>,
    /// The commit, for a dataset of the hub.
    pub commit: Option<String>,
}

/// Opens a checkpoint, downloading it if it is on the hub.
///
/// # Errors
/// If it is missing or damaged, or its parts do not fit each other.
pub fn pretrained(location: &Location) -> Result<Pretrained> {
    let (name, dir, commit) = match location {
        Location::Embedded => (location.to_string(), embedded::checkpoint()?, None),
        Location::Local(dir) => (location.to_string(), dir.clone(), None),
        Location::Hub(id) => {
            let Fetched { folder, commit } = Hub::from_env()?.model_dir(id)?;
            (id.name.clone(), folder, Some(commit))
        }
    };
    folders::check_checkpoint(&dir)?;
    check_hidden(location, &dir.join("config.json"))?;
    let checkpoint = Checkpoint::open(&dir)?;
    let positions = checkpoint.config().max_position_embeddings;
    let tokenizer = CaptionTokenizer::from_pretrained(&dir)?.limited_to(positions)?;
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
    Ok(Pretrained { name, commit, dir, checkpoint, tokenizer, processor })
}

/// Opens a dataset, downloading it if it is on the hub.
///
/// # Errors
/// If it is missing or has no usable rows, or if its columns are ambiguous: the message names the flag.
pub fn dataset(location: &Location, options: &SourceOptions) -> Result<Dataset> {
    let mut commit = None;
    let opened: caption_data::Result<Arc<dyn CaptionSource>> = match location {
        Location::Embedded => {
            if let Some((role, _)) = options.named_columns().next() {
                bail!("{} does nothing with the embedded dataset", flag(role));
            }
            Ok(Arc::new(DrawingSource::default()))
        }
        Location::Local(path) => caption_data::open(path, options),
        Location::Hub(id) => {
            let fetched: FetchedDataset = Hub::from_env()?.dataset_files(id)?;
            commit = Some(fetched.commit);
            match fetched.files {
                DatasetFiles::Parquet(files) => ParquetSource::open(&files, options)
                    .map(|source| Arc::new(source.with_left_out(fetched.left_out)) as Arc<dyn CaptionSource>),
                DatasetFiles::ImageFolder(folder) => ImageFolder::open(folder, options).map(|source| {
                    Arc::new(Downloaded { source, left_out: fetched.left_out }) as Arc<dyn CaptionSource>
                }),
            }
        }
    };
    let source = opened.map_err(|error| match column_flag(&error) {
        Some(flag) => anyhow!("{error} ({flag} COLUMN)"),
        None => error.into(),
    })?;
    Ok(Dataset { source, commit })
}

/// The captioned images of a repository, of which not all files were downloaded.
struct Downloaded {
    source: ImageFolder,
    /// The files that were not downloaded.
    left_out: LeftOut,
}

impl CaptionSource for Downloaded {
    fn name(&self) -> String {
        self.source.name()
    }

    fn len(&self) -> usize {
        self.source.len()
    }

    fn caption(&self, row: usize) -> caption_data::Result<String> {
        self.source.caption(row)
    }

    fn captions(&self, row: usize) -> caption_data::Result<Vec<String>> {
        self.source.captions(row)
    }

    fn prompt(&self, row: usize) -> caption_data::Result<Option<String>> {
        self.source.prompt(row)
    }

    fn image(&self, row: usize) -> caption_data::Result<RgbImage> {
        self.source.image(row)
    }

    fn fingerprint(&self, row: usize) -> caption_data::Result<u128> {
        self.source.fingerprint(row)
    }

    fn left_out(&self) -> LeftOut {
        let mut left_out = self.source.left_out();
        left_out.extend(self.left_out.clone());
        left_out
    }
}

/// The flag for the column that an error is about.
fn column_flag(error: &caption_data::Error) -> Option<&'static str> {
    use caption_data::Error;
    match error {
        Error::MissingColumn { role, .. }
        | Error::NoColumn { role, .. }
        | Error::NoTable { role, .. }
        | Error::AmbiguousColumns { role, .. } => Some(flag(*role)),
        Error::NoCaptions { .. } => Some("--caption-column"),
        _ => None,
    }
}

/// The flag for a column.
fn flag(role: ColumnRole) -> &'static str {
    match role {
        ColumnRole::Image => "--image-column",
        ColumnRole::Caption => "--caption-column",
        ColumnRole::Prompt => "--prompt-column",
    }
}

/// The folder of an adapter, downloaded if it is on the hub.
///
/// # Errors
/// If it is missing.
pub fn adapter_dir(location: &Location) -> Result<PathBuf> {
    match location {
        Location::Embedded => bail!("there is no embedded adapter: give a folder or a hub id"),
        Location::Local(dir) => {
            folders::check_adapter(dir, "--adapter")?;
            check_hidden(location, &dir.join("adapter_config.json"))?;
            Ok(dir.clone())
        }
        Location::Hub(id) => Ok(Hub::from_env()?.adapter_dir(id).context("the adapter")?.folder),
    }
}

/// Refuses a local folder without the `needed` file if it hides a hub id of the same name.
fn check_hidden(location: &Location, needed: &Path) -> Result<()> {
    if let Some(id) = location.hidden_id()
        && !needed.exists()
    {
        bail!(
            "there is no {}; where the hub's `{id}` is meant, rename or remove the local folder, which comes before a \
             repository of the hub with the same name",
            needed.display()
        );
    }
    Ok(())
}
