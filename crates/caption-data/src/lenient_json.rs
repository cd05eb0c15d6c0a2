//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are accepted as numbers, and read as null.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Parses JSON that may contain `NaN`, `Infinity` and `-Infinity`.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&with_nulls(text))
}

/// The text with null in place of these. Line numbers in errors stay correct, but columns may shift.
fn with_nulls(text: &str) -> Cow<'_, str> {
    const NAMES: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !NAMES.iter().any(|name| text.contains(name)) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        if !in_string && let Some(name) = NAMES.iter().find(|name| rest.starts_with(**name)) {
            out.push_str("null");
            rest = &rest[name.len()..];
            continue;
        }
        // The character after a backslash cannot end the string.
        let taken = match first {
            '\\' if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => first.len_utf8(),
        };
        in_string ^= first == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Cow::Owned(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails panics")]
mod tests {
    use serde_json::{Value, json};

    use super::parse;

    #[test]
    fn nan_and_infinity_are_null_and_strings_are_unchanged() {
        let text = r#"{"a": NaN, "b": [-Infinity, Infinity, 1], "c": "NaN \" NaN", "é\\": "\\", "NaN": NaN}"#;
        let expected =
            json!({ "a": null, "b": [null, null, 1], "c": "NaN \" NaN", "é\\": "\\", "NaN": null });
        assert_eq!(parse::<Value>(text).unwrap(), expected);
        assert!(parse::<Value>(r#"{"a": NaNa}"#).is_err());
        assert!(parse::<Value>(r#"{"a": "NaN\"#).is_err());
    }
}
