use std::collections::BTreeSet;

use crate::color::Color;
use crate::creature::Creature;
use crate::feature::Feature;
use crate::monster::{Expression, Monster};
use crate::scene::Scene;

/// A style of captions.
///
/// Both styles state the same facts in the same words, in another order. So a model that has learned the
/// first style can be taught the second without changing its word embeddings: no word is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// Telegraphic, as on an archive's label: `orange cat, belly white, an open mouth. cartoon`.
    First,
    /// Sentences, as captioning models write them: `a cartoon orange cat with a white belly and its mouth
    /// open`.
    Second,
}

/// The words of the captions that name neither a creature nor a colour, and the punctuation.
const WORDS: [&str; 43] = [
    "a", "an", "and", "back", "belly", "big", "cartoon", "closed", "cloud", "crown", "drawing", "eyes",
    "flame", "flower", "flying", "grass", "hat", "head", "horns", "in", "its", "leaf", "mouth", "of", "on",
    "open", "over", "picture", "shell", "sitting", "smiling", "spots", "standing", "stripes", "swimming",
    "tail", "the", "two", "water", "wings", "with", ",", ".",
];

/// The special tokens that a BERT tokenizer needs, in the order of their ids.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// All tokens of a tokenizer for the captions of both styles, in the order of their ids: `[PAD]`, `[UNK]`,
/// `[CLS]`, `[SEP]` and `[MASK]`, then all words and the punctuation in alphabetical order.
pub fn vocabulary() -> Vec<String> {
    let creatures = Creature::ALL.map(Creature::name);
    let colors = Color::ALL.map(Color::name);
    let words: BTreeSet<&str> = WORDS.into_iter().chain(creatures).chain(colors).collect();
    SPECIAL.into_iter().chain(words).map(String::from).collect()
}

impl Monster {
    /// The caption of the drawing, in lower case.
    ///
    /// A caption states only what can be seen. It repeats no pair of words, so that decoding with
    /// `no_repeat_ngram_size` 2 can generate it.
    pub fn caption(&self, style: Style) -> String {
        match style {
            Style::First => self.label(),
            Style::Second => self.sentence(),
        }
    }

    /// Whether a caption has the name of this monster's colour, directly followed by that of its creature.
    ///
    /// Words are compared whole and in lower case. A feature's colour does not count.
    pub fn names_creature_and_color(&self, caption: &str) -> bool {
        let words: Vec<String> = caption
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        words.windows(2).any(|pair| pair[0] == self.color.name() && pair[1] == self.creature.name())
    }

    fn label(&self) -> String {
        let feature = match self.feature {
            Feature::Belly(color) => format!("belly {}", color.name()),
            Feature::Crown => "crown on the head".into(),
            Feature::Flame => "tail with a flame".into(),
            Feature::Flower(color) => format!("head with {} flower", a(color)),
            Feature::Hat(color) => format!("{} hat on its head", color.name()),
            Feature::Horns => "two horns".into(),
            Feature::Leaf => "leaf on its head".into(),
            Feature::Shell(color) => format!("back in a {} shell", color.name()),
            Feature::Spots(color) => format!("spots of {}", color.name()),
            Feature::Stripes(color) => format!("stripes of {}", color.name()),
            Feature::Wings(color) => format!("wings big and {}", color.name()),
        };
        let rest = match (self.scene, self.expression) {
            (Scene::Plain, Expression::Calm) => ". drawing".into(),
            (Scene::Plain, Expression::Smiling) => ", smiling. cartoon".into(),
            (Scene::Plain, Expression::MouthOpen) => ", an open mouth. cartoon".into(),
            (Scene::Plain, Expression::EyesClosed) => ", closed eyes. drawing".into(),
            (Scene::Grass, _) => format!(", {} grass. picture", self.posture()),
            (Scene::Water, _) => format!(", {} water. picture", self.posture()),
            (Scene::Cloud, _) => format!(", {} cloud. picture", self.posture()),
        };
        format!("{} {}, {feature}{rest}", self.color.name(), self.creature.name())
    }

    fn sentence(&self) -> String {
        let feature = match self.feature {
            Feature::Belly(color) => format!("{} belly", a(color)),
            Feature::Crown => "a crown on its head".into(),
            Feature::Flame => "a flame on its tail".into(),
            Feature::Flower(color) => format!("{} flower on its head", a(color)),
            Feature::Hat(color) => format!("{} hat on its head", a(color)),
            Feature::Horns => "two horns".into(),
            Feature::Leaf => "a leaf on its head".into(),
            Feature::Shell(color) => format!("{} shell on its back", a(color)),
            Feature::Spots(color) => format!("{} spots", color.name()),
            Feature::Stripes(color) => format!("{} stripes", color.name()),
            Feature::Wings(color) => format!("big {} wings", color.name()),
        };
        let adorned = format!("{} with {feature}", self.creature.name());
        let (color, a_color) = (self.color.name(), a(self.color));
        match (self.scene, self.expression) {
            (Scene::Plain, Expression::Calm) => format!("a drawing of {a_color} {adorned}"),
            (Scene::Plain, Expression::Smiling) => format!("a smiling {color} {adorned}"),
            (Scene::Plain, Expression::MouthOpen) => {
                format!("a cartoon {color} {adorned} and its mouth open")
            }
            (Scene::Plain, Expression::EyesClosed) => {
                format!("a drawing of {a_color} {adorned} and its eyes closed")
            }
            (Scene::Grass, _) => format!("a picture of {a_color} {adorned} {} the grass", self.posture()),
            (Scene::Water, _) => format!("a picture of {a_color} {adorned} {} the water", self.posture()),
            (Scene::Cloud, _) => format!("{a_color} {adorned} {} a cloud", self.posture()),
        }
    }

    /// The posture of the creature in its place.
    fn posture(&self) -> &'static str {
        match (self.scene, self.creature) {
            (Scene::Water, _) => "swimming in",
            (_, Creature::Butterfly | Creature::Ghost) => "flying over",
            (_, Creature::Cat | Creature::Rabbit | Creature::Snake) => "sitting on",
            _ => "standing on",
        }
    }
}

/// The name of a colour with its article.
fn a(color: Color) -> String {
    let article = if color == Color::Orange { "an" } else { "a" };
    format!("{article} {}", color.name())
}
