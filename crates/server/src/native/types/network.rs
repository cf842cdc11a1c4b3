//! What a sandbox may reach, and what it has reached.

use std::{collections::BTreeMap, fmt, str::FromStr};

use caisson_core::{EgressLimits, Error, Intercept, Network, RequestRule, Result, Rule, Rules, Secret};
use caisson_engine::{EgressDecision, EgressReport};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use super::{
    field::{object, objects, unshown_objects},
    time,
};

/// Values of `intercept`.
const NEEDED: &str = "needed";
const ALL: &str = "all";
/// A shorter secret stands in all kinds of texts by chance.
const SHORTEST_SECRET: usize = 8;

/// What a sandbox may reach: `none`, its own loopback interface alone; `public`, ports 80 and 443 of all public addresses; `packages`, where pip, npm,
/// cargo, Go and apt get packages from; or what rules say.
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
    /// Rules about requests of HTTP. Hosts that they name may be reached by such requests alone, and the first that fits decides.
    #[serde(deserialize_with = "objects", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RequestRuleBody>,
    /// Whose TLS is taken apart: `needed`, that of hosts with a rule that has methods, a path or a secret, which is meant when absent; or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intercept: Option<String>,
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub limits: Option<EgressLimitsBody>,
    /// Secrets by the names that rules have for them.
    #[serde(deserialize_with = "unshown_objects", skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, EgressSecretBody>,
}

/// A rule about requests to a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EgressRequestRule)]
pub struct RequestRuleBody {
    /// As in `allow`, and no address.
    pub host: String,
    /// Nothing means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// How paths begin, by whole segments: `/repos` is also for `/repos/a`, and not for `/reposit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The name of a secret that is put into these requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// How much may go, and how fast, both directions together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = EgressLimits)]
pub struct EgressLimitsBody {
    /// Since the sandbox was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// A field of requests that is put in outside of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EgressSecret)]
pub struct EgressSecretBody {
    /// The name of the field, such as `Authorization`.
    pub header: String,
    /// Its value. It is taken, and never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Hidden>,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = String, value_type = String)]
pub struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<'de> Deserialize<'de> for NetworkBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrRules;
        impl<'de> Visitor<'de> for NameOrRules {
            type Value = NetworkBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `public`, `packages`, or an object with `allow` and `deny`")
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
                "field `network` is `none`, `public`, `packages`, or an object such as {\"allow\": [\"example.org\"]}",
            )),
            Self::Name(name) => name.parse(),
            Self::Rules(rules) => rules.to_core(),
        }
    }

    /// Refuses secrets where the policy is kept as it is written, and shown.
    pub(crate) fn check_without_secrets(&self) -> Result<()> {
        match self {
            Self::Rules(rules) if !rules.secrets.is_empty() => Err(Error::invalid(
                "invalid_network",
                "field `network.secrets`: a template is kept as it is written, and shown; give secrets with the request for a sandbox",
            )),
            _ => Ok(()),
        }
    }
}

impl NetworkRulesBody {
    /// Whether there is nothing but lists.
    fn fits_on_a_line(&self) -> bool {
        *self == Self { allow: self.allow.clone(), deny: self.deny.clone(), ..Self::default() }
    }

    fn to_core(&self) -> Result<Network> {
        let rule = |rule: &RequestRuleBody| RequestRule::read(&rule.host, &rule.methods, rule.path.clone(), rule.secret.clone());
        let requests = self.rules.iter().map(rule).collect::<Result<Vec<_>>>()?;
        let intercept = match self.intercept.as_deref() {
            None | Some(NEEDED) => Intercept::Needed,
            Some(ALL) => Intercept::All,
            Some(_) => return Err(Error::invalid("invalid_network", "field `network.intercept` is neither `needed` nor `all`")),
        };
        let secret = |(name, secret): (&String, &EgressSecretBody)| {
            let wrong = |what: &str| {
                Error::invalid("invalid_network", format!("field `network.secrets`: secret `{}` {what}", name.escape_default()))
            };
            let Hidden(value) =
                secret.value.clone().ok_or_else(|| wrong("has no `value`; what was given before is not kept for another policy"))?;
            if value.len() < SHORTEST_SECRET {
                return Err(wrong(&format!(
                    "is shorter than {SHORTEST_SECRET} bytes, so that it could not be told from other text in answers"
                )));
            }
            Ok((name.clone(), Secret::given(name, &secret.header, value)?))
        };
        let secrets = self.secrets.iter().map(secret).collect::<Result<BTreeMap<_, _>>>()?;
        let EgressLimitsBody { max_bytes, bytes_per_second } = self.limits.unwrap_or_default();
        Network::rules(&self.allow, &self.deny)?.with(|rules| {
            rules.requests = requests;
            rules.intercept = intercept;
            rules.limits = EgressLimits { max_bytes, bytes_per_second };
            rules.secrets = secrets;
        })
    }
}

impl From<&Rules> for NetworkRulesBody {
    fn from(rules: &Rules) -> Self {
        let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
        let request = |rule: &RequestRule| RequestRuleBody {
            host: rule.host.to_string(),
            methods: rule.methods.clone(),
            path: rule.path.clone(),
            secret: rule.secret.clone(),
        };
        let EgressLimits { max_bytes, bytes_per_second } = rules.limits;
        let secret = |(name, secret): (&String, &Secret)| (name.clone(), EgressSecretBody { header: secret.header.clone(), value: None });
        Self {
            allow: texts(&rules.allow),
            deny: texts(&rules.deny),
            rules: rules.requests.iter().map(request).collect(),
            intercept: (rules.intercept == Intercept::All).then(|| ALL.to_owned()),
            limits: (rules.limits != EgressLimits::default()).then_some(EgressLimitsBody { max_bytes, bytes_per_second }),
            secrets: rules.secrets.iter().map(secret).collect(),
        }
    }
}

impl From<&Network> for NetworkBody {
    fn from(network: &Network) -> Self {
        match network {
            Network::None | Network::Public | Network::Packages(_) => Self::Name(network.to_string()),
            Network::Rules(rules) => Self::Rules(NetworkRulesBody::from(&**rules)),
        }
    }
}

impl FromStr for NetworkBody {
    type Err = Error;

    /// As it stands on a command line: a name, rules on one line, or all of it as JSON.
    fn from_str(text: &str) -> Result<Self> {
        if text.trim_start().starts_with('{') {
            let wrong = |error| Error::invalid("invalid_network", format!("the network cannot be read: {error}"));
            let rules = serde_json::from_str::<NetworkRulesBody>(text).map_err(wrong)?;
            return rules.to_core().map(|_| Self::Rules(rules));
        }
        text.parse::<Network>().map(|network| Self::from(&network))
    }
}

impl fmt::Display for NetworkBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Rules(rules) if !rules.fits_on_a_line() => f.write_str(&serde_json::to_string(rules).map_err(|_| fmt::Error)?),
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
            json!({"rules": [{"methods": ["GET"]}]}),
            json!({"rules": [{"host": "a.b", "method": "GET"}]}),
            json!({"rules": [{"host": "a.b", "secret": "x"}]}),
            json!({"rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": {"header": "A"}}}),
            json!({"rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": {"header": "A", "value": "short"}}}),
            json!({"rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": {"header": "A", "value": 123456789}}}),
            json!({"secrets": {"x": {"header": "A", "value": "123456789"}}}),
            json!({"intercept": "some"}),
            json!({"rules": [["a.b"]]}),
            json!({"limits": [1]}),
            json!({"rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": "123456789"}}),
            json!({"rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": ["A", "123456789"]}}),
            json!({"limits": {"max_bytes": 0}}),
            json!({"limits": {"bytes": 5}}),
        ] {
            let wrong = core(bad.clone()).unwrap_err();
            assert!(!wrong.contains("123456789"), "{wrong}");
        }
        let secret =
            json!({"allow": [], "rules": [{"host": "a.b", "secret": "x"}], "secrets": {"x": {"header": "A", "value": "123456789"}}});
        let body: NetworkBody = serde_json::from_value(secret).unwrap();
        let shown = serde_json::to_value(NetworkBody::from(&body.to_core().unwrap())).unwrap();
        assert_eq!(shown["secrets"], json!({"x": {"header": "A"}}), "the value is not shown again");
        assert!(body.check_without_secrets().is_err() && !format!("{body:?}").contains("12345"));
        for body in [
            json!("public"),
            json!("packages"),
            json!({"allow": ["a.b:443"], "deny": ["c"]}),
            json!({"allow": []}),
            json!({"allow": [], "rules": [{"host": "a.b", "methods": ["GET"], "path": "/x"}, {"host": "c.d"}], "intercept": "all",
                "limits": {"max_bytes": 5, "bytes_per_second": 5000}}),
        ] {
            let network = serde_json::from_value::<NetworkBody>(body.clone()).unwrap().to_core().unwrap();
            assert_eq!(serde_json::to_value(NetworkBody::from(&network)).unwrap(), body);
            let text = NetworkBody::from(&network).to_string();
            assert_eq!(text.parse::<NetworkBody>().unwrap().to_core().unwrap(), network, "{text}");
        }
    }
}
