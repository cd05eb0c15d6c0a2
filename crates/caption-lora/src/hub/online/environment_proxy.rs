use std::env;

use super::Proxy;

/// The variables that may name a proxy, in the order in which the HTTP client looks at them.
const VARIABLES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

impl Proxy {
    /// The variable and the address of the proxy that the HTTP client uses.
    pub(super) fn from_env(proxy: &ureq::Proxy) -> Option<Self> {
        let names_one = |name: &&str| env::var(name).is_ok_and(|value| ureq::Proxy::new(&value).is_ok());
        let variable = VARIABLES.into_iter().find(names_one)?;
        Some(Self { address: format!("{}:{}", proxy.host(), proxy.port()), variable })
    }
}
