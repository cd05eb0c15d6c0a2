//! Opens datasets.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use caption_data::{
    CaptionSource, ColumnRole, ImageFolder, LeftOut, ParquetSource, RgbImage, SourceOptions, WebDataset,
};
use monster_drawings::DrawingSource;

use super::{or_damaged, warn_of_outage};
use crate::hub::{DatasetFiles, Hub, Location, PiecewiseDataset};
use crate::terminal::warn;

/// Captioned pictures, and their origin.
pub struct Dataset {
    /// The pictures with their captions.
    pub source: Arc<dyn CaptionSource>,
    /// The commit, for a dataset of the hub.
    pub commit: Option<String>,
}

/// Opens a dataset, downloading it if it is on the hub.
///
/// # Errors
/// If it is missing or has no usable rows, or if its columns are ambiguous: the message names the flag.
pub fn dataset(location: &Location, options: &SourceOptions) -> Result<Dataset> {
    dataset_within(location, options, None)
}

/// As [`dataset`]. With a `limit` in bytes, parts of a hub dataset in parquet files are fetched when they are
/// needed, and up to this many bytes of it are kept.
///
/// # Errors
/// As [`dataset`].
pub fn dataset_within(location: &Location, options: &SourceOptions, limit: Option<u64>) -> Result<Dataset> {
    let mut commit = None;
    if let (Location::Hub(id), Some(limit)) = (location, limit)
        && let Some(PiecewiseDataset { files, commit, left_out }) =
            Hub::from_env()?.dataset_pieces(id, limit)?
    {
        let source = ParquetSource::open_remote(&id.name, files, options).map_err(with_column_flag)?;
        return Ok(Dataset { source: Arc::new(source.with_left_out(left_out)), commit: Some(commit) });
    }
    let opened: caption_data::Result<Arc<dyn CaptionSource>> = match location {
        Location::Embedded => {
            if let Some((role, _)) = options.named_columns().next() {
                bail!("{} does nothing with the embedded dataset", flag(role));
            }
            Ok(Arc::new(DrawingSource::default()))
        }
        Location::Local(path) => caption_data::open(path, options),
        Location::Hub(id) => {
            let fetched = Hub::from_env()?.dataset_files(id)?;
            warn_of_outage(id, &fetched.commit, fetched.outage.as_deref());
            if !fetched.is_whole {
                warn(format_args!(
                    "dataset {id}: without the hub, only its files in the cache are known: other files, such as held-out \
                     splits, are not counted among those that are left out"
                ));
            }
            commit = Some(fetched.commit);
            match fetched.files {
                DatasetFiles::Parquet(files) => ParquetSource::open(&files, options)
                    .map(|source| Arc::new(source.with_left_out(fetched.left_out)) as Arc<dyn CaptionSource>),
                DatasetFiles::Tar(files) => {
                    WebDataset::open(&files, options).map(|source| Arc::new(source) as Arc<dyn CaptionSource>)
                }
                DatasetFiles::ImageFolder(folder) => ImageFolder::open(folder, options).map(|source| {
                    Arc::new(Downloaded { source, left_out: fetched.left_out }) as Arc<dyn CaptionSource>
                }),
            }
        }
    };
    let source = opened.map_err(|error| {
        let downloaded = match &error {
            caption_data::Error::Parquet { path, .. } | caption_data::Error::NotParquet { path, .. }
                if commit.is_some() =>
            {
                Some(path.clone())
            }
            _ => None,
        };
        match downloaded {
            Some(_) if column_flag(&error).is_none() => or_damaged(error.into(), downloaded),
            _ => with_column_flag(error),
        }
    })?;
    Ok(Dataset { source, commit })
}

/// The captioned pictures of a repository whose files were not all downloaded.
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

    fn content(&self) -> Option<u128> {
        self.source.content()
    }

    fn left_out(&self) -> LeftOut {
        let mut left_out = self.source.left_out();
        left_out.extend(self.left_out.clone());
        left_out
    }
}

/// Adds the flag for the column that an error is about.
fn with_column_flag(error: caption_data::Error) -> anyhow::Error {
    match column_flag(&error) {
        Some(flag) => anyhow!("{error} ({flag} COLUMN)"),
        None => error.into(),
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
        // No command reads labels: they are captions there.
        ColumnRole::Label => "--caption-column",
    }
}
