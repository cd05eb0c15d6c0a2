//! Reads column types and class labels from the schema of a parquet file.

use std::collections::HashMap;
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type as SchemaType};
use serde_json::Value;

use crate::columns::ColumnKind;
use crate::{Error, Result};

/// The expected contents of a picture column, and those of a column of strings, for messages.
pub(crate) const PICTURES: &str = "the bytes of pictures";
pub(crate) const STRINGS: &str = "strings (paths or addresses); write the pictures themselves into the file, or name the \
                                  pictures' own folder, with a metadata.jsonl of file_name and text in it";

/// The columns of a file, each with its possible uses.
pub(crate) fn columns(metadata: &FileMetaData) -> Vec<(String, ColumnKind)> {
    let (schema, features) = (metadata.schema_descr(), features(metadata));
    let fields = schema.root_schema().get_fields();
    let columns = fields.iter().map(|field| {
        let is_audio = features.get(field.name()).is_some_and(|feature| feature["_type"] == "Audio");
        let kind = if is_picture(schema, field.name()) && !is_audio {
            ColumnKind::Picture
        } else if is_text(field) {
            ColumnKind::Text
        } else {
            ColumnKind::Other
        };
        (field.name().to_owned(), kind)
    });
    columns.collect()
}

/// The class names of a column of class labels, as `datasets` writes them into the file.
pub(crate) fn labels(metadata: &FileMetaData, column: &str) -> Option<Vec<String>> {
    labels_in(&features(metadata), column)
}

/// The class names of a column of class labels, from the features of a dataset.
pub(crate) fn labels_in(features: &HashMap<String, Value>, column: &str) -> Option<Vec<String>> {
    let mut feature = features.get(column)?;
    // For a list of labels, the element's feature is in a list or under the key `feature`.
    while let Some(element) = feature.get("feature").or_else(|| feature.get(0)) {
        feature = element;
    }
    let names = feature["names"].as_array().filter(|_| feature["_type"] == "ClassLabel")?;
    Some(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

/// The leaf with the bytes of the pictures, and the leaf with their paths.
pub(crate) fn pictures(path: &Path, schema: &SchemaDescriptor, name: &str) -> Result<(usize, Option<usize>)> {
    let refuse = |expected: &'static str, found: String| Error::ColumnType {
        path: path.to_owned(),
        column: name.to_owned(),
        expected,
        found,
    };
    let bytes = leaf(schema, name, &[]).or_else(|| leaf(schema, name, &["bytes"]));
    let bytes = bytes.ok_or_else(|| {
        let leaves = schema.columns().iter().filter(|leaf| leaf.path().parts()[0] == name);
        let found: Vec<_> =
            leaves.map(|leaf| format!("{} {}", leaf.path().string(), leaf.physical_type())).collect();
        refuse("binary, or a struct with a binary field `bytes`", found.join(", "))
    })?;
    if is_string(&schema.column(bytes)) {
        return Err(refuse(PICTURES, STRINGS.to_owned()));
    }
    Ok((bytes, leaf(schema, name, &["path"])))
}

/// The index of the leaf at `name.field`, if it holds one byte string per row.
pub(crate) fn leaf(schema: &SchemaDescriptor, name: &str, field: &[&str]) -> Option<usize> {
    schema.columns().iter().position(|leaf| {
        let parts = leaf.path().parts();
        parts[0] == name
            && parts[1..] == *field
            && leaf.max_rep_level() == 0
            && leaf.physical_type() == Type::BYTE_ARRAY
    })
}

/// The dataset features that `datasets` writes into the file.
fn features(metadata: &FileMetaData) -> HashMap<String, Value> {
    let entries = metadata.key_value_metadata().into_iter().flatten();
    features_in(entries.filter(|entry| entry.key == "huggingface").find_map(|entry| entry.value.as_deref()))
}

/// The dataset features in the text that `datasets` writes under the key `huggingface`.
pub(crate) fn features_in(text: Option<&str>) -> HashMap<String, Value> {
    let info: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let features = info.and_then(|info| info["info"]["features"].as_object().cloned());
    features.unwrap_or_default().into_iter().collect()
}

fn is_picture(schema: &SchemaDescriptor, name: &str) -> bool {
    let bytes = leaf(schema, name, &[]).or_else(|| leaf(schema, name, &["bytes"]));
    bytes.is_some_and(|bytes| !is_string(&schema.column(bytes)))
}

/// Whether a column holds text, numbers or lists of these.
fn is_text(field: &SchemaType) -> bool {
    if field.is_primitive() {
        return field.get_physical_type() != Type::BOOLEAN;
    }
    let is_list = matches!(field.get_basic_info().logical_type_ref(), Some(LogicalType::List))
        || field.get_basic_info().converted_type() == ConvertedType::LIST;
    let [inner] = field.get_fields() else { return false };
    let is_repeated = inner.get_basic_info().has_repetition()
        && inner.get_basic_info().repetition() == Repetition::REPEATED;
    let element = if inner.is_primitive() { Some(inner) } else { inner.get_fields().first() };
    is_list && is_repeated && element.is_some_and(|element| element.is_primitive())
}

fn is_string(column: &ColumnDescriptor) -> bool {
    column.converted_type() == ConvertedType::UTF8 || column.logical_type_ref() == Some(&LogicalType::String)
}
