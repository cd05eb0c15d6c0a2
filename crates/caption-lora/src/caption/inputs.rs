use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use caption_data::{CaptionSource, ImageDecoder, Pictures, RgbImage, SourceOptions};

use crate::open;
use crate::options::Caption;
use crate::pictures::{expand, with_flag};
use crate::terminal::say_error;

/// The pictures to caption: files of the command line, or rows of a dataset.
pub struct Inputs {
    /// The pictures.
    pub source: Arc<dyn CaptionSource>,
    /// The rows of `source` to caption.
    pub rows: Vec<usize>,
    /// The files of the command line, one for each row; empty for a dataset.
    pub files: Vec<PathBuf>,
}

impl Inputs {
    /// Finds the pictures that the options name, and prints what was left out.
    ///
    /// # Errors
    /// If a folder, a pattern or the dataset cannot be read, or holds no pictures.
    pub fn open(options: &Caption) -> Result<Self> {
        let decoder = ImageDecoder { max_pixels: options.max_image_pixels };
        let Some(location) = &options.dataset else {
            let Pictures { paths: files, left_out, .. } = expand(&options.images)?;
            left_out.groups().for_each(|group| _ = say_error(format_args!("left out: {group}")));
            let source = Arc::new(Files { paths: files.clone(), decoder });
            return Ok(Self { source, rows: (0..files.len()).collect(), files });
        };
        let columns = SourceOptions {
            image_column: options.image_column.clone(),
            caption_column: None,
            label_column: None,
            prompt_column: options.prompt_column.clone(),
            no_captions: true,
            decoder,
            index_cache: None,
            memory: None,
        };
        let source = open::dataset(location, &columns)?.source;
        source.left_out().groups().for_each(|group| _ = say_error(format_args!("left out: {group}")));
        let rows = options.rows.clone().unwrap_or_else(|| (0..source.len()).collect());
        Ok(Self { source, rows, files: Vec::new() })
    }

    /// The file of a row; `None` for a dataset.
    pub(super) fn file(&self, row: usize) -> Option<String> {
        self.files.get(row).map(|path| path.display().to_string())
    }

    /// The reason why a picture was skipped, without its row number, which is meaningless for files of the
    /// command line.
    pub(super) fn reason(&self, error: &caption_data::Error) -> String {
        match error {
            caption_data::Error::Row { row, source, .. } if let Some(path) = self.files.get(*row) => {
                format!("{}: {}", path.display(), with_flag(source))
            }
            error => with_flag(error),
        }
    }
}

/// Picture files as a dataset without captions.
struct Files {
    paths: Vec<PathBuf>,
    decoder: ImageDecoder,
}

impl CaptionSource for Files {
    fn name(&self) -> String {
        "the pictures of the command line".to_owned()
    }

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn caption(&self, _row: usize) -> caption_data::Result<String> {
        Ok(String::new())
    }

    fn image(&self, row: usize) -> caption_data::Result<RgbImage> {
        let path = &self.paths[row];
        let decode = || {
            let file =
                std::fs::read(path).map_err(|source| caption_data::Error::UnreadableFile { source })?;
            Ok(self.decoder.decode(&file)?)
        };
        decode().map_err(|error| caption_data::Error::Row {
            dataset: path.display().to_string(),
            row,
            source: Box::new(error),
        })
    }
}
