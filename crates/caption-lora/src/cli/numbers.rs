//! Numbers as values of flags.

pub(super) use crate::options::numbers::{bytes, count, share};

use crate::options::numbers::bounded;

/// A finite number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    bounded(text, "above 0", |x| x > 0.0)
}

/// A norm to clip gradients to, or 0.
pub(super) fn norm(text: &str) -> Result<f64, String> {
    at_least_zero(text).map_err(|why| match text.starts_with('-') {
        true => format!("{why}; 0 turns clipping off, as -1 does in Hugging Face's Trainer"),
        false => why,
    })
}

/// A total number of steps.
pub(super) fn steps(text: &str) -> Result<usize, String> {
    count(text).map_err(|why| match text.starts_with('-') {
        true => {
            format!("{why}; leave the flag out for Hugging Face's -1, with which --num-train-epochs decides")
        }
        false => why,
    })
}

/// A whole number that may be 0. To turn a limit off, its flag is left out.
pub(super) fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| match text.starts_with('-') {
        true => "must be a whole number of at least 0; leave the flag out to have no limit".into(),
        false => "must be a whole number of at least 0".into(),
    })
}

/// A seed.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "must be a whole number of at least 0 and below 2^64".into())
}

/// The number of a row, one of a list.
pub(super) fn row(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "give the numbers of the rows, separated by commas: 0,1,2,3".into())
}

/// A finite number of at least 0.
pub(super) fn at_least_zero(text: &str) -> Result<f64, String> {
    bounded(text, "at least 0", |x| x >= 0.0)
}

/// A dropout probability: at least 0 and below 1.
pub(super) fn dropout(text: &str) -> Result<f64, String> {
    bounded(text, "at least 0 and below 1", |x| (0.0..1.0).contains(&x))
}

/// A time such as 90s, 45m or 2h, in seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let unit = |suffix, seconds| Some((text.strip_suffix(suffix)?, seconds));
    let (number, unit) = unit('s', 1.0)
        .or_else(|| unit('m', 60.0))
        .or_else(|| unit('h', 3600.0))
        .ok_or("needs a unit: 90s, 45m or 2h")?;
    Ok(positive(number)? * unit)
}

/// A share above 0.
pub(super) fn positive_share(text: &str) -> Result<f64, String> {
    bounded(text, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)
}

/// Any finite number.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    bounded(text, "finite", |_| true)
}

/// A temperature: any number above 0.
pub(super) fn temperature(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) {
        return Err("0 would always take the likeliest token: leave --temperature and --do-sample out".into());
    }
    positive(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_bounds() {
        for text in ["inf", "NaN", "1e999", "", "five"] {
            assert!(finite(text).is_err(), "{text}");
        }
        assert!(positive("0").is_err() && positive("1e-9").is_ok());
        assert!(at_least_zero("-0.1").is_err() && at_least_zero("0").is_ok());
        assert!(dropout("1").is_err() && dropout("0").is_ok());
        assert_eq!([bytes("2GB"), bytes("1.5 gib"), bytes("0MB")], [2_000_000_000, 3 << 29, 0].map(Ok));
        assert!(bytes("2").is_err() && bytes("GB").is_err() && bytes("-1MB").is_err() && bytes("B").is_err());
        assert!(positive_share("0").is_err() && positive_share("1").is_ok());
        assert!(seed("-1").unwrap_err().contains("at least 0") && seed("1.5").is_err() && seed("7") == Ok(7));
        assert!(row("0-3").unwrap_err().contains("separated by commas") && row("3") == Ok(3));
    }
}
