//! Models of the golden cases of `make_golden.py`, and their logits.

use candle_core::Tensor;
use git_model::{Checkpoint, GitForCausalLm};
use train_ops::{ForwardContext, FrozenBuilder};

use super::Golden;

/// A golden case, and its model with frozen layers.
pub(crate) fn model(case: &str) -> (Golden, GitForCausalLm) {
    let golden = Golden::load(case);
    let dir = tempfile::tempdir().unwrap();
    golden.checkpoint().write(dir.path());
    let model = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    (golden, model)
}

/// The values of a tensor.
pub(crate) fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits at every position, without a cache.
pub(crate) fn logits(model: &GitForCausalLm, features: &Tensor, ids: &Tensor) -> Tensor {
    let ctx = ForwardContext::inference();
    model.logits(&model.hidden_states(features, ids, &ctx).unwrap(), &ctx).unwrap()
}
