//! Failures of requests, and which of them are retried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::Uri;

use super::Proxy;
use super::address::shown;
use crate::terminal::say_error;

/// The number of retries, and the first pause between them, which doubles each time.
const RETRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time that is waited at a server's request. Beyond it, the request fails and the user decides.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// Why a download failed. The caller adds the repository and the file, and advice.
#[derive(Debug)]
pub(super) enum Failure {
    /// An HTTP status of 400 or above.
    Refused { url: Box<str>, is_hub: bool, status: u16, code: String, wait: Option<Duration> },
    /// No connection, or none that is secure.
    Unreachable { url: Box<str>, proxy: Option<Box<Proxy>>, source: Box<ureq::Error> },
    /// A server accepted the connection and then sent nothing.
    Silent { url: Box<str> },
    /// The connection closed too early.
    Cut { url: Box<str>, source: io::Error },
    /// The bytes are not those of the file that the hub describes.
    Altered { url: Box<str>, found: String, stated: String },
    /// The response is not one of a hub.
    NotAHub { url: Box<str>, problem: String },
    /// The cache cannot be read or written.
    Disk { path: PathBuf, source: io::Error },
}

impl Failure {
    /// How long to wait before the next attempt after `failures` earlier retries; `None` if another attempt
    /// would not help, or if all retries are used up.
    pub(super) fn pause(&self, failures: u32) -> Option<Duration> {
        let usual = PAUSE * 2u32.pow(failures);
        let pause = match self {
            Self::Refused { status: 408 | 429 | 500 | 502..=504, wait, .. } => wait.unwrap_or(usual),
            Self::Cut { .. } | Self::Altered { .. } => usual,
            _ => return None,
        };
        (failures < RETRIES && pause <= LONGEST_WAIT).then_some(pause)
    }
}

/// Repeats a request as long as another attempt may succeed.
pub(super) fn retried<T>(mut request: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut failures = 0;
    loop {
        let failure = match request() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let Some(pause) = failure.pause(failures) else { return Err(failure) };
        wait(pause);
        failures += 1;
    }
}

/// Waits, and prints a message if it takes long enough to look like a hang.
pub(super) fn wait(pause: Duration) {
    const LONG: Duration = Duration::from_secs(1);
    if pause >= LONG {
        say_error(format_args!("the hub is busy: waiting {:.0} s", pause.as_secs_f64().ceil()));
    }
    std::thread::sleep(pause);
}

/// The failure of a response whose body cannot be read to its end.
pub(super) fn cut(url: &Uri, error: io::Error) -> Failure {
    match ureq::Error::from(error) {
        ureq::Error::Timeout(_) => Failure::Silent { url: shown(url) },
        error => Failure::Cut { url: shown(url), source: error.into_io() },
    }
}

/// The failure of a request, which went through `proxy` if there is one.
pub(super) fn failure(url: &Uri, proxy: Option<Box<Proxy>>, error: ureq::Error) -> Failure {
    use io::ErrorKind as K;
    let url = shown(url);
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            Failure::Unreachable { url, proxy, source: Box::new(error) }
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
        source => Failure::Unreachable { url, proxy, source: Box::new(source) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_refusals_are_retried_as_the_server_asks() {
        let refused = |status, wait: Option<u64>| Failure::Refused {
            url: "https://hub.example/".into(),
            is_hub: true,
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
