//! What programs ask for: a name, or an address in its one usual form.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::canonical;

/// The name of a host: in small letters, without a dot at its end, and nothing that anybody could take for an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

/// Whom a program asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Name(HostName),
    Address(IpAddr),
}

/// A text that is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    #[error("the host is empty")]
    Empty,
    #[error("the host is longer than 253 characters, or a part of it longer than 63")]
    TooLong,
    #[error("the host has characters that no name has; names of other scripts are written in ASCII (`xn--…`)")]
    Character,
    #[error("the host is an address in an unusual form; write it as 192.0.2.1 or [2001:db8::1]")]
    Address,
}

impl HostName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(BadHost::Empty);
        }
        if text.len() > 253 {
            return Err(BadHost::TooLong);
        }
        for part in text.split('.') {
            match part.len() {
                0 => return Err(BadHost::Character),
                1..=63 => {}
                _ => return Err(BadHost::TooLong),
            }
            if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return Err(BadHost::Character);
            }
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        if is_number(last) { Err(BadHost::Address) } else { Ok(Self(text.to_ascii_lowercase())) }
    }
}

/// Whether a part of a name is what `inet_aton(3)` takes for a part of an address: such names are addresses for some programs.
pub(super) fn is_number(part: &str) -> bool {
    match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => part.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl FromStr for Asked {
    type Err = BadHost;

    /// As it stands in front of a port: a name, an IPv4 address, or an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, BadHost> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(BadHost::Address)?;
            // No zone: it names an interface of somebody else.
            let address: Ipv6Addr = inner.parse().map_err(|_| BadHost::Address)?;
            return Ok(Self::Address(canonical(address.into())));
        }
        match text.parse::<std::net::Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(address.into())),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
        }
    }
}
