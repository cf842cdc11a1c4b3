//! Where a daemon is.

use std::path::PathBuf;

/// Where it is where nobody says.
const USUAL: &str = "/var/run/docker.sock";

/// How a daemon is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// By a socket of this host.
    Unix(PathBuf),
    /// By TCP, as whoever asks: `host:port`.
    Plain(String),
    /// By TCP and TLS, both sides with certificates; in the directory are `ca.pem`, `cert.pem` and `key.pem`.
    Tls { address: String, certificates: PathBuf },
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(USUAL.into())
    }
}

impl Endpoint {
    /// From what `DOCKER_HOST` and `DOCKER_CERT_PATH` say, the latter where `DOCKER_TLS_VERIFY` asks for TLS. An error is what is wrong with them.
    pub fn new(host: Option<&str>, certificates: Option<PathBuf>) -> Result<Self, String> {
        let Some(host) = host else {
            return if certificates.is_none() { Ok(Self::default()) } else { Err("TLS needs an address: tcp://host:port".to_owned()) };
        };
        let expected = || "expected unix:///path or tcp://host:port".to_owned();
        let (scheme, rest) = host.split_once("://").ok_or_else(expected)?;
        match (scheme, certificates) {
            ("unix", None) if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            ("unix", Some(_)) => Err("a socket of this host has no TLS".to_owned()),
            ("tcp", certificates) => {
                let (name, port) = rest.rsplit_once(':').ok_or_else(expected)?;
                if name.is_empty() || name.contains(['/', '@', '?', '#']) || port.parse::<u16>().is_err() {
                    return Err(expected());
                }
                let address = rest.to_owned();
                Ok(certificates
                    .map_or_else(|| Self::Plain(address.clone()), |certificates| Self::Tls { address: address.clone(), certificates }))
            }
            _ => Err(expected()),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Plain(address) | Self::Tls { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_sockets_or_addresses() {
        let new = |host: &str| Endpoint::new(Some(host), None);
        assert_eq!(Endpoint::new(None, None), Ok(Endpoint::default()));
        assert_eq!(new("unix:///run/d.sock"), Ok(Endpoint::Unix("/run/d.sock".into())));
        assert_eq!(new("tcp://10.0.0.1:2375"), Ok(Endpoint::Plain("10.0.0.1:2375".to_owned())));
        assert_eq!(new("tcp://[::1]:2375"), Ok(Endpoint::Plain("[::1]:2375".to_owned())));
        for bad in [
            "",
            "/run/d.sock",
            "unix://d.sock",
            "tcp://host",
            "tcp://:1",
            "tcp://host:x",
            "tcp://host:1/path",
            "ssh://host",
            "npipe:////./x",
        ] {
            assert!(new(bad).is_err(), "{bad}");
        }
        let tls = Endpoint::new(Some("tcp://host:2376"), Some("/certs".into())).unwrap();
        assert_eq!(tls, Endpoint::Tls { address: "host:2376".to_owned(), certificates: "/certs".into() });
        assert!(Endpoint::new(Some("unix:///run/d.sock"), Some("/certs".into())).is_err());
        assert!(Endpoint::new(None, Some("/certs".into())).is_err());
    }
}
