//! Metadata files of image folders, as records: a map of fields for each picture, and its position in the
//! file.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::text_encoding::{for_each_line, open_text, read_text};
use crate::{Error, Result, lenient_json, selection};

/// The position of a record in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPlace {
    /// A line of a text file, counted from 1.
    Line(usize),
    /// A row of a parquet file or an element of a JSON array, counted from 0.
    Row(usize),
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row} (rows count from 0)"),
        }
    }
}

/// The entry of one picture in a metadata file.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) place: RecordPlace,
    /// All fields by name. Fields of a CSV file are strings, and NaN is null.
    pub(crate) fields: Map<String, Value>,
}

/// A metadata file: `metadata.jsonl`, `.csv`, `.parquet` or `.json`.
#[derive(Debug)]
pub(crate) struct MetadataFile<'a> {
    pub(crate) path: &'a Path,
}

/// Gets records one after another, so that not all of them are in memory.
type Visit<'a> = dyn FnMut(Record) -> Result<()> + 'a;

impl MetadataFile<'_> {
    /// Reads all records of the file; the extension tells the format. A `.jsonl` or `.json` file has one object
    /// per line, or is one array of objects.
    pub(crate) fn for_each(&self, visit: &mut Visit<'_>) -> Result<()> {
        match selection::extension(&self.path.to_string_lossy()).as_str() {
            "parquet" => parquet(self.path, visit),
            "csv" => csv(self.path, visit),
            _ => json(self.path, visit),
        }
    }

    /// The path for a record's `file_name`, which must lie inside the metadata file's folder, with `/` or `\`
    /// between its parts. The file need not exist.
    pub(crate) fn picture(&self, record: &Record, file_name: &str) -> Result<PathBuf> {
        let folder = self.path.parent().unwrap_or(self.path);
        // On Linux, `\` can be part of a name; metadata written on Windows have it between folders.
        let literal = folder.join(file_name).exists();
        let name = if literal { file_name.to_owned() } else { file_name.replace('\\', "/") };
        let name = Path::new(&name);
        let relative = if name.is_absolute() { inside_of(folder, name) } else { None };
        let mut inside = PathBuf::new();
        for part in relative.as_deref().unwrap_or(name).components() {
            let is_inside = match part {
                Component::Normal(part) => {
                    inside.push(part);
                    true
                }
                Component::CurDir => true,
                Component::ParentDir => inside.pop(),
                Component::RootDir | Component::Prefix(_) => false,
            };
            if !is_inside {
                let why = format!("{file_name} does not lie inside the folder {}", folder.display());
                return Err(self.broken(record, why));
            }
        }
        Ok(folder.join(inside))
    }

    /// An error about a record.
    pub(crate) fn broken(&self, record: &Record, why: String) -> Error {
        broken(self.path, record.place, why)
    }
}

/// The part of an absolute path below a folder. Both may contain links, so that they may be written in several
/// ways.
fn inside_of(folder: &Path, path: &Path) -> Option<PathBuf> {
    let below = |folder: &Path, path: &Path| path.strip_prefix(folder).ok().map(Path::to_owned);
    below(&std::path::absolute(folder).ok()?, path).or_else(|| {
        // The picture itself may be a link to another place.
        let path = fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?);
        below(&fs::canonicalize(folder).ok()?, &path)
    })
}

fn broken(path: &Path, place: RecordPlace, why: String) -> Error {
    Error::Metadata { path: path.to_owned(), place, why }
}

fn json(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let error = |line: usize, why: String| broken(path, RecordPlace::Line(line), why);
    let mut is_array = None;
    for_each_line(path, &mut |number, line| {
        if line.trim().is_empty() || *is_array.get_or_insert_with(|| line.trim_start().starts_with('[')) {
            return Ok(());
        }
        let fields = lenient_json::parse(line).map_err(|e| {
            let advice = if e.is_eof() { "; each line must hold one whole object" } else { "" };
            error(number, without_line(&e) + advice)
        })?;
        visit(Record { place: RecordPlace::Line(number), fields })
    })?;
    if is_array != Some(true) {
        return Ok(());
    }
    let text = read_text(path)?;
    let records: Vec<_> = lenient_json::parse(&text).map_err(|e| error(e.line(), without_line(&e)))?;
    let record = |(row, fields)| Record { place: RecordPlace::Row(row), fields };
    records.into_iter().enumerate().map(record).try_for_each(visit)
}

/// The fault of a JSON text and its column, without the line, which the error names.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(problem) => format!("{problem} (column {})", error.column()),
        None => text,
    }
}

/// An error of the text comes after the records before it.
fn csv(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let line = |at: Option<&csv::Position>| RecordPlace::Line(at.map_or(1, |at| at.line() as usize));
    let error = |error: csv::Error| {
        let place = line(error.position());
        let why = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let advice = match len > expected_len {
                    true => "; put a caption with commas in it between double quotes",
                    false => "",
                };
                format!("it has {len} fields, and the first line has {expected_len}{advice}")
            }
            _ => error.to_string(),
        };
        match error.into_kind() {
            csv::ErrorKind::Io(source) => of_reader(path, source),
            _ => broken(path, place, why),
        }
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(open_text(path)?);
    let names = reader.headers().map_err(error)?.clone();
    if let Some(separator) = other_separator(&names) {
        let why = format!("its columns are separated by {separator}; save it with commas between them");
        return Err(broken(path, RecordPlace::Line(1), why));
    }
    for record in reader.records() {
        let record = record.map_err(error)?;
        let fields = names.iter().map(str::to_owned).zip(record.iter().map(Value::from)).collect();
        visit(Record { place: line(record.position()), fields })?;
    }
    Ok(())
}

/// The error of a text that [`open_text`] reads.
fn of_reader(path: &Path, source: io::Error) -> Error {
    match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Io { path: path.to_owned(), source },
    }
}

/// The separator of a CSV file's columns, if it is not a comma.
fn other_separator(names: &csv::StringRecord) -> Option<&'static str> {
    let separators = [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars")];
    let is_split_by = |separator: char| {
        let name = |part: &str| part.trim().trim_matches('"') == "file_name";
        names.iter().any(|field| field.contains(separator) && field.split(separator).any(name))
    };
    separators.into_iter().find_map(|(separator, name)| is_split_by(separator).then_some(name))
}

#[cfg(feature = "parquet")]
fn parquet(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let rows = crate::tables::records(path)?.into_iter().enumerate();
    rows.map(|(row, fields)| Record { place: RecordPlace::Row(row), fields }).try_for_each(visit)
}

#[cfg(not(feature = "parquet"))]
fn parquet(path: &Path, _: &mut Visit<'_>) -> Result<()> {
    Err(Error::ParquetNotBuilt { path: path.to_owned() })
}
