//! The optimizer and the norms of gradients on an NVIDIA GPU, or on what stands in for one (`.ci/cuda-stand-in`), against the CPU.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use trainer_core::{
    AdamW, BoxError, CheckedStep, ClippedStep, Gradients, IntervalStrategy, LossSum, LossTotal, Optimizer,
    Parameters, StepContext, Task, Trainer, TrainingArguments,
};

/// Sizes that are no multiples of anything, one of more than a block's elements.
const SIZES: [usize; 4] = [1, 7, 130, 9001];

fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().to_vec1().unwrap()
}

/// How the gradients of a step are scaled and clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// By the operations of `Gradients`, and then a step.
    ByParts,
    /// In one step of the optimizer, whose launches may be a graph.
    Together { graph: bool },
    /// With the losses of two passes, the second of which is infinite in one more step.
    Checked { graph: bool },
}

const FACTOR: f64 = 0.3;

/// Four or five steps, one of which has a NaN: the norms of all steps' gradients, and the parameters and moments at the end. The second and
/// third step clip: the norm is far above 1.
fn run(device: &Device, how: How) -> (Vec<f64>, Vec<Vec<f32>>) {
    let tensor = |seed, count| Tensor::new(values(seed, count), device).unwrap();
    let variables: Vec<(String, Var)> = SIZES
        .iter()
        .map(|&count| (format!("p{count}"), Var::from_tensor(&tensor(1, count)).unwrap()))
        .collect();
    let parameters = Parameters::new(variables.clone()).unwrap();
    let arguments = TrainingArguments { weight_decay: 0.01, ..TrainingArguments::default() };
    let mut optimizer = AdamW::new(&arguments, &parameters).unwrap();
    let mut norms = Vec::new();
    let steps: &[f64] = match how {
        How::Checked { .. } => &[0.0, 1.0, 0.7, 1.0, 1.0],
        _ => &[0.0, 1.0, 0.7, 1.0],
    };
    for (step, max_norm) in steps.iter().copied().enumerate() {
        let gradients = SIZES.iter().map(|&count| {
            let mut values = values(2 + step, count);
            values[0] = if step == 3 && count == 130 { f32::NAN } else { values[0] };
            (format!("p{count}"), Tensor::new(values, device).unwrap())
        });
        let mut gradients = Gradients::from_iter(gradients);
        let found = match how {
            How::ByParts => {
                gradients.scale(FACTOR).unwrap();
                let found = gradients.norms().unwrap();
                if found.global().is_finite() {
                    gradients.clip(found.global(), max_norm).unwrap();
                    optimizer.step(&parameters, &gradients, 1e-2).unwrap();
                }
                found
            }
            How::Together { graph } => {
                let step =
                    ClippedStep { factor: FACTOR, max_norm, device_graph: graph, ..ClippedStep::new(1e-2) };
                optimizer.clipped_step(&parameters, gradients, &step).unwrap()
            }
            How::Checked { graph } => {
                let values = [1.5, if step == 4 { f32::INFINITY } else { 2.5 }];
                let all = Tensor::new(&values, device).unwrap();
                // The second is not at a multiple of 16 bytes.
                let losses = [0, 1].map(|pass| all.get(pass).unwrap());
                let arguments =
                    ClippedStep { factor: FACTOR, max_norm, device_graph: graph, ..ClippedStep::new(1e-2) };
                let found = optimizer.checked_step(&parameters, gradients, &losses, &arguments).unwrap();
                let CheckedStep { losses, norms } = found;
                assert_eq!(losses, values.map(f64::from), "{how:?}");
                assert_eq!(norms.is_some(), step < 4, "{how:?}");
                let Some(norms) = norms else { continue };
                norms
            }
        };
        assert_eq!(optimizer.take_warnings(), []);
        norms.extend(found.iter().map(|(_, norm)| norm).filter(|norm| !norm.is_nan()));
    }
    let steps = optimizer.state().unwrap().into_iter().filter(|(name, _)| name.ends_with("step"));
    for (name, count) in steps {
        assert_eq!(count.to_scalar::<i64>().unwrap(), 3, "{name}: the step with a NaN does not count");
    }
    let moments = optimizer.state().unwrap().into_iter().filter(|(name, _)| !name.ends_with("step"));
    let moments = moments.map(|(_, tensor)| list(&tensor));
    let parameters = variables.iter().map(|(_, variable)| list(variable.as_tensor()));
    (norms, parameters.chain(moments).collect())
}

#[test]
fn steps_of_adamw_have_the_bits_of_the_cpu_and_norms_its_digits() {
    let (expected_norms, expected) = run(&Device::Cpu, How::ByParts);
    let together = How::Together { graph: true };
    for how in [together, How::Checked { graph: true }] {
        assert_eq!(run(&Device::Cpu, how), (expected_norms.clone(), expected.clone()));
    }
    let device = Device::new_cuda_with_stream(0).unwrap();
    let exact = cfg!(feature = "fused-cuda");
    let mut first_norms = None;
    let checked = [false, true].map(|graph| How::Checked { graph });
    for how in [How::ByParts, How::Together { graph: false }, together].into_iter().chain(checked) {
        let (norms, found) = run(&device, how);
        for (norm, expected) in norms.iter().zip(&expected_norms) {
            assert!((norm - expected).abs() <= 1e-6 * expected, "{how:?}: {norm}, {expected}");
        }
        assert_eq!(&norms, first_norms.get_or_insert_with(|| norms.clone()), "{how:?}");
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            let bound = if exact { 0.0 } else { 1e-6 * expected.abs().max(1.0) };
            assert!((found - expected).abs() <= bound, "{how:?}: {found}, {expected}");
        }
    }
}

/// A task that computes its gradients itself, those of each pass in the same memory.
struct OwnGradients {
    gradients: Gradients,
    loss: Tensor,
}

impl Task for OwnGradients {
    type Batch = usize;

    fn train_loss(&self, _: &usize, _: &StepContext) -> Result<LossSum, BoxError> {
        Err("this task computes gradients".into())
    }

    fn train_gradients(
        &self,
        batch: &usize,
        _: &StepContext,
        _: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        for (_, gradient) in self.gradients.iter() {
            let values = values(*batch, gradient.elem_count());
            gradient.slice_set(&Tensor::new(values, gradient.device())?, 0, 0)?;
        }
        Ok(Some((LossSum { sum: self.loss.clone(), targets: 1 }, self.gradients.clone())))
    }

    fn eval_loss(&self, _: &usize) -> Result<LossTotal, BoxError> {
        Ok(LossTotal { sum: 0.0, targets: 1 })
    }

    fn num_samples(&self, _: &usize) -> usize {
        1
    }
}

/// The parameters after two steps of three passes.
fn train(device: &Device) -> Vec<Vec<f32>> {
    let tensor = |seed: usize, count: usize| Tensor::new(values(seed, count), device).unwrap();
    let name = |count: usize| format!("p{count}");
    let variables = SIZES.map(|count| (name(count), Var::from_tensor(&tensor(1, count)).unwrap()));
    let gradients = SIZES.iter().map(|&count| (name(count), tensor(2, count))).collect();
    let task = OwnGradients { gradients, loss: Tensor::new(1.5f32, device).unwrap() };
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        learning_rate: 1e-2,
        gradient_accumulation_steps: 3,
        max_grad_norm: 0.0,
        num_train_epochs: 1.0,
        eval_strategy: IntervalStrategy::No,
        save_strategy: IntervalStrategy::No,
        ..TrainingArguments::new(directory.path())
    };
    let trainer = Trainer::new(arguments, Parameters::new(variables.clone()).unwrap()).unwrap();
    let _finished = trainer.fit(&task, &(3..9).collect::<Vec<usize>>(), None).unwrap();
    variables.iter().map(|(_, variable)| list(variable.as_tensor())).collect()
}

#[test]
fn gradients_of_several_passes_in_the_same_memory_are_added_with_the_bits_of_the_cpu() {
    let expected = train(&Device::Cpu);
    let found = train(&Device::new_cuda_with_stream(0).unwrap());
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        let bound = if cfg!(feature = "fused-cuda") { 0.0 } else { 1e-6 * expected.abs().max(1.0) };
        assert!((found - expected).abs() <= bound, "{found}, {expected}");
    }
}
