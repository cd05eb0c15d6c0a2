//! Captions pictures, one line each.
//!
//! ```text
//! cargo run --release --example caption -- --model microsoft/git-base --adapter runs/pokemon/adapter picture.png
//! cargo run --release --example caption -- --dataset embedded --rows 0,1,2 --json
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use candle_core::DType;
use caption_data::{
    CaptionSource, CaptionTokenizer, ImageDecoder, OnBadImage, PictureLoader, Pictures, RgbImage,
    SourceOptions,
};
use caption_lora::captioning;
use caption_lora::cli::{self, Storage};
use caption_lora::open;
use caption_lora::pictures::with_flag;
use caption_lora::prompts::Prompts;
use caption_lora::terminal::{one_line, say};
use git_model::{Caption, GitForCausalLm, LoadOptions};
use indicatif::{ProgressBar, ProgressStyle};
use peft_lora::LoraBuilder;
use serde_json::json;
use train_ops::{ForwardContext, FrozenBuilder, Int8Builder, LayerBuilder};

/// The exit code if some pictures could not be read.
const SKIPPED: u8 = 2;

fn main() -> ExitCode {
    match run(&cli::Caption::from_command_line()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(skipped) => {
            eprintln!("error: {skipped} of the pictures could not be read and have no caption");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Captions the pictures on the command line; returns how many could not be read.
fn run(options: &cli::Caption) -> Result<usize> {
    cli::use_threads(options.threads)?;
    let Pictures { paths: images, left_out, .. } = caption_lora::pictures::expand(&options.images)?;
    left_out.groups().for_each(|group| eprintln!("left out: {group}"));
    let decoder = ImageDecoder { max_pixels: options.max_image_pixels };
    let mut metadata = options.metadata.as_deref().map(|path| Metadata::new(path, &images)).transpose()?;
    let pretrained = open::pretrained(&options.model)?;
    let (source, rows): (Arc<dyn CaptionSource>, Vec<usize>) = match &options.dataset {
        Some(location) => {
            let columns = SourceOptions {
                image_column: options.image_column.clone(),
                caption_column: None,
                prompt_column: options.prompt_column.clone(),
                no_captions: true,
                decoder,
            };
            let source = open::dataset(location, &columns)?.source;
            source.left_out().groups().for_each(|group| eprintln!("left out: {group}"));
            let rows = options.rows.clone().unwrap_or_else(|| (0..source.len()).collect());
            (source, rows)
        }
        None => (Arc::new(Files { paths: images.clone(), decoder }), (0..images.len()).collect()),
    };
    let (tokenizer, start) = (&pretrained.tokenizer, pretrained.checkpoint.config().bos_token_id);
    let prompts = match &options.prompt_column {
        Some(_) => Prompts::of_rows(&source, &rows, tokenizer, start)?,
        None => Prompts::one(options.decoding.prompt.as_deref(), tokenizer, start)?,
    };
    if let Some(cut) = prompts.cut() {
        eprintln!("warning: {cut}");
    }
    let bad_words = bad_words(&options.decoding.bad_words, &pretrained.tokenizer)?;
    let resolve = |prompt: usize| {
        let config = options.decoding.resolve(pretrained.checkpoint.generation(), prompt, bad_words.clone());
        config.map_err(anyhow::Error::msg)
    };
    let config = resolve(prompts.longest())?;
    let dtype = if options.dtype == Storage::Bf16 { DType::BF16 } else { DType::F32 };
    let load = LoadOptions { dtype, ..LoadOptions::default() };
    let load =
        |builder: &mut dyn LayerBuilder| GitForCausalLm::load_with(&pretrained.checkpoint, builder, &load);
    let model = match &options.adapter {
        None if options.dtype == Storage::Int8 => load(&mut Int8Builder)?,
        None => load(&mut FrozenBuilder)?,
        Some(location) => {
            let mut lora = LoraBuilder::from_pretrained(open::adapter_dir(location)?)?;
            let model = load(&mut lora)?;
            // finish() reads the adapter's files into the weights, which the model's layers share.
            lora.finish()?;
            model
        }
    };
    let sequences = options.batch_size.min(rows.len()) * config.num_beams.max(config.num_return_sequences);
    let draft = captioning::draft(&model, options.dtype, sequences, options.draft)?;
    let loader = PictureLoader::new(source, pretrained.processor, OnBadImage::Skip);
    let bar = ProgressBar::new(rows.len() as u64)
        .with_style(ProgressStyle::with_template("captions {wide_bar} {pos}/{len}, {eta} left")?);
    let mut skipped = 0;
    for rows in rows.chunks(options.batch_size) {
        let started = Instant::now();
        let batch = loader.load(rows)?;
        skipped += batch.skipped().len();
        bar.suspend(|| {
            batch.skipped().iter().for_each(|error| eprintln!("skipped: {}", without_row(error, &images)))
        });
        bar.inc(rows.len() as u64);
        if batch.rows().is_empty() {
            continue;
        }
        let features =
            model.encode_images(&batch.pixel_values(model.device())?, &ForwardContext::inference())?;
        let captions = prompts.captions(batch.rows(), &model, &features, &resolve, draft.as_ref())?;
        let seconds = started.elapsed().as_secs_f64() / batch.rows().len() as f64;
        for (&row, captions) in batch.rows().iter().zip(&captions) {
            let best = best(captions);
            for (index, Caption { ids, score }) in captions.iter().enumerate() {
                let text = pretrained.tokenizer.decode(ids, true)?;
                if let Some(metadata) = metadata.as_mut().filter(|_| index == best) {
                    metadata.add(row, &text)?;
                }
                let name = images.get(row).map(|path| path.display().to_string());
                let line = if options.json {
                    let mut line = json!({ "ids": ids, "text": text, "score": score, "seconds": seconds });
                    if let Some((prompt, tokens)) = prompts.of_row(row) {
                        line["prompt"] = prompt.into();
                        line["answer"] = pretrained.tokenizer.decode(&ids[tokens..], true)?.into();
                    }
                    match name {
                        Some(image) => line["image"] = image.into(),
                        None => line["row"] = row.into(),
                    }
                    line.to_string()
                } else {
                    format!("{}: {text}", name.unwrap_or_else(|| format!("row {row}")))
                };
                let is_read = bar.suspend(|| say(&line));
                if !is_read && metadata.is_none() {
                    return Ok(skipped);
                }
            }
        }
    }
    bar.finish_and_clear();
    if let Some(metadata) = metadata {
        metadata.write()?;
    }
    Ok(skipped)
}

/// Index of the caption with the highest score, the first of equals. Sampled captions are in the order of
/// sampling.
fn best(captions: &[Caption]) -> usize {
    let best = (0..captions.len()).rev().max_by(|a, b| captions[*a].score.total_cmp(&captions[*b].score));
    best.unwrap_or(0)
}

/// The captions as `metadata.jsonl` of an image folder.
struct Metadata {
    path: PathBuf,
    /// The pictures' paths relative to the file's folder; `None` for a picture that does not exist.
    names: Vec<Option<String>>,
    lines: Vec<u8>,
}

impl Metadata {
    /// Checks before captioning that the file does not exist yet, and that every picture is below its folder.
    fn new(path: &Path, images: &[PathBuf]) -> Result<Self> {
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let root = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        if path.exists() {
            bail!(
                "{} exists; the captions in it may be somebody's work: remove it, or choose another",
                path.display()
            );
        }
        let name = |image: &PathBuf| -> Result<Option<String>> {
            let Ok(real) = image.canonicalize() else { return Ok(None) };
            // A picture in a linked folder is below this one only by its path, not by its real location.
            let Some(inside) = inside(folder, image)?.or_else(|| Some(real.strip_prefix(&root).ok()?.into()))
            else {
                bail!("{} is not below {}, the folder of --metadata", real.display(), root.display())
            };
            let parts = inside.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>();
            let parts = parts.with_context(|| {
                format!(
                    "the name of {} is not UTF-8, so --metadata cannot name it: rename it",
                    image.display()
                )
            })?;
            Ok(Some(parts.join("/")))
        };
        Ok(Self {
            path: path.to_owned(),
            names: images.iter().map(name).collect::<Result<_>>()?,
            lines: Vec::new(),
        })
    }

    fn add(&mut self, row: usize, text: &str) -> Result<()> {
        serde_json::to_writer(&mut self.lines, &json!({ "file_name": self.names[row], "text": text }))?;
        self.lines.push(b'\n');
        Ok(())
    }

    fn write(&self) -> Result<()> {
        caption_lora::files::replace(&self.path, &self.lines)
    }
}

/// The relative path of a file below a folder, judged by the paths alone.
fn inside(folder: &Path, file: &Path) -> Result<Option<PathBuf>> {
    let (folder, file) = (std::path::absolute(folder)?, std::path::absolute(file)?);
    let inside = file.strip_prefix(folder).ok();
    Ok(inside
        .filter(|inside| !inside.components().any(|part| part == Component::ParentDir))
        .map(Path::to_owned))
}

/// The token ids of words to exclude. Words without tokens cannot be generated anyway.
fn bad_words(words: &[String], tokenizer: &CaptionTokenizer) -> Result<Vec<Vec<u32>>> {
    let ids = words.iter().map(|words| Ok(prompt_ids(tokenizer, words.trim())?.split_off(1)));
    ids.filter(|ids| !ids.as_ref().is_ok_and(Vec::is_empty)).collect()
}

/// The start token and the text, without the end token: the caption continues it.
fn prompt_ids(tokenizer: &CaptionTokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text)?;
    if ids.last() == Some(&tokenizer.sep_id()) {
        ids.pop();
    }
    Ok(ids)
}

/// The reason why a picture was skipped, without its row number, which means nothing for files on the command
/// line.
fn without_row(error: &caption_data::Error, images: &[PathBuf]) -> String {
    match error {
        caption_data::Error::Row { row, error, .. } if let Some(path) = images.get(*row) => {
            format!("{}: {}", path.display(), with_flag(error))
        }
        error => with_flag(error),
    }
}

/// Picture files as a dataset without captions.
struct Files {
    paths: Vec<PathBuf>,
    decoder: ImageDecoder,
}

impl CaptionSource for Files {
    fn name(&self) -> String {
        "the pictures of the command line".to_owned()
    }

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn caption(&self, _row: usize) -> caption_data::Result<String> {
        Ok(String::new())
    }

    fn image(&self, row: usize) -> caption_data::Result<RgbImage> {
        let path = &self.paths[row];
        let decode = || {
            let file = std::fs::read(path).map_err(|error| caption_data::Error::UnreadableFile { error })?;
            self.decoder.decode(&file)
        };
        decode().map_err(|error| caption_data::Error::Row {
            dataset: path.display().to_string(),
            row,
            error: Box::new(error),
        })
    }
}
