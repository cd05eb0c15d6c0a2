//! Gradients that are missing or exactly zero.

use std::collections::BTreeMap;

use super::common::{arguments, recorder};
use candle_core::{DType, Device, Tensor, Var};
use trainer_core::{
    BoxError, Error, Event, IntervalStrategy, LossSum, LossTotal, Parameters, StepContext, Task, Trainer,
    TrainingArguments, Warning,
};

/// A tiny LoRA: `x · a · b`, with `b` initially zero. `lora_dead` is multiplied by 0.
struct Lora {
    variables: BTreeMap<String, Var>,
    dead: bool,
}

impl Lora {
    fn new(dead: bool) -> Self {
        let mut variables = BTreeMap::from([
            ("lora_A".to_owned(), Var::from_slice(&[0.3f32, -0.2], (2, 1), &Device::Cpu).unwrap()),
            ("lora_B".to_owned(), Var::zeros((1, 1), DType::F32, &Device::Cpu).unwrap()),
        ]);
        if dead {
            variables.insert("lora_dead".to_owned(), Var::ones((1, 1), DType::F32, &Device::Cpu).unwrap());
        }
        Self { variables, dead }
    }
}

impl Task for Lora {
    type Batch = Tensor;

    fn train_loss(&self, x: &Tensor, _context: &StepContext) -> Result<LossSum, BoxError> {
        let mut y = x.matmul(&self.variables["lora_A"])?.matmul(&self.variables["lora_B"])?;
        if self.dead {
            let zero = y.zeros_like()?;
            y = (y + zero.mul(&self.variables["lora_dead"])?)?;
        }
        Ok(LossSum { sum: (y - 1.0)?.sqr()?.sum_all()?, targets: x.dim(0)? })
    }

    fn eval_loss(&self, _x: &Tensor) -> Result<LossTotal, BoxError> {
        unreachable!("not evaluated")
    }

    fn num_samples(&self, x: &Tensor) -> usize {
        x.dims()[0]
    }
}

fn zero_gradient_warnings(dead: bool, warmup_ratio: f64) -> Vec<Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        num_train_epochs: 10.0,
        warmup_ratio,
        gradient_accumulation_steps: 1,
        eval_strategy: IntervalStrategy::No,
        load_best_model_at_end: false,
        ..arguments(directory.path())
    };
    let task = Lora::new(dead);
    let (sink, events) = recorder();
    let x = vec![Tensor::new(&[[1f32, 2.]], &Device::Cpu).unwrap()];
    let trainer =
        Trainer::new(arguments, Parameters::new(task.variables.clone()).unwrap()).unwrap().sink(sink);
    let outcome = trainer.fit(&task, &x, None).unwrap();
    assert_eq!(outcome.state().global_step, 10);
    let events = events.lock().unwrap();
    let names = events.iter().filter_map(|event| match event {
        Event::Warning(Warning::ZeroGradients { names }) => Some(names.clone()),
        _ => None,
    });
    names.collect()
}

#[test]
fn an_adapter_that_starts_at_zero_causes_no_warning() {
    // Without a warm-up, A has its first gradient in step 2; with one, step 1 has rate 0 and A's first gradient is in step 3.
    assert_eq!(zero_gradient_warnings(false, 0.0), [[""; 0]; 0]);
    assert_eq!(zero_gradient_warnings(false, 0.1), [[""; 0]; 0]);
}

#[test]
fn a_parameter_whose_gradient_stays_zero_is_reported_once() {
    assert_eq!(zero_gradient_warnings(true, 0.0), [["lora_dead"]]);
    assert_eq!(zero_gradient_warnings(true, 0.1), [["lora_dead"]]);
}

/// The advice about candle-nn in the message about missing gradients.
#[test]
fn operations_named_in_the_message_cut_the_graph_and_their_replacements_do_not() {
    use candle_core::D;
    use candle_nn::{LayerNorm, Module, RmsNorm, ops, rotary_emb};

    type Operation = fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;
    let cut: [(&str, Operation); 7] = [
        ("layer_norm", |x, w| ops::layer_norm(x, w, &w.zeros_like()?, 1e-5)),
        ("LayerNorm", |x, w| LayerNorm::new(w.clone(), w.zeros_like()?, 1e-5).forward(x)),
        ("rms_norm", |x, w| ops::rms_norm(x, w, 1e-5)),
        ("RmsNorm", |x, w| RmsNorm::new(w.clone(), 1e-5).forward(x)),
        ("softmax_last_dim", |x, _| ops::softmax_last_dim(x)),
        ("rope", |x, _| rotary_emb::rope(&x.reshape((1, 1, 2, 4))?, &angles(x)?, &angles(x)?)),
        ("rope_i", |x, _| rotary_emb::rope_i(&x.reshape((1, 1, 2, 4))?, &angles(x)?, &angles(x)?)),
    ];
    let kept: [(&str, Operation); 6] = [
        ("layer_norm_slow", |x, w| ops::layer_norm_slow(x, w, &w.zeros_like()?, 1e-5)),
        ("rms_norm_slow", |x, w| ops::rms_norm_slow(x, w, 1e-5)),
        ("forward_diff", |x, w| RmsNorm::new(w.clone(), 1e-5).forward_diff(x)),
        ("softmax", |x, _| ops::softmax(x, D::Minus1)),
        ("rope_slow", |x, _| rotary_emb::rope_slow(&x.reshape((1, 1, 2, 4))?, &angles(x)?, &angles(x)?)),
        ("rope_i_slow", |x, _| rotary_emb::rope_i_slow(&x.reshape((1, 1, 2, 4))?, &angles(x)?, &angles(x)?)),
    ];
    let x = Var::from_slice(&[0.1f32, 0.5, -0.3, 0.7, 1.0, 0.2, -0.4, 0.6], (2, 4), &Device::Cpu).unwrap();
    let weight = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    let has_gradient = |operation: Operation| {
        let y = operation(x.as_tensor(), &weight).unwrap();
        y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).is_some()
    };
    for (name, operation) in cut {
        assert!(
            !has_gradient(operation),
            "{name} has a backward pass by now: change the message and the README"
        );
    }
    for (name, operation) in kept {
        assert!(has_gradient(operation), "{name} has no backward pass");
    }
}

fn angles(x: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::ones((2, 2), DType::F32, x.device())
}

#[test]
fn the_message_about_missing_gradients_names_the_usual_operations() {
    let error = Error::MissingGradients { step: 1, names: vec!["norm.weight".to_owned()] }.to_string();
    assert!(error.starts_with("step 1: no gradient reached norm.weight; nothing was updated. "), "{error}");
    for name in
        ["layer_norm", "layer_norm_slow", "rms_norm", "forward_diff", "softmax_last_dim", "rope", "sdpa"]
    {
        assert!(error.contains(name), "{name}: {error}");
    }
}
