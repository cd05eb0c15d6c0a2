use std::{env, fmt, fs, path::PathBuf, time::Duration};

use super::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(60);

/// How to reach the hub, and where to keep what comes from it.
///
/// [`HubConfig::from_env`] reads the environment in one place, so that nothing else has to.
#[derive(Clone)]
pub struct HubConfig {
    /// The hub's address without a trailing slash: HF_ENDPOINT, else `https://huggingface.co`.
    pub endpoint: String,
    /// The folder of the downloads, shared with Python's huggingface_hub: HF_HUB_CACHE, else `hub` in the home folder
    /// of Hugging Face. That one is HF_HOME, else `huggingface` in XDG_CACHE_HOME, else `~/.cache/huggingface`.
    pub cache: PathBuf,
    /// The access token: HF_TOKEN, else what `hf auth login` left in the file `token` in the home folder of Hugging Face.
    /// The client sends it to the endpoint, and, in asking for a file's size, to the host that the endpoint redirects to.
    pub token: Option<String>,
    /// How long a server may say nothing: HF_HUB_DOWNLOAD_TIMEOUT in seconds, else a minute.
    pub timeout: Duration,
    /// Use the cache alone: HF_HUB_OFFLINE is `1`, `on`, `yes` or `true`.
    pub offline: bool,
    /// Show a bar for each download on the terminal; true by default.
    pub progress: bool,
}

impl HubConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`Error::NoCacheFolder`] and [`Error::BadEndpoint`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var(name).ok())
    }

    /// Reads the variables from `lookup`; an empty one counts as not set.
    ///
    /// # Errors
    /// As [`HubConfig::from_env`].
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);

        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| {
                folder("HOME").or_else(|| folder("USERPROFILE")).map(|home| home.join(".cache/huggingface"))
            });
        let cache = folder("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));

        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::BadEndpoint { endpoint });
        }
        let token_file = || fs::read_to_string(home?.join("token")).ok();
        let token = variable("HF_TOKEN").or_else(token_file).map(|token| token.trim().to_owned());
        let timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok());
        let offline = variable("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();

        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.ok_or(Error::NoCacheFolder)?,
            token: token.filter(|token| !token.is_empty()),
            timeout: timeout.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs),
            offline: ["1", "on", "yes", "true"].contains(&offline.as_str()),
            progress: true,
        })
    }
}

/// Written by hand so that a token never ends up in a log.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
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
        variables.push(("HF_HUB_CACHE", "/disk2/hub"));
        assert_eq!(read(&variables).unwrap().cache, PathBuf::from("/disk2/hub"));
    }

    #[test]
    fn the_token_comes_from_the_variable_or_else_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(read(&[("HF_HOME", home)]).unwrap().token.as_deref(), Some("hf_file"));
        assert_eq!(
            read(&[("HF_HOME", home), ("HF_TOKEN", "hf_variable")]).unwrap().token.as_deref(),
            Some("hf_variable")
        );
        assert_eq!(read(&[("HF_HOME", home), ("HF_TOKEN", "")]).unwrap().token.as_deref(), Some("hf_file"));
    }

    #[test]
    fn a_token_is_never_printed() {
        let config = read(&[("HF_HOME", "/hf"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{config:?}").contains("hf_secret"));
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
