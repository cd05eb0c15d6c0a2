//! Parses numbers and checks their bounds. The errors describe the expected values.

/// A share from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    bounded(text, "between 0 and 1", |x| (0.0..=1.0).contains(&x))
}

/// A whole number of at least 1.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("must be a whole number of at least 1".into()),
    }
}

/// A size such as 500MB or 2GB, in bytes. As in Hugging Face's libraries, GB are powers of 1000 and GiB of
/// 1024.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, f64); 6] =
        [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let unit = |(suffix, bytes): &(&str, f64)| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
        unit.eq_ignore_ascii_case(suffix).then_some((number, *bytes))
    };
    let (number, unit) = UNITS.iter().find_map(unit).ok_or("needs a unit: 500MB or 2GB")?;
    Ok((bounded(number.trim(), "at least 0", |x| x >= 0.0)? * unit) as usize)
}

/// A finite number for which `holds` is true; `bounds` describes this condition.
pub(crate) fn bounded(text: &str, bounds: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if !x.is_finite() {
        return Err(format!("{text} is not a finite number"));
    }
    if holds(x) { Ok(x) } else { Err(format!("{text} must be {bounds}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_bounds_and_are_finite() {
        for text in ["inf", "NaN", "1e999", "", "five"] {
            assert!(bounded(text, "finite", |_| true).is_err(), "{text}");
        }
        assert_eq!(bounded("inf", "above 0", |x| x > 0.0), Err("inf is not a finite number".to_owned()));
        assert!(share("1").is_ok() && share("1.01").is_err());
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err() && count("7") == Ok(7));
    }
}
