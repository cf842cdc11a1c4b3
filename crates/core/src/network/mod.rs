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
mod rule;

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

pub use self::{
    address::{AddressRange, BadRange, canonical, special},
    host::{Asked, BadHost, HostName},
    rule::{Ports, Rule, Subject},
};
use crate::Error;

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
    /// What rules say.
    Rules(Arc<Rules>),
}

/// What may be reached, and what of that may not. Without a rule in `allow` nothing may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
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
        Ok(Self::Rules(Arc::new(Rules { allow: read("allow", allow)?, deny: read("deny", deny)? })))
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
            Self::Rules(rules) if rules.allow.iter().any(|rule| rule.names(host)) => Ok(()),
            Self::Rules(_) => Err(Refused::NotAllowed),
        }
    }

    /// Whether a port of a host may be reached that was asked for by its name. Its addresses are for [`Self::found`].
    pub fn name(&self, host: &HostName, port: u16) -> Result<(), Refused> {
        self.denies_name(host, port)?;
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
        match self {
            Self::None | Self::Public => &[],
            Self::Rules(rules) => &rules.deny,
        }
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
            Self::Rules(rules) if rules.allow.iter().any(|rule| rule.ports.contains(port) && is_about(rule)) => Ok(()),
            Self::Rules(_) => Err(Refused::NotAllowed),
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    /// `none`, `public`, or rules on one line: `allow:HOST[:PORT],…`, and behind a semicolon `deny:HOST[:PORT],…`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (mut allow, mut deny) = (None, None);
        match text {
            "none" => return Ok(Self::None),
            "public" => return Ok(Self::Public),
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
        "network `{}` is not available; use `none`, `public`, or rules: `allow:example.org,*.example.net:8443`",
        shown.escape_default()
    );
    Error::invalid("unsupported", message)
}

impl fmt::Display for Network {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Public => f.write_str("public"),
            Self::Rules(rules) => {
                let line = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                write!(f, "allow:{}", line(&rules.allow))?;
                if rules.deny.is_empty() { Ok(()) } else { write!(f, ";deny:{}", line(&rules.deny)) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
