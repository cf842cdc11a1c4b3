//! Where requests may go. Whoever names an image names a host, and registries name others by redirects and token servers: none of that may
//! lead to the services of this machine or of its network, unless the configuration spells the host out.

use std::{
    collections::BTreeMap,
    error::Error as _,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use caisson_outgoing::Names;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::{Error, reference::normal_host};

/// What the configuration says of one registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// It is asked over plain HTTP, so that anybody on the way can read and change what is asked and answered.
    pub insecure: bool,
    /// Other registries that have the same repositories, asked before it in this order.
    pub mirrors: Vec<String>,
}

/// The registries that the configuration spells out. These may have addresses of any network; all others only public ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registries(BTreeMap<String, Registry>);

impl Registries {
    /// Adds one by the name that it has in names of images.
    pub fn add(&mut self, host: &str, registry: Registry) -> Result<(), Error> {
        let normal = |host: &str| normal_host(host).map_err(|why| Error::Forbidden { host: host.to_owned(), why });
        let mirrors = registry.mirrors.iter().map(|mirror| normal(mirror)).collect::<Result<Vec<_>, _>>()?;
        for mirror in &mirrors {
            self.0.entry(mirror.clone()).or_default();
        }
        let entry = self.0.entry(normal(host)?).or_default();
        entry.insecure |= registry.insecure;
        entry.mirrors = mirrors;
        Ok(())
    }

    /// Whom to ask for what is at `host`, in this order.
    pub(crate) fn asked(&self, host: &str) -> Vec<String> {
        let mut asked = self.0.get(host).map(|registry| registry.mirrors.clone()).unwrap_or_default();
        asked.push(host.to_owned());
        asked
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    registries: Arc<Registries>,
    names: Names,
}

/// An address that is none for requests.
#[derive(Debug)]
struct NotPublic {
    host: String,
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has an address of this machine or of a private network", self.host)
    }
}

impl std::error::Error for NotPublic {}

impl NotPublic {
    fn error(&self) -> Error {
        let why = "it has an address of this machine or of a private network, and is none of the registries in the configuration";
        Error::Forbidden { host: self.host.clone(), why: why.to_owned() }
    }
}

impl Reach {
    pub(crate) fn new(registries: Registries) -> Self {
        Self { registries: Arc::new(registries), names: Names::default() }
    }

    pub(crate) fn registries(&self) -> &Registries {
        &self.registries
    }

    pub(crate) fn is_insecure(&self, host: &str) -> bool {
        self.registries.0.get(host).is_some_and(|registry| registry.insecure)
    }

    /// Whether a request may be sent there, as far as its address tells. Names are looked at again when they have been looked up.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Error> {
        let host = authority(url);
        let refuse = |why: &str| Err(Error::Forbidden { host: host.clone(), why: why.to_owned() });
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("its address has a user or password in it");
        }
        match url.scheme() {
            "https" => {}
            "http" if self.is_insecure(&host) => {}
            "http" => return refuse("it is asked over plain HTTP, and is no registry that the configuration calls insecure"),
            _ => return refuse("its address begins with neither `https:` nor `http:`"),
        }
        // Addresses are not looked up.
        let Some(name) = url.host_str().filter(|name| !name.is_empty()) else { return refuse("its address names no host") };
        match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !is_public(address) && !self.registries.0.contains_key(&host) => Err(NotPublic { host }.error()),
            _ => Ok(()),
        }
    }

    /// Whether the configuration spells a host out, with whatever port: the resolver does not learn which.
    fn is_spelled_out(&self, name: &str) -> bool {
        self.registries.0.keys().any(|host| host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host) == name)
    }
}

/// The host as registries are named: with its port, unless that is the usual one.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, any) = (self.names.clone(), self.is_spelled_out(name.as_str()));
        Box::pin(async move {
            let found = names.look_up(name.as_str().to_owned()).await?;
            // All of them: a name that has both kinds of addresses is after something.
            if !any && found.iter().any(|address| !is_public(address.ip())) {
                return Err(NotPublic { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether a request failed because of where it was to go.
pub(crate) fn forbidden(error: &reqwest::Error) -> Option<Error> {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(not_public) = found.downcast_ref::<NotPublic>() {
            return Some(not_public.error());
        }
        cause = found.source();
    }
    None
}

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && matches!(b, 18 | 19);
    let protocols = a == 192 && b == 0 && c == 0;
    // A service of a cloud at a public address.
    let metadata = matches!(address.octets(), [168, 63, 129, 16]);
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || benchmark
        || protocols
        || metadata)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // IPv4 in other clothes: mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xFFFF, high, low] | [0x64, 0xFF9B, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Documentation, and tunnels that hide the address.
        [0x2001, 0xDB8, ..] | [0x2001, 0, ..] => false,
        // Global unicast.
        [first, ..] => (first & 0xE000) == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_3_public_addresses_are_told_from_others() {
        for (address, public) in [
            ("1.1.1.1", true),
            ("140.82.121.33", true),
            ("2606:4700::1111", true),
            ("::ffff:1.1.1.1", true),
            ("64:ff9b::101:101", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("169.254.170.2", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("2002:7f00:1::", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    fn reach() -> Reach {
        let mut registries = Registries::default();
        registries.add("127.0.0.1:5000", Registry { insecure: true, mirrors: vec![] }).unwrap();
        registries
            .add("docker.io", Registry { insecure: false, mirrors: vec!["Mirror.Example".to_owned(), "10.0.0.1".to_owned()] })
            .unwrap();
        Reach::new(registries)
    }

    #[test]
    fn r5_3_requests_go_nowhere_that_is_not_spelled_out() {
        let reach = reach();
        let check = |url: &str| reach.check(&Url::parse(url).unwrap());
        for good in [
            "https://ghcr.io/v2/",
            "http://127.0.0.1:5000/v2/",
            "https://127.0.0.1:5000/",
            "https://10.0.0.1/v2/",
            "https://mirror.example/",
        ] {
            check(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for (bad, why) in [
            ("http://ghcr.io/", "plain HTTP"),
            ("http://127.0.0.1:5001/", "plain HTTP"),
            ("http://mirror.example/", "plain HTTP"),
            ("https://127.0.0.1:5001/", "private network"),
            ("https://169.254.169.254/latest", "private network"),
            ("https://2130706433/", "private network"),
            ("https://0x7f.1/", "private network"),
            ("https://[::1]/", "private network"),
            ("https://[::ffff:169.254.169.254]/", "private network"),
            ("https://user:pass@ghcr.io/", "user or password"),
            ("ftp://ghcr.io/", "neither"),
            ("file:///etc/passwd", "neither"),
        ] {
            let error = check(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn mirrors_are_asked_before_the_registry() {
        let reach = reach();
        assert_eq!(reach.registries().asked("docker.io"), ["mirror.example", "10.0.0.1", "docker.io"]);
        assert_eq!(reach.registries().asked("ghcr.io"), ["ghcr.io"]);
        assert!(reach.is_spelled_out("127.0.0.1") && reach.is_spelled_out("mirror.example") && !reach.is_spelled_out("ghcr.io"));
    }

    #[tokio::test]
    async fn r5_3_names_are_looked_at_when_they_are_looked_up() {
        let name = || "localhost".parse::<Name>().unwrap();
        let error = reach().resolve(name()).await.err().unwrap();
        assert!(error.downcast_ref::<NotPublic>().is_some());
        let mut registries = Registries::default();
        registries.add("localhost:5000", Registry::default()).unwrap();
        assert!(Reach::new(registries).resolve(name()).await.is_ok());
    }
}
