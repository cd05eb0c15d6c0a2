use std::path::Path;

use parquet::file::reader::FileReader as _;
use serde_json::{Map, Value};

use super::parquet_file::{guarded, reader};
use crate::Result;

/// All rows of a small parquet file, such as `metadata.parquet`.
pub(crate) fn records(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let reader = reader(path)?;
    guarded(path, || {
        let fields = |row: parquet::record::Row| match row.to_json_value() {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        reader.get_row_iter(None)?.map(|row| Ok(fields(row?))).collect()
    })
}
