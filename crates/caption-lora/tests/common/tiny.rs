//! A checkpoint and a dataset that are small enough for a debug build to train on.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each integration test uses its part, and may panic"
)]

use std::{
    collections::BTreeMap,
    f64::consts::TAU,
    fs::{self, File},
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use blip_model::BlipConfig;
use candle_core::{Device, Tensor, safetensors};
use caption_data::CaptionSource;
use git_model::GitConfig;
use monster_drawings::{DrawingSource, Style};
use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use train_ops::sample_key;

use super::programs::example;

/// Rows of the dataset: 12 to train on, 4 for validation and 4 for the test, by [`SPLIT`].
pub const ROWS: usize = 20;
pub const SPLIT: &str = "0.6,0.2,0.2";
const WIDTH: usize = 16;
const IMAGE: usize = 32;

/// A temporary folder with a checkpoint and a dataset.
pub struct Tiny {
    folder: TempDir,
    pub checkpoint: PathBuf,
    pub dataset: PathBuf,
}

impl Tiny {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoint, dataset) =
            (folder.path().join("checkpoint"), folder.path().join("drawings.parquet"));
        write_checkpoint(&checkpoint);
        write_parquet(&dataset);
        Self { folder, checkpoint, dataset }
    }

    /// The same with a checkpoint of BLIP.
    pub fn blip() -> Self {
        let tiny = Self::new();
        write_blip(&tiny.checkpoint);
        tiny
    }

    /// The same with a checkpoint of BLIP for questions, and a dataset of questions and answers: a folder of drawings with
    /// metadata.
    pub fn blip_questions() -> Self {
        let mut tiny = Self::new();
        write_blip_with(&tiny.checkpoint, "BlipForQuestionAnswering");
        tiny.dataset = tiny.path("questions");
        fs::create_dir(&tiny.dataset).unwrap();
        let line = |row: usize| {
            fs::write(tiny.dataset.join(format!("{row}.png")), png(row)).unwrap();
            let caption = drawings().caption(row).unwrap();
            let answer = caption.split(' ').next_back().unwrap().to_owned();
            let question = if row.is_multiple_of(2) { "a picture of" } else { "a picture of a" };
            json!({ "file_name": format!("{row}.png"), "question": question, "answer": answer }).to_string()
                + "\n"
        };
        fs::write(tiny.dataset.join("metadata.jsonl"), (0..ROWS).map(line).collect::<String>()).unwrap();
        tiny
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The main example on this checkpoint and dataset, on one thread, writing to the folder `output`.
    pub fn finetune(&self, output: &str, flags: &str) -> Command {
        let mut command = example("pokemon_finetune");
        command.args(["--split", SPLIT, "--threads", "1", "--model"]).arg(&self.checkpoint);
        command.arg("--dataset").arg(&self.dataset).arg("--output-dir").arg(self.path(output));
        command.args(flags.split_whitespace());
        command
    }

    /// The captioning example on this checkpoint.
    pub fn caption(&self, flags: &str) -> Command {
        let mut command = example("caption");
        command.args(["--threads", "1", "--model"]).arg(&self.checkpoint).args(flags.split_whitespace());
        command
    }

    /// The checkpoint's tensors.
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        tensors(&self.checkpoint.join("model.safetensors"))
    }

    /// Ties the LM head to the word embedding.
    pub fn tie_head(&self) {
        let path = self.checkpoint.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["tie_word_embeddings"] = true.into();
        fs::write(path, config.to_string()).unwrap();
        let mut weights = self.weights();
        weights.remove("output.weight").unwrap();
        write_weights(&self.checkpoint, weights);
    }

    /// Overwrites one weight of the checkpoint.
    pub fn set_weight(&self, name: &str, index: usize, value: f32) {
        let mut weights = self.weights();
        let tensor = &weights[name];
        let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[index] = value;
        let changed = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
        weights.insert(name.to_owned(), changed);
        write_weights(&self.checkpoint, weights);
    }
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}

/// The captioned drawings of the dataset.
pub fn drawings() -> DrawingSource {
    DrawingSource::new(1, ROWS, Style::Second, IMAGE as u32)
}

/// A drawing as a PNG file.
pub fn png(row: usize) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    drawings().image(row).unwrap().write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes a narrow model of random weights with the embedded checkpoint's tokenizer.
fn write_checkpoint(to: &Path) {
    fs::create_dir(to).unwrap();
    let embedded = caption_lora::embedded::checkpoint().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(embedded.join(name), to.join(name)).unwrap();
    }
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(embedded.join(name)).unwrap()).unwrap() };
    let write = |name: &str, value: &Value| fs::write(to.join(name), value.to_string()).unwrap();

    let mut processor = read("preprocessor_config.json");
    processor["size"] = json!({ "shortest_edge": IMAGE });
    processor["crop_size"] = json!({ "height": IMAGE, "width": IMAGE });
    write("preprocessor_config.json", &processor);

    let small = json!({
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1,
    });
    let mut config = read("config.json");
    config.as_object_mut().unwrap().extend(small.as_object().unwrap().clone());
    config["vision_config"].as_object_mut().unwrap().extend(small.as_object().unwrap().clone());
    config["vision_config"]["image_size"] = IMAGE.into();
    config["vision_config"]["patch_size"] = (IMAGE / 2).into();
    write("config.json", &config);

    let config: GitConfig = serde_json::from_value(config).unwrap();
    write_weights(to, random_weights(config.tensor_shapes()));
}

/// Replaces the checkpoint of [`write_checkpoint`] by one of BLIP, whose captions begin with a token that the tokenizer lacks.
fn write_blip(to: &Path) {
    write_blip_with(to, "BlipForConditionalGeneration");
}

fn write_blip_with(to: &Path, class: &str) {
    let write = |name: &str, value: &Value| fs::write(to.join(name), value.to_string()).unwrap();
    let words = 69;
    write(
        "preprocessor_config.json",
        &json!({ "image_processor_type": "BlipImageProcessor", "size": { "height": IMAGE, "width": IMAGE } }),
    );
    let small = json!({
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1,
        "image_size": IMAGE, "patch_size": IMAGE / 2,
    });
    let mut text = small.clone();
    text.as_object_mut().unwrap().extend(
        json!({
            "vocab_size": words + 2, "bos_token_id": words, "sep_token_id": 3, "pad_token_id": 0,
            "max_position_embeddings": 64, "hidden_dropout_prob": 0.1,
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let config = json!({
        "model_type": "blip", "architectures": [class], "text_config": text, "vision_config": small,
    });
    write("config.json", &config);
    let config: BlipConfig = serde_json::from_value(config).unwrap();
    write_weights(to, random_weights(config.tensor_shapes()));
}

/// Weights from a normal distribution; those of norms are near 1.
fn random_weights(shapes: BTreeMap<String, Vec<usize>>) -> BTreeMap<String, Tensor> {
    let mut drawn = 0;
    let mut normal = || {
        let mut uniform = || {
            drawn += 1;
            ((sample_key(3, 0, drawn) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (u, v) = (uniform(), uniform());
        (0.2 * (-2.0 * u.ln()).sqrt() * (TAU * v).cos()) as f32
    };
    let weights = shapes.into_iter().map(|(name, shape)| {
        let is_scale = shape.len() == 1 && name.ends_with(".weight");
        let values = (0..shape.iter().product()).map(|_| normal() + f32::from(u8::from(is_scale))).collect();
        (name, Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).unwrap())
    });
    weights.collect()
}

fn write_weights(checkpoint: &Path, weights: BTreeMap<String, Tensor>) {
    let weights = weights.into_iter().collect();
    safetensors::save(&weights, checkpoint.join("model.safetensors")).unwrap();
}

/// Writes the drawings with the columns of the hub's dataset.
fn write_parquet(path: &Path) {
    let drawings = drawings();
    let captions = (0..ROWS).map(|row| drawings.caption(row).unwrap().as_bytes().into()).collect();
    write_columns(path, (0..ROWS).map(png).collect(), captions);
}

/// Writes pictures and captions as `datasets` does: pictures as a struct of bytes and path, captions as text.
pub fn write_columns(path: &Path, pictures: Vec<Vec<u8>>, captions: Vec<Vec<u8>>) {
    let schema = "message rows {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional binary text (UTF8);
    }";
    let names = (0..pictures.len()).map(|row| format!("{row}.png").into_bytes()).collect();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    // The definition level of a value is its number of optional levels.
    for (values, depth) in [(pictures, 2), (names, 2), (captions, 1)] {
        let mut column = group.next_column().unwrap().unwrap();
        let levels = vec![depth; values.len()];
        let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
