//! Gradients that are present and exactly zero.

use std::collections::BTreeMap;

use super::common::{arguments, recorder};
use candle_core::{DType, Device, Tensor, Var};
use trainer_core::{
    BoxError, Event, IntervalStrategy, LossSum, LossTotal, Parameters, StepContext, Task, Trainer,
    TrainingArguments, Warning,
};

/// LoRA in small: `x · a · b` beside a frozen base, with `b` zero at first. `lora_dead` is multiplied by 0.
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
fn an_adapter_that_starts_at_zero_is_no_reason_to_warn() {
    // Without a warm-up A has its first gradient in step 2; with one, step 1 runs at rate 0 and it is step 3.
    assert_eq!(zero_gradient_warnings(false, 0.0), [[""; 0]; 0]);
    assert_eq!(zero_gradient_warnings(false, 0.1), [[""; 0]; 0]);
}

#[test]
fn a_parameter_whose_gradient_stays_zero_is_named_once() {
    assert_eq!(zero_gradient_warnings(true, 0.0), [["lora_dead"]]);
    assert_eq!(zero_gradient_warnings(true, 0.1), [["lora_dead"]]);
}
