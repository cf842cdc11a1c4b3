//! Logins at registries: given, or from where Docker keeps them.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{Error, reference::normal_host};

/// The largest file of logins.
const MAX_FILE: u64 = 1 << 20;

/// A user and a password or token, for one registry. Never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Logins by registry. Each is sent to its own registry alone, and to where that one says that tokens are to be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Logins(BTreeMap<String, Kept>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kept {
    Login(Login),
    /// Why there is none to be had, for whoever asks for it: logins at other registries are good all the same.
    Elsewhere(String),
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

impl Logins {
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one, for a registry as it stands in names of images.
    pub fn add(&mut self, registry: &str, login: Login) -> Result<(), Error> {
        let host = normal_host(registry).map_err(|why| Error::Login { registry: registry.to_owned(), why })?;
        self.0.insert(host, Kept::Login(login));
        Ok(())
    }

    /// Those in a file like `~/.docker/config.json`; none if it is not there.
    pub fn from_docker_config(path: &Path) -> Result<Self, Error> {
        let store = |cause| Error::Store { doing: "read", path: path.display().to_string(), cause };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > MAX_FILE => Err(store(std::io::Error::other("it is larger than any file of logins"))),
            Ok(_) => Self::parse(&std::fs::read(path).map_err(store)?).map_err(|why| store(std::io::Error::other(why))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::none()),
            Err(error) => Err(store(error)),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // What is in it besides may be secret: the message says where, and not what.
        let file: File = serde_json::from_slice(bytes)
            .map_err(|error| format!("line {}, column {} is no file of logins as Docker has it", error.line(), error.column()))?;
        let mut logins = BTreeMap::new();
        for (key, entry) in file.auths {
            let Some(host) = host(&key) else { continue };
            let kept = match entry.login() {
                Ok(Some(login)) => Kept::Login(login),
                Ok(None) => match &file.store {
                    Some(store) => Kept::Elsewhere(helper(store)),
                    None => continue,
                },
                Err(why) => Kept::Elsewhere(why),
            };
            logins.insert(host, kept);
        }
        for (key, name) in file.helpers {
            if let Some(host) = host(&key) {
                logins.insert(host, Kept::Elsewhere(helper(&name)));
            }
        }
        Ok(Self(logins))
    }

    /// The login at a registry in its normal form.
    pub(crate) fn at(&self, registry: &str) -> Result<Option<&Login>, Error> {
        match self.0.get(registry) {
            Some(Kept::Login(login)) => Ok(Some(login)),
            Some(Kept::Elsewhere(why)) => Err(Error::Login { registry: registry.to_owned(), why: why.clone() }),
            None => Ok(None),
        }
    }
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, String> {
        if !self.identitytoken.is_empty() {
            return Err("it is an identity token, which is not taken; log in with a user and a password or access token".to_owned());
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let broken = || "its `auth` is not the base64 of user, colon and password".to_owned();
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| broken())?;
        let text = String::from_utf8(bytes).map_err(|_| broken())?;
        let (user, password) = text.split_once(':').ok_or_else(broken)?;
        // Some writers pad with NULs.
        Ok(Some(Login { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
    }
}

fn helper(name: &str) -> String {
    format!("a program is to be asked for it (`docker-credential-{name}`), which is not done; give the login itself")
}

/// The registry that a key of the file is about: a host, or an address as for Docker Hub (`https://index.docker.io/v1/`).
fn host(key: &str) -> Option<String> {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    normal_host(rest.split('/').next().unwrap_or_default()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_as_docker_writes_them() {
        let logins = Logins::parse(
            br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="},"localhost:5000":{"auth":"dTpw"},
                "bad.example":{"auth":"!"},"token.example":{"auth":"dTpw","identitytoken":"x"},"empty.example":{}},
                "credHelpers":{"helped.example":"pass"},"HttpHeaders":{}}"#,
        )
        .unwrap();
        let at = |registry: &str| logins.at(registry);
        assert_eq!(at("docker.io").unwrap(), Some(&Login { user: "user".into(), password: "pa:ss".into() }));
        assert_eq!(at("localhost:5000").unwrap().map(|login| login.user.as_str()), Some("u"));
        assert!(at("localhost").unwrap().is_none() && at("empty.example").unwrap().is_none());
        for (registry, why) in
            [("bad.example", "base64"), ("token.example", "identity token"), ("helped.example", "docker-credential-pass")]
        {
            assert!(at(registry).unwrap_err().to_string().contains(why), "{registry}");
        }
        let stored = Logins::parse(br#"{"auths":{"a.example":{}},"credsStore":"desktop"}"#).unwrap();
        assert!(stored.at("a.example").unwrap_err().to_string().contains("docker-credential-desktop"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut logins = Logins::none();
        logins.add("a.example", Login { user: "user".into(), password: "secret".into() }).unwrap();
        assert!(!format!("{logins:?}").contains("secret"));
        let error = Logins::parse(br#"{"auths":{"a":"secret"}}"#).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(logins.add("a/b", Login { user: String::new(), password: String::new() }).is_err());
    }
}
