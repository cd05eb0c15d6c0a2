//! Models, datasets and adapters by name: `microsoft/git-base` becomes a folder on this machine.
//!
//! A [`Location`] is the user's text; a [`Hub`] downloads those that are hub ids, through the cache that
//! Python's huggingface_hub uses too, so that nothing is downloaded twice. Only files that the repository
//! lists are requested; none is guessed.
//!
//! ```no_run
//! use caption_lora::hub::{Hub, Location};
//!
//! let folder = match "microsoft/git-base".parse()? {
//!     Location::Embedded => unreachable!("the name says otherwise"),
//!     Location::Local(folder) => folder,
//!     Location::Hub(id) => Hub::from_env()?.model_dir(&id)?.folder,
//! };
//! assert!(folder.join("config.json").exists());
//! # Ok::<(), caption_lora::hub::Error>(())
//! ```
//!
//! Without the feature `hub`, a hub id is an error that names the feature, and nothing here uses the network.

mod advice;
mod error;
mod fetched;
mod location;
mod proxy;
mod refusal;
mod repository;

#[cfg(not(feature = "hub"))]
mod absent;
#[cfg(feature = "hub")]
mod online;

#[cfg(not(feature = "hub"))]
pub use absent::{Hub, damaged};
pub use error::{Error, Result};
pub use fetched::{DatasetFiles, Fetched, FetchedDataset, PiecewiseDataset};
pub use location::{Location, RepoId};
#[cfg(feature = "hub")]
pub use online::{Hub, HubConfig, damaged};
pub use proxy::Proxy;
pub use refusal::Refusal;
pub(crate) use repository::is_commit;
pub use repository::{Kind, Repository};
