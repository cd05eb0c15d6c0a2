//! A training engine for candle models: loop, optimizers, schedules, checkpoints, metrics and events.
//!
//! Implement [`Task`], which turns a batch into a loss, and provide a [`BatchSource`], such as [`InMemory`].
//! The engine has everything else. It counts steps as `transformers.Trainer` does, and its updates are those of
//! `torch.optim.AdamW`:
//!
//! - **[`Trainer`]** runs the loop described by [`TrainingArguments`]: [gradients](Gradients) summed over micro-batches and
//!   averaged over their targets, clipping by global norm, an [`Optimizer`], a [learning-rate schedule](LearningRateSchedule)
//!   in optimizer steps, evaluation, logging, and the best parameters at the end.
//! - **Checkpoints** are complete or do not exist. [`Trainer::resume`] continues from one, with the same bits
//!   as an uninterrupted run, and refuses a run with another [`Identity`]. [`StopSignal`] stops a run so that
//!   it can be resumed.
//! - **[`Event`]s** go to [`EventSink`]s: a progress bar, a log file, your own. The engine itself never prints.
//! - **No silent faults**: a parameter without a gradient, a loss that is not finite, or an output directory
//!   that is not writable ends the run, with an [`Error`](enum@Error) that names the place. Parameters and
//!   files are as before the fault.
//! - **[`Workers`]** are threads, or processes on one or many machines, that train one model together, with the
//!   same bits as one process. A run may be resumed with another number of workers.
//!
//! # Example
//!
//! This program fits a straight line to points:
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use trainer_core::{BoxError, LossSum, LossTotal, Outcome, Parameters, StepContext, Task, Trainer, TrainingArguments};
//!
//! struct Line {
//!     slope: Var,
//!     intercept: Var,
//! }
//!
//! impl Task for Line {
//!     type Batch = (Tensor, Tensor);
//!
//!     fn train_loss(&self, (x, y): &Self::Batch, _context: &StepContext) -> Result<LossSum, BoxError> {
//!         let prediction = x.broadcast_mul(&self.slope)?.broadcast_add(&self.intercept)?;
//!         Ok(LossSum { sum: (prediction - y)?.sqr()?.sum_all()?, targets: y.elem_count() })
//!     }
//!
//!     fn eval_loss(&self, batch: &Self::Batch) -> Result<LossTotal, BoxError> {
//!         Ok(self.train_loss(batch, &StepContext::default())?.total()?)
//!     }
//!
//!     fn num_samples(&self, (x, _y): &Self::Batch) -> usize {
//!         x.elem_count()
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let zero = || Var::zeros((), DType::F32, &Device::Cpu);
//! let line = Line { slope: zero()?, intercept: zero()? };
//! let variables = [("slope", &line.slope), ("intercept", &line.intercept)];
//! let parameters = Parameters::new(variables.map(|(name, variable)| (name.to_owned(), variable.clone())))?;
//!
//! let x = Tensor::arange(-4f32, 4f32, &Device::Cpu)?;
//! let y = x.affine(2.0, 1.0)?;
//! let batches = vec![(x, y); 200];
//!
//! # let directory = tempfile::tempdir()?;
//! # let output_dir = directory.path().join("line");
//! let arguments = TrainingArguments { learning_rate: 0.1, ..TrainingArguments::new(output_dir) };
//! let outcome = Trainer::new(arguments, parameters)?.fit(&line, &batches, None)?;
//!
//! assert!(matches!(&outcome, Outcome::Finished { state } if state.global_step == 600));
//! assert!((line.slope.to_scalar::<f32>()? - 2.0).abs() < 0.01);
//! assert!((line.intercept.to_scalar::<f32>()? - 1.0).abs() < 0.01);
//! # Ok(())
//! # }
//! ```
//!
//! # Cargo features
//!
//! - `progress`: `sinks::ConsoleSink`, a progress bar.
//! - `tensorboard`: `sinks::TensorBoardSink`, event files.
//! - `cuda`: candle on NVIDIA GPUs.
//! - `nccl`: `NcclWorkers`, which send gradients from GPU to GPU.

mod accumulate;
mod adamw;
mod arguments;
mod audit;
mod best;
mod bits;
mod checkpoint;
mod clipped_step;
#[cfg_attr(not(feature = "fused-cuda"), path = "no_cuda.rs")]
mod cuda;
mod data;
mod early_stopping;
mod epoch_order;
mod error;
mod evaluation;
mod event;
mod files;
mod gradients;
mod identity;
mod in_memory;
mod kept_sums;
mod memory;
mod metric;
mod micro_batches;
mod optimizer;
mod parameter_group;
mod parameters;
mod passes;
mod plan;
mod progress;
mod restore;
mod run;
mod saving;
mod schedule;
mod segments;
mod session;
mod sgd;
pub mod sinks;
mod slices;
mod start;
mod state;
mod step;
mod stop_signal;
mod task;
mod tensors;
mod text;
mod trainer;
mod validation;
mod warning;
mod windowed_order;
mod workers;

pub use adamw::AdamW;
pub use arguments::{IntervalStrategy, OnNan, TrainingArguments};
pub use checkpoint::{Resume, SavedCheckpoint, SavedRun};
pub use clipped_step::{CheckedStep, ClippedStep};
pub use data::{BatchSource, Batches};
pub use epoch_order::epoch_order;
pub use error::{BoxError, Error, Result};
pub use evaluation::{Evaluation, evaluate, evaluate_together};
pub use event::{Event, EventSink, StepReport, Throughput};
pub use gradients::{Gradients, Norms};
pub use identity::{Difference, Identity};
pub use in_memory::InMemory;
pub use memory::resident_bytes;
pub use metric::{Direction, Measured, Metric, Ratio, Unit};
pub use optimizer::{Optimizer, OptimizerType};
pub use parameter_group::ParameterGroup;
pub use parameters::Parameters;
pub use schedule::{LearningRateSchedule, Schedule, SchedulerOptions, SchedulerType};
pub use segments::{Cut, Segments};
pub use sgd::Sgd;
pub use state::{LogEntry, TrainerState};
pub use stop_signal::StopSignal;
pub use task::{LossSum, LossTotal, StepContext, Task};
pub use trainer::{Outcome, Trainer};
pub use warning::{ArgumentChange, Warning};
pub use windowed_order::WindowedOrder;
#[cfg(feature = "nccl")]
pub use workers::NcclWorkers;
pub use workers::{Exchange, SingleProcess, ThreadWorkers, Workers};

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
