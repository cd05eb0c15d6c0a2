//! Paths in environment variables, as Python's `os.path.expanduser` and `os.path.expandvars` read them.

/// The home folder of the user.
pub(super) fn user_home(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    variable("HOME").or_else(|| variable("USERPROFILE"))
}

/// Replaces a leading `~` by the user's home folder, and `$NAME` and `${NAME}` by the values of variables.
/// Unset variables stay as they are.
pub(super) fn expanded(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let (mut done, mut rest) = (String::new(), text);
    if let Some(below) = text.strip_prefix('~')
        && (below.is_empty() || below.starts_with('/'))
        && let Some(home) = user_home(&variable)
    {
        (done, rest) = (home, below);
    }
    while let Some((before, after)) = rest.split_once('$') {
        done += before;
        let braced = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let (name, next) = braced.unwrap_or_else(|| {
            after
                .split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()))
        });
        match variable(name) {
            Some(value) => done += &value,
            None => done += &rest[before.len()..rest.len() - next.len()],
        }
        rest = next;
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_hold_a_tilde_and_variables() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/ada".to_owned()),
            "USER" => Some("ada".to_owned()),
            _ => None,
        };
        for (text, path) in [
            ("~", "/home/ada"),
            ("~/hf", "/home/ada/hf"),
            ("/disk/$USER/hub", "/disk/ada/hub"),
            ("/disk/${USER}s/hub", "/disk/adas/hub"),
            ("$HOME", "/home/ada"),
            ("/disk/$NOBODY/${NOBODY}/$", "/disk/$NOBODY/${NOBODY}/$"),
            ("~grace/hub", "~grace/hub"),
            ("/disk/~/hub", "/disk/~/hub"),
        ] {
            assert_eq!(expanded(text, variable), path, "{text}");
        }
    }
}
