//! Addresses of ports. They come from what the operator has said and from where the server listens, never from what a client calls it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use caisson_core::SandboxId;
use reqwest::Url;

use super::{
    Public, PublicDomain,
    asked::PARAMETER,
    token::{NoToken, Signer},
};

/// Makes links, and checks the tokens in them.
#[derive(Debug)]
pub(crate) struct Links {
    signer: Signer,
    public: Public,
    listener: SocketAddr,
}

impl Links {
    /// With the secret that servers have in common, links of one are good on all of them.
    pub(crate) fn new(public: Public, listener: Option<SocketAddr>, common: Option<&[u8; 32]>) -> Self {
        let signer = common.map_or_else(Signer::random, Signer::common);
        Self { signer, public, listener: listener.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 80).into()) }
    }

    /// Below which names of ports are.
    pub(crate) fn domain(&self) -> Option<&PublicDomain> {
        self.public.domain.as_ref()
    }

    /// A token for a port, and the second since 1970 in which it expires.
    pub(super) fn sign(&self, id: SandboxId, port: NonZeroU16, lasts: Duration) -> (String, u64) {
        let expiry = now().saturating_add(lasts.as_secs().max(1));
        (self.signer.sign(id, port, expiry), expiry)
    }

    pub(super) fn check(&self, token: &str, id: SandboxId, port: NonZeroU16) -> Result<u64, NoToken> {
        self.signer.check(token, id, port, now())
    }

    /// A link that opens a port: its address, its token, and the second since 1970 in which it expires.
    pub(crate) fn link(&self, id: SandboxId, port: NonZeroU16, lasts: Duration) -> (String, String, u64) {
        let (token, expiry) = self.sign(id, port, lasts);
        let url = match self.domain() {
            Some(domain) => format!("{}://{port}-{id}.{}{}/?{PARAMETER}={token}", self.scheme(), domain.0, self.port_of_names()),
            None => format!("{}{}/", self.base(), self.path(id, port, Some(&token))),
        };
        (url, token, expiry)
    }

    /// The address of something that has a name of its own where there are names, and is below a path of the API where there are none.
    /// Without a slash at its end.
    pub(crate) fn place(&self, name: &str, path: &str) -> String {
        match self.domain() {
            Some(domain) => format!("{}://{name}.{}{}", self.scheme(), domain.0, self.port_of_names()),
            None => format!("{}{path}", self.base()),
        }
    }

    /// What stands before a port's own paths, for whoever is at the API's origin.
    pub(super) fn prefix(&self, id: SandboxId, port: NonZeroU16, token: Option<&str>) -> String {
        let outer = self.public.url.as_ref().map_or("", |url| &url.path);
        format!("{outer}{}", self.path(id, port, token))
    }

    fn path(&self, id: SandboxId, port: NonZeroU16, token: Option<&str>) -> String {
        match token {
            Some(token) => format!("/v1/sandboxes/{id}/ports/{port}/~{token}"),
            None => format!("/v1/sandboxes/{id}/ports/{port}"),
        }
    }

    /// The API's own address.
    pub(crate) fn base(&self) -> String {
        match &self.public.url {
            Some(url) => format!("{}://{}{}", self.scheme(), url.authority, url.path),
            None => format!("http://{}", reachable(self.listener)),
        }
    }

    /// Whether an address is at the API's origin, which is known by the name that a client asked and by the one that the operator gave it.
    pub(super) fn is_api(&self, address: &Url, asked: &Url) -> bool {
        let own = Url::parse(&self.base()).ok();
        [Some(asked), own.as_ref()].into_iter().flatten().any(|api| door(api) == door(address))
    }

    /// Whether clients speak TLS, to whoever stands before the server.
    pub(super) fn is_https(&self) -> bool {
        match (&self.public.url, self.domain()) {
            (Some(url), _) => url.https,
            (None, Some(domain)) => !domain.is_local(),
            (None, None) => false,
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_https() { "https" } else { "http" }
    }

    /// Names of ports are served where the API is.
    fn port_of_names(&self) -> String {
        match (&self.public.url, self.domain()) {
            (Some(url), _) => url.port.map(|port| format!(":{port}")).unwrap_or_default(),
            (None, Some(domain)) if domain.is_local() => format!(":{}", self.listener.port()),
            (None, _) => String::new(),
        }
    }
}

/// Host and port of an address. Which of both schemes a client speaks is known to whoever stands before the server.
fn door(address: &Url) -> (Option<&str>, Option<u16>) {
    (address.host_str().map(|host| host.trim_end_matches('.')), address.port().filter(|port| ![80, 443].contains(port)))
}

/// Every address of the machine is none that can be gone to.
fn reachable(listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() { (IpAddr::from(Ipv4Addr::LOCALHOST), listener.port()).into() } else { listener }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn link(url: Option<&str>, domain: Option<&str>, listener: &str) -> String {
        let public = Public { url: url.map(|url| url.parse().unwrap()), domain: domain.map(|domain| domain.parse().unwrap()) };
        let links = Links::new(public, Some(listener.parse().unwrap()), None);
        let id = "sbx0000000000000000000000000".parse().unwrap();
        let (url, token, _) = links.link(id, NonZeroU16::new(80).unwrap(), Duration::from_secs(1));
        url.replace(&token, "T").replace(id.as_str(), "ID")
    }

    #[test]
    fn links_are_what_the_operator_says() {
        for (url, domain, listener, expect) in [
            (None, None, "127.0.0.1:8080", "http://127.0.0.1:8080/v1/sandboxes/ID/ports/80/~T/"),
            (None, None, "0.0.0.0:8080", "http://127.0.0.1:8080/v1/sandboxes/ID/ports/80/~T/"),
            (None, None, "[::1]:8080", "http://[::1]:8080/v1/sandboxes/ID/ports/80/~T/"),
            (Some("https://c.example/api"), None, "127.0.0.1:1", "https://c.example/api/v1/sandboxes/ID/ports/80/~T/"),
            (None, Some("box.example"), "127.0.0.1:1", "https://80-ID.box.example/?caisson_token=T"),
            (None, Some("localhost"), "127.0.0.1:1", "http://80-ID.localhost:1/?caisson_token=T"),
            (Some("http://c.example:81"), Some("box.example"), "127.0.0.1:1", "http://80-ID.box.example:81/?caisson_token=T"),
        ] {
            assert_eq!(link(url, domain, listener), expect);
        }
    }
}
