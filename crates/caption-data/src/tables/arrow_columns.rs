//! Column types of an Arrow file, and how to read their values.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, Schema};
use serde_json::Value;

use crate::columns::ColumnKind;

/// The columns of a file, each with its possible uses.
pub(crate) fn columns(schema: &Schema, features: &HashMap<String, Value>) -> Vec<(String, ColumnKind)> {
    let kind = |field: &Field| {
        let is_audio = features.get(field.name()).is_some_and(|feature| feature["_type"] == "Audio");
        if is_picture(field) && !is_audio {
            ColumnKind::Picture
        } else if is_text(field.data_type()) {
            ColumnKind::Text
        } else {
            ColumnKind::Other
        }
    };
    schema.fields().iter().map(|field| (field.name().clone(), kind(field))).collect()
}

pub(crate) fn is_picture(field: &Field) -> bool {
    let is_bytes =
        |kind: &DataType| matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match field.data_type() {
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == "bytes" && is_bytes(field.data_type()))
        }
        kind => is_bytes(kind),
    }
}

/// Whether a column holds text, numbers or lists of these.
fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::List(element) | DataType::LargeList(element) => is_text(element.data_type()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        kind => matches!(kind, DataType::Int32 | DataType::Int64 | DataType::Float64),
    }
}

/// A value of a text column ([`is_text`]); null for columns of other types.
pub(crate) fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    let list = |list: ArrayRef| (0..list.len()).map(|at| value(&list, at)).collect();
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row)),
        _ => Value::Null,
    }
}

/// The byte string or text of a row.
pub(crate) fn bytes_of(array: &ArrayRef, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::Binary => Some(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(array.as_binary_view().value(row)),
        DataType::Utf8 => Some(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row).as_bytes()),
        _ => None,
    }
}
