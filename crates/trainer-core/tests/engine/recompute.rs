//! Segments that are run again in the backward pass.

use super::common::{uniform, values};
use candle_core::{Device, Result, Tensor, Var};
use trainer_core::recompute;

const WIDTH: usize = 6;

/// Two weights, a residual connection and dropout that is a function of the layer.
#[derive(Clone)]
struct Block {
    layer: u64,
    inner: Var,
    outer: Var,
}

impl Block {
    fn new(layer: u64) -> Self {
        let variable = |key| {
            let numbers = (0..WIDTH * WIDTH).map(|i| uniform(&[layer, key, i as u64]) - 0.5).collect();
            Var::from_vec(numbers, (WIDTH, WIDTH), &Device::Cpu).unwrap()
        };
        Self { layer, inner: variable(0), outer: variable(1) }
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let keep = |i| if uniform(&[7, self.layer, i as u64]) < 0.6 { 1.0 / 0.6 } else { 0.0 };
        let mask: Vec<f32> = (0..xs.elem_count()).map(keep).collect();
        let hidden = (xs.matmul(&self.inner)?.tanh()? * Tensor::from_vec(mask, xs.shape(), xs.device())?)?;
        hidden.matmul(&self.outer)? + xs
    }
}

/// The loss and the gradients of the input and of all weights of three blocks.
fn gradients(recomputed: impl Fn(&Block) -> bool, input_trains: bool) -> Vec<Vec<f32>> {
    let numbers = (0..4 * WIDTH).map(|i| uniform(&[11, i as u64])).collect();
    let input = Var::from_vec(numbers, (4, WIDTH), &Device::Cpu).unwrap();
    let blocks: Vec<_> = (0..3).map(Block::new).collect();
    let mut xs = if input_trains { input.as_tensor().clone() } else { input.as_detached_tensor() };
    for block in &blocks {
        let segment = block.clone();
        xs = if recomputed(block) {
            recompute(&[block.inner.clone(), block.outer.clone()], &xs, move |xs| segment.forward(xs))
                .unwrap()
        } else {
            block.forward(&xs).unwrap()
        };
    }
    let loss = xs.sqr().unwrap().sum_all().unwrap();
    let store = loss.backward().unwrap();
    let weights = blocks.iter().flat_map(|block| [&block.inner, &block.outer]);
    let mut all = vec![values(&loss)];
    all.extend(weights.map(|weight| values(store.get(weight).unwrap())));
    assert_eq!(store.get(&input).is_some(), input_trains);
    all.extend(store.get(&input).map(values));
    all
}

#[test]
fn values_and_gradients_are_those_of_the_segment() {
    for input_trains in [false, true] {
        let plain = gradients(|_| false, input_trains);
        assert!(plain.iter().flatten().all(|value| value.is_finite()));
        let some = |block: &Block| block.layer == 1;
        for recomputed in [gradients(|_| true, input_trains), gradients(some, input_trains)] {
            for (got, expected) in recomputed.iter().flatten().zip(plain.iter().flatten()) {
                assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} is not {expected}");
            }
        }
    }
}

#[test]
fn a_segment_without_parameters_passes_gradients_on() {
    let x = Var::new(&[3f32], &Device::Cpu).unwrap();
    let y = recompute(&[], x.as_tensor(), |x| x.sqr()).unwrap();
    assert_eq!(values(y.backward().unwrap().get(&x).unwrap()), [6.0]);
    let frozen = recompute(&[], &x.as_detached_tensor(), |x| x.sqr()).unwrap();
    assert!(!frozen.track_op());
}

#[test]
fn a_parameter_that_the_segment_does_not_use_is_an_error() {
    let [x, unused] = [3f32, 4.0].map(|value| Var::new(&[value], &Device::Cpu).unwrap());
    let y = recompute(&[unused], x.as_tensor(), |x| x.sqr()).unwrap();
    let error = y.backward().unwrap_err().to_string();
    assert!(error.contains("no gradient reached parameter 0"), "{error}");
}
