//! Rules about requests of HTTP: by method and path, with a secret that is put in on the way.

use std::{collections::BTreeMap, fmt};

use super::{Rule, Subject};
use crate::Error;

/// Secrets of one policy.
const MOST_SECRETS: usize = 64;
/// Methods of one rule.
const MOST_METHODS: usize = 32;
/// The longest method, name of a secret, path and value, in bytes.
const LONGEST_METHOD: usize = 32;
const LONGEST_NAME: usize = 200;
const LONGEST_PATH: usize = 1024;
const LONGEST_VALUE: usize = 8192;
/// All values of a policy together.
const MOST_VALUES: usize = 16 << 10;

/// Fields that say how a message is read, or are of one connection alone: none of them is a secret's.
const NOT_FOR_SECRETS: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-caisson-egress",
];

/// What requests to a host may be. The first rule that fits decides; where rules name a host and none fits, the request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRule {
    /// Names alone.
    pub host: Rule,
    /// In capitals; none means all.
    pub methods: Vec<String>,
    /// How paths begin, by whole segments.
    pub path: Option<String>,
    /// The name of what is put in.
    pub secret: Option<String>,
}

impl EgressLimits {
    /// The slowest rate. Below it no TLS comes about in time.
    pub const SLOWEST: u64 = 1024;
    /// The most of both.
    pub const MAX: u64 = 1 << 50;
}

impl RequestRule {
    /// From texts as people write them. `*` is every method.
    pub fn read(host: &str, methods: &[String], path: Option<String>, secret: Option<String>) -> Result<Self, Error> {
        let rule: Rule = host.parse().map_err(|error| invalid(format!("field `network.rules`: {error}")))?;
        if !matches!(rule.subject, Subject::Hosts(_)) {
            return Err(invalid(format!(
                "field `network.rules`: `{}` is an address; requests are judged by the name of their host, so give one, or put the address into `allow`",
                host.escape_default()
            )));
        }
        if methods.len() > MOST_METHODS {
            return Err(invalid(format!("field `network.rules`: a rule has {} methods, at most {MOST_METHODS} are taken", methods.len())));
        }
        let method = |method: &String| {
            let fine = (1..=LONGEST_METHOD).contains(&method.len()) && method.bytes().all(is_of_token);
            let told = || invalid(format!("field `network.rules`: `{}` is no method such as GET, nor `*`", shown(method)));
            if fine { Ok(method.to_ascii_uppercase()) } else { Err(told()) }
        };
        let mut methods: Vec<String> = methods.iter().map(method).collect::<Result<_, _>>()?;
        if methods.iter().any(|method| method == "*") {
            methods.clear();
        }
        if let Some(path) = &path {
            let fine = path.len() <= LONGEST_PATH && path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
            if !fine || path.contains(['?', '#']) || !is_plain(path) {
                return Err(invalid(format!(
                    "field `network.rules`: `{}` is no path such as /repos/: no query, no `.` or `..`, at most {LONGEST_PATH} characters",
                    shown(path)
                )));
            }
        }
        Ok(Self { host: rule, methods, path, secret })
    }

    /// Whether its requests have to be looked into.
    #[must_use]
    pub fn is_particular(&self) -> bool {
        !self.methods.is_empty() || self.path.is_some() || self.secret.is_some()
    }

    /// Whether it lets a request to its host through.
    pub(super) fn takes(&self, method: &str, path: &str) -> bool {
        let method_fits = self.methods.is_empty() || self.methods.iter().any(|known| known == method);
        method_fits
            && self.path.as_ref().is_none_or(|prefix| {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
            })
    }
}

/// Whether a path has one meaning for everybody: no segment that leads up, and no separator that is hidden.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let small = path.to_ascii_lowercase();
    let leads_up = small.split('/').any(|segment| {
        // What is behind a semicolon is no part of the name for some, nor are blanks at its end.
        let name = segment.split(';').next().unwrap_or_default().replace("%2e", ".").replace("%20", " ");
        matches!(name.trim(), "." | "..")
    });
    !leads_up && !small.contains('\\') && small.split('%').skip(1).all(is_one_character)
}

/// Whether what is behind a percent sign is a character that everybody reads alike: no separator, nothing that is encoded twice, none that is
/// written longer than it has to be.
fn is_one_character(rest: &str) -> bool {
    let byte = rest.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    byte.and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .is_some_and(|byte| !(byte < b' ' || matches!(byte, b'#' | b'%' | b'/' | b';' | b'?' | b'\\' | 0x7f | 0xc0 | 0xc1 | 0xf5..)))
}

/// Whose TLS is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intercept {
    /// That of hosts with a rule that needs it.
    #[default]
    Needed,
    /// That of all hosts. What is neither TLS nor HTTP is refused.
    All,
}

/// How much, and how fast, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressLimits {
    pub max_bytes: Option<u64>,
    pub bytes_per_second: Option<u64>,
}

/// A field of requests that is put in outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The name of the field.
    pub header: String,
    pub value: SecretValue,
}

/// The value of a secret. Only what is sealed is kept anywhere.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// As it came with a request.
    Given(String),
    /// As only the server can read it.
    Sealed(String),
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given(_) => "Given(…)",
            Self::Sealed(_) => "Sealed(…)",
        })
    }
}

impl Secret {
    /// A secret as it came with a request. What is wrong is told without its value.
    pub fn given(name: &str, header: &str, value: String) -> Result<Self, Error> {
        let wrong = |what: String| invalid(format!("field `network.secrets`: secret `{}` {what}", shown(name)));
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(wrong(format!("has no name of 1 to {LONGEST_NAME} characters")));
        }
        if header.is_empty() || header.len() > LONGEST_NAME || !header.bytes().all(is_of_token) {
            return Err(wrong("has a `header` that is no name of a field, such as Authorization".to_owned()));
        }
        if NOT_FOR_SECRETS.contains(&header.to_ascii_lowercase().as_str()) {
            return Err(wrong(format!("cannot be field `{header}`, which says how a request is read")));
        }
        let fine = value.trim() == value && !value.chars().any(char::is_control);
        if value.is_empty() || value.len() > LONGEST_VALUE || !fine {
            return Err(wrong(format!(
                "has a value that no field has: 1 to {LONGEST_VALUE} bytes on one line, without blanks around them"
            )));
        }
        Ok(Self { header: header.to_owned(), value: SecretValue::Given(value) })
    }
}

/// What is wrong with rules about requests as a whole.
pub(super) fn check(rules: &[RequestRule], secrets: &BTreeMap<String, Secret>, limits: EgressLimits) -> Result<(), Error> {
    let given = secrets.values().map(|secret| match &secret.value {
        SecretValue::Given(value) => value.len(),
        SecretValue::Sealed(_) => 0,
    });
    if given.sum::<usize>() > MOST_VALUES {
        return Err(invalid(format!("the values of field `network.secrets` have more than {MOST_VALUES} bytes together")));
    }
    if secrets.len() > MOST_SECRETS {
        return Err(invalid(format!("field `network.secrets` has {} secrets, at most {MOST_SECRETS} are taken", secrets.len())));
    }
    for rule in rules {
        if let Some(name) = rule.secret.as_ref().filter(|name| !secrets.contains_key(*name)) {
            return Err(invalid(format!(
                "field `network.rules`: the rule for `{}` has secret `{}`, which is not in `secrets`",
                rule.host,
                shown(name)
            )));
        }
    }
    if let Some(name) = secrets.keys().find(|name| !rules.iter().any(|rule| rule.secret.as_ref() == Some(name))) {
        return Err(invalid(format!("field `network.secrets`: no rule has secret `{}`; leave it out, or name it in `rules`", shown(name))));
    }
    let most = EgressLimits::MAX;
    if let Some(max) = limits.max_bytes.filter(|max| !(1..=most).contains(max)) {
        return Err(invalid(format!("field `network.limits.max_bytes` is {max}, allowed is 1 to {most}; leave it out for no limit")));
    }
    let slowest = EgressLimits::SLOWEST;
    if let Some(rate) = limits.bytes_per_second.filter(|rate| !(slowest..=most).contains(rate)) {
        return Err(invalid(format!("field `network.limits.bytes_per_second` is {rate}, allowed is {slowest} to {most}")));
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::invalid("invalid_network", message)
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect::<String>().escape_default().to_string()
}

/// RFC 9110 §5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
