//! Tests of the decoding options from the flags to the configuration of the search.

use std::fs;

use caption_model::{GenerationConfig, GenerationDefaults, Sampling};

use crate::cli::CaptionFlags;
use crate::options::Decoding;

fn flags(arguments: &str) -> Decoding {
    let arguments = ["caption", "a.png"].into_iter().chain(arguments.split_whitespace());
    CaptionFlags::from_arguments(arguments).unwrap().decoding
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
        ("--do-sample --num-beams 3", "{}", "--do-sample follows one caption at a time, and --num-beams 3"),
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
        ("--max-new-tokens 65", "{}", 1, ["--max-new-tokens 65 is too long after the start ", " 64 at most"]),
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
