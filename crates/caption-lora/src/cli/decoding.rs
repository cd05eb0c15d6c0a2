use caption_model::{GenerationConfig, GenerationDefaults, Sampling};
use clap::Args;

use super::EarlyStopping;
use super::values::{count, finite, positive, positive_share, share};

/// Decoding options, with the names and meanings of Hugging Face's GenerationConfig. An option that is not
/// given is taken from the checkpoint's generation_config.json, else it has the recipe's default.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(
    next_help_heading = "Decoding (what is not given is as the checkpoint's generation_config.json says, else the default)"
)]
pub struct Decoding {
    /// Number of beams; 1 is greedy decoding [default: 2, and 1 with --do-sample]
    #[arg(long, value_name = "BEAMS", value_parser = count)]
    pub num_beams: Option<usize>,
    /// Maximum length in tokens, excluding the prompt [default: 40]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub max_new_tokens: Option<usize>,
    /// Minimum length in tokens, excluding the end token and the prompt [default: 0]
    #[arg(long, value_name = "TOKENS")]
    pub min_new_tokens: Option<usize>,
    /// Beams are ranked by log-probability / length^penalty: above 0 favours long captions, below 0 short
    /// ones [default: 1]
    #[arg(long, value_name = "PENALTY", value_parser = finite, allow_negative_numbers = true)]
    pub length_penalty: Option<f64>,
    /// Never repeat a sequence of this many tokens; 0 allows repetition [default: 2]
    #[arg(long, value_name = "TOKENS")]
    pub no_repeat_ngram_size: Option<usize>,
    /// Divides the scores of tokens that have occurred already: above 1 discourages repetition, 1 has no
    /// effect [default: 1.15]
    #[arg(long, value_name = "PENALTY", value_parser = positive)]
    pub repetition_penalty: Option<f64>,
    /// When beam search stops [default: true]
    #[arg(long, value_enum)]
    pub early_stopping: Option<EarlyStopping>,
    /// Sample each token by its probability; --do-sample=false turns it off [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub do_sample: Option<bool>,
    /// Divides the scores before sampling: below 1 favours likely tokens more, above 1 evens out the
    /// probabilities [default: 1]
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Sample from this many likeliest tokens; 0 for all [default: 50]
    #[arg(long, value_name = "TOKENS")]
    pub top_k: Option<usize>,
    /// Sample from the likeliest tokens that together reach this probability [default: 1]
    #[arg(long, value_name = "P", value_parser = positive_share)]
    pub top_p: Option<f64>,
    /// Sample from the tokens that are at least this share as probable as the likeliest one; 0 for all
    /// [default: 0]
    #[arg(long, value_name = "P", value_parser = share)]
    pub min_p: Option<f64>,
    /// Seed of sampling [default: 42]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Never generate these words or phrases: separated by commas, or one per flag
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    pub bad_words: Vec<String>,
    /// Captions per picture: with beams the best first and at most as many as beams, with sampling any number
    /// [default: 1]
    #[arg(long, value_name = "CAPTIONS", value_parser = count)]
    pub num_return_sequences: Option<usize>,
    /// A text that the caption continues, such as a question about the picture
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
}

impl Decoding {
    /// Combines the options of the command line with those of the checkpoint and the recipe. `prompt` is the
    /// prompt's length in tokens, including the start token; `bad_words` are the ids of
    /// [`bad_words`](Self::bad_words).
    ///
    /// # Errors
    /// If options contradict each other, or the checkpoint asks for an unsupported one. The message names the
    /// flag that helps.
    pub fn resolve(
        &self,
        file: &GenerationDefaults,
        prompt: usize,
        bad_words: Vec<Vec<u32>>,
    ) -> Result<GenerationConfig, String> {
        let recipe = GenerationConfig::recipe();
        let sampling = self.sampling(file)?;
        file.check_supported(sampling.is_some()).map_err(|error| error.to_string())?;
        let beams = if sampling.is_some() { 1 } else { recipe.num_beams };
        let early_stopping = self.early_stopping.map(|early_stopping| match early_stopping {
            EarlyStopping::True => caption_model::EarlyStopping::Always,
            EarlyStopping::False => caption_model::EarlyStopping::Heuristic,
            EarlyStopping::Never => caption_model::EarlyStopping::Never,
        });
        let penalty = |flag: Option<f64>| flag.map(|penalty| penalty as f32);
        let max_new_tokens = self.max_new_tokens(file, prompt, recipe.max_new_tokens)?;
        let config = GenerationConfig {
            max_new_tokens,
            min_new_tokens: self.min_new_tokens(file, prompt, max_new_tokens)?,
            num_beams: self.num_beams.or(file.num_beams).unwrap_or(beams),
            length_penalty: penalty(self.length_penalty)
                .or(file.length_penalty)
                .unwrap_or(recipe.length_penalty),
            early_stopping: early_stopping.or(file.early_stopping).unwrap_or(recipe.early_stopping),
            no_repeat_ngram_size: self
                .no_repeat_ngram_size
                .or(file.no_repeat_ngram_size)
                .unwrap_or(recipe.no_repeat_ngram_size),
            repetition_penalty: penalty(self.repetition_penalty)
                .or(file.repetition_penalty)
                .unwrap_or(recipe.repetition_penalty),
            // The checkpoint's configuration already includes those of its generation_config.json.
            eos_token_id: None,
            bad_words: match &file.bad_words {
                Some(words) if self.bad_words.is_empty() => words.clone(),
                _ => bad_words,
            },
            renormalize_logits: file.renormalize_logits.unwrap_or(false),
            num_return_sequences: self.num_return_sequences.or(file.num_return_sequences).unwrap_or(1),
            sampling,
        };
        self.check(file, &config)?;
        self.check_room(file, prompt, max_new_tokens)?;
        Ok(config)
    }

    /// The sampling options; `None` without sampling.
    fn sampling(&self, file: &GenerationDefaults) -> Result<Option<Sampling>, String> {
        let flags = [
            ("--temperature", self.temperature.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        if !self.do_sample.or(file.do_sample).unwrap_or(false) {
            return match flags.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(format!("{flag} does nothing without --do-sample")),
                None => Ok(None),
            };
        }
        let default = Sampling::default();
        let number = |flag: Option<f64>, file: Option<f32>, default: f32| {
            flag.map(|number| number as f32).or(file).unwrap_or(default)
        };
        Ok(Some(Sampling {
            temperature: number(self.temperature, file.temperature, default.temperature),
            top_k: self.top_k.or(file.top_k).unwrap_or(default.top_k),
            top_p: number(self.top_p, file.top_p, default.top_p),
            min_p: number(self.min_p, file.min_p, default.min_p),
            seed: self.seed.unwrap_or(42),
        }))
    }

    fn max_new_tokens(
        &self,
        file: &GenerationDefaults,
        prompt: usize,
        default: usize,
    ) -> Result<usize, String> {
        if let Some(tokens) = self.max_new_tokens.or(file.max_new_tokens) {
            return Ok(tokens);
        }
        match file.max_length {
            None => Ok(default),
            // max_length includes the prompt.
            Some(length) if length > prompt => Ok(length - prompt),
            Some(length) => Err(format!(
                "max_length {length} of {} leaves no token after a prompt of {prompt}: give --max-new-tokens",
                file.path().display()
            )),
        }
    }

    fn min_new_tokens(&self, file: &GenerationDefaults, prompt: usize, most: usize) -> Result<usize, String> {
        match self.min_new_tokens {
            Some(tokens) if tokens > most => Err(format!(
                "--min-new-tokens {tokens} is more than --max-new-tokens {most}, with which a caption ends"
            )),
            Some(tokens) => Ok(tokens),
            None => {
                let length = file.min_length.map_or(0, |length| length.saturating_sub(prompt));
                // As in transformers: max_length wins over min_length.
                Ok(file.min_new_tokens.unwrap_or(length).min(most))
            }
        }
    }

    /// Fails if the model has too few positions for a prompt and its caption. The captions of prompts that belong to
    /// rows are shortened elsewhere.
    fn check_room(
        &self,
        file: &GenerationDefaults,
        prompt: usize,
        max_new_tokens: usize,
    ) -> Result<(), String> {
        let is_of_all = self.prompt.is_some() || prompt == 1;
        let Some(positions) = file.positions().filter(|_| is_of_all) else { return Ok(()) };
        // The last token is never fed back, so it needs no position.
        let left = (positions + 1).saturating_sub(prompt);
        if max_new_tokens <= left {
            return Ok(());
        }
        let of_file = |name: &str, value: usize| format!("{name} {value} of {}", file.path().display());
        let length = match (self.max_new_tokens, file.max_new_tokens, file.max_length) {
            (Some(tokens), _, _) => format!("--max-new-tokens {tokens}"),
            (None, Some(tokens), _) => of_file("max_new_tokens", tokens),
            (None, None, Some(length)) => of_file("max_length", length),
            (None, None, None) => format!("the default of {max_new_tokens} new tokens"),
        };
        let before = match prompt {
            1 => "the start token".to_owned(),
            _ => format!("a prompt of {prompt} tokens"),
        };
        Err(format!(
            "{length} is too long after {before}, as the model has {positions} positions: give --max-new-tokens {left} at most"
        ))
    }

    /// Fails if options contradict each other. The message says which of them come from the checkpoint's
    /// file.
    fn check(&self, file: &GenerationDefaults, config: &GenerationConfig) -> Result<(), String> {
        let named = |given: bool, flag: &str, name: &str, value: usize| match given {
            true => format!("{flag} {value}"),
            false => format!("{name} {value} of {}", file.path().display()),
        };
        let beams = named(
            self.num_beams.is_some() || file.num_beams.is_none(),
            "--num-beams",
            "num_beams",
            config.num_beams,
        );
        let several = named(
            self.num_return_sequences.is_some(),
            "--num-return-sequences",
            "num_return_sequences",
            config.num_return_sequences,
        );
        if config.sampling.is_some() && config.num_beams > 1 {
            let draws = match self.do_sample {
                Some(_) => "--do-sample".to_owned(),
                None => format!("do_sample of {}", file.path().display()),
            };
            return Err(format!(
                "{draws} follows one caption at a time, and {beams} as many: give --num-beams 1, or --do-sample=false"
            ));
        }
        if config.sampling.is_none() && config.num_return_sequences > config.num_beams.max(1) {
            return Err(format!("{several} is more than {beams}: give more --num-beams, or fewer captions"));
        }
        config.check().map_err(|error| match file.path().file_name() {
            Some(_) => format!("{error} (from {} or the command line)", file.path().display()),
            None => error.to_string(),
        })
    }
}

/// A temperature: any number above 0.
fn temperature(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) {
        return Err("0 would always take the likeliest token: leave --temperature and --do-sample out".into());
    }
    positive(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::cli::Caption;

    fn flags(arguments: &str) -> Decoding {
        let arguments = ["caption", "a.png"].into_iter().chain(arguments.split_whitespace());
        Caption::try_parse_from(arguments).unwrap().decoding
    }

    fn file(json: &str) -> GenerationDefaults {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("generation_config.json"), json).unwrap();
        GenerationDefaults::read(folder.path()).unwrap()
    }

    fn resolve(arguments: &str, json: &str, prompt: usize) -> Result<GenerationConfig, String> {
        flags(arguments).resolve(&file(json), prompt, Vec::new())
    }

    /// As in git-base and the embedded model: only token ids.
    #[test]
    fn a_file_without_decoding_options_keeps_the_recipes_defaults() {
        let json = r#"{"_from_model_config": true, "bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0,
            "transformers_version": "4.27.0.dev0"}"#;
        let (resolved, recipe) = (resolve("", json, 1).unwrap(), GenerationConfig::recipe());
        assert_eq!(format!("{resolved:?}"), format!("{recipe:?}"));
        let none = Decoding::default().resolve(&GenerationDefaults::default(), 1, Vec::new()).unwrap();
        assert_eq!(format!("{none:?}"), format!("{recipe:?}"));
    }

    #[test]
    fn each_option_is_the_flags_else_the_files_else_the_recipes() {
        let json = r#"{"num_beams": 5, "length_penalty": 0.5, "no_repeat_ngram_size": 0, "early_stopping": "never",
            "bad_words_ids": [[7, 8]], "num_return_sequences": 2}"#;
        let config = resolve("--length-penalty -1", json, 1).unwrap();
        assert_eq!((config.num_beams, config.length_penalty, config.no_repeat_ngram_size), (5, -1.0, 0));
        assert_eq!((config.repetition_penalty, config.max_new_tokens), (1.15, 40));
        assert_eq!(config.early_stopping, caption_model::EarlyStopping::Never);
        assert_eq!((config.bad_words, config.num_return_sequences), (vec![vec![7, 8]], 2));
        let greedy = resolve("--num-beams 1 --num-return-sequences 1", json, 1).unwrap();
        assert_eq!((greedy.num_beams, greedy.num_return_sequences), (1, 1));
    }

    /// As `_prepare_generated_length` of transformers 5.23: max_length and min_length count the prompt.
    #[test]
    fn lengths_of_the_file_count_the_prompt_and_new_tokens_do_not() {
        let lengths = |arguments, json, prompt| {
            let config = resolve(arguments, json, prompt).unwrap();
            (config.min_new_tokens, config.max_new_tokens)
        };
        assert_eq!(lengths("", r#"{"max_length": 12, "min_length": 5}"#, 1), (4, 11));
        assert_eq!(lengths("", r#"{"max_length": 12, "min_length": 5}"#, 6), (0, 6));
        assert_eq!(lengths("", r#"{"max_length": 12, "max_new_tokens": 7, "min_new_tokens": 9}"#, 3), (7, 7));
        assert_eq!(lengths("--max-new-tokens 30", r#"{"max_length": 12}"#, 1), (0, 30));
        let error = resolve("", r#"{"max_length": 4}"#, 4).unwrap_err();
        assert!(error.contains("max_length 4 of ") && error.contains("give --max-new-tokens"), "{error}");
        assert!(resolve("--min-new-tokens 41", "{}", 1).unwrap_err().contains("--min-new-tokens 41 is more"));
    }

    #[test]
    fn draws_of_the_file_follow_one_caption_and_can_be_turned_off() {
        let json = r#"{"do_sample": true, "temperature": 0.7, "top_k": 5}"#;
        let config = resolve("--top-p 0.9 --seed 3", json, 1).unwrap();
        let sampling = config.sampling.unwrap();
        assert_eq!((config.num_beams, sampling.temperature, sampling.top_k), (1, 0.7, 5));
        assert_eq!((sampling.top_p, sampling.seed), (0.9, 3));
        assert!(resolve("--do-sample=false", json, 1).unwrap().sampling.is_none());
        let error = resolve("--num-beams 3", json, 1).unwrap_err();
        assert!(error.contains("do_sample of ") && error.contains("--do-sample=false"), "{error}");
        for flag in ["--temperature 0.7", "--top-k 3", "--seed 1", "--min-p 0.1"] {
            let error = resolve(flag, "{}", 1).unwrap_err();
            assert!(error.contains("does nothing without --do-sample"), "{error}");
        }
    }

    #[test]
    fn contradictory_or_unsupported_options_are_named() {
        for (arguments, json, words) in [
            (
                "--do-sample --num-beams 3",
                "{}",
                "--do-sample follows one caption at a time, and --num-beams 3",
            ),
            ("--num-return-sequences 3", "{}", "--num-return-sequences 3 is more than --num-beams 2"),
            ("", r#"{"num_return_sequences": 3}"#, "num_return_sequences 3 of "),
            ("", r#"{"suppress_tokens": [5]}"#, "suppress_tokens is [5]"),
            ("", r#"{"forced_eos_token_id": 3}"#, "forced_eos_token_id is 3"),
            ("--do-sample", r#"{"typical_p": 0.5}"#, "typical_p is 0.5"),
            ("--do-sample", r#"{"epsilon_cutoff": 0.1}"#, "epsilon_cutoff is 0.1"),
            ("", r#"{"num_beams": 0}"#, "num_beams must be at least 1"),
            ("", r#"{"max_time": 2.5}"#, "generation_config.json: max_time is 2.5, but only null"),
            ("", r#"{"num_beam_groups": 2}"#, "num_beam_groups is 2"),
            ("", r#"{"diversity_penalty": 0.5}"#, "diversity_penalty is 0.5"),
            ("", r#"{"encoder_no_repeat_ngram_size": 3}"#, "encoder_no_repeat_ngram_size is 3"),
            ("", r#"{"guidance_scale": 1.5}"#, "guidance_scale is 1.5"),
            ("", r#"{"token_healing": true}"#, "token_healing is true"),
        ] {
            let error = resolve(arguments, json, 1).unwrap_err();
            assert!(error.contains(words), "{arguments} {json}: {error}");
        }
        // Without draws, these options do nothing.
        let of_draws = r#"{"typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "top_h": 0.4}"#;
        resolve("", of_draws, 1).unwrap();
    }

    /// The values with which transformers 5.23 leaves out the processor of an option, and options of its output and its
    /// speed. Null is as if the option were not there.
    #[test]
    fn options_without_effect_are_accepted() {
        let json = r#"{"renormalize_logits": true, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0,
            "diversity_penalty": 0.0, "num_beam_groups": 1, "encoder_no_repeat_ngram_size": 0, "guidance_scale": 1,
            "encoder_repetition_penalty": 1.0, "penalty_alpha": 0.0, "suppress_tokens": [], "token_healing": false,
            "use_cache": false, "output_scores": true, "output_attentions": true, "return_dict_in_generate": true,
            "cache_implementation": "static", "remove_invalid_values": true, "low_memory": true, "pad_token_id": 0,
            "num_assistant_tokens": 20, "transformers_version": "5.23.0", "max_time": null, "stop_strings": null,
            "num_beams": null, "max_length": null, "max_new_tokens": null, "min_length": null, "do_sample": null,
            "early_stopping": null, "length_penalty": null, "repetition_penalty": null, "bad_words_ids": null,
            "no_repeat_ngram_size": null, "num_return_sequences": null, "temperature": null, "top_k": null,
            "top_p": null, "min_p": null, "bos_token_id": null, "forced_eos_token_id": null}"#;
        let recipe = GenerationConfig { renormalize_logits: true, ..GenerationConfig::recipe() };
        assert_eq!(resolve("", json, 1).unwrap(), recipe);
        let sampling = resolve("--do-sample", json, 1).unwrap().sampling;
        assert_eq!(sampling, Some(Sampling { seed: 42, ..Sampling::default() }));
    }

    #[test]
    fn a_length_beyond_the_models_positions_is_told_with_what_set_it() {
        let folder = tempfile::tempdir().unwrap();
        let resolve = |arguments: &str, json: &str, prompt: usize| {
            fs::write(folder.path().join("generation_config.json"), json).unwrap();
            let file = GenerationDefaults::read(folder.path()).unwrap().with_positions(64);
            flags(arguments).resolve(&file, prompt, Vec::new())
        };
        for (arguments, json, prompt, words) in [
            (
                "--max-new-tokens 65",
                "{}",
                1,
                ["--max-new-tokens 65 is too long after the start ", " 64 at most"],
            ),
            ("", r#"{"max_length": 66}"#, 1, ["max_length 66 of ", "generation_config.json is too long"]),
            ("", r#"{"max_new_tokens": 70}"#, 1, ["max_new_tokens 70 of ", "--max-new-tokens 64 at most"]),
            ("--prompt why", r#"{"max_length": 70}"#, 5, ["max_length 70 of ", "a prompt of 5 tokens"]),
            ("--prompt why", "{}", 40, ["the default of 40 new tokens", "give --max-new-tokens 25 at most"]),
        ] {
            let error = resolve(arguments, json, prompt).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{arguments} {json}: {error}");
        }
        assert_eq!(resolve("--max-new-tokens 64", "{}", 1).unwrap().max_new_tokens, 64);
        assert_eq!(resolve("", r#"{"max_length": 65}"#, 1).unwrap().max_new_tokens, 64);
        // The prompt of a row: its caption is shortened later.
        assert_eq!(resolve("", "{}", 40).unwrap().max_new_tokens, 40);
    }
}
