use std::{env, fmt};

/// The variables that may name a proxy, in the order in which the HTTP client looks at them.
const VARIABLES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// A proxy that is set in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its host and port.
    pub address: String,
    /// The variable that names it.
    pub variable: &'static str,
}

impl Proxy {
    /// The variable and the address of the proxy that the HTTP client uses.
    pub(super) fn from_env(proxy: &ureq::Proxy) -> Option<Self> {
        let names_one = |name: &&str| env::var(name).is_ok_and(|value| ureq::Proxy::new(&value).is_ok());
        let variable = VARIABLES.into_iter().find(names_one)?;
        Some(Self { address: format!("{}:{}", proxy.host(), proxy.port()), variable })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {}, which {} names", self.address, self.variable)
    }
}
