//! Where Redis is, as an operator writes it.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use redis::RedisConnectionInfo;
use rustls::pki_types::ServerName;
use url::{Host, Url};

const PORT: u16 = 6379;

/// Parsed from `redis://USER:PASSWORD@HOST:PORT/DATABASE`, or `rediss://` for TLS. Shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(super) host: String,
    pub(super) port: u16,
    /// Whose certificate is wanted, where TLS is.
    pub(super) tls: Option<ServerName<'static>>,
    user: Option<String>,
    password: Option<String>,
    database: u32,
}

/// Why a text is no address of a Redis. The text itself is not in it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(&'static str);

impl FromStr for RedisUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if !text.starts_with("redis://") && !text.starts_with("rediss://") {
            return Err(BadUrl("expected redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS"));
        }
        let no_url = BadUrl("is no URL; write it as redis://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX");
        // Its own words may quote the text.
        let url: Url = text.parse().map_err(|_| no_url.clone())?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BadUrl(
                "has an option (`?` or `#`), which is not supported; leave it out, and write special characters of a password as %XX",
            ));
        }
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        let name = ServerName::try_from(host.clone()).map_err(|_| BadUrl("names no host; write it as redis://HOST:PORT/DATABASE"))?;
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| BadUrl("has no number of a database behind its host; write it as redis://HOST:PORT/0"))?,
        };
        // Shown, it could be a password whose colon was forgotten.
        if !url.username().is_empty() && url.password().is_none() {
            return Err(BadUrl(
                "has a user without a password; write it as redis://USER:PASSWORD@HOST:PORT/DATABASE, or redis://:PASSWORD@HOST:PORT/DATABASE \
                 where there is a password alone",
            ));
        }
        let text = |part: &str| percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| no_url.clone());
        Ok(Self {
            host,
            port: url.port().unwrap_or(PORT),
            tls: (url.scheme() == "rediss").then_some(name),
            user: Some(text(url.username())?).filter(|user| !user.is_empty()),
            password: url.password().map(text).transpose()?,
            database,
        })
    }
}

impl RedisUrl {
    /// Who logs in where.
    pub(super) fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(self.database.into()).set_lib_name("caisson", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        login
    }
}

impl fmt::Display for RedisUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() { "rediss://" } else { "redis://" })?;
        if let Some(user) = &self.user {
            write!(f, "{}@", user.escape_debug())?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}/{}", self.host, self.port, self.database),
            false => write!(f, "{}:{}/{}", self.host, self.port, self.database),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_and_passwords_hidden() {
        for (text, shown) in [
            ("redis://cache.lan", "redis://cache.lan:6379/0"),
            ("redis://10.0.0.1:7000/", "redis://10.0.0.1:7000/0"),
            ("rediss://me:se%2Fcret@cache.lan/3", "rediss://me@cache.lan:6379/3"),
            ("redis://:secret@[::1]:1/2", "redis://[::1]:1/2"),
        ] {
            let url: RedisUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
            assert_eq!(url.tls.is_some(), text.starts_with("rediss"));
        }
        let url: RedisUrl = "redis://m%40e:p%3Aw%2Fd@h/4".parse().unwrap();
        let login = url.login();
        assert_eq!((login.username(), login.password(), login.db()), (Some("m@e"), Some("p:w/d"), 4));
        let anonymous: RedisUrl = "redis://:pw@h".parse().unwrap();
        assert_eq!((anonymous.login().username(), anonymous.login().password()), (None, Some("pw")));
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        for (text, word) in [
            ("", "expected redis://"),
            ("secret", "expected redis://"),
            ("http://u:secret@h", "expected redis://"),
            ("unix:///secret.sock", "expected redis://"),
            ("redis://", "no host"),
            ("redis://:secret@", "is no URL"),
            ("redis://u:secret@h:port", "is no URL"),
            ("redis://u:sec/secret@h", "is no URL"),
            ("redis://u:%FFsecret@h", "is no URL"),
            ("redis://u:secret@h h", "is no URL"),
            ("redis://u:secret@h%20h", "no host"),
            ("redis://secret@h", "redis://:PASSWORD@HOST"),
            ("rediss://secret:@h/1", "redis://:PASSWORD@HOST"),
            ("redis://u:secret@h/secret", "number of a database"),
            ("redis://u:secret@h/-1", "number of a database"),
            ("redis://u:secret@h?db=1", "option"),
            ("redis://u:s#secret@h", "is no URL"),
            ("rediss://u:secret@h#insecure", "option"),
        ] {
            let refused = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(refused.contains(word) && !refused.contains("secret"), "{text}: {refused}");
        }
    }
}
