use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config_file::read_json;
use crate::{EarlyStopping, Error, Result};

/// The decoding options of a checkpoint: those of its `generation_config.json`, or of its `config.json` if
/// there is no such file, as transformers reads them. `None` is an option that the file does not set or sets to
/// `null`.
#[derive(Clone, Debug, Default)]
pub struct GenerationDefaults {
    /// Token that a caption starts with, instead of that of `config.json`.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a caption, instead of those of `config.json`. Empty if `generation_config.json` names
    /// none: as in transformers, captions then end at their maximum length.
    pub eos_token_id: Option<Vec<u32>>,
    /// The largest number of tokens of prompt and caption. [`max_new_tokens`](Self::max_new_tokens) overrides
    /// it.
    pub max_length: Option<usize>,
    /// The largest number of tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Tokens of prompt and caption before the end token is allowed. [`min_new_tokens`](Self::min_new_tokens)
    /// overrides it.
    pub min_length: Option<usize>,
    /// Tokens to generate before the end token is allowed.
    pub min_new_tokens: Option<usize>,
    /// Beams.
    pub num_beams: Option<usize>,
    /// Exponent of the length that a finished beam's log-probability is divided by.
    pub length_penalty: Option<f32>,
    /// When beam search stops.
    pub early_stopping: Option<EarlyStopping>,
    /// Size of the n-grams that do not occur twice; 0 allows all.
    pub no_repeat_ngram_size: Option<usize>,
    /// Divides the scores of tokens that occurred.
    pub repetition_penalty: Option<f32>,
    /// Token sequences that never occur.
    pub bad_words: Option<Vec<Vec<u32>>>,
    /// Whether scores are normalised to log-probabilities again after all processing.
    pub renormalize_logits: Option<bool>,
    /// Captions for each picture.
    pub num_return_sequences: Option<usize>,
    /// Whether tokens are drawn.
    pub do_sample: Option<bool>,
    /// Divides the scores before drawing.
    pub temperature: Option<f32>,
    /// Tokens that are drawn from; 0 for all.
    pub top_k: Option<usize>,
    /// Probability of the tokens that are drawn from.
    pub top_p: Option<f32>,
    /// Share of the best token's probability below which none is drawn.
    pub min_p: Option<f32>,
    path: PathBuf,
    /// The model's text positions.
    positions: Option<usize>,
    /// Options that would change captions and are not implemented, with their values, and whether they affect
    /// only sampling.
    unsupported: Vec<(&'static str, String, bool)>,
}

/// An option of transformers that this crate does not implement: its name, whether it has no effect with a
/// given number, and whether it affects only sampling.
type UnsupportedOption = (&'static str, fn(f64) -> bool, bool);

/// The options that change captions. They are accepted with a value that has no effect: null, false, an empty
/// list or such a number. Options that are not in this list, such as `use_cache` and `output_scores`, change no
/// caption.
const UNSUPPORTED: [UnsupportedOption; 23] = [
    ("begin_suppress_tokens", |_| false, false),
    ("constraints", |_| false, false),
    ("diversity_penalty", |penalty| penalty == 0.0, false),
    ("dola_layers", |_| false, false),
    ("encoder_no_repeat_ngram_size", |size| size <= 0.0, false),
    ("encoder_repetition_penalty", |penalty| penalty == 1.0, false),
    ("epsilon_cutoff", |share| share <= 0.0 || share >= 1.0, true),
    ("eta_cutoff", |share| share <= 0.0 || share >= 1.0, true),
    ("exponential_decay_length_penalty", |_| false, false),
    ("force_words_ids", |_| false, false),
    ("forced_bos_token_id", |_| false, false),
    ("forced_eos_token_id", |_| false, false),
    ("guidance_scale", |scale| scale == 1.0, false),
    ("max_time", |_| false, false),
    ("num_beam_groups", |groups| groups <= 1.0, false),
    ("penalty_alpha", |alpha| alpha <= 0.0, false),
    ("sequence_bias", |_| false, false),
    ("stop_strings", |_| false, false),
    ("suppress_tokens", |_| false, false),
    ("token_healing", |_| false, false),
    ("top_h", |_| false, true),
    ("typical_p", |share| share >= 1.0, true),
    ("watermarking_config", |_| false, false),
];

const FILE: &str = "generation_config.json";

impl GenerationDefaults {
    /// Reads the options of the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// If the file cannot be read, or an option has a value of another kind than it should.
    pub fn read(dir: &Path) -> Result<Self> {
        let files = [dir.join(FILE), dir.join("config.json")];
        let Some(path) = files.into_iter().find(|path| path.is_file()) else { return Ok(Self::default()) };
        let options = read_json(&path)?;
        Self::from_options(&Options { path, options })
    }

    /// The settings in `options`, an object inside the file at `path`: for models whose decoder has a configuration of its own.
    ///
    /// # Errors
    /// If an option has a value of another kind than it should.
    pub fn of_object(path: &Path, options: Map<String, Value>) -> Result<Self> {
        Self::from_options(&Options { path: path.to_owned(), options })
    }

    fn from_options(file: &Options) -> Result<Self> {
        let (integer, number) = ("a whole number of at least 0", "a number");
        let tokens = "a token id, a list of them, or null";
        // As in transformers, generation_config.json is not completed from config.json: if it names no end
        // token, there is none.
        let eos = match file.options.get("eos_token_id") {
            None if !file.path.ends_with(FILE) => None,
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(_)) => file.get("eos_token_id", tokens)?,
            _ => file.get("eos_token_id", tokens)?.map(|id| vec![id]),
        };
        let early_stopping = match file.options.get("early_stopping") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(true)) => Some(EarlyStopping::Always),
            Some(Value::Bool(false)) => Some(EarlyStopping::Heuristic),
            Some(Value::String(text)) if text == "never" => Some(EarlyStopping::Never),
            Some(other) => return Err(file.refuse("early_stopping", other, "true, false or \"never\"")),
        };
        Ok(Self {
            bos_token_id: file.get("bos_token_id", "a token id")?,
            eos_token_id: eos,
            max_length: file.get("max_length", integer)?,
            max_new_tokens: file.get("max_new_tokens", integer)?,
            min_length: file.get("min_length", integer)?,
            min_new_tokens: file.get("min_new_tokens", integer)?,
            num_beams: file.get("num_beams", integer)?,
            length_penalty: file.get("length_penalty", number)?,
            early_stopping,
            no_repeat_ngram_size: file.get("no_repeat_ngram_size", integer)?,
            repetition_penalty: file.get("repetition_penalty", number)?,
            bad_words: file.get("bad_words_ids", "a list of lists of token ids")?,
            renormalize_logits: file.get("renormalize_logits", "true or false")?,
            num_return_sequences: file.get("num_return_sequences", integer)?,
            do_sample: file.get("do_sample", "true or false")?,
            temperature: file.get("temperature", number)?,
            top_k: file.get("top_k", integer)?,
            top_p: file.get("top_p", number)?,
            min_p: file.get("min_p", number)?,
            unsupported: file.unsupported(),
            path: file.path.clone(),
            positions: None,
        })
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same options for a model with this many text positions.
    #[must_use]
    pub fn with_positions(self, positions: usize) -> Self {
        Self { positions: Some(positions), ..self }
    }

    /// The text positions of the model, if they are known.
    pub fn positions(&self) -> Option<usize> {
        self.positions
    }

    /// Fails if the file sets an option that would change captions and is not implemented. `sampling` is
    /// whether tokens are sampled: some options affect only sampling.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the first such option.
    pub fn check_supported(&self, sampling: bool) -> Result<()> {
        match self.unsupported.iter().find(|(_, _, draws)| sampling || !draws) {
            None => Ok(()),
            Some((field, got, _)) => {
                let supported = "null (the option is not implemented; remove it from the file)".to_owned();
                Err(Error::Unsupported { path: self.path.clone(), field, got: got.clone(), supported })
            }
        }
    }
}

/// The contents of a file.
struct Options {
    path: PathBuf,
    options: Map<String, Value>,
}

impl Options {
    /// The value of an option; `None` if it is missing or null.
    fn get<T: DeserializeOwned>(&self, name: &'static str, supported: &str) -> Result<Option<T>> {
        match self.options.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.refuse(name, value, supported)),
            },
        }
    }

    fn refuse(&self, field: &'static str, got: &Value, supported: &str) -> Error {
        let supported = supported.to_owned();
        Error::Unsupported { path: self.path.clone(), field, got: got.to_string(), supported }
    }

    fn unsupported(&self) -> Vec<(&'static str, String, bool)> {
        let active = |name: &str, has_no_effect: fn(f64) -> bool| {
            self.options.get(name).filter(|value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(items) => !items.is_empty(),
                Value::Number(number) => !number.as_f64().is_some_and(has_no_effect),
                _ => true,
            })
        };
        UNSUPPORTED
            .iter()
            .filter_map(|(name, has_no_effect, draws)| {
                Some((*name, active(name, *has_no_effect)?.to_string(), *draws))
            })
            .collect()
    }
}
