//! Models of the golden checkpoints of `golden_generation.json`, and their captions.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use git_model::{
    Caption, CaptionModel as _, Checkpoint, Draft, GenerationConfig, GitForCausalLm, LoadOptions, Progress,
};
use serde_json::Value;
use train_ops::{ForwardContext, FrozenBuilder, LayerBuilder};

use super::{Checkpoint as Golden, device, fixture_json};

/// The model of a golden checkpoint.
pub(crate) fn model(checkpoint: &Value, builder: &mut dyn LayerBuilder) -> GitForCausalLm {
    let dir = tempfile::tempdir().unwrap();
    Golden::new(checkpoint).write(dir.path());
    let options = LoadOptions { device: device(), decoding_graphs: true, ..LoadOptions::default() };
    GitForCausalLm::load_with(&Checkpoint::open(dir.path()).unwrap(), builder, &options).unwrap()
}

/// The model of a golden checkpoint, without an adapter, and a batch of its first pictures' features.
pub(crate) fn pictures(name: &str, count: u64) -> (GitForCausalLm, Tensor) {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"][name];
    let model = model(checkpoint, &mut FrozenBuilder);
    let pictures: Vec<_> = (0..count).map(|picture| Golden::new(checkpoint).picture(picture)).collect();
    let features =
        model.encode_images(&Tensor::cat(&pictures, 0).unwrap(), &ForwardContext::inference()).unwrap();
    (model, features)
}

/// The model of the golden checkpoint `image` with a changed configuration, and the features of its first two pictures.
pub(crate) fn changed(change: impl Fn(&mut Value)) -> (GitForCausalLm, Tensor) {
    let mut checkpoint = fixture_json("golden_generation.json")["checkpoints"]["image"].take();
    checkpoint["eos_bias"].take();
    change(&mut checkpoint);
    let pictures: Vec<_> = (0..2).map(|picture| Golden::new(&checkpoint).picture(picture)).collect();
    let model = model(&checkpoint, &mut FrozenBuilder);
    let features =
        model.encode_images(&Tensor::cat(&pictures, 0).unwrap(), &ForwardContext::inference()).unwrap();
    (model, features)
}

/// The model of the golden checkpoint `image` with the first number of a tensor's row replaced, and the features of its first
/// two pictures.
pub(crate) fn with_number(name: &str, row: usize, number: f32) -> (GitForCausalLm, Tensor) {
    let dir = tempfile::tempdir().unwrap();
    Golden::new(&fixture_json("golden_generation.json")["checkpoints"]["image"]).write(dir.path());
    let file = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let tensor = &tensors[name];
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let width = values.len() / tensor.dims()[0];
    values[row * width] = number;
    let changed = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), changed);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let model = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    let (_, features) = pictures("image", 2);
    (model, features)
}

/// Captions by speculative decoding.
pub(crate) fn speculative(
    model: &GitForCausalLm,
    features: &Tensor,
    prompt: Option<&[u32]>,
    config: &GenerationConfig,
    draft: &Draft,
) -> Vec<Caption> {
    let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
    model.generate_with(features, prompt, config, Some(draft), on_token).unwrap()
}
