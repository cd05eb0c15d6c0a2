use crate::pcg64::Pcg64;
use crate::{Error, Result};

/// The rows of a dataset, dealt out three ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows that choose the best checkpoint.
    pub validation: Vec<usize>,
    /// Rows that nothing was chosen by.
    pub test: Vec<usize>,
}

/// Shuffles rows `0..n` and cuts them in two: the rows of `datasets.Dataset.train_test_split(test_size,
/// seed=seed)`, in its order.
///
/// The test part takes the first `ceil(test_size * n)` rows of NumPy's `default_rng(seed).permutation(n)`,
/// the train part the others. Returns `(train, test)`.
///
/// # Errors
/// If `test_size` is not between 0 and 1, or if the train part would be empty.
///
/// ```
/// let (train, test) = caption_data::train_test_split(700, 0.2, 42)?;
/// assert_eq!((train.len(), test.len()), (560, 140));
/// assert_eq!(train[..5], [243, 40, 64, 208, 225]);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn train_test_split(n: usize, test_size: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if !(test_size > 0.0 && test_size < 1.0) {
        return Err(Error::Split {
            rows: n,
            why: format!("the test size must be between 0 and 1, got {test_size}"),
        });
    }
    cut(n, (test_size * n as f64).ceil() as usize, seed)
}

/// Cuts rows `0..n` three ways, as the recipe does it with `datasets`: [`train_test_split`] holds out the
/// validation and test parts together, and a second one with the same seed cuts what was held out into the
/// two.
///
/// `fractions` are those of train, validation and test; they must be positive and add up to 1.
///
/// # Errors
/// If the fractions are not that, or if there are too few rows for each part to get one.
///
/// ```
/// let split = caption_data::split(700, [0.8, 0.1, 0.1], 42)?;
/// assert_eq!([split.train.len(), split.validation.len(), split.test.len()], [560, 70, 70]);
/// assert_eq!(split.validation[..5], [596, 98, 519, 445, 345]);
/// assert_eq!(split.test[..5], [429, 520, 77, 446, 151]);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn split(n: usize, fractions: [f64; 3], seed: u64) -> Result<Split> {
    let [_, validation, test] = fractions;
    let sum: f64 = fractions.iter().sum();
    if !fractions.iter().all(|f| *f > 0.0) || (sum - 1.0).abs() > 1e-6 {
        return Err(Error::Split {
            rows: n,
            why: format!("the fractions must be positive and add up to 1, got {fractions:?}"),
        });
    }
    // The second cut knows only what the first one held out; the message is about all rows.
    let too_few = |_| Error::Split {
        rows: n,
        why: format!("fractions of {fractions:?} leave a part without any; use more rows or other fractions"),
    };
    let (train, held_out) = cut(n, share(n, validation + test), seed).map_err(too_few)?;
    let (second, first) =
        cut(held_out.len(), share(held_out.len(), test / (validation + test)), seed).map_err(too_few)?;
    let pick = |rows: Vec<usize>| rows.into_iter().map(|row| held_out[row]).collect();
    Ok(Split { validation: pick(second), test: pick(first), train })
}

/// How many of `n` rows a fraction is, rounded up; rounding errors such as that of 0.1 + 0.2 do not count as
/// a row.
fn share(n: usize, fraction: f64) -> usize {
    (fraction * n as f64 - 1e-9).ceil() as usize
}

/// Shuffles rows `0..n` and cuts off the first `test`. Returns what is left, and what was cut off.
fn cut(n: usize, test: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if test >= n {
        let why = format!("{test} of them would be held out, which leaves none");
        return Err(Error::Split { rows: n, why });
    }
    let mut rows = Pcg64::new(seed).permutation(n);
    let train = rows.split_off(test);
    Ok((train, rows))
}
