//! The feature cache: the frozen vision encoder's image features, computed once. They are in memory if all of
//! them fit, otherwise in files. If a folder is given, later runs reuse them.
//!
//! Features are looked up by their inputs, not by the picture's location: a hash of the picture's content and
//! preprocessing, and one of the encoder's weights and configuration. So cached features never belong to
//! another picture or another model, even if files were renamed, edited, reordered or retrained in between.

mod encoder;
mod files;
mod folder;
mod of_pass;
mod place;
mod segment;
mod shared;
mod storage;
mod store;

pub use encoder::{encode, encoder_fingerprint};
pub use of_pass::PassFeatures;
pub use place::CachePlace;
pub use segment::Layout;
pub(crate) use shared::remove_leftovers;
pub use store::FeatureStore;
