//! The feature cache: the frozen vision encoder's image features, computed once. They are in memory while
//! they fit, in files beyond that, and are reused by later runs where a folder is given.
//!
//! Features are looked up by their inputs, not by the picture's location: a hash of the picture's content and
//! preprocessing, and one of the encoder's weights and configuration. So a cached feature never belongs to
//! another picture or another model, whatever was renamed, edited, reordered or retrained in between.

mod encoder;
mod files;
mod folder;
mod place;
mod segment;
mod shared;
mod storage;
mod store;

pub use encoder::{encode, encoder_fingerprint};
pub use place::CachePlace;
pub use segment::Layout;
pub(crate) use shared::remove_leftovers;
pub use store::FeatureStore;
