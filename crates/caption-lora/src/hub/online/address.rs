//! Web addresses: their origin, and the targets of redirects.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::http::{Uri, uri::Scheme};

/// Characters that some `Location` headers contain, although they are not allowed in addresses.
const NOT_IN_ADDRESSES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// Scheme, host and port of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a web address; `None` for any other address.
    pub(super) fn of(url: &Uri) -> Option<Self> {
        let scheme = url.scheme()?;
        let default = match scheme {
            _ if *scheme == Scheme::HTTPS => 443,
            _ if *scheme == Scheme::HTTP => 80,
            _ => return None,
        };
        let host = url.host()?.to_ascii_lowercase();
        Some(Self { is_secure: default == 443, host, port: url.port_u16().unwrap_or(default) })
    }
}

/// Resolves a `Location` header, which may be relative to the address of the request.
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
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
    text.parse().ok().filter(|url| Origin::of(url).is_some())
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

/// An address without its query, which may hold a signature, and with its user and password masked.
pub(super) fn shown(url: &Uri) -> Box<str> {
    let text = url.to_string();
    let text = text.split('?').next().unwrap_or_default();
    match url.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
        Some((secret, _)) => text.replacen(&format!("{secret}@"), "***@", 1).into(),
        None => text.into(),
    }
}

/// The text of an endpoint, which need not be a valid address, with its user and password masked.
pub(super) fn masked(endpoint: &str) -> String {
    let Some((before, host)) = endpoint.rsplit_once('@') else { return endpoint.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://***@{host}"),
        None => format!("***@{host}"),
    }
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
    fn queries_and_passwords_are_not_shown() {
        for (address, text) in [
            ("https://hub.example/a@b/x.json?sig=1", "https://hub.example/a@b/x.json"),
            ("http://ada:secret@hub.example:8080/x?y=1", "http://***@hub.example:8080/x"),
            ("http://secret@hub.example/x", "http://***@hub.example/x"),
        ] {
            assert_eq!(&*shown(&address.parse().unwrap()), text);
        }
        for (endpoint, text) in [
            ("https://hub.example/hf", "https://hub.example/hf"),
            ("http://ada:secret@hub.example:8080", "http://***@hub.example:8080"),
            ("http://ada:sec/ret@x@hub.example", "http://***@hub.example"),
            ("ada:secret@hub.example", "***@hub.example"),
        ] {
            assert_eq!(masked(endpoint), text);
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
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
}
