//! Finds the columns of a dataset that hold its pictures, captions and prompts.

use std::fmt;
use std::path::Path;

use crate::{Error, Result, SourceOptions};

/// The use of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnRole {
    /// The pictures, or the names of their files.
    Image,
    /// The captions.
    Caption,
    /// The prompts that captions continue.
    Prompt,
    /// The class labels, in place of captions.
    Label,
}

impl fmt::Display for ColumnRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "pictures",
            Self::Caption => "captions",
            Self::Prompt => "prompts",
            Self::Label => "class labels",
        })
    }
}

/// The uses that the type of a column allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    Picture,
    Text,
    Other,
}

/// The names of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) image: String,
    /// The captions or the class labels. `None` if captions are not read.
    pub(crate) caption: Option<String>,
    pub(crate) prompt: Option<String>,
}

/// Names of a caption column, tried after `text`. Case is ignored.
const CAPTIONS: [&str; 12] = [
    "caption",
    "captions",
    "prompt",
    "prompts",
    "description",
    "descriptions",
    "texts",
    "sentence",
    "sentences",
    "alt_text",
    "answer",
    "answers",
];

/// Names of a column of file names in metadata, tried after `file_name`.
const FILE_NAMES: [&str; 7] = ["filename", "file", "image", "img", "image_file", "image_path", "path"];

/// Names of a column of paths or addresses in a table, beside which the pictures themselves are missing.
const PATHS: [&str; 9] =
    ["file_name", "filename", "img", "image_file", "image_path", "image_url", "img_path", "path", "url"];

impl Columns {
    /// The columns of a table that holds its pictures. `options` may name them. By default they are `image`
    /// and `text`, or else the only picture column and the only column with another usual name for captions.
    pub(crate) fn of_table(
        path: &Path,
        columns: &[(String, ColumnKind)],
        options: &SourceOptions,
    ) -> Result<Self> {
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let of_kind = |wanted| {
            let columns = columns.iter().filter(move |(_, kind)| *kind == wanted);
            columns.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        let pictures = of_kind(ColumnKind::Picture);
        let choice = Choice { path, role: ColumnRole::Image, names: &names };
        let texts = of_kind(ColumnKind::Text);
        // A column `image` of another type, or of paths, is a different error.
        let first = if pictures.is_empty() { &names } else { &pictures };
        let image = match named(options.image_column.as_deref(), "image", first) {
            Some(name) => choice.there(name)?,
            None => match usual(&PATHS, &texts).first().copied() {
                Some(paths) if pictures.is_empty() => paths,
                _ => choice.only(pictures)?,
            },
        };
        Self::with_texts(path, &names, &texts, image, options)
    }

    /// The columns of metadata whose records name picture files.
    pub(crate) fn of_metadata(path: &Path, names: &[&str], options: &SourceOptions) -> Result<Self> {
        let choice = Choice { path, role: ColumnRole::Image, names };
        let image = match named(options.image_column.as_deref(), "file_name", names) {
            Some(name) => choice.there(name)?,
            None => choice.only(usual(&FILE_NAMES, names))?,
        };
        let others: Vec<&str> = names.iter().copied().filter(|name| *name != image).collect();
        Self::with_texts(path, names, &others, image, options)
    }

    /// The columns of captions and prompts in records without a column of pictures.
    pub(crate) fn of_texts(path: &Path, names: &[&str], options: &SourceOptions) -> Result<Self> {
        Self::with_texts(path, names, names, "", options)
    }

    fn with_texts(
        path: &Path,
        names: &[&str],
        texts: &[&str],
        image: &str,
        options: &SourceOptions,
    ) -> Result<Self> {
        let choice = |role| Choice { path, role, names };
        let prompt = options.prompt_column.as_deref();
        let prompt = prompt.map(|name| choice(ColumnRole::Prompt).there(name)).transpose()?;
        if let Some(name) = options.label_column.as_deref() {
            let label = Some(choice(ColumnRole::Label).there(name)?.to_owned());
            return Ok(Self { image: image.to_owned(), caption: label, prompt: prompt.map(str::to_owned) });
        }
        let choice = choice(ColumnRole::Caption);
        let caption = || match named(options.caption_column.as_deref(), "text", texts) {
            Some(name) => choice.there(name),
            None => {
                let is_answer = |name: &str| name.to_lowercase().starts_with("answer");
                let mut usual = usual(&CAPTIONS, texts);
                // A question is not a caption, and an answer is one only together with its question.
                usual.retain(|name| Some(*name) != prompt && (prompt.is_some() || !is_answer(name)));
                choice.only(usual)
            }
        };
        let caption = if options.no_captions { None } else { Some(caption()?.to_owned()) };
        Ok(Self { image: image.to_owned(), caption, prompt: prompt.map(str::to_owned) })
    }
}

/// The requested column, or else the first choice if the file has it.
fn named<'a>(wanted: Option<&'a str>, first: &'a str, there: &[&str]) -> Option<&'a str> {
    wanted.or_else(|| there.contains(&first).then_some(first))
}

/// The columns with a usual name, in the order of the file.
fn usual<'a>(usual: &[&str], names: &[&'a str]) -> Vec<&'a str> {
    let is_usual = |name: &&str| usual.iter().any(|usual| usual.eq_ignore_ascii_case(name));
    names.iter().copied().filter(is_usual).collect()
}

/// Chooses one of a file's columns.
struct Choice<'a> {
    path: &'a Path,
    role: ColumnRole,
    names: &'a [&'a str],
}

impl<'a> Choice<'a> {
    /// The column with a given name.
    fn there(&self, name: &str) -> Result<&'a str> {
        let missing = || Error::MissingColumn {
            path: self.path.to_owned(),
            role: self.role,
            column: name.to_owned(),
            available: self.owned(self.names),
        };
        self.names.iter().copied().find(|there| *there == name).ok_or_else(missing)
    }

    /// The only candidate; an error if there is none or more than one.
    fn only(&self, candidates: Vec<&'a str>) -> Result<&'a str> {
        let path = self.path.to_owned();
        match candidates[..] {
            [only] => Ok(only),
            [] => Err(Error::NoColumn { path, role: self.role, available: self.owned(self.names) }),
            _ => Err(Error::AmbiguousColumns { path, role: self.role, candidates: self.owned(&candidates) }),
        }
    }

    fn owned(&self, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
