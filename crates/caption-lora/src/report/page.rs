use std::path::Path;

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use minijinja::{
    Environment, context,
    value::{Serde, Value},
};
use serde::{Serialize, Serializer};

use super::{filters, meaning::meaning};
use crate::{
    files,
    plot::{Curve, History, Scale, Style, lines_svg, loss_svg},
};

/// The content of a run's page.
///
/// ```
/// use caption_lora::report::{Better, Metric, Report};
///
/// let report = Report {
///     title: "Pokémon captions".into(),
///     metrics: vec![Metric {
///         key: "test_loss".into(),
///         name: "Test loss".into(),
///         base: Some(4.1),
///         adapter: Some(1.7),
///         better: Better::Lower,
///     }],
///     ..Report::default()
/// };
/// assert!(report.html()?.contains("Pokémon captions"));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The page's heading.
    pub title: String,
    /// One sentence below the heading, such as the model and the dataset; may be empty.
    pub subtitle: String,
    /// The command line that reproduces the run.
    pub command: String,
    /// Names and values of the set-up, in the order in which they are shown.
    pub setup: Vec<(String, String)>,
    /// The learning curves.
    pub history: History,
    /// Results on the test split, the most important first: the first four are shown large.
    pub metrics: Vec<Metric>,
    /// How the results were computed, by name.
    pub signatures: Vec<(String, String)>,
    /// Remarks about the results, in sentences.
    pub warnings: Vec<String>,
    /// How much the adapter changes each layer, `‖ΔW‖ / ‖W‖`, by path.
    pub effects: Vec<(String, f64)>,
    /// Test pictures with their captions.
    pub examples: Vec<Example>,
}

/// One result, before and after fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Its key in `metrics.json`.
    pub key: String,
    /// Its name on the page, such as `Test loss`.
    pub name: String,
    /// The base model's value, if measured.
    pub base: Option<f64>,
    /// The adapted model's value, if measured.
    pub adapter: Option<f64>,
    /// Which way it is better.
    pub better: Better,
}

/// Which way a result is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Losses and error rates.
    Lower,
    /// Scores.
    Higher,
    /// Descriptions, such as the length.
    Neither,
}

/// One test picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// Its row in the dataset.
    pub row: usize,
    /// The picture as a PNG file. It is embedded as it is, so a thumbnail of some 200 pixels is right.
    #[serde(serialize_with = "serialize_image")]
    pub image_png: Vec<u8>,
    /// The dataset's caption, the reference.
    pub reference: String,
    /// The base model's caption.
    pub base: String,
    /// The adapted model's caption.
    pub adapter: String,
    /// ROUGE-L of the base model's caption, from 0 to 1.
    pub base_score: f64,
    /// ROUGE-L of the adapted model's caption.
    pub adapter_score: f64,
}

/// Size of a plot for a narrow window, where some 320 pixels are left between the edges of a card, so that
/// its letters are not scaled.
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
            parts => self.parts(),
        })?)
    }

    /// The sections of the page, for its navigation: there are many pictures.
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

fn serialize_image<S: Serializer>(png: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&data_uri(png))
}

/// The picture as a data URI.
pub(super) fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}
