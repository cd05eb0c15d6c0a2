//! A few curves over the epochs: learning rate, gradient norm, the same curve of several runs.

use std::fmt::Write as _;

use anyhow::Result;
use plotters::prelude::*;

use super::{Palette, Style};

/// A curve and its name; points are epoch and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// What the legend calls it; empty for no legend.
    pub name: String,
    /// In the order of the epochs. What is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito).
const LIGHT: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(130, 130, 130),
];
/// The same in the order that suits a dark ground.
const DARK: [RGBColor; 7] = [
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 190, 140),
    RGBColor(224, 141, 187),
    RGBColor(240, 228, 66),
    RGBColor(213, 110, 40),
    RGBColor(160, 160, 160),
];

/// Draws curves. They differ in colour and in their marks: dots, rings, squares and none, in turn.
///
/// # Errors
/// Whatever the drawing library reports; it has no cause to.
pub fn lines_svg(title: &str, curves: &[Curve], style: Style) -> Result<String> {
    let mut svg = String::new();
    draw(title, curves, style, &SVGBackend::with_string(&mut svg, style.size).into_drawing_area())?;
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
    curves: &[Curve],
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
    let (lowest, highest) = bounds(curves.iter().flat_map(finite).map(|(_, value)| value));
    let mut chart = ChartBuilder::on(area)
        .margin(letters)
        .margin_bottom(letters / 2)
        .x_label_area_size(letters * 3)
        .y_label_area_size(letters * 5)
        .build_cartesian_2d(0.0..epochs.max(1e-9), lowest..highest)?;
    let (across, up) = (style.size.0 / (letters * 6), style.size.1 / (letters * 4));
    let (digits, value_digits) = (super::decimals(epochs, across), super::decimals(highest - lowest, up));
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(palette.grid)
        .axis_style(palette.grid)
        .label_style(font.clone())
        .x_labels(across as usize)
        .y_labels(up as usize)
        .x_label_formatter(&|epoch| format!("{epoch:.digits$}"))
        .y_label_formatter(&|value| number(*value, value_digits))
        .x_desc("epoch")
        .y_desc(title)
        .draw()?;
    for (number, curve) in curves.iter().enumerate() {
        let color = if style.dark { DARK[number % DARK.len()] } else { LIGHT[number % LIGHT.len()] };
        let line = color.stroke_width(2);
        let points = finite(curve);
        chart.draw_series(LineSeries::new(points.iter().copied(), line))?;
        // A mark on every point of a long curve would be a band: then the legend alone has it.
        let marked = if curves.len() > 1 && points.len() <= 60 { points.as_slice() } else { &[] };
        let (dot, ring) = (color.filled(), color.stroke_width(2));
        macro_rules! marks {
            ($mark:expr) => {{
                let mark = $mark;
                let series =
                    chart.draw_series(marked.iter().map(|point| EmptyElement::at(*point) + mark((0, 0))))?;
                if !curve.name.is_empty() {
                    series.label(&curve.name).legend(move |at| {
                        EmptyElement::at(at) + PathElement::new([(0, 0), (24, 0)], line) + mark((12, 0))
                    });
                }
            }};
        }
        match number % 4 {
            0 => marks!(move |at| Circle::new(at, 4, dot)),
            1 => marks!(move |at| Circle::new(at, 5, ring)),
            2 => marks!(move |at| TriangleMarker::new(at, 6, dot)),
            _ => marks!(move |at| Cross::new(at, 4, ring)),
        }
    }
    if curves.iter().any(|curve| !curve.name.is_empty()) {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(font)
            .background_style(palette.ground)
            .margin(letters / 2)
            .draw()?;
    }
    area.present()?;
    Ok(())
}

/// Lowest and highest value with a little room, never below zero and never empty.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lowest, highest) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if lowest > highest || (lowest, highest) == (0.0, 0.0) {
        return (0.0, 1.0);
    }
    let room = (0.08 * (highest - lowest)).max(0.01 * highest.abs());
    ((lowest - room).max(0.0), highest + room)
}

/// A tick's label: with as many decimals as tell it from its neighbours, or, where it is small, a power of ten.
fn number(value: f64, digits: usize) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        x if x < 1e-2 => format!("{value:.1e}"),
        _ => format!("{value:.digits$}"),
    }
}
