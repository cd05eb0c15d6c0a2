//! Reads captions and prompts of a table.

use std::ops::Range;

use serde_json::Value;

use super::table::{Table, TableReader, TextColumn};
use crate::source::row_of;
use crate::text_block::TextBlock;
use crate::texts::{self, RowTexts, TEXTS};
use crate::{Error, Result};

/// Which texts are read.
pub(super) struct TextPlace<'a> {
    /// The dataset's name, for messages.
    pub(super) dataset: &'a str,
    /// The number of the first row in the dataset.
    pub(super) first_row: usize,
    /// The row group of the file.
    pub(super) group: usize,
    /// The rows of the group.
    pub(super) rows: Range<usize>,
}

/// The texts of some rows of a row group; and for each, the number of its blank captions beside others, or `None` if it
/// has no caption.
pub(super) fn row_texts(
    place: &TextPlace<'_>,
    file: &dyn Table,
    reader: &dyn TableReader,
) -> Result<(TextBlock, Vec<Option<usize>>)> {
    let row = |at: usize| place.first_row + at;
    let values = |column: Option<&TextColumn>| -> Result<Vec<Option<Value>>> {
        let mut values = Vec::new();
        if let Some(column) = column {
            reader.values(place.group, place.rows.clone(), column, &mut |value| values.push(value))?;
        }
        Ok(values)
    };
    let read = |column: &TextColumn, values: &[Option<Value>], at: usize| match values.get(at) {
        Some(Some(value)) => Ok(value.clone()),
        Some(None) => Err(row_of(place.dataset, row(at))(Error::CaptionEncoding)),
        None => Err(Error::Parquet {
            path: file.path().to_owned(),
            why: format!("column `{}` ends before row {}", column.name, row(at)),
        }),
    };
    let refused = |column: &TextColumn, at: usize, found: String| Error::ColumnType {
        path: file.path().to_owned(),
        column: column.name.clone(),
        expected: TEXTS,
        found: format!("{found} in row {} (rows count from 0)", row(at)),
    };
    let (captions, prompts) = (values(file.caption())?, values(file.prompt())?);
    let (mut block, mut blanks) = (TextBlock::new(file.prompt().is_some()), Vec::new());
    for at in 0..place.rows.len() {
        let (captions, blank) = match file.caption() {
            Some(column) => texts::texts(&read(column, &captions, at)?, column.labels.as_deref())
                .map_err(|found| refused(column, at, found))?,
            None => (Vec::new(), 0),
        };
        let prompt = match file.prompt() {
            Some(column) => Some(
                texts::prompt(&read(column, &prompts, at)?, column.labels.as_deref())
                    .map_err(|found| refused(column, at, found))?,
            ),
            None => None,
        };
        let texts = RowTexts { captions, blank, prompt };
        blanks.push((!texts.captions.is_empty()).then_some(texts.left_out()));
        block.push(&texts);
    }
    block.shrink();
    Ok((block, blanks))
}
