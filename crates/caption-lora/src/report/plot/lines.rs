//! A few curves over the epochs: learning rate, gradient norm, the same curve of several runs.

use std::fmt::Write as _;

use anyhow::Result;
use plotters::prelude::*;

use super::legend::{Legend, Look};
use super::scale::{Axis, number};
use super::{Scale, Style, palette::Palette};

/// Marks per curve, at most; on every point of a long curve they would merge.
const MARKS: usize = 16;

/// A curve and its name; points are epoch and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// The name in the legend; empty for no legend.
    pub name: String,
    /// In the order of the epochs. Values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Draws curves that differ in colour, marks and dashes. A legend is added above the plot, whose height is then
/// larger than in `style`.
///
/// # Errors
/// As the drawing library; none is expected.
pub fn lines_svg(title: &str, scale: Scale, curves: &[Curve], style: Style) -> Result<String> {
    let palette = Palette::of(style);
    let looks =
        curves.iter().enumerate().map(|(number, curve)| (curve.name.as_str(), Look::of(number, &palette)));
    let legend = Legend::new(looks.filter(|(name, _)| !name.is_empty()), style);
    let size = (style.size.0, style.size.1 + legend.height(style));
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    draw(title, scale, curves, &legend, style, &area)?;
    drop(area);
    let mut words = format!("{title} by epoch.");
    for curve in curves {
        if let (Some((_, first)), Some((_, last))) = (curve.points.first(), curve.points.last()) {
            // Writing to a string does not fail.
            let _ = write!(words, " {} from {} to {}.", curve.name, number(*first, 3), number(*last, 3));
        }
    }
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    Ok(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{words}\" "), 1))
}

fn draw(
    title: &str,
    scale: Scale,
    curves: &[Curve],
    legend: &Legend,
    style: Style,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<()> {
    let palette = Palette::of(style);
    let letters = style.letters;
    let font = ("sans-serif", letters).into_font().color(&palette.ink);
    area.fill(&palette.ground)?;
    let finite = |curve: &Curve| -> Vec<(f64, f64)> {
        curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let epochs = curves.iter().flat_map(finite).map(|(epoch, _)| epoch).fold(0.0, f64::max);
    let axis = Axis::new(scale, curves.iter().flat_map(finite).map(|(_, value)| value));
    let top = super::name_axis(area, &axis.name(title), style)?;
    legend.draw(area, top, style)?;
    let mut chart = ChartBuilder::on(area)
        .margin(letters)
        .margin_top(top + legend.height(style) + letters / 2)
        .margin_bottom(letters / 2)
        .x_label_area_size(letters * 3)
        .y_label_area_size(letters * 4)
        .build_cartesian_2d(0.0..epochs.max(1e-9), axis.low..axis.high)?;
    let (across, up) = (style.size.0 / (letters * 5), style.size.1 / (letters * 4));
    let digits = super::decimals(epochs, across);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(palette.grid)
        .axis_style(palette.grid)
        .label_style(font)
        .x_labels(across as usize)
        .y_labels(axis.labels(up))
        .x_label_formatter(&|epoch| format!("{epoch:.digits$}"))
        .y_label_formatter(&|height| axis.label(*height, up))
        .x_desc("epoch")
        .draw()?;
    for (number, curve) in curves.iter().enumerate() {
        let look = Look::of(number, &palette);
        let points: Vec<_> = finite(curve).into_iter().map(|(x, value)| (x, axis.height(value))).collect();
        if curves.len() > 1 {
            let every = points.len().div_ceil(MARKS).max(1);
            // At different epochs, so that neighbouring curves do not hide each other's marks.
            let marked = points.iter().skip(number % every).step_by(every);
            for mark in marked.filter_map(|point| look.mark(*point)) {
                chart.plotting_area().draw(&mark)?;
            }
        }
        chart.plotting_area().draw(&look.line(points))?;
    }
    area.present()?;
    Ok(())
}
