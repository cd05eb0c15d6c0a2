//! White space as in Python: Unicode's, and the four separators of ASCII.

/// `str.isspace` of Python for one character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.split()` of Python.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.strip()` of Python.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
