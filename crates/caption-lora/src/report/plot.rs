//! A run's learning curves as SVG: `loss.svg` and those of the report.

mod legend;
mod lines;
mod loss;
mod palette;
mod scale;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

pub use lines::{Curve, lines_svg};
pub use scale::Scale;

use super::History;
use crate::files;

/// Size and theme of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Width and height in pixels of the plot's own coordinates.
    pub size: (u32, u32),
    /// Height of the letters in the same pixels.
    pub letters: u32,
    /// Colours for a dark background instead of a white one.
    pub dark: bool,
}

impl Default for Style {
    /// 800 x 420 on white.
    fn default() -> Self {
        Self { size: (800, 420), letters: 15, dark: false }
    }
}

/// Draws training and validation loss over the epochs, and marks the best checkpoint.
///
/// Text stays text and is drawn in the viewer's font. The two curves differ in form (a line, and points on a
/// line) and not in colour alone, and the plot has a description for screen readers.
///
/// # Errors
/// As the drawing library; none is expected.
///
/// ```
/// use caption_lora::report::plot::{Style, loss_svg};
/// use caption_lora::report::{History, LogEntry};
///
/// let entry = |step, loss, eval_loss| LogEntry {
///     step,
///     epoch: step as f64 / 70.0,
///     loss: Some(loss),
///     eval_loss,
///     ..LogEntry::default()
/// };
/// let entries = vec![entry(35, 4.1, None), entry(70, 3.0, Some(2.9)), entry(140, 2.2, Some(2.5))];
/// let svg = loss_svg(&History { entries, best_step: Some(140) }, Style::default())?;
/// assert!(svg.starts_with("<svg ") && svg.contains("best 2.500"));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn loss_svg(history: &History, style: Style) -> Result<String> {
    let mut svg = String::new();
    loss::draw(history, style, &SVGBackend::with_string(&mut svg, style.size).into_drawing_area())?;
    Ok(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", description(history)), 1))
}

/// Writes `loss.svg` to the folder `dir`.
///
/// # Errors
/// If a file cannot be written.
pub fn write(history: &History, dir: &Path) -> Result<()> {
    files::replace(&dir.join("loss.svg"), loss_svg(history, Style::default())?.as_bytes())
}

/// A description of the plot as text.
fn description(history: &History) -> String {
    let mut words = String::from("Loss by epoch.");
    for (name, curve) in [("Training", history.training()), ("Validation", history.validation())] {
        if let (Some((_, first)), Some((epoch, last))) = (curve.first(), curve.last()) {
            // Writing to a string does not fail.
            let _ = write!(words, " {name} from {first:.3} to {last:.3} at epoch {epoch:.1}.");
        }
    }
    if let Some((epoch, loss)) = history.best() {
        let _ = write!(words, " Best checkpoint at epoch {epoch:.1} with validation loss {loss:.3}.");
    }
    words
}

/// Writes an axis's name above it; returns the height of the name.
fn name_axis<B: DrawingBackend>(area: &DrawingArea<B, Shift>, name: &str, style: Style) -> Result<u32>
where
    B::ErrorType: 'static,
{
    let ink = palette::Palette::of(style).ink;
    let font = ("sans-serif", style.letters).into_font().color(&ink);
    let left = i32::try_from(style.letters)?;
    area.draw(&Text::new(name.to_owned(), (left, left / 2), font))?;
    Ok(style.letters * 2)
}

/// The number of decimals that distinguishes neighbouring ticks, for at most `ticks` of them over `span`.
fn decimals(span: f64, ticks: u32) -> usize {
    let step = span / f64::from(ticks.max(1));
    // A step's first digit is 1, 2 or 5, so it needs as many decimals as its power of ten; steps are never
    // finer than this.
    (-step.log10()).ceil().clamp(0.0, 6.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LogEntry;

    fn entry(step: usize, loss: Option<f64>, eval_loss: Option<f64>) -> LogEntry {
        LogEntry { step, epoch: step as f64 / 10.0, loss, eval_loss, ..LogEntry::default() }
    }

    #[test]
    fn the_best_checkpoint_is_the_one_that_was_kept_not_the_lowest_point() {
        let entries =
            vec![entry(10, None, Some(2.0)), entry(20, None, Some(1.5)), entry(30, Some(1.0), Some(1.7))];
        let history = History { entries, best_step: Some(30) };
        assert_eq!(history.best(), Some((3.0, 1.7)));
        let svg = loss_svg(&history, Style::default()).unwrap();
        assert!(
            svg.contains("best 1.700")
                && svg.contains("Best checkpoint at epoch 3.0 with validation loss 1.700.")
        );
    }

    #[test]
    fn every_point_of_both_curves_is_drawn() {
        let entries = (1..=30)
            .map(|i| entry(i, Some(4.0 / i as f64), (i % 10 == 0).then_some(5.0 / i as f64)))
            .collect();
        let svg = loss_svg(&History { entries, best_step: None }, Style::default()).unwrap();
        // One dot for each evaluation and one in the legend.
        assert_eq!(svg.matches("<circle").count(), 3 + 1);
        let longest = svg
            .split("points=\"")
            .skip(1)
            .map(|p| p.split('"').next().unwrap().split_whitespace().count())
            .max();
        assert_eq!(longest, Some(30));
    }

    #[test]
    fn many_training_losses_are_drawn_with_their_mean() {
        let entries = (1..=250).map(|i| entry(i, Some(f64::from(i as u32 % 2)), None)).collect();
        let svg = loss_svg(&History { entries, best_step: None }, Style::default()).unwrap();
        assert!(svg.contains("training, mean of 3"));
        assert!(!svg.contains("<circle"), "nothing was evaluated");
        let mut lengths: Vec<_> = svg
            .split("points=\"")
            .skip(1)
            .map(|p| p.split('"').next().unwrap().split_whitespace().count())
            .collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(lengths[..2], [250, 84]);
    }

    #[test]
    fn losses_that_are_not_finite_and_runs_without_any_do_no_harm() {
        let broken =
            History { entries: vec![entry(1, Some(f64::NAN), Some(f64::INFINITY))], best_step: Some(1) };
        for history in [broken, History::default()] {
            assert!(history.is_empty());
            let svg = loss_svg(&history, Style::default()).unwrap();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        }
    }

    #[test]
    fn one_point_and_equal_points_have_a_range() {
        for entries in [
            vec![entry(1, Some(2.0), None)],
            vec![entry(1, Some(2.0), Some(2.0)), entry(2, Some(2.0), Some(2.0))],
        ] {
            assert!(
                loss_svg(&History { entries, best_step: None }, Style::default())
                    .unwrap()
                    .contains("<polyline")
            );
        }
    }

    #[test]
    fn neighbouring_ticks_have_different_labels() {
        for (span, ticks, expected) in [(15.0, 9, 0), (4.0, 9, 1), (0.4, 12, 2), (0.009, 10, 4), (0.0, 9, 6)]
        {
            assert_eq!(decimals(span, ticks), expected, "{span} in {ticks}");
        }
    }
}
