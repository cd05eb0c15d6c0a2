use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use serde_json::{Map, Value};

use crate::open::{has_extension, name_in, walk};
use crate::source::{fingerprint_of_file, row_of};
use crate::{CaptionSource, Error, ImageDecoder, Result, SourceOptions, selection};

/// A folder of picture files with captions, laid out in one of the ways of Hugging Face's `imagefolder`:
///
/// - `metadata.jsonl`, one object a line: `{"file_name": "0001.png", "text": "a red bird"}`;
/// - `metadata.csv` with the columns `file_name` and `text`;
/// - without either, pictures with a caption in a text file of the same name: `0001.png` and `0001.txt`.
///
/// `file_name` is relative to the folder of the metadata file and lies inside it. Folders may be nested, each
/// with metadata of its own. Rows are in the order of the metadata, or of the paths. Pictures that the
/// metadata do not name are left out, and so are text files that have the name of no other file, and all that is
/// not of the training split ([`selection`]): `test/0001.png` in this folder, though not in a folder `test` that is
/// opened itself.
#[derive(Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    rows: Vec<Row>,
    decoder: ImageDecoder,
}

#[derive(Debug)]
struct Row {
    image: PathBuf,
    caption: String,
}

impl ImageFolder {
    /// Reads the captions of a folder and finds its pictures.
    ///
    /// # Errors
    /// If a picture has no caption, if the picture of a text file has an ending that is not read, if metadata are
    /// broken (the error names the line), or if there is no row or no row with a caption.
    pub fn open(folder: impl AsRef<Path>, options: &SourceOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let files = walk(folder)?;
        let names: Vec<String> = files.iter().map(|file| name_in(folder, file)).collect();
        let is_trained_on = selection::image_folder(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let is_trained_on = |file: &Path| is_trained_on(&name_in(folder, file));
        let files: Vec<PathBuf> = files.into_iter().filter(|file| is_trained_on(file)).collect();
        let metadata: Vec<&PathBuf> = files.iter().filter(|file| is_metadata(file)).collect();
        let mut rows = Vec::new();
        for file in &metadata {
            let both = has_extension(file, &["csv"]) && metadata.contains(&&file.with_extension("jsonl"));
            if !both {
                read_metadata(file, &options.caption_column, is_trained_on, &mut rows)?;
            }
        }
        if metadata.is_empty() {
            read_text_files(&files, &mut rows)?;
        }
        let dataset = || folder.display().to_string();
        if rows.is_empty() {
            let why = "expected parquet files, metadata.jsonl, metadata.csv, or pictures beside .txt files, outside of \
                       folders of held-out splits (such as test)"
                .to_owned();
            return Err(Error::NoRows { dataset: dataset(), why });
        }
        if rows.iter().all(|row| row.caption.trim().is_empty()) {
            return Err(Error::NoCaptions {
                dataset: dataset(),
                column: options.caption_column.clone(),
                rows: rows.len(),
            });
        }
        Ok(Self { folder: folder.to_owned(), rows, decoder: options.decoder.clone() })
    }

    fn row(&self, row: usize) -> Result<&Row> {
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.rows.len() };
        self.rows.get(row).ok_or_else(missing)
    }
}

impl CaptionSource for ImageFolder {
    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        let Row { image, caption } = self.row(row)?;
        match caption.trim() {
            "" => Err(row_of(image.display(), row)(Error::BlankCaption)),
            _ => Ok(caption.clone()),
        }
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        let path = &self.row(row)?.image;
        read(path).and_then(|bytes| self.decoder.decode(&bytes)).map_err(row_of(path.display(), row))
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        let path = &self.row(row)?.image;
        read(path).map(|bytes| fingerprint_of_file(&bytes)).map_err(row_of(path.display(), row))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::UnreadableFile { error })
}

/// The text of a file, without the byte order mark that spreadsheets and editors of Windows begin it with.
fn read_text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn is_metadata(path: &Path) -> bool {
    path.file_name().is_some_and(|name| selection::is_metadata(&name.to_string_lossy()))
}

fn is_picture(path: &Path) -> bool {
    selection::is_picture(&path.to_string_lossy())
}

fn read_text_files(files: &[PathBuf], rows: &mut Vec<Row>) -> Result<()> {
    let (images, others): (Vec<&PathBuf>, Vec<&PathBuf>) = files.iter().partition(|file| is_picture(file));
    refuse_unread_pictures(&images, &others)?;
    let captions = |image: &Path| image.with_extension("txt");
    if !images.iter().any(|image| captions(image).exists()) {
        return Ok(());
    }
    for image in images {
        let path = captions(image);
        if !path.exists() {
            return Err(Error::NoCaptionFile { image: image.clone(), caption: path });
        }
        rows.push(Row { image: image.clone(), caption: read_text(&path)?.trim().to_owned() });
    }
    Ok(())
}

/// Refuses text files that belong to a file which is no picture by its ending, such as `1.txt` beside `1.tif`.
fn refuse_unread_pictures(images: &[&PathBuf], others: &[&PathBuf]) -> Result<()> {
    let stem = |file: &&PathBuf| file.with_extension("");
    let read: HashSet<PathBuf> = images.iter().map(stem).collect();
    let (texts, unread): (Vec<&PathBuf>, Vec<&PathBuf>) =
        others.iter().partition(|file| has_extension(file, &["txt"]));
    let unread: HashMap<PathBuf, &PathBuf> = unread.into_iter().map(|file| (stem(&file), file)).collect();
    for caption in texts.into_iter().filter(|text| !read.contains(&stem(text))) {
        if let Some(other) = unread.get(&stem(&caption)) {
            return Err(Error::UnreadPicture { caption: caption.clone(), other: other.to_path_buf() });
        }
    }
    Ok(())
}

/// Adds the rows of a metadata file whose pictures are trained on.
fn read_metadata(
    path: &Path,
    column: &str,
    is_trained_on: impl Fn(&Path) -> bool,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let text = read_text(path)?;
    let broken = |line: usize, why: String| Error::Metadata { path: path.to_owned(), line, why };
    let folder = path.parent().unwrap_or(path);
    let mut add = |line: usize, fields: &Map<String, Value>| {
        let field = |name: &str| {
            let missing = || {
                let names = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                broken(line, format!("no column `{name}`; there are: {names}"))
            };
            match fields.get(name).ok_or_else(missing)? {
                Value::String(text) => Ok(text.as_str()),
                Value::Null => Ok(""),
                other => Err(broken(line, format!("`{name}` must be a string, got {other}"))),
            }
        };
        let (file_name, caption) = (Path::new(field("file_name")?), field(column)?);
        let inside =
            file_name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(broken(line, format!("{} does not lie inside the folder", file_name.display())));
        }
        let image = folder.join(file_name);
        if !is_trained_on(&image) {
            return Ok(());
        }
        if !image.is_file() {
            return Err(broken(line, format!("there is no file {}", image.display())));
        }
        rows.push(Row { image, caption: caption.to_owned() });
        Ok(())
    };
    if has_extension(path, &["csv"]) {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let at = |error: csv::Error| {
            broken(error.position().map_or(1, |at| at.line() as usize), error.to_string())
        };
        let names = reader.headers().map_err(at)?.clone();
        for record in reader.records() {
            let record = record.map_err(at)?;
            let fields = names.iter().map(str::to_owned).zip(record.iter().map(Value::from)).collect();
            add(record.position().map_or(1, |at| at.line() as usize), &fields)?;
        }
        return Ok(());
    }
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let fields = serde_json::from_str(text).map_err(|error| broken(line + 1, error.to_string()))?;
        add(line + 1, &fields)?;
    }
    Ok(())
}
