use std::fmt;
use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::{BoxError, Event, EventSink, LogEntry, StepReport};

/// Shows a run on standard error: a progress bar with loss, learning rate, samples per second and remaining time if that is a
/// terminal, otherwise about [`LINES`](Self::LINES) plain lines.
#[derive(Debug)]
pub struct ConsoleSink {
    display: Display,
    speed: Speed,
}

enum Display {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl ConsoleSink {
    /// Number of progress lines of a whole run without a progress bar.
    pub const LINES: usize = 50;

    /// Creates a progress bar on standard error, or plain lines if that is not a terminal.
    pub fn new() -> Self {
        if std::io::stderr().is_terminal() { Self::bar() } else { Self::lines(std::io::stderr()) }
    }

    /// Creates a sink that writes plain lines to `writer`.
    pub fn lines(writer: impl Write + Send + 'static) -> Self {
        Self { display: Display::Lines(Box::new(writer)), speed: Speed::default() }
    }

    fn bar() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_finish(ProgressFinish::Abandon);
        Self { display: Display::Bar(bar), speed: Speed::default() }
    }

    fn start_bar(&self, global_step: usize, max_steps: usize) {
        if let Display::Bar(bar) = &self.display {
            bar.set_length(max_steps as u64);
            bar.set_position(global_step as u64);
            bar.reset_eta();
        }
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
            Event::Step(report) => return self.step(report),
            Event::Started { global_step, max_steps, .. } => self.start_bar(*global_step, *max_steps),
            Event::EvaluationStarted { batches, .. } => {
                if let Display::Bar(bar) = &self.display {
                    bar.set_message(format!("evaluating {batches} batches"));
                }
            }
            Event::Finished { .. } => {
                if let Display::Bar(bar) = &self.display {
                    bar.abandon();
                }
            }
            _ => {}
        }
        line(event).map_or(Ok(()), |line| self.line(line))
    }
}

/// The line that an event adds below the progress, if any.
fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::Started { trainable_parameters, global_step, max_steps, .. } => {
            let steps = max_steps.saturating_sub(*global_step);
            format!("training {} parameters for {} steps", Grouped(*trainable_parameters), Grouped(steps))
        }
        Event::Resumed { checkpoint, global_step } => {
            format!("resumed after step {global_step} from {}", checkpoint.display())
        }
        Event::Log(LogEntry::Evaluation { eval_loss, eval_runtime, metrics, epoch, step, .. }) => {
            let metrics: String =
                metrics.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
            format!("step {step}  epoch {epoch:.2}  eval_loss {eval_loss:.4}{metrics}  ({eval_runtime:.1} s)")
        }
        Event::Log(LogEntry::Summary { train_runtime, train_samples_per_second, train_loss, .. }) => {
            let runtime = Seconds(*train_runtime);
            let speed = format!("{train_samples_per_second:.1} samples/s");
            format!("trained for {runtime}: {speed}, mean loss {train_loss:.4}")
        }
        Event::CheckpointSaved { path, best, .. } => {
            let best = if *best { " (best so far)" } else { "" };
            format!("saved {}{best}", path.display())
        }
        Event::BestLoaded { path, metric, value } => {
            format!("loaded the best parameters, {metric} {value:.4}, from {}", path.display())
        }
        Event::StoppedEarly { global_step, reason } => format!("ended after step {global_step}: {reason}"),
        Event::Warning(warning) => format!("warning: {warning}"),
        Event::Interrupted { checkpoint, global_step } => {
            format!("stopped after step {global_step}; saved {}", checkpoint.display())
        }
        Event::Step(_)
        | Event::Log(LogEntry::Train { .. })
        | Event::Throughput(_)
        | Event::EvaluationStarted { .. }
        | Event::CheckpointRemoved { .. }
        | Event::Finished { .. } => return None,
    };
    Some(line)
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar(_) => "Bar",
            Self::Lines(_) => "Lines",
        })
    }
}

/// The speed of recent steps, as exponential moving sums.
#[derive(Debug, Default)]
struct Speed {
    steps: f64,
    samples: f64,
    seconds: f64,
}

impl Speed {
    const DECAY: f64 = 0.95;

    fn add(&mut self, step: &StepReport) {
        self.steps = Self::DECAY * self.steps + 1.0;
        self.samples = Self::DECAY * self.samples + step.samples as f64;
        self.seconds = Self::DECAY * self.seconds + step.seconds;
    }

    fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }

    fn seconds_per_step(&self) -> f64 {
        self.seconds / self.steps
    }
}

/// A duration, such as `2 min 5 s`.
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

/// A number with separated thousands.
struct Grouped(usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Self(self.0 / 1000), self.0 % 1000)
    }
}
