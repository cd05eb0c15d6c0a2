use std::collections::{HashMap, HashSet};

use crate::pcg64::Pcg64;
use crate::{Error, Result};

/// The rows of a dataset, split three ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to choose the best checkpoint with.
    pub validation: Vec<usize>,
    /// Rows for the final test, which influence no choice.
    pub test: Vec<usize>,
}

/// Shuffles rows `0..n` and splits them in two: the same rows in the same order as
/// `datasets.Dataset.train_test_split(test_size, seed=seed)`.
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
    let test = (test_size * n as f64).ceil() as usize;
    if test >= n {
        let why = format!("{test} of them would be held out, which leaves none");
        return Err(Error::Split { rows: n, why });
    }
    Ok(cut(n, test, seed))
}

/// The rows `0..n` in random order: that of `datasets.Dataset.shuffle(seed=seed)`, which is NumPy's
/// `default_rng(seed).permutation(n)`. To shuffle each epoch differently, use a different seed for each.
///
/// ```
/// use caption_data::{SourceOptions, Subset, open, shuffled};
///
/// assert_eq!(shuffled(8, 42), [3, 4, 2, 7, 6, 1, 5, 0]);
/// # let dataset = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/snapshot");
/// let source = open(dataset, &SourceOptions::default())?;
/// let rows = shuffled(source.len(), 42);
/// let source = Subset::new(source, rows)?;
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    Pcg64::new(seed).permutation(n)
}

/// Splits rows `0..n` three ways, as is usual with `datasets`: one [`train_test_split`] holds out the
/// validation and test parts together, and a second one with the same seed separates the two.
///
/// `fractions` are those of train, validation and test; they add up to 1. A part of fraction 0 is empty. If
/// validation and test are both 0, all rows are trained on in their order. A part with a fraction above 0 gets
/// at least one row, even if rounding gives it none.
///
/// # Errors
/// If the fractions do not add up to 1 or are out of range, if none is left for training, or if there are
/// fewer rows than parts.
///
/// ```
/// use caption_data::split;
///
/// let rows = split(700, [0.8, 0.1, 0.1], 42)?;
/// assert_eq!([rows.train.len(), rows.validation.len(), rows.test.len()], [560, 70, 70]);
/// assert_eq!(rows.validation[..5], [596, 98, 519, 445, 345]);
/// assert_eq!(rows.test[..5], [429, 520, 77, 446, 151]);
/// assert_eq!(split(3, [1.0, 0.0, 0.0], 42)?.train, [0, 1, 2]);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn split(n: usize, fractions: [f64; 3], seed: u64) -> Result<Split> {
    let refuse = |why: String| Err(Error::Split { rows: n, why });
    let [train, validation, test] = fractions;
    let sum: f64 = fractions.iter().sum();
    let is_share = |fraction: f64| (0.0..=1.0).contains(&fraction);
    if !fractions.into_iter().all(is_share) || (sum - 1.0).abs() > 1e-6 {
        return refuse(format!("the fractions must be between 0 and 1 and add up to 1, got {fractions:?}"));
    }
    if train == 0.0 {
        return refuse(format!("the fraction for training must be above 0, got {fractions:?}"));
    }
    let parts = fractions.into_iter().filter(|fraction| *fraction > 0.0).count();
    if n < parts {
        return refuse(format!(
            "each of the {parts} parts of {fractions:?} needs at least one; use more rows, or 0 for a part that you can \
             do without"
        ));
    }
    if parts == 1 {
        return Ok(Split { train: (0..n).collect(), validation: Vec::new(), test: Vec::new() });
    }
    // `datasets` refuses splits that rounding leaves empty, so these bounds change none of the splits that it
    // makes.
    let held_out = share(n, validation + test).clamp(parts - 1, n - 1);
    let (train, held_out) = cut(n, held_out, seed);
    let count = held_out.len();
    let of_test = match (validation > 0.0, test > 0.0) {
        (false, _) => count,
        (_, false) => 0,
        _ => share(count, test / (validation + test)).clamp(1, count - 1),
    };
    Ok(three_parts(train, held_out, of_test, seed))
}

/// Splits rows `0..n` three ways by numbers of rows: [`split()`] with `validation` and `test` rows in the held-out parts,
/// as two calls of `train_test_split` of `datasets` with a whole number as `test_size` do. A part may be empty; without
/// both, all rows are trained on in their order.
///
/// # Errors
/// If no row is left for training.
///
/// ```
/// let rows = caption_data::split_off(700, 70, 70, 42)?;
/// assert_eq!(rows, caption_data::split(700, [0.8, 0.1, 0.1], 42)?);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn split_off(n: usize, validation: usize, test: usize, seed: u64) -> Result<Split> {
    let held_out = validation.saturating_add(test);
    if held_out >= n {
        let why = format!(
            "{validation} for validation and {test} for the test would be held out, which leaves none for training"
        );
        return Err(Error::Split { rows: n, why });
    }
    if held_out == 0 {
        return Ok(Split { train: (0..n).collect(), validation: Vec::new(), test: Vec::new() });
    }
    let (train, held_out) = cut(n, held_out, seed);
    Ok(three_parts(train, held_out, test, seed))
}

/// Separates held-out rows into validation and `test` rows.
fn three_parts(train: Vec<usize>, held_out: Vec<usize>, test: usize, seed: u64) -> Split {
    if test == 0 {
        return Split { train, validation: held_out, test: Vec::new() };
    }
    if test == held_out.len() {
        return Split { train, validation: Vec::new(), test: held_out };
    }
    let (validation, test) = cut(held_out.len(), test, seed);
    let pick = |rows: Vec<usize>| rows.into_iter().map(|row| held_out[row]).collect();
    Split { validation: pick(validation), test: pick(test), train }
}

/// Splits rows three ways so that all rows of a picture are in the same part: [`split()`] is applied to the
/// pictures, and each row follows its picture. `pictures` holds a number for each row. Rows of the same
/// picture have the same number, for instance its [`fingerprint`](crate::CaptionSource::fingerprint).
///
/// If no picture has two rows, the result is that of [`split()`].
///
/// # Errors
/// As [`split()`] for the pictures.
///
/// ```
/// let rows = caption_data::split_by_picture(&[7, 7, 8, 8, 9, 9], [0.4, 0.3, 0.3], 42)?;
/// assert_eq!([rows.train, rows.validation, rows.test], [[0, 1], [4, 5], [2, 3]]);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub fn split_by_picture(pictures: &[u128], fractions: [f64; 3], seed: u64) -> Result<Split> {
    by_picture(pictures, |count| split(count, fractions, seed))
}

/// As [`split_by_picture`], with numbers of pictures as for [`split_off`].
///
/// # Errors
/// As [`split_off`] for the pictures.
pub fn split_off_by_picture(pictures: &[u128], validation: usize, test: usize, seed: u64) -> Result<Split> {
    by_picture(pictures, |count| split_off(count, validation, test, seed))
}

/// Splits the pictures with `split`, whose argument is their number; each row follows its picture.
fn by_picture(pictures: &[u128], split: impl FnOnce(usize) -> Result<Split>) -> Result<Split> {
    let mut numbers = HashMap::new();
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for (row, picture) in pictures.iter().enumerate() {
        let number = *numbers.entry(picture).or_insert(rows.len());
        if number == rows.len() {
            rows.push(Vec::new());
        }
        rows[number].push(row);
    }
    let Split { train, validation, test } = split(rows.len())?;
    let rows_of = |part: Vec<usize>| part.into_iter().flat_map(|number| rows[number].clone()).collect();
    Ok(Split { train: rows_of(train), validation: rows_of(validation), test: rows_of(test) })
}

impl Split {
    /// The numbers of rows in the validation and test parts whose picture is also in the train part. Such
    /// rows make a model look better than it is. `pictures` holds a number for each row, as for
    /// [`split_by_picture`].
    ///
    /// ```
    /// let rows = caption_data::Split { train: vec![0, 1], validation: vec![2], test: vec![3] };
    /// assert_eq!(rows.trained_on(&[5, 6, 7, 5]), [0, 1]);
    /// ```
    pub fn trained_on(&self, pictures: &[u128]) -> [usize; 2] {
        let trained: HashSet<u128> = self.train.iter().map(|row| pictures[*row]).collect();
        [&self.validation, &self.test]
            .map(|rows| rows.iter().filter(|row| trained.contains(&pictures[**row])).count())
    }
}

/// The number of rows in a fraction of `n`, rounded up. A rounding error, such as that of 0.1 + 0.2, does not
/// add a row.
fn share(n: usize, fraction: f64) -> usize {
    (fraction * n as f64 - 1e-9).ceil() as usize
}

/// Shuffles rows `0..n` and takes off the first `test`. Returns the remaining rows, and those taken off.
fn cut(n: usize, test: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut rows = Pcg64::new(seed).permutation(n);
    let train = rows.split_off(test);
    (train, rows)
}
