//! Combines decoding options from the given ones, the checkpoint's file and the recipe.

use caption_model::{GenerationConfig, GenerationDefaults, Sampling};

use super::{Decoding, EarlyStopping};

impl Decoding {
    /// Combines these options with those of the checkpoint and the recipe. `prompt` is the
    /// prompt's length in tokens, including the start token; `bad_words` are the ids of
    /// [`bad_words`](Self::bad_words).
    ///
    /// # Errors
    /// If options contradict each other, or the checkpoint sets an unsupported one. The message names the flag
    /// that helps.
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
                // As in transformers, max_length overrides min_length.
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
        // The model never reads the last token, so it needs no position.
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
