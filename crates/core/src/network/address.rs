//! Addresses: which are never public, and ranges of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses: a prefix and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    length: u8,
}

/// A text that is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    #[error("`{0}` is no address and no range such as 10.0.0.0/8 or 2001:db8::/32")]
    Malformed(String),
    #[error("`{0}` has bits behind its prefix; write {1}")]
    Bits(String, AddressRange),
    #[error("`{0}` is an IPv4 address in the form of an IPv6 one; write it as an IPv4 address")]
    Mapped(String),
}

/// Ranges of IPv4 that are not the public Internet's, the smaller ones first.
const V4: [(u32, u8, &str); 19] = [
    (0xFFFF_FFFF, 32, "the broadcast address"),
    (0xA9FE_A9FE, 32, "a metadata service"),
    (0xA9FE_AA02, 32, "a metadata service"),
    (0x6464_64C8, 32, "a metadata service"),
    (0xA83F_8110, 32, "a metadata service"),
    (0x0000_0000, 8, "unspecified"),
    (0x0A00_0000, 8, "private"),
    (0x6440_0000, 10, "shared by carriers"),
    (0x7F00_0000, 8, "loopback"),
    (0xA9FE_0000, 16, "link-local"),
    (0xAC10_0000, 12, "private"),
    (0xC000_0000, 24, "for protocols"),
    (0xC000_0200, 24, "for documentation"),
    (0xC058_6300, 24, "for relays"),
    (0xC0A8_0000, 16, "private"),
    (0xC612_0000, 15, "for measurements"),
    (0xC633_6400, 24, "for documentation"),
    (0xCB00_7100, 24, "for documentation"),
    (0xE000_0000, 3, "multicast or reserved"),
];

/// Ranges of IPv6 within 2000::/3, which alone is public, that are not.
const V6: [(u128, u8, &str); 4] = [
    (0x2001_0000 << 96, 23, "for protocols, such as Teredo"),
    (0x2001_0DB8 << 96, 32, "for documentation"),
    (0x2002_0000 << 96, 16, "an address of IPv4 in another form (6to4)"),
    (0x3FFF_0000 << 96, 20, "for documentation"),
];
const NAT64: (u128, u8) = (0x0064_FF9B << 96, 96);

/// An address of IPv4 in the form of an IPv6 one as what it is.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What an address is that is not public; `None` for one that is.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match canonical(address) {
        IpAddr::V4(address) => special_v4(address.to_bits()),
        IpAddr::V6(address) => special_v6(address.to_bits()),
    }
}

fn special_v4(bits: u32) -> Option<&'static str> {
    V4.iter().find(|(first, length, _)| (bits ^ first) >> (32 - length) == 0).map(|(_, _, kind)| *kind)
}

fn special_v6(bits: u128) -> Option<&'static str> {
    let within = |first: u128, length: u8| (bits ^ first) >> (128 - length) == 0;
    match bits {
        0 => Some("unspecified"),
        1 => Some("loopback"),
        _ if within(NAT64.0, NAT64.1) => Some("an address of IPv4 in another form (NAT64)"),
        _ if within(0xFE80 << 112, 10) => Some("link-local"),
        _ if within(0xFC00 << 112, 7) => Some("private"),
        _ if within(0xFF00 << 112, 8) => Some("multicast"),
        _ if !within(0x2000 << 112, 3) => Some("not of the public Internet"),
        _ => V6.iter().find(|(first, length, _)| within(*first, *length)).map(|(_, _, kind)| *kind),
    }
}

impl AddressRange {
    /// Whether an address is in it. One of IPv4 in the form of an IPv6 one is what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self::from(canonical(address)))
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let length = self.length.min(other.length);
        match (self.first, other.first) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(length)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(length)).unwrap_or(0) == 0,
            _ => false,
        }
    }

    /// What all of its addresses are, where none of them is public.
    #[must_use]
    pub fn special(&self) -> Option<&'static str> {
        let kind = special(self.first)?;
        let last = match self.first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | u32::MAX.checked_shr(self.length.into()).unwrap_or(0))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | u128::MAX.checked_shr(self.length.into()).unwrap_or(0))),
        };
        // No range of the tables begins and ends in two different ones, but for those that have public addresses between them.
        (special(last).is_some() && self.length >= 3).then_some(kind)
    }
}

impl From<IpAddr> for AddressRange {
    fn from(first: IpAddr) -> Self {
        Self { first, length: if first.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    /// An address, or a range such as `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, BadRange> {
        let malformed = || BadRange::Malformed(text.chars().take(64).collect::<String>().escape_default().to_string());
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= most).ok_or_else(malformed)?
            }
            Some(_) => return Err(malformed()),
        };
        if canonical(address) != address {
            return Err(BadRange::Mapped(text.to_owned()));
        }
        let first = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0))),
        };
        let range = Self { first, length };
        if first == address { Ok(range) } else { Err(BadRange::Bits(text.to_owned(), range)) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::from(self.first) { write!(f, "{}", self.first) } else { write!(f, "{}/{}", self.first, self.length) }
    }
}
