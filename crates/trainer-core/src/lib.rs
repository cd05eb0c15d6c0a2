//! A training engine for candle models: loop, optimizer, schedule, checkpoints, metrics and events.
//!
//! You bring a [`Task`], which turns a batch into a loss, and a [`BatchSource`], which has the batches. The engine
//! does the rest, and does it the way `transformers.Trainer` counts and `torch.optim.AdamW` computes:
//!
//! - **[`Trainer`]** runs the loop that [`TrainingArguments`] describe: [gradients](Gradients) summed over
//!   micro-batches and averaged over their targets, clipping by global norm, [`AdamW`], a learning-rate [`Schedule`]
//!   in optimizer steps, evaluation, logging, and the best parameters at the end.
//! - **Checkpoints** are complete or do not exist. [`Trainer::resume`] continues from one as if the run had never
//!   stopped, bit for bit, or refuses a run of another [`Identity`]; [`StopSignal`] stops a run so that it can be.
//! - **[`Event`]s** go to [`EventSink`]s: a progress bar, a log file, your own. The engine itself never prints.
//! - **It refuses to go wrong silently**: a parameter that gets no gradient, a loss that is not a number, an output
//!   directory that cannot be written to stop the run before any harm is done, with an [`Error`] that says where.
//!
//! A straight line through points:
//!
//! ```
//! use std::collections::BTreeMap;
//!
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
//!     fn eval_loss(&self, (x, y): &Self::Batch) -> Result<LossTotal, BoxError> {
//!         let (slope, intercept) = (self.slope.as_detached_tensor(), self.intercept.as_detached_tensor());
//!         let error = (x.broadcast_mul(&slope)?.broadcast_add(&intercept)? - y)?.sqr()?.sum_all()?;
//!         Ok(LossTotal { sum: error.to_scalar::<f32>()?.into(), targets: y.elem_count() })
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
//! let trainable = [("slope", &line.slope), ("intercept", &line.intercept)];
//! let trainable = BTreeMap::from(trainable.map(|(name, variable)| (name.to_owned(), variable.clone())));
//!
//! let x = Tensor::arange(-4f32, 4f32, &Device::Cpu)?;
//! let y = x.affine(2.0, 1.0)?;
//! let batches = vec![(x, y); 200];
//!
//! # let directory = tempfile::tempdir()?;
//! # let output_dir = directory.path().join("line");
//! let arguments =
//!     TrainingArguments { output_dir, num_train_epochs: 4.0, learning_rate: 0.1, ..Default::default() };
//! let outcome = Trainer::new(arguments, Parameters::new(trainable)?)?.fit(&line, &batches, Some(&batches))?;
//!
//! assert!(matches!(&outcome, Outcome::Finished { state } if state.global_step == 200));
//! assert!((line.slope.to_scalar::<f32>()? - 2.0).abs() < 0.01);
//! assert!((line.intercept.to_scalar::<f32>()? - 1.0).abs() < 0.01);
//! # Ok(())
//! # }
//! ```

mod accumulate;
mod adamw;
mod arguments;
mod audit;
mod checkpoint;
mod data;
mod error;
mod evaluation;
mod event;
mod files;
mod gradients;
mod group;
mod groups;
mod identity;
mod memory;
mod metric;
mod names;
mod optimizer;
mod order;
mod parameters;
mod plan;
mod progress;
mod run;
mod saving;
mod schedule;
mod sgd;
pub mod sinks;
mod slices;
mod start;
mod state;
mod stop;
mod stopping;
mod task;
mod tensors;
mod trainer;
mod validation;
mod workers;

pub use adamw::AdamW;
pub use arguments::{IntervalStrategy, OnNan, TrainingArguments};
pub use checkpoint::{Resume, SavedCheckpoint, SavedRun};
pub use data::{BatchSource, Batches};
pub use error::{BoxError, Error, Result};
pub use evaluation::{Evaluation, evaluate};
pub use event::{ArgumentChange, Event, EventSink, StepReport, Throughput, Warning};
pub use gradients::{Gradients, Norms};
pub use groups::ParameterGroup;
pub use identity::{Difference, Identity};
pub use memory::resident_bytes;
pub use metric::{Direction, Measured, Metric, Ratio, Unit};
pub use optimizer::{Optimizer, OptimizerType};
pub use order::epoch_order;
pub use parameters::Parameters;
pub use schedule::{Schedule, SchedulerOptions, SchedulerType};
pub use sgd::Sgd;
pub use state::{LogEntry, TrainerState};
pub use stop::StopSignal;
pub use task::{LossSum, LossTotal, StepContext, Task};
pub use trainer::{Outcome, Trainer};
pub use workers::{SingleProcess, Workers};
