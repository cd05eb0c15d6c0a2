use std::path::PathBuf;

use caption_data::ImageDecoder;

use super::names::names;
use super::{Decoding, DeviceName};
use crate::hub::Location;

/// The options of captioning pictures. The default has no pictures; they are in [`images`](Self::images) or in
/// [`dataset`](Self::dataset).
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// Pictures: files, folders of them, or patterns such as `art/*.png`. Default: none.
    pub images: Vec<PathBuf>,
    /// A dataset whose pictures are captioned instead. Default: none.
    pub dataset: Option<Location>,
    /// Rows of the dataset, from 0. Default: all.
    pub rows: Option<Vec<usize>>,
    /// The column of pictures in the dataset. Default: `image`, else the only column of pictures.
    pub image_column: Option<String>,
    /// The column of prompts in the dataset; each caption continues the prompt of its row. Default: no prompts.
    pub prompt_column: Option<String>,
    /// Pictures with more pixels are skipped. Default: Pillow's limit of 178,956,970.
    pub max_image_pixels: u64,
    /// The checkpoint. Default: the embedded one.
    pub model: Location,
    /// A LoRA adapter: a folder or a hub id. Default: none.
    pub adapter: Option<Location>,
    /// The device. Default: the CPU.
    pub device: DeviceName,
    /// How the weights are stored. Default: f32.
    pub dtype: Storage,
    /// Processor threads. Default: `RAYON_NUM_THREADS`, or all cores.
    pub threads: Option<usize>,
    /// Whether decoding steps on an NVIDIA GPU are launched kernel by kernel and not as CUDA graphs. Default: false.
    pub no_cuda_graph: bool,
    /// Pictures in a batch. Default: 1.
    pub batch_size: usize,
    /// When to use speculative decoding, which does not change the captions. Default: where it is faster.
    pub draft: Drafting,
    /// How captions are generated.
    pub decoding: Decoding,
    /// Whether a JSON line is printed for each caption instead of plain text. Default: false.
    pub json: bool,
    /// A file for the best caption of each picture, as the `metadata.jsonl` of an image folder. Default: none.
    pub metadata: Option<PathBuf>,
}

impl Default for Caption {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            dataset: None,
            rows: None,
            image_column: None,
            prompt_column: None,
            max_image_pixels: ImageDecoder::PILLOWS_MAX_PIXELS,
            model: Location::Embedded,
            adapter: None,
            device: DeviceName::default(),
            dtype: Storage::default(),
            threads: None,
            no_cuda_graph: false,
            batch_size: 1,
            draft: Drafting::default(),
            decoding: Decoding::default(),
            json: false,
            metadata: None,
        }
    }
}

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16: half the memory; activations are rounded too.
    Bf16,
    /// 8-bit integers and a scale per output, quantised when the checkpoint is read: a quarter of the memory, sums in f32.
    Int8,
}

names!(Storage { F32 => "f32", Bf16 => "bf16", Int8 => "int8" });

/// When to use speculative decoding with an int8 draft model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drafting {
    /// Where it is faster: up to four beams or draws at a time with f32 weights, one with bf16, if the weights exceed the
    /// processor's caches.
    #[default]
    Auto,
    /// With f32 or bf16 weights, for any number of beams or draws.
    Always,
    /// Never.
    Never,
}

names!(Drafting { Auto => "auto", Always => "always", Never => "never" });
