use serde::Serialize;

use super::History;

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
    /// The relative change of each layer by the adapter, `‖ΔW‖ / ‖W‖`, by path.
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
    /// Whether higher or lower is better.
    pub better: Better,
}

/// Whether higher or lower values of a result are better.
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
    /// The picture as a PNG file. It is embedded unchanged, so use a thumbnail of about 200 pixels.
    #[serde(skip)]
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
