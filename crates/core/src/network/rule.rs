//! One rule, as people write it: `example.org`, `*.example.org:8443`, `10.0.0.0/8:5432`, `[2001:db8::]/32:443`.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{
    address::{AddressRange, BadRange},
    host::{HostName, is_number},
};

/// Longest text of a rule.
const LONGEST: usize = 300;

/// Who, and by which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub subject: Subject,
    pub ports: Ports,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Names that fit this pattern, in which `*` is any number of any characters. No address fits it.
    Hosts(String),
    Addresses(AddressRange),
}

/// Ports from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// 80 and 443, where nothing is said.
    Unsaid,
    From(u16, u16),
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    #[error("a rule is empty")]
    Empty,
    #[error("a rule is longer than {LONGEST} characters")]
    TooLong,
    #[error("rule `{0}`: expected a name such as example.org or *.example.org, or an address, with a port behind it if need be")]
    Host(String),
    #[error("rule `{0}`: expected a port, 1 to 65535, a range such as 8000-8100, or `*` for all")]
    Port(String),
    #[error(transparent)]
    Range(#[from] BadRange),
}

impl Ports {
    /// What is meant where nothing is said.
    pub const WEB: Self = Self::Unsaid;
    /// Every port.
    pub const ALL: Self = Self::From(1, u16::MAX);

    /// Whether a port is one of them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        match self {
            Self::Unsaid => matches!(port, 80 | 443),
            Self::From(first, last) => (first..=last).contains(&port),
        }
    }
}

impl Rule {
    /// Whether it is about this name.
    #[must_use]
    pub fn names(&self, host: &HostName) -> bool {
        matches!(&self.subject, Subject::Hosts(pattern) if fits(pattern.as_bytes(), host.as_str().as_bytes()))
    }

    /// Whether it is about this address.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        matches!(&self.subject, Subject::Addresses(range) if range.contains(address))
    }
}

/// `*` stands for any number of any characters. Takes no longer than the product of both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and where what it stands for ends by now.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, end)) => {
                    *end += 1;
                    (p, t) = (*at + 1, *end);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadRule::Empty);
        }
        if text.len() > LONGEST {
            return Err(BadRule::TooLong);
        }
        let shown = || text.escape_default().to_string();
        let (subject, ports) = if let Some(rest) = text.strip_prefix('[') {
            // [address]:port, [address]/length:port, [address/length]:port
            let (inside, rest) = rest.split_once(']').ok_or_else(|| BadRule::Host(shown()))?;
            let (length, ports) = match rest.split_once(':') {
                Some((length, ports)) => (length, Some(ports)),
                None => (rest, None),
            };
            (Subject::Addresses(format!("{inside}{length}").parse()?), ports)
        } else if text.bytes().filter(|byte| *byte == b':').nth(1).is_some() {
            (Subject::Addresses(text.parse()?), None)
        } else {
            let (host, ports) = match text.split_once(':') {
                Some((host, ports)) => (host, Some(ports)),
                None => (text, None),
            };
            let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            if host.contains('/') || is_number(last) && !last.is_empty() {
                (Subject::Addresses(host.parse()?), ports)
            } else {
                (Subject::Hosts(pattern(host).ok_or_else(|| BadRule::Host(shown()))?), ports)
            }
        };
        let ports = match ports {
            None => Ports::Unsaid,
            Some(ports) => self::ports(ports).ok_or_else(|| BadRule::Port(shown()))?,
        };
        Ok(Self { subject, ports })
    }
}

/// In small letters, in ASCII, without a dot at its end.
fn pattern(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let parts: Option<Vec<String>> = text.split('.').map(part).collect();
    let pattern = parts?.join(".");
    (pattern.len() <= 253).then_some(pattern)
}

fn part(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > 63 * 4 {
        return None;
    }
    let part = if text.is_ascii() { text.to_ascii_lowercase() } else { idna::domain_to_ascii_strict(text).ok()? };
    let fine = part.len() <= 63 && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'));
    fine.then_some(part)
}

fn ports(text: &str) -> Option<Ports> {
    let port = |text: &str| -> Option<u16> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0)
    };
    match text.split_once('-') {
        _ if text == "*" => Some(Ports::ALL),
        None => port(text).map(|port| Ports::From(port, port)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some(Ports::From(first, last))
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Hosts(pattern) => f.write_str(pattern)?,
            Subject::Addresses(range) => {
                let text = range.to_string();
                if text.contains(':') && self.ports != Ports::Unsaid { write!(f, "[{text}]")? } else { f.write_str(&text)? }
            }
        }
        match self.ports {
            Ports::Unsaid => Ok(()),
            Ports::ALL => f.write_str(":*"),
            Ports::From(first, last) if first == last => write!(f, ":{first}"),
            Ports::From(first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for (text, written) in [
            ("example.org", "example.org"),
            ("*.Example.ORG.:8443", "*.example.org:8443"),
            ("*", "*"),
            ("*:22", "*:22"),
            ("a.b:8000-8100", "a.b:8000-8100"),
            ("a:*", "a:*"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.0/8:5432", "10.0.0.0/8:5432"),
            ("10.0.0.7/32:1", "10.0.0.7:1"),
            ("0.0.0.0/0:22", "0.0.0.0/0:22"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2606::1", "2606::1"),
            ("[2001:db8::]/32:443", "[2001:db8::/32]:443"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("[2606::1]:1-2", "[2606::1]:1-2"),
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), written, "{text}");
            assert_eq!(written.parse::<Rule>().unwrap(), rule, "{written}");
        }
        let long = "x".repeat(64);
        for bad in [
            "",
            " ",
            "a b",
            "a..b",
            ".a",
            "a:0",
            "a:65536",
            "a:",
            "a:+1",
            "a:9-8",
            "a:1-",
            "http://a",
            "a/b",
            "a@b",
            "1.2.3",
            "010.0.0.1",
            "0x7f000001",
            "2130706433",
            "127.1",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::ffff:10.0.0.1",
            "[::1",
            "[::1]x",
            "[a]:1",
            "a?b",
            "[fe80::1%eth0]:80",
            &long,
            "a\0",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?} is no rule");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_was_made_of(parts in prop::collection::vec("[a-c.]{0,3}", 1..5), between in prop::collection::vec("[a-c.]{0,4}", 4)) {
            let pattern = parts.join("*");
            let text: String = parts.iter().zip(between.iter().chain(["".to_owned()].iter())).map(|(part, more)| format!("{part}{more}")).collect();
            let last = parts.len() - 1;
            let text = text[..text.len() - between.get(last).map_or(0, String::len)].to_owned();
            prop_assert!(fits(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }

        #[test]
        fn a_pattern_is_what_a_slow_search_says(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.first(), text.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => slow(&pattern[1..], text) || (!text.is_empty() && slow(pattern, &text[1..])),
                    (Some(a), Some(b)) if a == b => slow(&pattern[1..], &text[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn whatever_is_read_is_written_the_same(text in "\\PC{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }
    }
}
