use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::address::masked;
use super::environment::{expanded, user_home};
use super::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(60);

/// How to reach the hub, and where to cache downloads.
///
/// [`HubConfig::from_env`] reads the environment in one place, with the variables and precedence of Python's
/// huggingface_hub. "The home folder" below is that of Hugging Face: HF_HOME, else `huggingface` in
/// XDG_CACHE_HOME, else `~/.cache/huggingface`. Paths may begin with `~` and contain variables
/// (`$HOME/models`).
#[derive(Clone)]
pub struct HubConfig {
    /// The hub's address without a trailing slash: HF_ENDPOINT, else `https://huggingface.co`.
    pub endpoint: String,
    /// The download folder, shared with Python's huggingface_hub: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE,
    /// else `hub` in the home folder.
    pub cache: PathBuf,
    /// The access token: HF_TOKEN, else HUGGING_FACE_HUB_TOKEN, else the token that `hf auth login` stored in
    /// the file HF_TOKEN_PATH, by default `token` in the home folder. None with
    /// HF_HUB_DISABLE_IMPLICIT_TOKEN. It is sent to the endpoint only.
    pub token: Option<String>,
    /// Time-out of a silent connection: HF_HUB_DOWNLOAD_TIMEOUT in seconds, else one minute.
    pub timeout: Duration,
    /// Use only the cache: HF_HUB_OFFLINE, else TRANSFORMERS_OFFLINE, is `1`, `on`, `yes` or `true`.
    pub offline: bool,
    /// Show a bar for each download on the terminal; true unless HF_HUB_DISABLE_PROGRESS_BARS is set.
    pub progress: bool,
}

impl HubConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`Error::NoCacheFolder`], [`Error::BadEndpoint`] and [`Error::BadToken`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var(name).ok())
    }

    /// Reads the variables from `lookup`; an empty one counts as not set.
    ///
    /// # Errors
    /// As [`HubConfig::from_env`].
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let folder = |name: &str| variable(name).map(|text| PathBuf::from(expanded(&text, variable)));
        let is_on = |value: Option<String>| {
            value.is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            })
        };

        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user_home(variable).map(|home| Path::new(&home).join(".cache/huggingface")));
        let in_home = |name| home.as_ref().map(|home| home.join(name));
        let cache =
            folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).or_else(|| in_home("hub"));

        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::BadEndpoint { endpoint: masked(&endpoint) });
        }
        let timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok());
        let token = if is_on(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            None
        } else {
            token(variable, folder("HF_TOKEN_PATH").or_else(|| in_home("token")))?
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.ok_or(Error::NoCacheFolder)?,
            token,
            timeout: timeout.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs),
            offline: is_on(variable("HF_HUB_OFFLINE").or_else(|| variable("TRANSFORMERS_OFFLINE"))),
            progress: !is_on(variable("HF_HUB_DISABLE_PROGRESS_BARS")),
        })
    }
}

/// The token from the environment, or from the log-in file.
fn token(variable: impl Fn(&str) -> Option<String>, file: Option<PathBuf>) -> Result<Option<String>> {
    let of_variable = |name: &str| Some((variable(name)?, name.to_owned()));
    let of_file = || {
        let file = file?;
        Some((fs::read_to_string(&file).ok()?, format!("the file {}", file.display())))
    };
    let found = of_variable("HF_TOKEN").or_else(|| of_variable("HUGGING_FACE_HUB_TOKEN")).or_else(of_file);
    let Some((text, origin)) = found else { return Ok(None) };
    let token = text.replace(['\r', '\n'], "").trim().to_owned();
    if !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::BadToken { origin });
    }
    Ok(Some(token).filter(|token| !token.is_empty()))
}

/// Written by hand so that a token or a password never ends up in a log.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &masked(&self.endpoint))
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("timeout", &self.timeout)
            .field("offline", &self.offline)
            .field("progress", &self.progress)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<HubConfig> {
        HubConfig::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_defaults_are_those_of_huggingface_hub() {
        let config = read(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!(config.cache, PathBuf::from("/home/ada/.cache/huggingface/hub"));
        assert_eq!((config.token, config.offline, config.progress), (None, false, true));
    }

    #[test]
    fn the_nearer_variable_wins() {
        let mut variables = vec![("HOME", "/home/ada"), ("XDG_CACHE_HOME", "/xdg")];
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/xdg/huggingface/hub"));
        variables.push(("HF_HOME", "/hf"));
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/hf/hub"));
        variables.push(("HUGGINGFACE_HUB_CACHE", "/disk1/hub"));
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/disk1/hub"));
        variables.push(("HF_HUB_CACHE", "/disk2/hub"));
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/disk2/hub"));
    }

    #[test]
    fn paths_are_expanded() {
        let variables = [("HOME", "/home/ada"), ("HF_HOME", "~/hf")];
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/home/ada/hf/hub"));
    }

    #[test]
    fn the_token_comes_from_the_variables_or_else_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let other = folder.path().join("other-token");
        fs::write(folder.path().join("token"), " hf_file\r\n").unwrap();
        fs::write(&other, "hf_other\n").unwrap();
        let mut variables = vec![("HF_HOME", home)];
        let mut expect = |more: Option<(&'static str, &str)>, token: Option<&str>| {
            let more: Option<(&str, String)> = more.map(|(name, value)| (name, value.to_owned()));
            if let Some((name, value)) = more {
                variables.push((name, value.leak()));
            }
            assert_eq!(read(&variables).unwrap().token.as_deref(), token, "{variables:?}");
        };
        expect(None, Some("hf_file"));
        expect(Some(("HF_TOKEN_PATH", other.to_str().unwrap())), Some("hf_other"));
        expect(Some(("HUGGING_FACE_HUB_TOKEN", "hf_older")), Some("hf_older"));
        expect(Some(("HF_TOKEN", "hf_variable\n")), Some("hf_variable"));
        expect(Some(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")), None);
        assert_eq!(
            read(&[("HF_HOME", home), ("HF_TOKEN", " "), ("HF_TOKEN_PATH", "/nowhere/token")]).unwrap().token,
            None
        );
    }

    #[test]
    fn a_token_that_no_header_can_hold_is_refused_without_being_shown() {
        let error =
            read(&[("HF_HOME", "/hf"), ("HF_TOKEN", "\u{201c}hf_secret\u{201d}")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("hf_secret"), "{error}");
    }

    #[test]
    fn a_token_is_never_printed() {
        let config = read(&[("HF_HOME", "/hf"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{config:?}").contains("hf_secret"));
    }

    #[test]
    fn the_password_of_an_endpoint_is_used_and_never_printed() {
        let with = |endpoint| read(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", endpoint)]);
        let config = with("http://ada:secret@hub.local").unwrap();
        assert_eq!(config.endpoint, "http://ada:secret@hub.local");
        let text = format!("{config:?}");
        assert!(text.contains("http://***@hub.local") && !text.contains("secret"), "{text}");
        let error = with("ada:secret@hub.local").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("`***@hub.local`") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        for (value, offline) in [
            ("1", true),
            ("ON", true),
            ("yes", true),
            ("True", true),
            ("0", false),
            ("", false),
            ("no", false),
        ] {
            assert_eq!(
                read(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", value)]).unwrap().offline,
                offline,
                "{value}"
            );
        }
        let both =
            |hub: &str| read(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", hub), ("TRANSFORMERS_OFFLINE", "1")]);
        assert_eq!(["", "0"].map(|hub| both(hub).unwrap().offline), [true, false]);
    }

    #[test]
    fn the_timeout_is_in_seconds_and_never_none() {
        for (value, seconds) in [("5", 5), ("0", 60), ("soon", 60), ("", 60)] {
            let config = read(&[("HF_HOME", "/hf"), ("HF_HUB_DOWNLOAD_TIMEOUT", value)]).unwrap();
            assert_eq!(config.timeout, Duration::from_secs(seconds), "{value}");
        }
    }

    #[test]
    fn an_endpoint_loses_its_slash_and_must_be_an_address() {
        assert_eq!(
            read(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "http://a:1/")]).unwrap().endpoint,
            "http://a:1"
        );
        let error = read(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "hub.local")]).unwrap_err();
        assert!(error.to_string().contains("`hub.local`"), "{error}");
    }

    #[test]
    fn without_any_home_the_error_names_the_variable_to_set() {
        assert!(read(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }
}
