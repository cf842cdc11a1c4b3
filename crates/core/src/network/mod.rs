//! What a sandbox may reach, and the judgement of what it asks for. No I/O: whoever dials looks names up and asks again about what was found.
//!
//! ```text
//! by name:    Network::name ──▶ look-up by the host ──▶ Network::found, for each address ──▶ the very address that was judged is dialled
//! by address: Network::address ──▶ it is dialled
//! ```
//!
//! What refuses comes first: `deny`, then addresses that are never public, then everything that no rule names.

mod address;
mod host;
mod packages;
mod request;
mod rule;

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use self::packages::packages;
pub use self::{
    address::{AddressRange, BadRange, canonical, special},
    host::{Asked, BadHost, HostName},
    request::{EgressLimits, Intercept, RequestRule, Secret, SecretValue, is_plain},
    rule::{Ports, Rule, Subject},
};
use crate::Error;

/// Variables that programs look for the proxy in; programs differ in how they write them.
pub const PROXY_VARIABLES: [&str; 4] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
/// Variables with hosts for which there is none.
pub const NO_PROXY_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Variables with the file of certificates to trust in place of those that a program knows itself.
pub const BUNDLE_VARIABLES: [&str; 9] = [
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];
/// Variables with a file of certificates to trust beside those.
pub const CERTIFICATE_VARIABLES: [&str; 2] = ["DENO_CERT", "NODE_EXTRA_CA_CERTS"];

/// Rules of one kind.
const MOST_RULES: usize = 256;

/// What a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing but its own loopback interface.
    #[default]
    None,
    /// Every public address, by ports 80 and 443.
    Public,
    /// Where packages come from, and nothing else. Which hosts that is, is the operator's to say.
    Packages(Arc<Rules>),
    /// What rules say.
    Rules(Arc<Rules>),
}

/// What may be reached, and what of that may not. Without a rule in `allow` nothing may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    /// Hosts that they name may be reached, by such requests alone, whatever is in `allow`.
    pub requests: Vec<RequestRule>,
    pub intercept: Intercept,
    pub limits: EgressLimits,
    pub secrets: BTreeMap<String, Secret>,
    /// What a request that is refused is answered with, where clients expect something of their own.
    pub refusal: Option<String>,
}

/// Why something may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the sandbox has no network")]
    NoNetwork,
    #[error("rule `deny {0}`")]
    Denied(Rule),
    #[error("no rule of `allow` names it")]
    NotAllowed,
    #[error("no rule of `rules` for `{host}` takes {method} {path}")]
    Request { host: String, method: String, path: String },
    #[error("the path can be read in more than one way, and rules for `{0}` are about paths")]
    Path(String),
    #[error("a secret is put in over TLS alone; ask for the `https:` address")]
    NotTls,
    #[error("it is neither HTTP nor TLS with a host's name, and this policy has to look into it")]
    Opaque,
    #[error("the {0} bytes that this policy lets through are used up")]
    Spent(u64),
    #[error("network `public` has ports 80 and 443; a rule can name another")]
    Port,
    #[error("{0} is {1}, which is never public; only the server's operator can open it")]
    Special(IpAddr, &'static str),
    #[error("{0} is an address of the server's own")]
    Own(IpAddr),
}

impl Refused {
    /// The name in metrics and reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoNetwork => "no_network",
            Self::Denied(_) => "denied",
            Self::NotAllowed => "not_allowed",
            Self::Request { .. } => "request",
            Self::Path(_) => "path",
            Self::NotTls => "not_tls",
            Self::Opaque => "opaque",
            Self::Spent(_) => "byte_limit",
            Self::Port => "port",
            Self::Special(..) => "special_address",
            Self::Own(_) => "own_address",
        }
    }
}

impl Network {
    /// From lists of rules as people write them.
    pub fn rules<S: AsRef<str>>(allow: &[S], deny: &[S]) -> Result<Self, Error> {
        let read = |field: &str, texts: &[S]| -> Result<Vec<Rule>, Error> {
            if texts.len() > MOST_RULES {
                let message = format!("field `network.{field}` has {} rules, at most {MOST_RULES} are taken", texts.len());
                return Err(Error::invalid("invalid_network", message));
            }
            let rule = |text: &S| {
                text.as_ref().parse().map_err(|error| Error::invalid("invalid_network", format!("field `network.{field}`: {error}")))
            };
            texts.iter().map(rule).collect()
        };
        Ok(Self::Rules(Arc::new(Rules { allow: read("allow", allow)?, deny: read("deny", deny)?, ..Rules::default() })))
    }

    /// The same network with more than lists of rules: what `change` makes of it, if that holds together.
    pub fn with(self, change: impl FnOnce(&mut Rules)) -> Result<Self, Error> {
        let Self::Rules(rules) = self else { return Ok(self) };
        let mut rules = Arc::unwrap_or_clone(rules);
        change(&mut rules);
        if rules.requests.len() > MOST_RULES {
            let message = format!("field `network.rules` has {} rules, at most {MOST_RULES} are taken", rules.requests.len());
            return Err(Error::invalid("invalid_network", message));
        }
        request::check(&rules.requests, &rules.secrets, rules.limits)?;
        Ok(Self::Rules(Arc::new(rules)))
    }

    /// What rules say, where there are any.
    #[must_use]
    pub fn as_rules(&self) -> Option<&Rules> {
        match self {
            Self::None | Self::Public => None,
            Self::Packages(rules) | Self::Rules(rules) => Some(rules),
        }
    }

    /// How much, and how fast.
    #[must_use]
    pub fn limits(&self) -> EgressLimits {
        self.as_rules().map_or_else(EgressLimits::default, |rules| rules.limits)
    }

    /// Whether anything may have to be looked into.
    #[must_use]
    pub fn inspects_some(&self) -> bool {
        self.inspects_all() || self.as_rules().is_some_and(|rules| rules.requests.iter().any(RequestRule::is_particular))
    }

    /// Whether everything has to be.
    #[must_use]
    pub fn inspects_all(&self) -> bool {
        self.as_rules().is_some_and(|rules| rules.intercept == Intercept::All)
    }

    /// Whether requests to a host have to be looked into, each of them.
    #[must_use]
    pub fn inspects(&self, host: &HostName, port: u16) -> bool {
        self.inspects_all() || self.listed(host, port).any(RequestRule::is_particular)
    }

    /// Whether a request may be made, and with which secret. Whether its host may be reached at all is for [`Self::name`].
    pub fn request(&self, host: &HostName, port: u16, method: &str, path: &str) -> Result<Option<&str>, Refused> {
        let mut listed = self.listed(host, port).peekable();
        if listed.peek().is_none() {
            return Ok(None);
        }
        if !is_plain(path) && self.listed(host, port).any(|rule| rule.path.is_some()) {
            return Err(Refused::Path(host.to_string()));
        }
        let tamed = |text: &str| text.chars().take(100).collect::<String>();
        listed.find(|rule| rule.takes(method, path)).map(|rule| rule.secret.as_deref()).ok_or_else(|| Refused::Request {
            host: host.to_string(),
            method: tamed(method),
            path: tamed(path),
        })
    }

    /// The secrets that requests to a host may have.
    pub fn secrets_of(&self, host: &HostName, port: u16) -> impl Iterator<Item = (&str, &Secret)> {
        let secrets = self.as_rules().map(|rules| &rules.secrets);
        self.listed(host, port).filter_map(move |rule| {
            let name = rule.secret.as_deref()?;
            Some((name, secrets?.get(name)?))
        })
    }

    /// Rules about requests to a host.
    fn listed(&self, host: &HostName, port: u16) -> impl Iterator<Item = &RequestRule> {
        let rules = self.as_rules().map_or(&[][..], |rules| &rules.requests);
        rules.iter().filter(move |rule| rule.host.ports.contains(port) && rule.host.names(host))
    }

    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Whether something can be refused by its name although its address may be reached.
    #[must_use]
    pub fn denies_names(&self) -> bool {
        self.denied().iter().any(|rule| matches!(rule.subject, Subject::Hosts(_)))
    }

    /// Refuses rules for addresses that they cannot open: those that are not public and not in the operator's list.
    pub fn check(&self, opened: &[AddressRange]) -> Result<(), Error> {
        let Self::Rules(rules) = self else { return Ok(()) };
        for rule in &rules.allow {
            if let Subject::Addresses(range) = &rule.subject
                && let Some(kind) = range.special()
                && !opened.iter().any(|open| open.overlaps(range))
            {
                let message = format!(
                    "field `network.allow`: {range} is {kind}, which is never public; the server's operator can open it (CAISSON_EGRESS_ADDRESSES)"
                );
                return Err(Error::invalid("invalid_network", message));
            }
        }
        Ok(())
    }

    /// Whether a name may be looked up at all: the port is not known yet.
    pub fn looks_up(&self, host: &HostName) -> Result<(), Refused> {
        let all = |rule: &&Rule| matches!(rule.ports, Ports::WEB | Ports::ALL);
        if let Some(rule) = self.denied().iter().filter(all).find(|rule| rule.names(host)) {
            return Err(Refused::Denied(rule.clone()));
        }
        match self {
            Self::None => Err(Refused::NoNetwork),
            Self::Public => Ok(()),
            Self::Packages(rules) | Self::Rules(rules) => {
                let mut named = rules.allow.iter().chain(rules.requests.iter().map(|rule| &rule.host));
                if named.any(|rule| rule.names(host)) { Ok(()) } else { Err(Refused::NotAllowed) }
            }
        }
    }

    /// Whether a port of a host may be reached that was asked for by its name. Its addresses are for [`Self::found`].
    pub fn name(&self, host: &HostName, port: u16) -> Result<(), Refused> {
        self.denies_name(host, port)?;
        if self.listed(host, port).next().is_some() {
            return Ok(());
        }
        self.allows(port, |rule| rule.names(host))
    }

    /// Whether a rule refuses a name.
    pub fn denies_name(&self, host: &HostName, port: u16) -> Result<(), Refused> {
        self.refuses(port, |rule| rule.names(host))
    }

    /// Whether an address may be reached that a name was found to have.
    pub fn found(&self, address: IpAddr, port: u16, opened: &[AddressRange]) -> Result<(), Refused> {
        let address = canonical(address);
        self.refuses(port, |rule| rule.covers(address))?;
        match special(address) {
            Some(kind) if !opened.iter().any(|range| range.contains(address)) => Err(Refused::Special(address, kind)),
            _ => Ok(()),
        }
    }

    /// Whether a port of an address may be reached that was asked for as such.
    pub fn address(&self, address: IpAddr, port: u16, opened: &[AddressRange]) -> Result<(), Refused> {
        if self.is_none() {
            return Err(Refused::NoNetwork);
        }
        self.found(address, port, opened)?;
        self.allows(port, |rule| rule.covers(canonical(address)))
    }

    fn denied(&self) -> &[Rule] {
        self.as_rules().map_or(&[], |rules| &rules.deny)
    }

    /// A rule of `deny` without ports is about all of them.
    fn refuses(&self, port: u16, is_about: impl Fn(&Rule) -> bool) -> Result<(), Refused> {
        let refuses = |rule: &&Rule| (rule.ports == Ports::WEB || rule.ports.contains(port)) && is_about(rule);
        self.denied().iter().find(refuses).map_or(Ok(()), |rule| Err(Refused::Denied(rule.clone())))
    }

    fn allows(&self, port: u16, is_about: impl Fn(&Rule) -> bool) -> Result<(), Refused> {
        match self {
            Self::None => Err(Refused::NoNetwork),
            Self::Public if Ports::WEB.contains(port) => Ok(()),
            Self::Public => Err(Refused::Port),
            Self::Packages(rules) | Self::Rules(rules) => {
                let named = rules.allow.iter().any(|rule| rule.ports.contains(port) && is_about(rule));
                if named { Ok(()) } else { Err(Refused::NotAllowed) }
            }
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    /// `none`, `public`, `packages`, or rules on one line: `allow:HOST[:PORT],…`, and behind a semicolon `deny:HOST[:PORT],…`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (mut allow, mut deny) = (None, None);
        match text {
            "none" => return Ok(Self::None),
            "public" => return Ok(Self::Public),
            "packages" => return Ok(Self::Packages(packages())),
            text => {
                for part in text.split(';') {
                    let (place, list) = match part.split_once(':') {
                        Some(("allow", list)) => (&mut allow, list),
                        Some(("deny", list)) => (&mut deny, list),
                        _ => return Err(unknown(text)),
                    };
                    if place.replace(list.split(',').filter(|rule| !rule.is_empty()).collect::<Vec<_>>()).is_some() {
                        return Err(unknown(text));
                    }
                }
            }
        }
        Self::rules(&allow.unwrap_or_default(), &deny.unwrap_or_default())
    }
}

fn unknown(text: &str) -> Error {
    let shown: String = text.chars().take(100).collect();
    let message = format!(
        "network `{}` is not available; use `none`, `public`, `packages`, or rules: `allow:example.org,*.example.net:8443`",
        shown.escape_default()
    );
    Error::invalid("unsupported", message)
}

impl fmt::Display for Network {
    /// As [`FromStr`] reads it, but for what does not go on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Public => f.write_str("public"),
            Self::Packages(_) => f.write_str("packages"),
            Self::Rules(rules) => {
                let line = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                write!(f, "allow:{}", line(&rules.allow))?;
                if !rules.deny.is_empty() {
                    write!(f, ";deny:{}", line(&rules.deny))?;
                }
                if rules.requests.is_empty() { Ok(()) } else { write!(f, "; {} rules about requests", rules.requests.len()) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
