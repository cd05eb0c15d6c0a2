use std::collections::HashMap;

use crate::{CaptionSource, Error, Result};

/// The class labels of a dataset as numbers, for classifying its pictures.
///
/// ```no_run
/// use caption_data::{ClassLabels, SourceOptions, open};
///
/// let options = SourceOptions { label_column: Some("label".to_owned()), ..SourceOptions::default() };
/// let source = open("birds.parquet", &options)?;
/// let labels = ClassLabels::new(&source)?;
/// println!("row 0 is a {}, class {} of {}", labels.name(0), labels.ids()[0], labels.names().len());
/// # Ok::<(), caption_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLabels {
    names: Vec<String>,
    ids: Vec<u32>,
}

impl ClassLabels {
    /// Reads the label of every row. Classes are numbered as the dataset declares them (`ClassLabel` of `datasets`), or else in
    /// the order of their names: numbers by size, texts by their characters.
    ///
    /// # Errors
    /// If a row's label cannot be read, or it has several.
    pub fn new(source: &dyn CaptionSource) -> Result<Self> {
        let label = |row| match <[String; 1]>::try_from(source.captions(row)?) {
            Ok([label]) => Ok(label),
            Err(labels) => Err(Error::LabelCount { dataset: source.name(), row, labels: labels.len() }),
        };
        let labels = (0..source.len()).map(label).collect::<Result<Vec<String>>>()?;
        let mut names = source.class_names().unwrap_or_else(|| in_order(labels.clone()));
        let mut numbers: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
        let ids = labels.into_iter().map(|label| {
            // Another file of the dataset may declare other classes, which follow those of the first.
            *numbers.entry(label).or_insert_with_key(|label| {
                names.push(label.clone());
                names.len() as u32 - 1
            })
        });
        Ok(Self { ids: ids.collect(), names })
    }

    /// The name of each class, by its number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of each row's class.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The name of a row's class; empty if there is no such row.
    pub fn name(&self, row: usize) -> &str {
        self.ids.get(row).map_or("", |id| &self.names[*id as usize])
    }
}

/// Each name once, in order.
fn in_order(mut names: Vec<String>) -> Vec<String> {
    let numbers: Option<Vec<f64>> = names.iter().map(|name| name.parse().ok()).collect();
    match numbers {
        Some(_) => names.sort_by(|a, b| {
            let number = |name: &str| name.parse().unwrap_or(f64::NAN);
            number(a).total_cmp(&number(b)).then_with(|| a.cmp(b))
        }),
        None => names.sort_unstable(),
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undeclared_classes_are_in_the_order_of_their_names_and_numbers_by_size() {
        let order = |names: &[&str]| in_order(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(order(&["10", "9", "10", "-1"]), ["-1", "9", "10"]);
        assert_eq!(order(&["wren", "10", "owl", "wren"]), ["10", "owl", "wren"]);
    }
}
