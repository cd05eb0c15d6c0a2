//! The spelling of options in `adapter_config.json`, where it differs from their Rust types, and options
//! without a Rust type.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// The version of PEFT whose file format is written.
const PEFT_VERSION: &str = "0.21.2";

/// Options of the file format for which this crate supports only one value.
pub(crate) fn fixed_options() -> BTreeMap<String, Value> {
    [
        ("peft_type", json!("LORA")),
        ("peft_version", json!(PEFT_VERSION)),
        // PEFT's value for saved adapters: they are opened for inference unless training is requested.
        ("inference_mode", json!(true)),
        ("fan_in_fan_out", json!(false)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Fails with the names of unsupported options that would change the adapter's output.
pub(crate) fn refuse_unsupported(others: &BTreeMap<String, Value>) -> Result<(), String> {
    let unsupported: Vec<String> = others
        .iter()
        .filter(|(name, value)| !is_neutral(name, value))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if unsupported.is_empty() { Ok(()) } else { Err(format!("not supported: {}", unsupported.join(", "))) }
}

/// Whether an option's value has no effect, so that ignoring it is safe.
fn is_neutral(name: &str, value: &Value) -> bool {
    match (name, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(items)) if items.is_empty() => true,
        (_, Value::Object(items)) if items.is_empty() => true,
        ("peft_type", value) => value == "LORA",
        _ => NOTES.contains(&name) || IDLE.contains(&name),
    }
}

/// Notes on the writer and its process. An adapter's output does not depend on them.
const NOTES: [&str; 3] = ["peft_version", "inference_mode", "runtime_config"];

/// Details of other options. They have no effect unless those options are set, and then the options themselves
/// are reported.
const IDLE: [&str; 8] = [
    // For values of `init_lora_weights`.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // For `megatron_config` and `use_qalora`.
    "megatron_core",
    "qalora_group_size",
    // For layers that are not linear: PEFT sets the first to false for torch's layers, and the second is
    // about embeddings.
    "fan_in_fan_out",
    "ensure_weight_tying",
];

/// A whole number without a fraction, `32` for 32.0, as Python writes an int: some readers require it.
fn number(value: impl Into<Value>) -> Value {
    let value = value.into();
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => json!(number as i64),
        _ => value,
    }
}

/// Writes a number, without `.0` if it is whole.
pub(crate) fn serialize_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

/// Reads null as the default: some options that are null in PEFT are empty here.
pub(crate) fn null_as_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A JSON object whose order is kept.
pub(crate) mod ordered_map {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
    use serde::ser::{SerializeMap, Serializer};
    use serde_json::Value;

    pub(crate) fn serialize<T: Copy + Into<Value>, S: Serializer>(
        entries: &[(String, T)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (key, value) in entries {
            map.serialize_entry(key, &super::number(*value))?;
        }
        map.end()
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, T)>, D::Error> {
        deserializer.deserialize_any(Entries(PhantomData))
    }

    struct Entries<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of patterns and numbers, or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries: Vec<(String, T)> = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, T>()? {
                if entries.iter().any(|(other, _)| *other == key) {
                    return Err(A::Error::custom(format!("the pattern {key} is given twice")));
                }
                entries.push((key, value));
            }
            Ok(entries)
        }
    }
}

/// One value, a list of them, or null for none.
pub(crate) mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "layers_to_transform, layers_pattern and modules_to_save must be one value or a list"
    )]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (!values.is_empty()).then_some(values).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(match Option::<OneOrMany<T>>::deserialize(deserializer)? {
            None => Vec::new(),
            Some(OneOrMany::One(value)) => vec![value],
            Some(OneOrMany::Many(values)) => values,
        })
    }
}
