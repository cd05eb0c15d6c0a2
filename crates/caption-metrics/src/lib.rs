//! Scores of generated captions, with the numbers of the Python packages that papers quote, and without Java.
//!
//! - [`score`]: everything below for one model's captions, under the keys of `metrics.json`.
//! - [`bleu`], [`rouge`], [`cider`]: BLEU-1 to 4, ROUGE-L and CIDEr-D of pycocoevalcap 1.2, over the words that
//!   [`ptb::tokenize`] makes.
//! - [`sacrebleu`]: BLEU of sacreBLEU 2, which splits words by itself.
//! - [`error_rate`]: word and character error rate of jiwer 4.
//! - [`diversity`]: signs of a model that says the same whatever it sees.
//!
//! METEOR is left out: its packages disagree by ten points, and none runs without Java.
//!
//! ```
//! use caption_metrics::score;
//!
//! let candidates = ["a blue dragon with wings", "a small red bird"];
//! let references = [vec!["a blue dragon with big wings"], vec!["a red bird", "a small bird"]];
//! let scores = score(&candidates, &references)?;
//! let bleu_1 = scores.values["bleu_1"];
//! assert!((bleu_1 - 1.0).abs() < 0.2);
//! assert!(scores.warnings[0].to_string().contains("2 pictures")); // too few for CIDEr-D
//! # Ok::<(), caption_metrics::Error>(())
//! ```

pub mod bleu;
pub mod cider;
pub mod diversity;
pub mod error_rate;
pub mod ptb;
pub mod rouge;
pub mod sacrebleu;

mod error;
mod ngrams;
mod scores;
mod whitespace;

pub use error::{Error, Result};
pub use scores::{SIGNATURES, Scores, Warning, lower_is_better, score};
