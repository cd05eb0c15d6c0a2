//! Parts of messages.

use std::error::Error;

/// Joins the items of a message: all of them if they are few, otherwise the first ones and the number of the
/// others.
pub(crate) fn listed(items: &[String], separator: &str) -> String {
    const SHOWN: usize = 6;
    // One more item is no longer than "and 1 more".
    if items.len() <= SHOWN + 1 {
        return items.join(separator);
    }
    format!("{} and {} more", items[..SHOWN].join(separator), items.len() - SHOWN)
}

/// An error and its causes in one line, for a message without a source.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_items_are_counted() {
        let names: Vec<String> = (0..9).map(|number| format!("n{number}")).collect();
        assert_eq!(listed(&names[..2], ", "), "n0, n1");
        assert_eq!(listed(&names[..7], "; "), "n0; n1; n2; n3; n4; n5; n6");
        assert_eq!(listed(&names, ", "), "n0, n1, n2, n3, n4, n5 and 3 more");
    }

    #[test]
    fn causes_follow_the_error() {
        let cause = std::io::Error::other("disk full");
        let error = crate::Error::Io { action: "write", path: "a.json".into(), source: cause };
        assert_eq!(with_causes(&error), "cannot write a.json: disk full");
    }
}
