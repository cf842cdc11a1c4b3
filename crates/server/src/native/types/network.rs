//! What a sandbox may reach, and what it has reached.

use std::{fmt, str::FromStr};

use caisson_core::{Error, Network, Result, Rule};
use caisson_engine::{EgressDecision, EgressReport};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use super::time;

/// What a sandbox may reach: `none`, its own loopback interface alone; `public`, ports 80 and 443 of all public addresses; or what rules say.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Network)]
pub enum NetworkBody {
    Name(String),
    Rules(NetworkRulesBody),
}

/// Rules. One of `deny` wins over all of `allow`; without one in `allow` nothing may be reached.
///
/// A rule is a host, in which `*` is any number of any characters, or an address or a range of them; and behind a colon a port, a range of them, or
/// `*` for all: `example.org`, `*.example.org:8443`, `10.0.0.0/8:5432`, `[2001:db8::/32]:443`. Without a port it is about 80 and 443 in `allow`, and
/// about all in `deny`. Addresses that are not public are reached by no rule, unless the server's operator has opened them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = NetworkRules)]
pub struct NetworkRulesBody {
    pub allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

impl<'de> Deserialize<'de> for NetworkBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrRules;
        impl<'de> Visitor<'de> for NameOrRules {
            type Value = NetworkBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `public`, or an object with `allow` and `deny`")
            }

            fn visit_str<E>(self, name: &str) -> Result<NetworkBody, E> {
                Ok(NetworkBody::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<NetworkBody, A::Error> {
                NetworkRulesBody::deserialize(MapAccessDeserializer::new(fields)).map(NetworkBody::Rules)
            }
        }
        deserializer.deserialize_any(NameOrRules)
    }
}

impl NetworkBody {
    /// What the engine is told.
    pub fn to_core(&self) -> Result<Network> {
        match self {
            // On one line rules stand only where a person types them.
            Self::Name(name) if name.contains(':') => Err(Error::invalid(
                "unsupported",
                "field `network` is `none`, `public`, or an object such as {\"allow\": [\"example.org\"]}",
            )),
            Self::Name(name) => name.parse(),
            Self::Rules(rules) => Network::rules(&rules.allow, &rules.deny),
        }
    }
}

impl From<&Network> for NetworkBody {
    fn from(network: &Network) -> Self {
        let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
        match network {
            Network::None | Network::Public => Self::Name(network.to_string()),
            Network::Rules(rules) => Self::Rules(NetworkRulesBody { allow: texts(&rules.allow), deny: texts(&rules.deny) }),
        }
    }
}

impl FromStr for NetworkBody {
    type Err = Error;

    /// As it stands on a command line.
    fn from_str(text: &str) -> Result<Self> {
        text.parse::<Network>().map(|network| Self::from(&network))
    }
}

impl fmt::Display for NetworkBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Rules(rules) => {
                write!(f, "allow:{}", rules.allow.join(","))?;
                if rules.deny.is_empty() { Ok(()) } else { write!(f, ";deny:{}", rules.deny.join(",")) }
            }
        }
    }
}

/// The ways out of a sandbox, since it was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Egress)]
pub struct EgressBody {
    pub network: NetworkBody,
    /// Whether programs get out that know nothing of the proxy; elsewhere the proxy is the only way.
    pub redirects: bool,
    /// Connections that are open.
    pub open: u64,
    /// Connections and names that were let out.
    pub allowed: u64,
    /// Those that were refused, or did not come about.
    pub refused: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// The latest 200 at most, the latest first.
    pub decisions: Vec<EgressDecisionBody>,
}

/// What became of something that wanted out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EgressDecision)]
pub struct EgressDecisionBody {
    /// RFC 3339.
    pub at: String,
    /// `proxy`, a connection through the proxy; `connection`, another one; or `lookup`, of a name.
    pub way: String,
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub allowed: bool,
    /// Why not, for programs: such as `not_allowed`, `denied`, `port`, `special_address`, `own_address`, `mismatch`, `malformed` or `unreachable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&EgressReport> for EgressBody {
    fn from(report: &EgressReport) -> Self {
        Self {
            network: NetworkBody::from(&report.network),
            redirects: report.redirects,
            open: report.open,
            allowed: report.allowed,
            refused: report.refused,
            bytes_out: report.bytes_out,
            bytes_in: report.bytes_in,
            decisions: report.decisions.iter().map(EgressDecisionBody::from).collect(),
        }
    }
}

impl From<&EgressDecision> for EgressDecisionBody {
    fn from(decision: &EgressDecision) -> Self {
        let (code, reason) = decision.refused.clone().unzip();
        Self {
            at: time(decision.at),
            way: decision.way.as_str().to_owned(),
            host: decision.host.clone(),
            port: decision.port,
            allowed: decision.refused.is_none(),
            code: code.map(str::to_owned),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn networks_are_names_or_rules() {
        let core = |body: Value| {
            serde_json::from_value::<NetworkBody>(body).map_err(|error| error.to_string())?.to_core().map_err(|error| error.to_string())
        };
        assert_eq!(core(json!("none")), Ok(Network::None));
        assert_eq!(core(json!("public")), Ok(Network::Public));
        assert_eq!(core(json!({"allow": ["a.b"], "deny": ["c"]})), Ok("allow:a.b;deny:c".parse().unwrap()));
        assert_eq!(core(json!({})), Ok("allow:".parse().unwrap()), "an empty list denies");
        for bad in [
            json!("all"),
            json!("allow:a.b"),
            json!(1),
            json!(["a"]),
            json!({"allow": "a"}),
            json!({"permit": []}),
            json!({"allow": ["a b"]}),
            json!({"allow": [1]}),
        ] {
            assert!(core(bad.clone()).is_err(), "{bad}");
        }
        for body in [json!("public"), json!({"allow": ["a.b:443"], "deny": ["c"]}), json!({"allow": []})] {
            let network = serde_json::from_value::<NetworkBody>(body.clone()).unwrap().to_core().unwrap();
            assert_eq!(serde_json::to_value(NetworkBody::from(&network)).unwrap(), body);
            assert_eq!(NetworkBody::from(&network).to_string(), network.to_string());
        }
    }
}
