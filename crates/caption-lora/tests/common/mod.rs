//! Helpers that several integration tests share.

pub mod http_request;
pub mod hub_client;
pub mod hub_server;
pub mod programs;
pub mod tiny;
