use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Why a file or a row of a dataset is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LeftOutReason {
    /// The name of its folder or file has a word for another split than training
    /// ([`selection`](crate::selection)).
    OtherSplit {
        /// The folder or file with that name, relative to the dataset.
        part: String,
        /// The word, such as `test`.
        word: String,
    },
    /// It is outside of the folders or files that are named as the training split.
    OutsideOfTraining,
    /// A picture in an unsupported format.
    UnreadKind {
        /// Its extension, in lower case.
        extension: String,
    },
    /// A picture whose name begins with a dot, or whose folder's name begins with a dot or with `__`.
    Hidden,
    /// A picture that is not named in any metadata and has no caption file.
    NoCaption,
    /// A blank caption of a picture that has other captions.
    BlankCaption,
    /// A caption file without a picture of the same name.
    NoPicture,
    /// A caption file beside a file of the same name whose extension is not that of a picture, such as `1.txt`
    /// beside `1.pdf`.
    NotAPicture,
    /// A picture or metadata file in a folder whose dataset is in parquet or Arrow files.
    BesideTables,
    /// A second metadata file of a folder; the first is read.
    OtherMetadata,
    /// A picture that the metadata do not name, and whose caption file is not read.
    UnreadCaptionFile,
    /// A second caption file of a picture; the first is read.
    OtherCaptionFile,
    /// A link to a file or folder that does not exist.
    BrokenLink,
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherSplit { part, word } => {
                write!(f, "in a held-out split, because the name `{part}` has the word \"{word}\"")
            }
            Self::OutsideOfTraining => write!(f, "outside of the training split"),
            Self::UnreadKind { extension } => {
                write!(f, "{} pictures are not read; convert them to PNG or JPEG", kind(extension))
            }
            Self::Hidden => write!(f, "hidden"),
            Self::NoCaption => write!(f, "pictures without a caption"),
            Self::BlankCaption => write!(f, "blank captions of pictures that have others"),
            Self::NoPicture => write!(f, "captions without a picture"),
            Self::NotAPicture => write!(f, "captions of files whose names are not those of pictures"),
            Self::BesideTables => write!(f, "not read beside parquet or Arrow files"),
            Self::OtherMetadata => write!(f, "not read beside another metadata file"),
            Self::UnreadCaptionFile => {
                write!(f, "pictures that the metadata do not name; their caption files are not read")
            }
            Self::OtherCaptionFile => write!(f, "not read beside another caption file of the same name"),
            Self::BrokenLink => write!(f, "links to files that are not there"),
        }
    }
}

/// The name of pictures with a given extension.
fn kind(extension: &str) -> String {
    match extension {
        "heic" | "heif" => "HEIC".to_owned(),
        "jxl" => "JPEG XL".to_owned(),
        "svgz" => "SVG".to_owned(),
        other => other.to_uppercase(),
    }
}

/// The parts of a dataset that are not used: how many files or rows, why, and a few of their names.
///
/// ```
/// use caption_data::{LeftOut, LeftOutReason};
///
/// let mut left_out = LeftOut::default();
/// left_out.add(LeftOutReason::Hidden, "art/.1.png");
/// left_out.add(LeftOutReason::Hidden, "art/.2.png");
/// assert_eq!(left_out.count(), 2);
/// let lines: Vec<String> = left_out.groups().map(|group| group.to_string()).collect();
/// assert_eq!(lines, ["2: hidden (art/.1.png, art/.2.png)"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    groups: BTreeMap<LeftOutReason, LeftOutGroup>,
}

/// Files or rows that are left out for the same reason. Displays as one line: the number, the reason and a
/// few names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutGroup {
    /// Why they are left out.
    pub reason: LeftOutReason,
    /// The number of them.
    pub count: usize,
    /// The names of the first [`LeftOut::EXAMPLES`] of them.
    pub examples: Vec<String>,
}

impl LeftOut {
    /// The number of names kept for each reason.
    pub const EXAMPLES: usize = 3;

    /// Counts one file or row.
    pub fn add(&mut self, reason: LeftOutReason, name: impl Into<String>) {
        let group = LeftOutGroup { reason: reason.clone(), count: 1, examples: vec![name.into()] };
        self.add_group(reason, group);
    }

    /// Adds the counts of another report.
    pub fn extend(&mut self, other: Self) {
        other.groups.into_iter().for_each(|(reason, group)| self.add_group(reason, group));
    }

    fn add_group(&mut self, reason: LeftOutReason, group: LeftOutGroup) {
        match self.groups.entry(reason) {
            Entry::Vacant(place) => drop(place.insert(group)),
            Entry::Occupied(mut place) => {
                let sum = place.get_mut();
                sum.count += group.count;
                let room = Self::EXAMPLES.saturating_sub(sum.examples.len());
                sum.examples.extend(group.examples.into_iter().take(room));
            }
        }
    }

    /// Whether everything is used.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The number of files and rows that are left out, for all reasons together.
    pub fn count(&self) -> usize {
        self.groups.values().map(|group| group.count).sum()
    }

    /// The reasons, each with its count and names.
    pub fn groups(&self) -> impl Iterator<Item = &LeftOutGroup> {
        self.groups.values()
    }
}

impl fmt::Display for LeftOutGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.count > self.examples.len() { ", ..." } else { "" };
        write!(f, "{}: {} ({}{more})", self.count, self.reason, self.examples.join(", "))
    }
}
