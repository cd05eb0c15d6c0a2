//! The plot of a run's losses.

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::legend::{Legend, Look};
use super::{Scale, Style, decimals, palette::Palette, scale::Axis};
use crate::report::History;

/// Training losses beyond this number are smoothed.
const SMOOTH_POINTS: usize = 100;

pub(super) fn draw<B: DrawingBackend>(
    history: &History,
    style: Style,
    area: &DrawingArea<B, Shift>,
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let palette = Palette::of(style);
    let (training, validation) = (history.training(), history.validation());
    let font = ("sans-serif", style.letters).into_font().color(&palette.ink);
    let letters = style.letters;

    area.fill(&palette.ground)?;
    let epochs = training.iter().chain(&validation).map(|(epoch, _)| *epoch).fold(0.0, f64::max);
    let epochs = if epochs > 0.0 { epochs } else { 1.0 };
    let axis = Axis::new(Scale::Log, training.iter().chain(&validation).map(|(_, loss)| *loss));
    let at = |(epoch, loss): (f64, f64)| (epoch, axis.height(loss));
    let window = training.len().div_ceil(SMOOTH_POINTS).max(1);
    let training_name =
        if window > 1 { format!("training, mean of {window} log entries") } else { "training".to_owned() };
    let looks = [Look::plain(palette.training), Look::dotted(palette.validation)];
    // A run without evaluations has no validation curve, and no legend entry for one.
    let curves = [(training_name.as_str(), &training), ("validation", &validation)].into_iter().zip(looks);
    let named = curves.filter(|((_, points), _)| !points.is_empty()).map(|((name, _), look)| (name, look));
    let legend = Legend::new(named, style);
    let top = super::name_axis(area, &axis.name("loss, nats per token"), style)?;
    legend.draw(area, top, style)?;
    let mut chart = ChartBuilder::on(area)
        .margin(letters)
        .margin_top(top + legend.height(style) + letters / 2)
        .margin_bottom(letters / 2)
        .x_label_area_size(letters * 3)
        .y_label_area_size(letters * 4)
        .build_cartesian_2d(0.0..epochs, axis.low..axis.high)?;
    let (across, up) = (style.size.0 / (letters * 5), style.size.1 / (letters * 4));
    let digits = decimals(epochs, across);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(palette.grid)
        .axis_style(palette.grid)
        .label_style(font.clone())
        .x_labels(across as usize)
        .y_labels(axis.labels(up))
        .x_label_formatter(&|epoch| format!("{epoch:.digits$}"))
        .y_label_formatter(&|height| axis.label(*height, up))
        .x_desc("epoch")
        .draw()?;

    // A line through every step is mostly noise, so it is drawn faintly, and its mean is drawn over it.
    if window > 1 {
        let line = palette.training.mix(0.35).stroke_width(1);
        chart.draw_series(LineSeries::new(training.iter().copied().map(at), line))?;
    }
    let plot = chart.plotting_area();
    let means: Vec<(f64, f64)> = training.chunks(window).filter_map(mean).collect();
    for (points, look) in [means, validation].into_iter().zip(looks) {
        let points: Vec<(f64, f64)> = points.into_iter().map(at).collect();
        for mark in points.iter().filter_map(|point| look.mark(*point)) {
            plot.draw(&mark)?;
        }
        plot.draw(&look.line(points))?;
    }
    if let Some((epoch, loss)) = history.best() {
        // Towards the middle, so that the text stays inside the plot, and above the point, where a falling
        // curve leaves space.
        let side = if epoch > epochs / 2.0 { HPos::Right } else { HPos::Left };
        let words = font.clone().pos(Pos::new(side, VPos::Bottom));
        let lift = -i32::try_from(letters)?;
        chart.draw_series([EmptyElement::at(at((epoch, loss)))
            + Circle::new((0, 0), 9, palette.ink.stroke_width(2))
            + Text::new(format!("best {loss:.3}"), (0, lift), words)])?;
    }
    area.present()?;
    Ok(())
}

/// The mean loss of neighbouring entries, at the epoch of the last.
fn mean(entries: &[(f64, f64)]) -> Option<(f64, f64)> {
    let sum: f64 = entries.iter().map(|(_, loss)| loss).sum();
    entries.last().map(|(epoch, _)| (*epoch, sum / entries.len() as f64))
}
