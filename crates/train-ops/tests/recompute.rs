//! Segments that are run again in the backward pass.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Result, Tensor, Var};
use train_ops::{recompute, sample_key};

const WIDTH: usize = 6;

/// A number in [0, 1) for each place.
fn uniform(key: u64, layer: u64, index: usize) -> f32 {
    (sample_key(key, layer, index as u64) >> 40) as f32 / (1 << 24) as f32
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

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
            let numbers = (0..WIDTH * WIDTH).map(|i| uniform(key, layer, i) - 0.5).collect();
            Var::from_vec(numbers, (WIDTH, WIDTH), &Device::Cpu).unwrap()
        };
        Self { layer, inner: variable(0), outer: variable(1) }
    }

    fn parameters(&self) -> Vec<Tensor> {
        [&self.inner, &self.outer].map(|weight| weight.as_tensor().clone()).to_vec()
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let keep = |i| if uniform(7, self.layer, i) < 0.6 { 1.0 / 0.6 } else { 0.0 };
        let mask: Vec<f32> = (0..xs.elem_count()).map(keep).collect();
        let hidden = (xs.matmul(&self.inner)?.tanh()? * Tensor::from_vec(mask, xs.shape(), xs.device())?)?;
        hidden.matmul(&self.outer)? + xs
    }
}

/// The loss and the gradients of the input and of all weights of three blocks.
fn gradients(recomputed: impl Fn(&Block) -> bool, input_trains: bool) -> Vec<Vec<f32>> {
    let numbers = (0..4 * WIDTH).map(|i| uniform(11, 0, i)).collect();
    let input = Var::from_vec(numbers, (4, WIDTH), &Device::Cpu).unwrap();
    let blocks: Vec<_> = (0..3).map(Block::new).collect();
    let mut xs = if input_trains { input.as_tensor().clone() } else { input.as_detached_tensor() };
    for block in &blocks {
        let segment = block.clone();
        xs = if recomputed(block) {
            recompute(&block.parameters(), &xs, move |xs| segment.forward(xs)).unwrap()
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
fn a_parameter_that_the_segment_does_not_use_gets_no_gradient() {
    let [x, unused] = [3f32, 4.0].map(|value| Var::new(&[value], &Device::Cpu).unwrap());
    let y = recompute(&[unused.as_tensor().clone()], x.as_tensor(), |x| x.sqr()).unwrap();
    let store = y.backward().unwrap();
    assert!(store.get(&unused).is_none() && store.get(&x).is_some());
}

#[test]
fn an_error_of_the_segment_is_an_error_of_the_backward_pass() {
    let x = Var::new(&[3f32], &Device::Cpu).unwrap();
    let runs = std::sync::atomic::AtomicUsize::new(0);
    let y = recompute(&[], x.as_tensor(), move |x| {
        match runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => x.sqr(),
            _ => candle_core::bail!("the second run fails"),
        }
    });
    let error = y.unwrap().backward().unwrap_err().to_string();
    assert!(error.contains("the second run fails"), "{error}");
}

#[test]
fn a_parameter_that_is_computed_from_others_is_refused() {
    let weight = Var::new(&[[2f32, 0.], [0., 3.]], &Device::Cpu).unwrap();
    let computed = weight.t().unwrap().contiguous().unwrap();
    let captured = computed.clone();
    let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu).unwrap();
    let error = recompute(&[computed], &xs, move |xs| xs.matmul(&captured)).unwrap_err().to_string();
    assert!(error.contains("not a variable"), "{error}");
}
