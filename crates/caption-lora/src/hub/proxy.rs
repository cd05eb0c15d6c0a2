use std::fmt;

/// A proxy that is set in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its host and port.
    pub address: String,
    /// The variable that names it.
    pub variable: &'static str,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {}, which {} names", self.address, self.variable)
    }
}
