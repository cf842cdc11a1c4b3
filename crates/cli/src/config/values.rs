//! From text to values. Every refusal says what would be right.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use caisson_core::{AddressRange, BadRange, Image, Rule};
use caisson_locks::RedisUrl;
use caisson_store::{BadUrl, Location};

use super::{
    layers::Layers,
    settings::{ALIASES, Setting},
};
use crate::{
    args::{duration, size},
    key, logging, printable,
};

const PORT: u16 = 8080;

/// Reads values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    layers: &'a Layers,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: &'a Layers, problems: &'a mut Vec<String>) -> Self {
        Self { layers, problems }
    }

    /// Whether a key is set, and by a name of another system's.
    pub(super) fn is_alias(&self, key: Setting) -> bool {
        self.layers.get(key).is_some_and(|given| ALIASES.iter().any(|(alias, _)| given.place == *alias))
    }

    /// Where a key is given, if it is.
    pub(super) fn place(&self, key: Setting) -> Option<&'a str> {
        self.layers.get(key).map(|given| given.place.as_str())
    }

    pub(super) fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    /// The value of a key. `None` when nobody gives one, and when it is wrong, which is noted.
    pub(super) fn get<T>(&mut self, key: Setting, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let given = self.layers.get(key)?;
        let parsed = if given.text.is_empty() { Err("is empty; give it a value or leave it out".to_owned()) } else { parse(&given.text) };
        match parsed {
            Ok(value) => Some(value),
            Err(what) => {
                // Texts are shown, secrets are not.
                let shown = if key.is_secret() || given.text.is_empty() {
                    String::new()
                } else {
                    format!(" is `{}`:", printable::text(&given.text))
                };
                self.problems.push(format!("{}{shown} {what}", given.place));
                None
            }
        }
    }
}

pub(super) fn default_listen() -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, PORT).into()]
}

/// One or more addresses with ports, separated by commas.
pub(super) fn listen(text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim) {
        let numeric = part.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = numeric.as_deref().unwrap_or(part).parse().map_err(|_| {
            "expected ADDRESS:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080; several are separated by commas".to_owned()
        })?;
        if addresses.contains(&address) && address.port() != 0 {
            return Err(format!("{address} is there twice; leave one out"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Of a directory or a file.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| format!("this is no path: {error}"))
}

pub(super) fn api_key(text: &str) -> Result<key::Key, String> {
    key::Key::new(text).map_err(str::to_owned)
}

/// `NAME=IMAGE`, several with commas between them, over the ones that are there by default.
pub(super) fn image_aliases(text: &str) -> Result<BTreeMap<String, Image>, String> {
    let mut aliases = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, image) = pair
            .split_once('=')
            .map(|(name, image)| (name.trim(), image.trim()))
            .ok_or_else(|| "expected NAME=IMAGE, such as python:3.12=host; several are separated by commas".to_owned())?;
        if name.is_empty() {
            return Err("has an alias without a name".to_owned());
        }
        let image: Image = image.parse().map_err(|error| format!("{error}"))?;
        if aliases.insert(name.to_owned(), image).is_some() {
            return Err(format!("has `{}` twice; leave one out", printable::text(name)));
        }
    }
    Ok(aliases)
}

/// Whether sandboxes may have a network.
pub(super) fn egress(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected `on` or `off`".to_owned()),
    }
}

/// Addresses and ranges of them, separated by commas.
pub(super) fn egress_addresses(text: &str) -> Result<Vec<AddressRange>, String> {
    let range = |part: &str| part.trim().parse().map_err(|error: BadRange| format!("{error}; several are separated by commas"));
    text.split(',').map(range).collect()
}

/// Hosts that packages come from, separated by commas.
pub(super) fn egress_packages(text: &str) -> Result<Vec<Rule>, String> {
    let rule = |part: &str| part.parse::<Rule>().map_err(|error| format!("{error}; several are separated by commas"));
    text.split(',').map(rule).collect()
}

/// Addresses of name servers, separated by commas.
pub(super) fn dns(text: &str) -> Result<Vec<SocketAddr>, String> {
    const PORT: u16 = 53;
    let server = |part: &str| {
        let part = part.trim();
        let address = part.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT)).or_else(|_| part.parse());
        address.map_err(|_| {
            "expected ADDRESS or ADDRESS:PORT, such as 192.0.2.1 or [2001:db8::1]:53; several are separated by commas".to_owned()
        })
    };
    text.split(',').map(server).collect()
}

/// Whether a key is needed.
pub(super) fn auth(text: &str) -> Result<bool, String> {
    match text {
        "key" => Ok(true),
        "none" => Ok(false),
        _ => Err("expected `key`, or `none` to let every program on this machine in".to_owned()),
    }
}

pub(super) fn filter(text: &str) -> Result<String, String> {
    match logging::check_filter(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(format!("expected a filter such as `info` or `warn,caisson_engine=debug` ({error})")),
    }
}

pub(super) fn log_format(text: &str) -> Result<logging::Format, String> {
    match text {
        "text" => Ok(logging::Format::Text),
        "json" => Ok(logging::Format::Json),
        _ => Err("expected `text` or `json`".to_owned()),
    }
}

pub(super) fn max_sandboxes(text: &str) -> Result<usize, String> {
    let what = "expected a number from 1 to 100000";
    text.parse().ok().filter(|number| (1..=100_000).contains(number)).ok_or_else(|| what.to_owned())
}

pub(super) fn queue_wait(text: &str) -> Result<Duration, String> {
    within(duration(text)?, &(Duration::ZERO..=Duration::from_secs(600)), "allowed is 0 to 10m; 0 refuses at once")
}

pub(super) fn retention(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(60)..=Duration::from_secs(3660 * 86_400);
    within(duration(text)?, &range, "allowed is 1m to 3660d")
}

pub(super) fn retention_sandboxes(text: &str) -> Result<u64, String> {
    let what = "expected a number from 1 to 1000000000; leave it out to count none";
    text.parse().ok().filter(|number| (1..=1_000_000_000).contains(number)).ok_or_else(|| what.to_owned())
}

/// How long stopped sandboxes are kept; `None`: as long as their own time limits say.
pub(super) fn stopped_grace(text: &str) -> Result<Option<Duration>, String> {
    let what = "expected a number of seconds up to 316224000; 0 keeps them for as long as their own time limits say";
    let seconds = text.parse().ok().filter(|seconds| (0..=316_224_000).contains(seconds)).ok_or_else(|| what.to_owned())?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

pub(super) fn max_stopped(text: &str) -> Result<usize, String> {
    let what = "expected a number from 0 to 100000; 0 keeps none";
    text.parse().ok().filter(|number| (0..=100_000).contains(number)).ok_or_else(|| what.to_owned())
}

/// Where records are kept.
pub(super) fn database(text: &str) -> Result<Location, String> {
    text.parse().map_err(|error: BadUrl| error.to_string())
}

/// Where locks are kept.
pub(super) fn redis(text: &str) -> Result<RedisUrl, String> {
    text.parse().map_err(|error: caisson_locks::BadUrl| error.to_string())
}

/// Where other servers reach this one. What they send has keys in it, so it is for a network of their own.
pub(super) fn peer_url(text: &str) -> Result<String, String> {
    let what =
        "expected http://HOST:PORT, without user, path and query, such as http://10.0.0.2:8080; it is for a private network of the servers";
    let authority = text.strip_suffix('/').unwrap_or(text).strip_prefix("http://").ok_or(what)?;
    let authority: http::uri::Authority = authority.parse().map_err(|_| what)?;
    let plain = !authority.host().is_empty() && !authority.as_str().contains('@') && authority.port_u16() != Some(0);
    if plain { Ok(format!("http://{authority}")) } else { Err(what.to_owned()) }
}

pub(super) fn server_lease(text: &str) -> Result<Duration, String> {
    within(duration(text)?, &(Duration::from_secs(5)..=Duration::from_secs(300)), "allowed is 5s to 5m")
}

pub(super) fn output_log(text: &str) -> Result<u64, String> {
    within(size(text)?, &(1 << 10..=1 << 40), "allowed is 1K to 1T")
}

pub(super) fn inline_output(text: &str) -> Result<usize, String> {
    let bytes = within(size(text)?, &(1 << 10..=64 << 20), "allowed is 1K to 64M")?;
    usize::try_from(bytes).map_err(|error| error.to_string())
}

pub(super) fn max_image_size(text: &str) -> Result<u64, String> {
    within(size(text)?, &(1 << 20..=1 << 44), "allowed is 1M to 16T")
}

pub(super) fn max_image_entries(text: &str) -> Result<u64, String> {
    let what = "expected a number from 100 to 100000000";
    text.parse().ok().filter(|number| (100..=100_000_000).contains(number)).ok_or_else(|| what.to_owned())
}

/// `true` or `false`.
pub(super) fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be `true` or `false`".to_owned())
}

/// Whether sandboxes are kept warm.
pub(super) fn pool(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected `auto` or `off`".to_owned()),
    }
}

/// An address or a domain by which clients know the server.
pub(super) fn public<T: std::str::FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse().map_err(str::to_owned)
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, what: &str) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(what.to_owned()) }
}
