use std::fmt;

/// Prefixes that wrappers of a model put into the names of its tensors.
const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];

/// The missing and the unexpected names of a file, compared with the names that were expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renaming {
    /// All names begin with this prefix but should not: `module.` of DataParallel, `_orig_mod.` of
    /// torch.compile.
    Surplus(String),
    /// No name begins with this prefix, but all should.
    Lacking(String),
}

impl Renaming {
    /// Finds the prefix whose removal or addition makes every name in `found` an expected one; `None` if there
    /// is no such prefix, or the names are right already.
    ///
    /// ```
    /// use train_ops::Renaming;
    ///
    /// let expected = ["encoder.weight", "encoder.bias"];
    /// let found = ["module.encoder.weight", "module.encoder.bias"];
    /// let renaming = Renaming::find(&found, &expected, |name| expected.contains(&name));
    /// assert_eq!(renaming, Some(Renaming::Surplus("module.".to_owned())));
    /// ```
    pub fn find(found: &[&str], expected: &[&str], is_expected: impl Fn(&str) -> bool) -> Option<Self> {
        let first = *found.first()?;
        if is_expected(first) {
            return None;
        }
        let all = |rename: &dyn Fn(&str) -> Option<String>| {
            found.iter().all(|name| rename(name).is_some_and(|name| is_expected(&name)))
        };
        let without = |name: &str, wrapper: &str| name.contains(wrapper).then(|| name.replace(wrapper, ""));
        let wrapper = WRAPPERS.into_iter().find(|wrapper| all(&|name| without(name, wrapper)));
        let mut starts = first.match_indices('.').map(|(dot, _)| &first[..=dot]);
        let surplus =
            wrapper.or_else(|| starts.find(|start| all(&|name| name.strip_prefix(start).map(str::to_owned))));
        if let Some(part) = surplus {
            return Some(Self::Surplus(part.to_owned()));
        }
        let mut starts = expected.iter().filter_map(|name| name.strip_suffix(first));
        let lacking =
            starts.find(|start| start.ends_with('.') && all(&|name| Some(format!("{start}{name}"))));
        lacking.map(|part| Self::Lacking(part.to_owned()))
    }
}

impl fmt::Display for Renaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Surplus(part) => write!(
                f,
                "all names have the part `{part}`, which something around the model added (DataParallel adds `module.`, \
                 torch.compile `_orig_mod.`): remove it from the names, or save the model without what is around it"
            ),
            Self::Lacking(part) => {
                write!(f, "all names lack `{part}` at their beginning: add it to the names")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_in_the_midst_of_all_names_is_found_and_one_in_some_names_is_not() {
        let expected = ["base.encoder.weight", "base.encoder.bias"];
        let find = |found: &[&str]| Renaming::find(found, &expected, |name| expected.contains(&name));
        let surplus = |part: &str| Some(Renaming::Surplus(part.to_owned()));
        assert_eq!(
            find(&["base._orig_mod.encoder.weight", "base._orig_mod.encoder.bias"]),
            surplus("_orig_mod.")
        );
        assert_eq!(find(&["net.a.base.encoder.weight"]), surplus("net.a."));
        assert_eq!(find(&["encoder.weight"]), Some(Renaming::Lacking("base.".to_owned())));
        assert_eq!(find(&["module.base.encoder.weight", "base.encoder.bias"]), None);
        assert_eq!(find(&expected), None);
        assert_eq!(find(&[]), None);
    }
}
