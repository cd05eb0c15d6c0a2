//! Extracts texts from the values of caption and prompt columns.

use serde_json::Value;

use crate::{Error, Result};

/// The texts of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowTexts {
    /// Without blank ones.
    pub(crate) captions: Vec<String>,
    /// The number of blank captions.
    pub(crate) blank: usize,
    /// `None` in a dataset without prompts.
    pub(crate) prompt: Option<String>,
}

/// The texts of a row in little memory: most rows have one caption.
#[derive(Debug)]
pub(crate) enum Texts {
    Caption(Box<str>),
    Others(Box<RowTexts>),
}

impl From<RowTexts> for Texts {
    fn from(mut texts: RowTexts) -> Self {
        match texts {
            RowTexts { ref mut captions, blank: 0, prompt: None } if captions.len() == 1 => {
                Self::Caption(captions.swap_remove(0).into())
            }
            texts => Self::Others(Box::new(texts)),
        }
    }
}

impl Texts {
    pub(crate) fn unpacked(&self) -> RowTexts {
        match self {
            Self::Caption(caption) => {
                RowTexts { captions: vec![caption.as_ref().to_owned()], blank: 0, prompt: None }
            }
            Self::Others(texts) => texts.as_ref().clone(),
        }
    }

    /// Whether there is no caption.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Others(texts) if texts.captions.is_empty())
    }

    /// As [`RowTexts::left_out`].
    pub(crate) fn left_out(&self) -> usize {
        match self {
            Self::Caption(_) => 0,
            Self::Others(texts) => texts.left_out(),
        }
    }

    /// The prompt, which may be blank.
    pub(crate) fn prompt(&self) -> Option<&str> {
        match self {
            Self::Caption(_) => None,
            Self::Others(texts) => texts.prompt.as_deref(),
        }
    }
}

impl RowTexts {
    /// All captions; an error if there is none.
    pub(crate) fn captions(&self) -> Result<&[String]> {
        if self.captions.is_empty() { Err(Error::BlankCaption) } else { Ok(&self.captions) }
    }

    /// The number of blank captions that are left out beside others. If all are blank, the row cannot be used
    /// at all.
    pub(crate) fn left_out(&self) -> usize {
        if self.captions.is_empty() { 0 } else { self.blank }
    }

    /// The prompt, which is not blank.
    pub(crate) fn prompt(&self) -> Result<Option<&str>> {
        match self.prompt.as_deref() {
            Some(prompt) if prompt.trim().is_empty() => Err(Error::BlankPrompt),
            prompt => Ok(prompt),
        }
    }
}

/// The prompt in a value; blank if there is none.
///
/// # Errors
/// As [`texts`], and if the value holds several.
pub(crate) fn prompt(value: &Value, labels: Option<&[String]>) -> std::result::Result<String, String> {
    let (mut texts, _) = texts(value, labels)?;
    match texts.len() {
        0 | 1 => Ok(texts.pop().unwrap_or_default()),
        count => Err(format!("{count} prompts for one row")),
    }
}

/// The supported types of such a column, for messages.
pub(crate) const TEXTS: &str = "text, numbers, class labels or lists of these";

/// The texts in a value that are not blank, and the number of blank ones. A text, a number or null is one text;
/// a list has the texts of its elements. `labels` are the names of class labels: the value is then a label's
/// number, and -1 means no label.
///
/// # Errors
/// If it is not clear what the value's text is: the message describes the value.
pub(crate) fn texts(
    value: &Value,
    labels: Option<&[String]>,
) -> std::result::Result<(Vec<String>, usize), String> {
    let mut texts = Vec::new();
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| one(value, labels, &mut texts))?,
        value => one(value, labels, &mut texts)?,
    }
    let count = texts.len();
    texts.retain(|text: &String| !text.trim().is_empty());
    let blank = count - texts.len();
    Ok((texts, blank))
}

/// Adds the text of a value that is not a list.
fn one(value: &Value, labels: Option<&[String]>, texts: &mut Vec<String>) -> std::result::Result<(), String> {
    match (value, labels) {
        (Value::Null, _) => texts.push(String::new()),
        (Value::String(text), _) => texts.push(text.clone()),
        (Value::Number(number), Some(_)) if number.as_i64() == Some(-1) => texts.push(String::new()),
        (Value::Number(number), Some(labels)) => {
            let label = number.as_u64().and_then(|number| labels.get(number as usize));
            texts.push(label.ok_or_else(|| format!("label {number} of {}", labels.len()))?.clone());
        }
        (Value::Number(number), None) => texts.push(number.to_string()),
        (Value::Bool(value), _) => return Err(format!("a truth value ({value})")),
        (Value::Array(_), _) => return Err("a list of lists".to_owned()),
        (Value::Object(fields), _) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            return Err(format!("a record of {}", names.join(", ")));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails panics")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_numbers_labels_and_lists_of_them_are_read() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let read = |value: Value| texts(&value, None).unwrap().0;
        assert_eq!(read(json!("a cat")), ["a cat"]);
        assert_eq!(read(json!(7)), ["7"]);
        assert_eq!(read(json!(0.5)), ["0.5"]);
        assert_eq!(read(json!(["a cat", " ", null, "two"])), ["a cat", "two"]);
        assert_eq!(read(json!(null)), [""; 0]);
        assert_eq!(texts(&json!(["a", " ", null]), None), Ok((vec!["a".to_owned()], 2)));
        assert_eq!(read(json!("  ")), [""; 0]);
        assert_eq!(texts(&json!(1), Some(&labels)).unwrap().0, ["dog"]);
        assert_eq!(texts(&json!([1, 0]), Some(&labels)).unwrap().0, ["dog", "cat"]);
        assert_eq!(texts(&json!(-1), Some(&labels)).unwrap().0, [""; 0]);
    }

    #[test]
    fn values_without_obvious_text_are_refused_with_their_type() {
        let refusal = |value: Value| texts(&value, None).unwrap_err();
        assert_eq!(refusal(json!(true)), "a truth value (true)");
        assert_eq!(refusal(json!([["a"]])), "a list of lists");
        assert_eq!(refusal(json!({ "raw": "a", "id": 1 })), "a record of id, raw");
        assert_eq!(texts(&json!(2), Some(&["cat".to_owned()])).unwrap_err(), "label 2 of 1");
    }
}
