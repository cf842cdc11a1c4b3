//! Under which addresses a server is known to its clients.

use std::{net::IpAddr, str::FromStr};

use http::Uri;

/// What an operator says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Public {
    /// Where the API is; where it listens, when absent.
    pub url: Option<PublicUrl>,
    /// Below which ports of sandboxes have names of their own; none have, when absent.
    pub domain: Option<PublicDomain>,
}

/// An address such as `https://caisson.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    pub(super) https: bool,
    /// Host, and port where it is not the usual one.
    pub(super) authority: String,
    pub(super) port: Option<u16>,
    /// In front of every path; empty, or begins with a slash and does not end with one.
    pub(super) path: String,
}

/// A domain such as `sandboxes.example.com`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicDomain(pub(super) String);

/// Letters, digits and hyphens in front of a domain: a port, a hyphen, an id.
const LABEL: usize = 5 + 1 + 28;
/// The longest name that DNS has (RFC 1035 §2.3.4).
const NAME: usize = 253;

impl FromStr for PublicUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WHAT: &str = "expected an address such as https://caisson.example.com, without a user, a query or a fragment";
        let uri: Uri = text.parse().map_err(|_| WHAT)?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(WHAT),
        };
        let authority = uri.authority().ok_or(WHAT)?;
        if authority.as_str().contains('@') || authority.host().is_empty() || uri.query().is_some() || text.contains('#') {
            return Err(WHAT);
        }
        // A port that cannot be one is none for the parser.
        if authority.port_u16().is_none() && !authority.as_str().eq_ignore_ascii_case(authority.host()) {
            return Err(WHAT);
        }
        let path = uri.path().trim_end_matches('/');
        if path.starts_with("//") || path.contains([';', ',', '"', '\\']) {
            return Err(WHAT);
        }
        Ok(Self { https, authority: authority.as_str().to_ascii_lowercase(), port: authority.port_u16(), path: path.to_owned() })
    }
}

impl FromStr for PublicDomain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WHAT: &str = "expected a domain such as sandboxes.example.com, without a scheme, a port or a wildcard";
        let name = text.to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // An address has no names below it.
        let is_name = name.len() + 1 + LABEL <= NAME && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err();
        if is_name { Ok(Self(name)) } else { Err(WHAT) }
    }
}

impl PublicDomain {
    /// What stands before the domain in `host[:port]`; `None` for hosts elsewhere. The domain itself is elsewhere.
    pub(crate) fn label<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        // The dot of the root changes nothing about whose name it is.
        let name = name.strip_suffix('.').unwrap_or(name);
        let at = name.len().checked_sub(self.0.len()).filter(|at| name.is_char_boundary(*at))?;
        let (label, domain) = name.split_at(at);
        domain.eq_ignore_ascii_case(&self.0).then(|| label.strip_suffix('.')).flatten()
    }

    /// Whether names below it are this machine's, whoever asks (RFC 6761 §6.3).
    pub(super) fn is_local(&self) -> bool {
        self.0 == "localhost" || self.0.ends_with(".localhost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url: PublicUrl = "https://Caisson.example.com:8443/api/".parse().unwrap();
        assert_eq!(
            (url.https, url.authority.as_str(), url.port, url.path.as_str()),
            (true, "caisson.example.com:8443", Some(8443), "/api")
        );
        assert_eq!("http://[::1]:80".parse::<PublicUrl>().unwrap().authority, "[::1]:80");
        for bad in [
            "",
            "caisson.example.com",
            "ftp://x",
            "https://",
            "https://u@x",
            "https://x?a",
            "https://x#a",
            "https://x:99999",
            "https://x:",
            "//x",
            "https://x//y",
            "https://x/a;b",
            "https://x/\"",
        ] {
            assert!(bad.parse::<PublicUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn domains_are_names() {
        for good in ["localhost", "Sandboxes.Example.com", "a-b.c1"] {
            assert!(good.parse::<PublicDomain>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "*.a",
            "a:80",
            "http://a",
            "127.0.0.1",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "a/b",
            "ä",
            &"a".repeat(64),
            &"a.".repeat(126),
        ] {
            assert!(bad.parse::<PublicDomain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_names_below_the_domain_are_below_it() {
        let domain: PublicDomain = "box.example.com".parse().unwrap();
        for (host, label) in [
            ("80-a.box.example.com", Some("80-a")),
            ("80-A.BOX.example.com:8080", Some("80-A")),
            ("x.y.box.example.com", Some("x.y")),
            ("80-a.box.example.com.", Some("80-a")),
            (".box.example.com", Some("")),
            ("box.example.com", None),
            ("80-abox.example.com", None),
            ("80-a.box.example.com.evil.example", None),
            ("80-a.box.example.com:x", None),
            ("localhost", None),
            ("", None),
            ("äbox.example.com", None),
        ] {
            assert_eq!(domain.label(host), label, "{host}");
        }
    }
}
