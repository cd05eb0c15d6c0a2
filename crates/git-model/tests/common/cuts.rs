use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use train_ops::{ForwardContext, GraphCut};
use trainer_core::{Cut, LossSum, Parameters, Segments};

/// Compares the gradients of a training pass whose graph is cut with those of one whose graph is whole, bit by bit. Returns the
/// number of cuts.
pub(crate) fn compare_cut_gradients(
    variables: &BTreeMap<String, Var>,
    samples: usize,
    loss: impl Fn(&ForwardContext) -> (Tensor, usize),
) -> usize {
    let parameters = Parameters::new(variables.clone()).unwrap();
    let ctx = ForwardContext::training(vec![7; samples]);
    let (whole, _) = loss(&ctx);
    let expected = whole.backward().unwrap();
    assert!(ctx.take_cuts().is_empty(), "a pass is cut only if it is asked for");

    let ctx = ForwardContext::training(vec![7; samples]).with_cuts();
    let (sum, targets) = loss(&ctx);
    assert_eq!(sum.to_scalar::<f32>().unwrap().to_bits(), whole.to_scalar::<f32>().unwrap().to_bits());
    let cuts: Vec<Cut> =
        ctx.take_cuts().into_iter().map(|GraphCut { output, input }| Cut { output, input }).collect();
    let count = cuts.len();
    let gradients = Segments { loss: LossSum { sum, targets }, cuts }.gradients(&parameters).unwrap();
    let bits = |gradient: &Tensor| -> Vec<u32> {
        let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    for (name, variable) in variables {
        let (gradient, expected) = (gradients.get(name).map(bits), expected.get(variable).map(bits));
        assert!(gradient == expected && expected.is_some(), "{name} has another gradient in segments");
    }
    count
}
