//! What an image is called.

use std::{fmt, str::FromStr};

use caisson_core::Digest;

use crate::{Error, error::shown};

const HUB: &str = "docker.io";
/// Of registry and repository together, as registries have it.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A name in its one whole form: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Which of a repository's images. Where a digest is given, a tag beside it says nothing more and is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// `docker.io`, or a host with or without a port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Its path at the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Registry and repository.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Reference { text: shown(text, 300), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse::<Digest>().map_err(|error| refuse(format!("behind the `@`, {error}")))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon in the last part begins the tag; one before it, the port.
        let last = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(at) => (&rest[..last + at], Some(&rest[last + at + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_a_tag(tag)
        {
            return Err(refuse(format!(
                "a tag has 1 to {MAX_TAG} of the letters, digits, `_`, `.` and `-`, and begins with none of the last two"
            )));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_a_host(first) => (normal_host(first).map_err(&refuse)?, path),
            _ => (HUB.to_owned(), name),
        };
        if path.is_empty() {
            return Err(refuse("it names no repository; write it as `alpine:3.20` or `registry.example.com/team/app:1`".to_owned()));
        }
        if let Some(bad) = path.split('/').find(|part| !is_a_part(part)) {
            return Err(refuse(format!(
                "`{}` is no part of a repository's name: lower-case letters and digits, with single `.`, one or two `_`, or `-` between them",
                shown(bad, 100)
            )));
        }
        if path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse("it looks like an id; write `sha256:` and the id, or a name".to_owned()));
        }
        let repository = if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(refuse(format!("registry and repository have more than {MAX_NAME} bytes")));
        }
        let version = digest.map_or_else(|| Version::Tag(tag.unwrap_or("latest").to_owned()), Version::Digest);
        Ok(Self { registry, repository, version })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Whether the part before the first slash is a host and not the begin of a repository on Docker Hub.
fn is_a_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '['])
}

/// A registry in the form in which it is compared: lower case, and Docker Hub by one name. Whatever passes can stand in an address between
/// `//` and `/` and means nothing but a host and a port there.
pub(crate) fn normal_host(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("`{}` is no registry: {why}", shown(text, 100)));
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (&text[..address.len() + 2], port.strip_prefix(':')),
            _ => return refuse("between `[` and `]` stands no IPv6 address"),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let whole = host.len() + port.map_or(0, |port| port.len() + 1);
    if whole != text.len() {
        return refuse("behind the address stands something that is no port");
    }
    let label = |label: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        label.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    if !host.starts_with('[') && !host.split('.').all(label) {
        return refuse("a host has letters, digits, `-` and `.`");
    }
    if let Some(port) = port
        && (port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return refuse("a port is a number from 1 to 65535");
    }
    let host = text.to_ascii_lowercase();
    Ok(match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => HUB.to_owned(),
        _ => host,
    })
}

fn is_a_tag(tag: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    tag.len() <= MAX_TAG && tag.bytes().all(inner) && tag.bytes().next().is_some_and(|byte| !matches!(byte, b'.' | b'-'))
}

/// Letters and digits, between which stand `.`, `_`, `__` or any number of `-`.
fn is_a_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| plain(*byte));
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.split(|byte| plain(*byte)).all(|between| match between {
            b"" | b"." | b"_" | b"__" => true,
            other => other.iter().all(|byte| *byte == b'-'),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_have_one_whole_form() {
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
            ("team/app", "docker.io/team/app:latest"),
            ("ghcr.io/a/b/c:V1_x-y.z", "ghcr.io/a/b/c:V1_x-y.z"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[::1]/x", "[::1]/x:latest"),
            ("Registry.Example.com/x", "registry.example.com/x:latest"),
            ("a--b/c__d/e_f.g", "docker.io/a--b/c__d/e_f.g:latest"),
        ] {
            let parsed: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.to_string(), whole, "{text}");
            assert_eq!(whole.parse::<Reference>().unwrap(), parsed, "{text}");
        }
        for (text, whole) in [
            (format!("alpine@{DIGEST}"), format!("docker.io/library/alpine@{DIGEST}")),
            (format!("localhost:5000/a/b:tag@{DIGEST}"), format!("localhost:5000/a/b@{DIGEST}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn r5_3_what_is_no_name_is_refused() {
        let long = format!("{}/x", "a".repeat(300));
        let id = "0123456789abcdef".repeat(4);
        for text in [
            "",
            ":",
            "@",
            "/",
            "alpine:",
            "alpine@",
            "alpine:a b",
            "alpine:-x",
            "alpine:.x",
            "Alpine",
            "alpine//x",
            "/alpine",
            "alpine/",
            "a..b",
            "a___b",
            "_a",
            "a-",
            "-a",
            "a/../b",
            "../a",
            "a/./b",
            "a\0b",
            "a\x1b[2Jb",
            "ä",
            "localhost:0/x",
            "localhost:65536/x",
            "localhost:x/y",
            "localhost:/y",
            "localhost:+1/y",
            "[::1]x/y",
            "[::g]/y",
            "[::1/y",
            "user@localhost/x",
            "user:pass@host.example/x",
            "http://localhost/x",
            "host.example/",
            "-a.b/x",
            "a..b/x",
            "x.y:1:2/z",
            "alpine@sha256:short",
            "alpine@sha512:0123",
            "alpine?x",
            "alpine#x",
            "a%2fb",
            "localhost\\x/y",
            "a.b:80/..",
            &long,
            &id,
        ] {
            let error = text.parse::<Reference>().map(|parsed| parsed.to_string()).expect_err(text);
            assert!(matches!(error, Error::Reference { .. }) && error.to_string().len() < 700, "{text}");
            assert!(!error.to_string().contains(char::is_control), "{text}");
        }
        assert!(format!("alpine:{}", "x".repeat(128)).parse::<Reference>().is_ok());
        assert!(format!("alpine:{}", "x".repeat(129)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_passes_means_the_same_when_it_is_read_again(text in "[a-zA-Z0-9._:/@\\[\\]-]{1,40}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert_eq!(parsed.to_string().parse::<Reference>().unwrap(), parsed);
            }
        }
    }
}
