use std::fmt;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::{BoxError, Event, EventSink, LogEntry, StepReport};

/// Shows a run to the person who started it: a progress bar with loss, learning rate, samples a second and time left
/// where standard error is a terminal, and about [`LINES`](Self::LINES) plain lines otherwise.
#[derive(Debug)]
pub struct ConsoleSink {
    display: Display,
    speed: Speed,
}

enum Display {
    Bar(ProgressBar),
    Lines(Box<dyn Write>),
}

impl ConsoleSink {
    /// Lines of training progress that a whole run shows where there is no progress bar.
    pub const LINES: usize = 50;

    /// A progress bar on standard error, or plain lines where that is not a terminal.
    pub fn new() -> Self {
        if std::io::stderr().is_terminal() { Self::bar() } else { Self::lines(std::io::stderr()) }
    }

    /// Plain lines, written to `writer`.
    pub fn lines(writer: impl Write + 'static) -> Self {
        Self { display: Display::Lines(Box::new(writer)), speed: Speed::default() }
    }

    fn bar() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_finish(ProgressFinish::Abandon);
        Self { display: Display::Bar(bar), speed: Speed::default() }
    }

    fn line(&mut self, line: String) -> Result<(), BoxError> {
        match &mut self.display {
            Display::Bar(bar) => bar.println(line),
            Display::Lines(writer) => writeln!(writer, "{line}")?,
        }
        Ok(())
    }

    fn step(&mut self, report: &StepReport) -> Result<(), BoxError> {
        self.speed.add(report);
        let StepReport { global_step, max_steps, loss, learning_rate, .. } = report;
        let numbers = format!(
            "loss {loss:.4}  lr {learning_rate:.2e}  {:.1} samples/s",
            self.speed.samples_per_second()
        );
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(*global_step as u64);
                bar.set_message(numbers);
            }
            Display::Lines(writer) => {
                let interval = (max_steps / Self::LINES).max(1);
                if global_step.is_multiple_of(interval) || global_step == max_steps {
                    let left = self.speed.seconds_per_step() * (max_steps - global_step) as f64;
                    writeln!(writer, "step {global_step}/{max_steps}  {numbers}  {} left", Seconds(left))?;
                }
            }
        }
        Ok(())
    }
}

impl Default for ConsoleSink {
    fn default() -> Self {
        Self::new()
    }
}

impl EventSink for ConsoleSink {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        match event {
            Event::Started { trainable_parameters, global_step, max_steps, .. } => {
                if let Display::Bar(bar) = &self.display {
                    bar.set_length(*max_steps as u64);
                    bar.set_position(*global_step as u64);
                    bar.reset_eta();
                }
                let steps = max_steps.saturating_sub(*global_step);
                self.line(format!(
                    "training {} parameters for {} steps",
                    Grouped(*trainable_parameters),
                    Grouped(steps)
                ))
            }
            Event::Resumed { checkpoint, global_step } => {
                self.line(format!("resumed after step {global_step} from {}", checkpoint.display()))
            }
            Event::Step(report) => self.step(report),
            Event::EvaluationStarted { batches, .. } => {
                if let Display::Bar(bar) = &self.display {
                    bar.set_message(format!("evaluating {batches} batches"));
                }
                Ok(())
            }
            Event::Log(LogEntry::Evaluation { eval_loss, eval_runtime, metrics, epoch, step, .. }) => {
                let metrics: String =
                    metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
                self.line(format!(
                    "step {step}  epoch {epoch:.2}  eval_loss {eval_loss:.4}{metrics}  ({eval_runtime:.1} s)"
                ))
            }
            Event::Log(LogEntry::Summary { train_runtime, train_samples_per_second, train_loss, .. }) => {
                let runtime = Seconds(*train_runtime);
                let speed = format!("{train_samples_per_second:.1} samples/s");
                self.line(format!("trained for {runtime}: {speed}, mean loss {train_loss:.4}"))
            }
            Event::CheckpointSaved { path, best, .. } => {
                let best = if *best { " (best so far)" } else { "" };
                self.line(format!("saved {}{best}", path.display()))
            }
            Event::BestLoaded { path, metric, value } => {
                self.line(format!("loaded the best parameters, {metric} {value:.4}, from {}", path.display()))
            }
            Event::StoppedEarly { global_step, reason } => {
                self.line(format!("ended after step {global_step}: {reason}"))
            }
            Event::Warning(warning) => self.line(format!("warning: {warning}")),
            Event::Interrupted { checkpoint, global_step } => {
                self.line(format!("stopped after step {global_step}; saved {}", checkpoint.display()))
            }
            Event::Finished { .. } => {
                if let Display::Bar(bar) = &self.display {
                    bar.abandon();
                }
                Ok(())
            }
            Event::Log(LogEntry::Train { .. }) | Event::Throughput(_) | Event::CheckpointRemoved { .. } => {
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar(_) => "Bar",
            Self::Lines(_) => "Lines",
        })
    }
}

/// How fast the recent steps were; a step counts ever less as others follow.
#[derive(Debug, Default)]
struct Speed {
    steps: f64,
    samples: f64,
    seconds: f64,
}

impl Speed {
    const MEMORY: f64 = 0.95;

    fn add(&mut self, step: &StepReport) {
        self.steps = Self::MEMORY * self.steps + 1.0;
        self.samples = Self::MEMORY * self.samples + step.samples as f64;
        self.seconds = Self::MEMORY * self.seconds + step.seconds;
    }

    fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }

    fn seconds_per_step(&self) -> f64 {
        self.seconds / self.steps
    }
}

/// Seconds, in words.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.round() as u64;
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, seconds) => write!(f, "{seconds} s"),
            (0, minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
            (hours, minutes, _) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

/// A count with its thousands set apart.
struct Grouped(usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Self(self.0 / 1000), self.0 % 1000)
    }
}
