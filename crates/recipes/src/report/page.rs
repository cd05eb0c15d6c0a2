use std::path::Path;

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use minijinja::{
    Environment, context,
    value::{Serde, Value},
};
use serde::{Serialize, Serializer};

use super::filters;
use crate::{
    files,
    plot::{History, Style, loss_svg},
};

/// What a run's page shows.
///
/// ```
/// use recipes::report::{Metric, Report};
///
/// let report = Report {
///     title: "Pokémon captions".into(),
///     metrics: vec![Metric { name: "Test loss".into(), base: Some(4.1), adapter: Some(1.7), lower_is_better: true }],
///     ..Report::default()
/// };
/// assert!(report.html()?.contains("Pokémon captions"));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The page's heading.
    pub title: String,
    /// One sentence below it, such as the model and the dataset; may be empty.
    pub subtitle: String,
    /// The command line that reproduces the run.
    pub command: String,
    /// Names and values of the set-up, in the order of reading.
    pub setup: Vec<(String, String)>,
    /// The learning curves.
    pub history: History,
    /// Results on the test split, the most important first.
    pub metrics: Vec<Metric>,
    /// Test pictures with their captions.
    pub examples: Vec<Example>,
}

/// One result, before and after fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// As the page shows it, such as `Test loss`.
    pub name: String,
    /// Of the base model, where it was measured.
    pub base: Option<f64>,
    /// Of the adapted model, where it was measured.
    pub adapter: Option<f64>,
    /// True for losses and error rates, false for scores.
    pub lower_is_better: bool,
}

/// One test picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// Its row in the dataset.
    pub row: usize,
    /// The picture as a PNG file. It goes into the page as it is, so a thumbnail of some 200 pixels is right.
    #[serde(serialize_with = "serialize_image")]
    pub image_png: Vec<u8>,
    /// The caption that the dataset has.
    pub reference: String,
    /// What the base model says.
    pub base: String,
    /// What the adapted model says.
    pub adapter: String,
}

/// The picture of the curves for a wide and a narrow window, on a light and a dark ground; the page shows one of them.
const PLOTS: [(&str, Style); 4] = [
    ("wide light", Style { size: (960, 400), letters: 15, dark: false }),
    ("wide dark", Style { size: (960, 400), letters: 15, dark: true }),
    ("narrow light", Style { size: (360, 300), letters: 12, dark: false }),
    ("narrow dark", Style { size: (360, 300), letters: 12, dark: true }),
];

impl Report {
    /// The page.
    ///
    /// # Errors
    /// Only if template or drawing fail, which is a mistake of this crate.
    pub fn html(&self) -> Result<String> {
        let mut plots = Vec::new();
        if !self.history.is_empty() {
            for (class, style) in PLOTS {
                plots.push(context! { class, svg => loss_svg(&self.history, style)? });
            }
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.add_filter("number", filters::number);
        environment.add_filter("change", filters::change);
        environment.add_filter("words", |text: &str, reference: &str| {
            Value::from(Serde(filters::words(text, reference)))
        });
        // The name's ending turns escaping on.
        environment.add_template("report.html", include_str!("report.html.jinja"))?;
        let best = self.history.best().map(|(epoch, loss)| context! { epoch, loss });
        Ok(environment
            .get_template("report.html")?
            .render(context! { report => Value::from(Serde(self)), plots, best })?)
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

/// The picture as an address that holds it.
pub(super) fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png))
}
