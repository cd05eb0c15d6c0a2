use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Everything outside the [`TrainingArguments`](crate::TrainingArguments) that determines a run's numbers, such as the
/// data, the frozen weights and the batch size.
///
/// A checkpoint stores it, and [`Trainer::resume`](crate::Trainer::resume) refuses a run that differs in any
/// entry. The caller chooses keys and values. The engine compares them and shows them in errors.
///
/// ```
/// use trainer_core::Identity;
///
/// let saved = Identity::new().with("batch size", 2).with_content("data", "a.parquet", "5f3a");
/// let now = Identity::new().with("batch size", 4).with_content("data", "moved/a.parquet", "5f3a");
/// let differences = saved.differences(&now);
/// assert_eq!(differences.len(), 1);
/// assert_eq!(differences[0].to_string(), "batch size was 2 and is now 4");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, Entry>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    value: String,
    /// If present, compared instead of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl Entry {
    fn is_same(&self, other: &Self) -> bool {
        match (&self.fingerprint, &other.fingerprint) {
            (Some(saved), Some(now)) => saved == now,
            _ => self == other,
        }
    }
}

impl Identity {
    /// Creates an identity without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry that is compared by value.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.insert(key.into(), Entry { value: value.to_string(), fingerprint: None });
        self
    }

    /// Adds an entry that is compared by the fingerprint of its content. Errors show `value`, for example a path.
    #[must_use]
    pub fn with_content(
        mut self,
        key: impl Into<String>,
        value: impl fmt::Display,
        fingerprint: impl Into<String>,
    ) -> Self {
        let entry = Entry { value: value.to_string(), fingerprint: Some(fingerprint.into()) };
        self.0.insert(key.into(), entry);
        self
    }

    /// Copies an entry of another identity, if it has one with this key.
    #[must_use]
    pub fn with_entry_of(mut self, other: &Self, key: &str) -> Self {
        self.0.extend(other.0.get(key).map(|entry| (key.to_owned(), entry.clone())));
        self
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares this saved identity with the current one. Returns the differences, sorted by key.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let added = now.0.keys().filter(|key| !self.0.contains_key(*key));
        let mut keys: Vec<&String> = self.0.keys().chain(added).collect();
        keys.sort_unstable();
        let differs = |key: &&String| match (self.0.get(*key), now.0.get(*key)) {
            (Some(saved), Some(now)) => !saved.is_same(now),
            _ => true,
        };
        let value = |identity: &Self, key| identity.0.get(key).map(|entry: &Entry| entry.value.clone());
        keys.into_iter()
            .filter(differs)
            .map(|key| Difference { key: key.clone(), saved: value(self, key), now: value(now, key) })
            .collect()
    }
}

/// A difference between a saved run and the current one. [`Display`](fmt::Display) describes it in a clause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Key of the entry, or name of the training argument.
    pub key: String,
    /// Value in the checkpoint; `None` if it has no such entry.
    pub saved: Option<String>,
    /// Value in the current run; `None` if it has no such entry. Equal to `saved` if only the content differs.
    pub now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (&self.saved, &self.now) {
            // An entry without a printable value.
            (Some(saved), Some(now)) if saved.is_empty() && now.is_empty() => write!(f, "{key} changed"),
            (Some(saved), None) if saved.is_empty() => write!(f, "{key} was given and is now not given"),
            (None, Some(now)) if now.is_empty() => write!(f, "{key} was not given and is now given"),
            (Some(saved), Some(now)) if saved == now => write!(f, "the content of {key} ({now}) has changed"),
            (Some(saved), Some(now)) => write!(f, "{key} was {saved} and is now {now}"),
            (Some(saved), None) => write!(f, "{key} was {saved} and is now not given"),
            (None, Some(now)) => write!(f, "{key} was not given and is now {now}"),
            (None, None) => write!(f, "{key} differs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clauses(saved: &Identity, now: &Identity) -> Vec<String> {
        saved.differences(now).iter().map(Difference::to_string).collect()
    }

    #[test]
    fn every_difference_shows_both_values() {
        let saved = Identity::new().with("alpha", 32).with("order", "shuffled").with("old", "x");
        let now = Identity::new().with("alpha", 16).with("order", "shuffled").with("new", "y");
        assert_eq!(
            clauses(&saved, &now),
            [
                "alpha was 32 and is now 16",
                "new was not given and is now y",
                "old was x and is now not given"
            ]
        );
        assert!(clauses(&saved, &saved).is_empty());
    }

    #[test]
    fn content_is_compared_and_paths_are_not() {
        let saved = Identity::new().with_content("data", "a", "1");
        assert!(clauses(&saved, &Identity::new().with_content("data", "b", "1")).is_empty());
        let edited = Identity::new().with_content("data", "a", "2");
        assert_eq!(clauses(&saved, &edited), ["the content of data (a) has changed"]);
        let other = Identity::new().with_content("data", "b", "2");
        assert_eq!(clauses(&saved, &other), ["data was a and is now b"]);
        assert!(!clauses(&saved, &Identity::new().with("data", "a")).is_empty(), "a fingerprint is missing");
    }

    #[test]
    fn an_entry_without_a_printable_value_is_named_alone() {
        let saved = Identity::new().with_content("rows", "", "1").with_content("old", "", "1");
        let now = Identity::new().with_content("rows", "", "2").with_content("new", "", "1");
        assert_eq!(
            clauses(&saved, &now),
            ["new was not given and is now given", "old was given and is now not given", "rows changed"]
        );
    }

    #[test]
    fn json_round_trips() {
        let identity = Identity::new().with("a", 1).with_content("b", "c", "d");
        let json = serde_json::to_string(&identity).unwrap();
        assert_eq!(json, r#"{"a":{"value":"1"},"b":{"value":"c","fingerprint":"d"}}"#);
        assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
    }
}
