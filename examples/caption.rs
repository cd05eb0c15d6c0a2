//! Captions pictures, one line each.
//!
//! ```text
//! cargo run --release --example caption -- --model microsoft/git-base --adapter runs/pokemon/adapter picture.png
//! cargo run --release --example caption -- --dataset embedded --rows 0,1,2 --json
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use caption_data::{CaptionSource, CaptionTokenizer, ImageDecoder, RgbImage};
use git_model::{EarlyStopping, GenerationConfig, GitForCausalLm, LoadOptions, Sampling};
use peft_lora::LoraBuilder;
use recipes::captioning::{Captioner, pictures};
use recipes::cli::{self, Caption, Decoding};
use recipes::{adapt, open};
use serde_json::json;
use train_ops::FrozenBuilder;

fn main() -> ExitCode {
    match run(&Caption::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Caption) -> Result<()> {
    cli::use_threads(options.threads)?;
    let pretrained = open::pretrained(&options.model)?;
    let load = LoadOptions { dtype: adapt::storage(options.dtype), ..LoadOptions::default() };
    let model = match &options.adapter {
        None => GitForCausalLm::load_with(&pretrained.checkpoint, &mut FrozenBuilder, &load)?,
        Some(location) => {
            let mut lora = LoraBuilder::from_pretrained(open::adapter_dir(location)?)?;
            let model = GitForCausalLm::load_with(&pretrained.checkpoint, &mut lora, &load)?;
            // The model's layers share the weights that finish() reads from the adapter's files.
            lora.finish()?;
            model
        }
    };
    let (source, rows): (Arc<dyn CaptionSource>, Vec<usize>) = match &options.dataset {
        Some(location) => {
            let source = open::dataset(location, None)?;
            let rows = options.rows.clone().unwrap_or_else(|| (0..source.len()).collect());
            (source, rows)
        }
        None => (Arc::new(Files(options.images.clone())), (0..options.images.len()).collect()),
    };
    let config = decoding(&options.decoding);
    let prompt =
        options.decoding.prompt.as_deref().map(|text| prompt_ids(&pretrained.tokenizer, text)).transpose()?;
    let captioner = Captioner {
        model: &model,
        tokenizer: &pretrained.tokenizer,
        pictures: pictures(&source, &pretrained.processor),
        features: None,
    };
    for rows in rows.chunks(options.batch_size) {
        let started = Instant::now();
        let captions = captioner.caption(rows, prompt.as_deref(), &config)?;
        let seconds = started.elapsed().as_secs_f64() / rows.len() as f64;
        for (row, caption) in rows.iter().zip(captions) {
            let name = options.images.get(*row).map(|path| path.display().to_string());
            if options.json {
                let mut line = json!({ "ids": caption.ids, "text": caption.text, "seconds": seconds });
                match name {
                    Some(image) => line["image"] = image.into(),
                    None => line["row"] = (*row).into(),
                }
                println!("{line}");
            } else {
                println!("{}: {}", name.unwrap_or_else(|| format!("row {row}")), caption.text);
            }
        }
    }
    Ok(())
}

fn decoding(options: &Decoding) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens: options.max_new_tokens,
        min_new_tokens: options.min_new_tokens,
        num_beams: options.num_beams,
        length_penalty: options.length_penalty as f32,
        early_stopping: match options.early_stopping {
            cli::EarlyStopping::True => EarlyStopping::Always,
            cli::EarlyStopping::False => EarlyStopping::Heuristic,
            cli::EarlyStopping::Never => EarlyStopping::Never,
        },
        no_repeat_ngram_size: options.no_repeat_ngram_size,
        repetition_penalty: options.repetition_penalty as f32,
        eos_token_id: None,
        sampling: options.do_sample.then_some(Sampling {
            temperature: options.temperature as f32,
            top_k: options.top_k,
            top_p: options.top_p as f32,
            seed: options.seed,
        }),
    }
}

/// The start token and the text, without the end token: the caption continues it.
fn prompt_ids(tokenizer: &CaptionTokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text)?;
    if ids.last() == Some(&tokenizer.sep_id()) {
        ids.pop();
    }
    Ok(ids)
}

/// Picture files as a dataset without captions.
struct Files(Vec<PathBuf>);

impl CaptionSource for Files {
    fn name(&self) -> String {
        "the pictures of the command line".to_owned()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn caption(&self, _row: usize) -> caption_data::Result<String> {
        Ok(String::new())
    }

    fn image(&self, row: usize) -> caption_data::Result<RgbImage> {
        let path = &self.0[row];
        let decode = || {
            let file =
                std::fs::read(path).map_err(|error| caption_data::Error::Io { path: path.clone(), error })?;
            ImageDecoder::default().decode(&file)
        };
        decode().map_err(|error| caption_data::Error::Row {
            dataset: path.display().to_string(),
            row,
            error: Box::new(error),
        })
    }
}
