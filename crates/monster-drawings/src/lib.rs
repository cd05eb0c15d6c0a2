//! Small monsters, generated from a seed, with captions in two styles: a dataset that needs no network.
//!
//! There are ten creatures in nine colours, each with one special feature, a facial expression and a place, on
//! white with a bold outline. A picture and its captions are pure functions of (seed, row), the same on every
//! machine. A model pre-trained on the first style can be fine-tuned on the second: it learns to state the same
//! facts in sentences.
//!
//! ```
//! use caption_data::CaptionSource;
//! use monster_drawings::{DrawingSource, Style};
//!
//! let source = DrawingSource::new(7, 700, Style::Second, 64);
//! assert_eq!(source.image(0)?.dimensions(), (64, 64));
//!
//! let monster = source.monster(0)?;
//! assert_eq!(source.caption(0)?, monster.caption(Style::Second));
//! assert!(monster.names_creature_and_color(&source.caption(0)?));
//! # Ok::<(), caption_data::Error>(())
//! ```

// The attributes of a monster, and its captions.
mod caption;
mod color;
mod creature;
mod dice;
mod feature;
mod monster;
mod scene;
mod source;

// The drawing of a monster.
mod adornments;
mod bodies;
mod drawing;
mod face;
mod headwear;
mod scenery;
mod shape;
mod sketch;

pub use caption::{Style, vocabulary};
pub use color::Color;
pub use creature::Creature;
pub use feature::Feature;
pub use monster::{Expression, Monster};
pub use scene::Scene;
pub use source::DrawingSource;

/// Compiles the program of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
