use std::path::Path;

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use minijinja::{
    Environment, context,
    value::{Serde, Value},
};

use super::{filters, meaning::meaning};
use crate::files;
use crate::report::Report;
use crate::report::plot::{Curve, Scale, Style, lines_svg, loss_svg};

/// Size of a plot for a narrow window, in which a card is about 320 pixels wide, so that its letters are not
/// scaled.
pub(super) const NARROW: (u32, u32) = (320, 340);

/// A plot for wide and narrow windows, on light and dark backgrounds; the page shows one of them.
fn variants(wide: (u32, u32), narrow: (u32, u32)) -> [(&'static str, Style); 4] {
    let style = |size, letters, dark| Style { size, letters, dark };
    [
        ("wide light", style(wide, 15, false)),
        ("wide dark", style(wide, 15, true)),
        ("narrow light", style(narrow, 14, false)),
        ("narrow dark", style(narrow, 14, true)),
    ]
}

/// One plot of the page in all its variants.
pub(super) fn figure(
    [wide, narrow]: [(u32, u32); 2],
    svg: impl Fn(Style) -> Result<String>,
) -> Result<Value> {
    let plots = variants(wide, narrow)
        .into_iter()
        .map(|(class, style)| Ok(context! { class, svg => svg(style)? }))
        .collect::<Result<Vec<_>>>()?;
    Ok(context! { plots })
}

/// The template environment of both pages: strict, escaping, with the filters.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.add_filter("number", filters::number);
    environment.add_filter("change", filters::change);
    environment.add_filter("score", filters::score);
    environment.add_filter("meaning", meaning);
    environment.add_filter("words", |text: &str, reference: &str| {
        Value::from(Serde(filters::words(text, reference)))
    });
    environment
}

/// The style sheet that both pages share.
pub(super) const STYLE: &str = include_str!("page.css");

impl Report {
    /// Renders the page.
    ///
    /// # Errors
    /// Only if the template or the plots fail, which is a bug in this crate.
    pub fn html(&self) -> Result<String> {
        let mut environment = environment();
        // The template engine escapes HTML in files with this extension.
        environment.add_template("report.html", include_str!("report.html.jinja"))?;
        let best = self.history.best().map(|(epoch, loss)| context! { epoch, loss });
        let largest = self.effects.iter().map(|(_, effect)| *effect).fold(0.0, f64::max);
        Ok(environment.get_template("report.html")?.render(context! {
            report => Value::from(Serde(self)),
            style => STYLE,
            script => include_str!("gallery.js"),
            loss => self.loss_figure()?,
            details => self.detail_figures()?,
            best,
            largest,
            images => self.examples.iter().map(|example| data_uri(&example.image_png)).collect::<Vec<_>>(),
            parts => self.parts(),
        })?)
    }

    /// The sections of the page, for its navigation.
    fn parts(&self) -> Vec<Value> {
        [
            ("results", "Results", !self.metrics.is_empty()),
            ("curves", "Learning curves", !self.history.is_empty()),
            ("pictures", "Pictures", !self.examples.is_empty()),
            ("layers", "Layers", !self.effects.is_empty()),
            ("set-up", "Set-up", !self.setup.is_empty()),
            ("command", "Command", !self.command.is_empty()),
        ]
        .into_iter()
        .filter(|(_, _, there)| *there)
        .map(|(id, name, _)| context! { id, name })
        .collect()
    }

    fn loss_figure(&self) -> Result<Option<Value>> {
        if self.history.is_empty() {
            return Ok(None);
        }
        let sizes = [(960, 420), NARROW];
        figure(sizes, |style| loss_svg(&self.history, style)).map(Some)
    }

    /// Learning rate and gradient norm, half as wide.
    fn detail_figures(&self) -> Result<Vec<Value>> {
        let curves = [
            ("learning rate", self.history.learning_rates()),
            ("gradient norm before clipping", self.history.grad_norms()),
        ];
        curves
            .into_iter()
            .filter(|(_, points)| !points.is_empty())
            .map(|(name, points)| {
                let curve = [Curve { name: String::new(), points }];
                let sizes = [(480, 260), (NARROW.0, 240)];
                figure(sizes, |style| lines_svg(name, Scale::Linear, &curve, style))
            })
            .collect()
    }

    /// Writes the page to `path`.
    ///
    /// # Errors
    /// As [`files::replace`].
    pub fn write(&self, path: &Path) -> Result<()> {
        files::replace(path, self.html()?.as_bytes())
    }
}

/// The picture as a data URI.
pub(super) fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}
