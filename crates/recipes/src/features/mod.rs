//! What the frozen vision encoder makes of each picture, computed once and kept: in memory while it fits, in files
//! beyond that, and between runs where a folder is given for it.
//!
//! Features are known by what they are a function of and not by where the picture was: a hash of the picture's content
//! and preprocessing, and one of the encoder's weights and configuration. So a kept feature is never of another
//! picture or another model, whatever was renamed, edited, reordered or retrained in between.

mod encoder;
mod files;
mod folder;
mod segment;
mod store;

pub use encoder::{encode, encoder_fingerprint};
pub use segment::Layout;
pub use store::{FeatureStore, Keep};
