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

mod address;
mod advice;
mod cache;
mod client;
mod config;
mod damage;
mod download;
mod environment;
mod error;
mod failure;
mod http;
mod location;
mod proxy;
mod repository;
mod select;
mod snapshot;

pub use advice::Refusal;
pub use client::{DatasetFiles, Fetched, FetchedDataset, Hub};
pub use config::HubConfig;
pub use damage::damaged;
pub use error::{Error, Result};
pub use location::{Location, RepoId};
pub use proxy::Proxy;
pub(crate) use repository::is_commit;
pub use repository::{Kind, Repository};
