//! A hub client for tests, and a model for it to download.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each integration test uses its part, and may panic"
)]

use std::{path::Path, time::Duration};

use caption_lora::hub::{Hub, HubConfig, Location, RepoId};

use super::hub_server::HubServer;

pub const MODEL: &[(&str, &[u8])] = &[
    (".gitattributes", b"*.safetensors filter=lfs"),
    ("README.md", b"# a model"),
    ("config.json", b"{\"model_type\": \"git\"}"),
    ("generation_config.json", b"{}"),
    ("model.safetensors", &[7; 5000]),
    ("preprocessor_config.json", b"{\"size\": 224}"),
    ("pytorch_model.bin", &[8; 5000]),
    ("tokenizer.json", b"{\"model\": {}}"),
    ("tokenizer_config.json", b"{\"do_lower_case\": true}"),
    ("vocab.txt", b"[PAD]\n[UNK]"),
];

pub fn id(name: &str) -> RepoId {
    match name.parse().unwrap() {
        Location::Hub(id) => id,
        other => panic!("{other} is no hub id"),
    }
}

pub fn config(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.into(),
        cache: cache.into(),
        token: None,
        timeout: Duration::from_secs(60),
        offline: false,
        progress: false,
    }
}

pub fn hub(server: &HubServer, cache: &Path) -> Hub {
    Hub::new(config(&server.endpoint(), cache)).unwrap()
}

pub fn offline(cache: &Path) -> Hub {
    Hub::new(HubConfig { offline: true, ..config("http://127.0.0.1:9", cache) }).unwrap()
}
