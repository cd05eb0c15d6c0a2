use super::Error;
use super::advice::through;

/// A short description of a failure to reach the hub at all; `None` for any other error.
pub(super) fn outage(error: &Error) -> Option<String> {
    match error {
        Error::Unreachable { file: None, url, proxy, cause, .. } => {
            Some(format!("cannot reach {url}{} ({cause})", through(proxy.as_deref())))
        }
        Error::Stalled { file: None, url, timeout, .. } => {
            Some(format!("{url} sent nothing for {} s", timeout.as_secs_f64()))
        }
        Error::Cut { file: None, url, cause, .. } => {
            Some(format!("the connection to {url} ended early ({cause})"))
        }
        Error::Refused(refusal) if refusal.is_hub && refusal.file.is_none() && refusal.status >= 500 => {
            Some(format!("{} answered {}", refusal.url, refusal.status))
        }
        _ => None,
    }
}
