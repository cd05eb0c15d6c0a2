//! Access to the hub and its cache.

mod address;
mod cache;
mod client;
mod config;
mod damage;
mod download;
mod environment;
mod environment_proxy;
mod failure;
mod http;
mod outage;
mod paths;
mod piece_cache;
mod pieces;
mod select;
mod snapshot;

pub use client::Hub;
pub use config::HubConfig;
pub use damage::damaged;

use super::{
    DatasetFiles, Error, Fetched, FetchedDataset, Kind, PiecewiseDataset, Proxy, Refusal, RepoId, Repository,
    Result, advice, is_commit,
};
