//! How a dataset is read: which rows are checked beforehand, and in which parts it is shuffled.

use std::{fmt, str::FromStr};

use super::names::names;
use super::numbers::{bytes, count, share};
use crate::hub::Location;

/// Which rows are read and checked before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckRows {
    /// Every row.
    All,
    /// About a thousand rows of all parts of the dataset. Others are read when they are needed.
    Sample,
}

names!(CheckRows { All => "all", Sample => "sample" });

/// The part of a dataset in which rows are shuffled, by the memory of its encoded pictures. As text: `all`, `500MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShuffleWindow {
    /// The whole dataset.
    All,
    /// As many row groups as take this many bytes.
    Bytes(usize),
}

impl ShuffleWindow {
    /// The memory for encoded pictures that a dataset needs, in bytes.
    pub fn memory(self) -> usize {
        match self {
            Self::All => 1 << 30,
            Self::Bytes(bytes) => caption_data::window_memory(bytes as u64),
        }
    }
}

impl FromStr for ShuffleWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            text => match bytes(text).map_err(|why| format!("{why}, or `all`"))? {
                0 => Err("must be above 0, or `all`".to_owned()),
                bytes => Ok(Self::Bytes(bytes)),
            },
        }
    }
}

impl fmt::Display for ShuffleWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Bytes(bytes) => write!(f, "{}KB", *bytes as f64 / 1e3),
        }
    }
}

/// The space for a dataset of the hub, parts of which are fetched when they are needed. As text: `20GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataCache {
    /// The space in bytes.
    pub bytes: u64,
}

impl FromStr for DataCache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match bytes(text)? as u64 {
            bytes if bytes < MIN_DATA_CACHE => Err("must be at least 1MB".to_owned()),
            bytes => Ok(Self { bytes }),
        }
    }
}

/// With less space, a few pictures would fill the cache.
const MIN_DATA_CACHE: u64 = 1_000_000;

impl fmt::Display for DataCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}KB", self.bytes as f64 / 1e3)
    }
}

/// The rows of a held-out part: some rows of the dataset itself, or another dataset. As text: `500`, `0.05`,
/// `val.parquet`.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOut {
    /// This many rows of the dataset.
    Rows(usize),
    /// This share of the rows of the dataset, above 0 and below 1.
    Share(f64),
    /// All rows of another dataset.
    Dataset(Location),
}

impl HeldOut {
    /// The number of rows that are taken out of `rows`.
    pub fn count(&self, rows: usize) -> usize {
        match self {
            Self::Rows(count) => *count,
            Self::Share(share) => (share * rows as f64 - 1e-9).ceil() as usize,
            Self::Dataset(_) => 0,
        }
    }
}

impl FromStr for HeldOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.parse::<f64>().is_err() {
            return match text.parse() {
                Ok(Location::Embedded) => Err("the embedded dataset cannot be held out".to_owned()),
                Ok(location) => Ok(Self::Dataset(location)),
                Err(error) => Err(format!("neither a number of rows nor a share of them; {error}")),
            };
        }
        if let Ok(count) = count(text) {
            return Ok(Self::Rows(count));
        }
        match share(text)? {
            share if share > 0.0 && share < 1.0 && text.contains('.') => Ok(Self::Share(share)),
            _ => Err("must be a number of rows of at least 1, a share such as 0.05, or a dataset".to_owned()),
        }
    }
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
            Self::Dataset(location) => location.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_out_part_is_a_count_a_share_or_a_dataset() {
        let parse = |text: &str| text.parse::<HeldOut>();
        assert_eq!(parse("500"), Ok(HeldOut::Rows(500)));
        assert_eq!(parse("0.05"), Ok(HeldOut::Share(0.05)));
        assert_eq!(parse("src"), Ok(HeldOut::Dataset(Location::Local("src".into()))));
        assert_eq!(parse("some/one@main").map(|part| part.to_string()), Ok("some/one@main".to_owned()));
        assert_eq!([HeldOut::Rows(7), HeldOut::Share(0.1)].map(|part| part.count(1001)), [7, 101]);
        for text in ["0", "1.5", "-3", "-0.1", "0.0", "1.0", "NaN"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let missing = parse("no-such-file.parquet").unwrap_err();
        assert!(missing.contains("no-such-file.parquet"), "{missing}");
        assert!(parse("embedded").unwrap_err().contains("embedded"));
    }

    #[test]
    fn a_window_is_a_size_or_everything() {
        for (text, window) in [("all", ShuffleWindow::All), ("500MB", ShuffleWindow::Bytes(500_000_000))] {
            assert_eq!(text.parse(), Ok(window));
            assert_eq!(window.to_string().parse(), Ok(window));
        }
        assert_eq!("20GB".parse(), Ok(DataCache { bytes: 20_000_000_000 }));
        assert_eq!(
            "1.5MB".parse::<DataCache>().unwrap().to_string().parse(),
            Ok(DataCache { bytes: 1_500_000 })
        );
        assert!("900KB".parse::<DataCache>().is_err() && "20".parse::<DataCache>().is_err());
        assert!("0MB".parse::<ShuffleWindow>().is_err());
        let refusal = "500".parse::<ShuffleWindow>().unwrap_err();
        assert!(refusal.contains("needs a unit") && refusal.ends_with("or `all`"), "{refusal}");
    }
}
