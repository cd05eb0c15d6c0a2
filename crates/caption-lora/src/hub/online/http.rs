//! Requests to the hub.
//!
//! Redirects are followed here, one by one, because the token must never leave the hub's own host: it is sent
//! only where scheme, host and port are those of the endpoint.

use std::io::Read;
use std::time::{Duration, SystemTime};

use chrono::DateTime;
use flate2::read::MultiGzDecoder;
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body};

use super::address::{Origin, join, masked, shown};
use super::failure::{Failure, failure};
use super::{Error, HubConfig, Proxy, Result};

const MAX_REDIRECTS: usize = 10;

/// The HTTP client.
pub(super) struct Http {
    agent: Agent,
    hub: Origin,
    token: Option<String>,
}

/// The headers of a response, and its body as a reader.
pub(super) struct Reply {
    pub(super) url: Uri,
    pub(super) status: u16,
    headers: HeaderMap,
    body: Body,
}

impl Http {
    pub(super) fn new(config: &HubConfig) -> Result<Self> {
        let endpoint = config.endpoint.parse().ok();
        let hub = endpoint.as_ref().and_then(Origin::of);
        let hub = hub.ok_or_else(|| Error::BadEndpoint { endpoint: masked(&config.endpoint) })?;
        let timeout = Some(config.timeout);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            // No compression, so that lengths and ranges count the bytes of the file.
            .accept_encoding("identity")
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .build();
        Ok(Self { agent: agent.into(), hub, token: config.token.clone() })
    }

    pub(super) fn is_hub(&self, url: &Uri) -> bool {
        Origin::of(url).is_some_and(|origin| origin == self.hub)
    }

    /// The proxy that requests to an address go through.
    fn proxy(&self, url: &Uri) -> Option<Box<Proxy>> {
        let proxy = self.agent.config().proxy()?;
        if proxy.is_no_proxy(url) { None } else { Proxy::from_env(proxy).map(Box::new) }
    }

    /// Sends one request without a body. Redirects and refusals are returned as they are.
    fn ask(&self, method: &str, url: &Uri, range: Option<&str>) -> Result<Reply, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        if let Some(token) = self.token.as_deref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let reply = request.call().map_err(|error| failure(url, self.proxy(url), error))?;
        let (parts, body) = reply.into_parts();
        Ok(Reply { url: url.clone(), status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// Requests the headers of a file. Redirects are followed until `is_enough` accepts a response.
    pub(super) fn head(&self, url: &Uri, is_enough: impl Fn(&Reply, &Uri) -> bool) -> Result<Reply, Failure> {
        self.follow("HEAD", url, None, is_enough)
    }

    /// Requests a file, from the first byte of `range` on if one is given.
    pub(super) fn get(&self, url: &Uri, range: Option<&str>) -> Result<Reply, Failure> {
        self.follow("GET", url, range, |_, _| false)
    }

    fn follow(
        &self,
        method: &str,
        url: &Uri,
        range: Option<&str>,
        is_enough: impl Fn(&Reply, &Uri) -> bool,
    ) -> Result<Reply, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.ask(method, &url, range)?;
            match reply.target()? {
                Some(target) if !is_enough(&reply, &target) => url = target,
                _ => return reply.or_refusal(self.is_hub(&url)),
            }
        }
        Err(Failure::NotAHub { url: shown(&url), problem: format!("more than {MAX_REDIRECTS} redirects") })
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
    }

    /// The target of a redirect; `None` for other responses.
    pub(super) fn target(&self) -> Result<Option<Uri>, Failure> {
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.headers.get("Location").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let target = location.as_ref().and_then(|location| join(&self.url, location));
        let problem = || match &location {
            Some(location) => format!("it redirects to `{location}`, which is not a web address"),
            None => "it redirects without saying where to".to_owned(),
        };
        target.map(Some).ok_or_else(|| self.strange(problem()))
    }

    /// The number of bytes in the body; unknown if they are compressed.
    pub(super) fn length(&self) -> Option<u64> {
        if self.is_compressed() { None } else { self.header("Content-Length")?.parse().ok() }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.header("Content-Encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"))
    }

    /// The body, decompressed if the server compressed it in spite of the request's headers.
    pub(super) fn reader(self) -> Result<Box<dyn Read>, Failure> {
        let coding = self.header("Content-Encoding").unwrap_or("identity").to_ascii_lowercase();
        match coding.as_str() {
            "identity" => Ok(Box::new(self.body.into_reader())),
            "gzip" | "x-gzip" => Ok(Box::new(MultiGzDecoder::new(self.body.into_reader()))),
            other => Err(self.strange(format!("it came compressed by `{other}`, which was not asked for"))),
        }
    }

    /// A failure that describes the fault of this response.
    pub(super) fn strange(&self, problem: String) -> Failure {
        Failure::NotAHub { url: shown(&self.url), problem }
    }

    fn or_refusal(self, is_hub: bool) -> Result<Self, Failure> {
        if self.status < 400 {
            return Ok(self);
        }
        let code = self.header("X-Error-Code").unwrap_or_default().to_owned();
        let (url, wait) = (shown(&self.url), self.wait());
        Err(Failure::Refused { url, is_hub, status: self.status, code, wait })
    }

    /// The waiting time in the server's response: `Retry-After` in seconds or as a date, or the hub's own
    /// `RateLimit: "api";r=0;t=55`.
    fn wait(&self) -> Option<Duration> {
        let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
        let until = |text: &str| {
            let then = SystemTime::from(DateTime::parse_from_rfc2822(text).ok()?);
            Some(then.duration_since(SystemTime::now()).unwrap_or_default())
        };
        let retry_after = self.header("Retry-After").and_then(|text| seconds(text).or_else(|| until(text)));
        let rate_limit =
            || self.header("RateLimit")?.split(';').find_map(|part| seconds(part.trim().strip_prefix("t=")?));
        retry_after.or_else(rate_limit)
    }
}
