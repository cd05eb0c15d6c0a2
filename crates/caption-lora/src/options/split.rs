use std::{fmt, str::FromStr};

use super::numbers::share;

/// Shares of the rows for training, validation and test. They sum to 1; all but the first may be 0.
///
/// As text: `0.8,0.1,0.1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitFractions {
    /// For training.
    pub train: f64,
    /// For selecting the best checkpoint.
    pub validation: f64,
    /// For the final evaluation.
    pub test: f64,
}

impl Default for SplitFractions {
    /// 0.8, 0.1, 0.1.
    fn default() -> Self {
        Self { train: 0.8, validation: 0.1, test: 0.1 }
    }
}

impl FromStr for SplitFractions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<f64> = text.split(',').map(|part| share(part.trim())).collect::<Result<_, _>>()?;
        let [train, validation, test] = parts[..] else {
            return Err(format!("needs three shares: train,validation,test; got {}", parts.len()));
        };
        let sum = train + validation + test;
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("the shares must sum to 1, and sum to {}", (sum * 1e6).round() / 1e6));
        }
        if train == 0.0 {
            return Err("the first share, for training, must be above 0".into());
        }
        Ok(Self { train, validation, test })
    }
}

impl fmt::Display for SplitFractions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.train, self.validation, self.test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_three_shares_of_one_and_something_is_trained_on() {
        let split: SplitFractions = "0.8, 0.1,0.1".parse().unwrap();
        assert_eq!((split.train, split.validation, split.test), (0.8, 0.1, 0.1));
        assert_eq!(split.to_string().parse::<SplitFractions>().unwrap(), split);
        let all: SplitFractions = "1,0,0".parse().unwrap();
        assert_eq!((all.train, all.validation, all.test), (1.0, 0.0, 0.0));
        for (text, words) in [
            ("0.8,0.2", "got 2"),
            ("0.8,0.1,0.2", "sum to 1.1"),
            ("0,0.5,0.5", "the first share, for training, must be above 0"),
            ("1.2,-0.1,-0.1", "1.2 must be between 0 and 1"),
            ("0.8,0.1,x", "`x` is not a number"),
            ("NaN,0.5,0.5", "NaN is not a finite number"),
        ] {
            let message = text.parse::<SplitFractions>().unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
