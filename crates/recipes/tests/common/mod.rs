//! What several integration tests share.

pub mod hub_server;
