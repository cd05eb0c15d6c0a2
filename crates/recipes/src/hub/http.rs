//! Requests to the hub.
//!
//! Redirects are followed here, one by one, because the token must never leave the hub's own host: it is sent where
//! scheme, host and port are those of the endpoint, and nowhere else.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chrono::DateTime;
use flate2::read::MultiGzDecoder;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::http::{HeaderMap, Uri, uri::Scheme};
use ureq::{Agent, Body};

use super::{Error, HubConfig, Result};

const MAX_REDIRECTS: usize = 10;
/// How often a request that may succeed later is repeated, and the first pause before that; each further one is doubled.
const RETRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time that a server may ask us to wait. Beyond it the user decides.
const LONGEST_WAIT: Duration = Duration::from_secs(90);
/// What a `Location` header may hold by mistake and an address may not.
const NOT_IN_ADDRESSES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// The HTTP client.
pub(super) struct Http {
    agent: Agent,
    hub: Origin,
    token: Option<String>,
}

/// Why a file did not come. The caller adds the repository and the file, and says what to do.
#[derive(Debug)]
pub(super) enum Failure {
    /// An HTTP status from 400 on.
    Refused { url: Uri, status: u16, code: String, wait: Option<Duration> },
    /// No connection, or none that can be trusted.
    Unreachable { url: Uri, source: ureq::Error },
    /// A server that was reached and then sent nothing.
    Silent { url: Uri },
    /// The connection ended too early.
    Cut { url: Uri, source: io::Error },
    /// The answer is not one that a hub gives.
    NotAHub { url: Uri, problem: String },
    /// The cache cannot be read or written.
    Disk { path: PathBuf, source: io::Error },
}

/// The headers of an answer, and its body to read.
pub(super) struct Reply {
    pub(super) url: Uri,
    pub(super) status: u16,
    headers: HeaderMap,
    body: Body,
}

/// Scheme, host and port of an address.
#[derive(Debug, PartialEq, Eq)]
struct Origin(String, String, u16);

impl Http {
    pub(super) fn new(config: &HubConfig) -> Result<Self> {
        let endpoint = config.endpoint.parse().ok();
        let hub = endpoint.as_ref().and_then(origin);
        let hub = hub.ok_or_else(|| Error::BadEndpoint { endpoint: config.endpoint.clone() })?;
        let timeout = Some(config.timeout);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            // The length and the ranges of a file are those of its bytes, not of their compressed form.
            .accept_encoding("identity")
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .build();
        Ok(Self { agent: agent.into(), hub, token: config.token.clone() })
    }

    pub(super) fn is_hub(&self, url: &Uri) -> bool {
        origin(url).is_some_and(|origin| origin == self.hub)
    }

    /// One request without a body; a redirect is returned as it is, and so is a refusal.
    fn ask(&self, method: &str, url: &Uri, range: Option<&str>) -> Result<Reply, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        if let Some(token) = self.token.as_deref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let reply = request.call().map_err(|error| failure(url, error))?;
        let (parts, body) = reply.into_parts();
        Ok(Reply { url: url.clone(), status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// Asks for the headers of a file. A redirect is followed unless `is_enough` for the caller.
    pub(super) fn head(&self, url: &Uri, is_enough: impl Fn(&Reply, &Uri) -> bool) -> Result<Reply, Failure> {
        self.follow("HEAD", url, None, is_enough)
    }

    /// Asks for a file, from a byte on if there is a range.
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
                _ => return reply.or_refusal(),
            }
        }
        Err(Failure::NotAHub { url, problem: format!("more than {MAX_REDIRECTS} redirects") })
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
    }

    /// Where a redirect leads; `None` for an answer that is none.
    pub(super) fn target(&self) -> Result<Option<Uri>, Failure> {
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.headers.get("Location").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let target = location.as_ref().and_then(|location| join(&self.url, location));
        let problem = || match &location {
            Some(location) => format!("it redirects to `{location}`, which is no web address"),
            None => "it redirects without saying where to".to_owned(),
        };
        target.map(Some).ok_or_else(|| self.strange(problem()))
    }

    /// The number of bytes in the body; unknown where they are compressed.
    pub(super) fn length(&self) -> Option<u64> {
        if self.is_compressed() { None } else { self.header("Content-Length")?.parse().ok() }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.header("Content-Encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"))
    }

    /// The body, unpacked where a server compressed it although it was asked not to.
    pub(super) fn reader(self) -> Result<Box<dyn Read>, Failure> {
        let coding = self.header("Content-Encoding").unwrap_or("identity").to_ascii_lowercase();
        match coding.as_str() {
            "identity" => Ok(Box::new(self.body.into_reader())),
            "gzip" | "x-gzip" => Ok(Box::new(MultiGzDecoder::new(self.body.into_reader()))),
            other => Err(self.strange(format!("it came compressed by `{other}`, which was not asked for"))),
        }
    }

    /// A failure that says what is wrong with this answer.
    pub(super) fn strange(&self, problem: String) -> Failure {
        Failure::NotAHub { url: self.url.clone(), problem }
    }

    fn or_refusal(self) -> Result<Self, Failure> {
        if self.status < 400 {
            return Ok(self);
        }
        let code = self.header("X-Error-Code").unwrap_or_default().to_owned();
        Err(Failure::Refused { status: self.status, code, wait: self.wait(), url: self.url })
    }

    /// How long the server asks us to wait: `Retry-After` in seconds or as a date, or the hub's own
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

impl Failure {
    /// How long to wait before the request is repeated; `None` where that would not help, or was done `failures` times
    /// and did not.
    pub(super) fn pause(&self, failures: u32) -> Option<Duration> {
        let usual = PAUSE * 2u32.pow(failures);
        let pause = match self {
            Self::Refused { status: 408 | 429 | 500 | 502..=504, wait, .. } => wait.unwrap_or(usual),
            Self::Cut { .. } => usual,
            _ => return None,
        };
        (failures < RETRIES && pause <= LONGEST_WAIT).then_some(pause)
    }
}

/// Repeats a request as long as that may help.
pub(super) fn retried<T>(mut request: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut failures = 0;
    loop {
        let failure = match request() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let Some(pause) = failure.pause(failures) else { return Err(failure) };
        std::thread::sleep(pause);
        failures += 1;
    }
}

/// What a body means that cannot be read to its end.
pub(super) fn cut(url: &Uri, error: io::Error) -> Failure {
    match ureq::Error::from(error) {
        ureq::Error::Timeout(_) => Failure::Silent { url: url.clone() },
        error => Failure::Cut { url: url.clone(), source: error.into_io() },
    }
}

/// What a failed request means.
fn failure(url: &Uri, error: ureq::Error) -> Failure {
    use io::ErrorKind as K;
    let url = url.clone();
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            Failure::Unreachable { url, source: error }
        }
        ureq::Error::Timeout(_) => Failure::Silent { url },
        ureq::Error::Io(source)
            if matches!(
                source.kind(),
                K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe
            ) =>
        {
            Failure::Cut { url, source }
        }
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) | ureq::Error::Http(_) => {
            Failure::NotAHub { url, problem: error.to_string() }
        }
        source => Failure::Unreachable { url, source },
    }
}

fn origin(url: &Uri) -> Option<Origin> {
    let scheme = url.scheme()?;
    let port = match url.port_u16() {
        Some(port) => port,
        None if *scheme == Scheme::HTTPS => 443,
        None if *scheme == Scheme::HTTP => 80,
        None => return None,
    };
    Some(Origin(scheme.as_str().to_ascii_lowercase(), url.host()?.to_ascii_lowercase(), port))
}

/// The address that a `Location` header means, which may be relative to that of the request.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let location = utf8_percent_encode(location, NOT_IN_ADDRESSES).to_string();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if location.split(['/', '?']).next()?.contains(':') {
        location
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = if location.starts_with('/') { location } else { format!("{folder}/{location}") };
        format!("{scheme}://{authority}{}", without_dots(&path))
    };
    text.parse().ok().filter(|url| origin(url).is_some())
}

/// Resolves `.` and `..` in a path, which may have a query.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut parts = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_read_relative_to_the_address_that_was_asked() {
        let base: Uri = "https://hub.example/a/b/resolve/main/x.json?y=1".parse().unwrap();
        for (location, meant) in [
            ("https://cdn.example:8443/blob?sig=1", "https://cdn.example:8443/blob?sig=1"),
            ("HTTPS://cdn.example/blob", "https://cdn.example/blob"),
            ("//cdn.example/blob", "https://cdn.example/blob"),
            ("/api/resolve-cache/x", "https://hub.example/api/resolve-cache/x"),
            ("y.json", "https://hub.example/a/b/resolve/main/y.json"),
            ("../other/./y.json?z=/../1", "https://hub.example/a/b/resolve/other/y.json?z=/../1"),
            ("?z=2", "https://hub.example/a/b/resolve/main/x.json?z=2"),
            ("/with space#part", "https://hub.example/with%20space"),
        ] {
            assert_eq!(join(&base, location).unwrap(), meant, "{location}");
        }
        assert_eq!(join(&base, "ftp://cdn.example/blob"), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text: &str| origin(&text.parse().unwrap()).unwrap();
        assert_eq!(of("https://Hub.example/x"), of("https://hub.example:443/y"));
        for other in [
            "http://hub.example/x",
            "https://hub.example:444/x",
            "https://cdn.hub.example/x",
            "https://hub.example.evil/x",
        ] {
            assert_ne!(of("https://hub.example/x"), of(other), "{other}");
        }
    }

    #[test]
    fn a_passing_refusal_is_repeated_as_the_server_asks_and_not_for_ever() {
        let url: Uri = "https://hub.example/".parse().unwrap();
        let refused = |status, wait: Option<u64>| Failure::Refused {
            url: url.clone(),
            status,
            code: String::new(),
            wait: wait.map(Duration::from_secs),
        };
        assert_eq!(refused(429, Some(7)).pause(0), Some(Duration::from_secs(7)));
        assert_eq!(refused(503, None).pause(1), Some(Duration::from_secs(1)));
        assert_eq!(refused(503, None).pause(RETRIES), None);
        assert_eq!(refused(429, Some(3600)).pause(0), None);
        assert_eq!(refused(404, Some(1)).pause(0), None);
    }
}
