//! boxbox's own names in the environment. They are taken as upstream takes them: empty is as good as absent, and what cannot be read is the
//! default, with a line in the log.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use caisson_core::{Limits, Storage};
use caisson_server::BoxboxSettings;

use super::{
    settings::Setting,
    sources::Environment,
    values::{self, Reader},
};
use crate::{key::Key, printable};

const GIB: u64 = 1 << 30;
/// Sandboxes that are kept ready for an installation of boxbox's that does not say how many.
const KEPT: u32 = 5;
/// As many as a template may have.
const MOST_WARM: u64 = 1000;
/// Files on their way at one time.
const MOST_AT_ONCE: u64 = 100;
/// Of the memory so much may be files, where files are in memory: some is left for programs when it is full.
const FILES: u64 = 75;

/// Names that have no other here.
pub(super) const NAMES: [&str; 16] = [
    "API_PORT",
    "DAYTONA_API_KEY",
    "DAYTONA_API_URL",
    "EXECUTION_TIMEOUT",
    "MAX_FILE_SIZE_MB",
    "POOL_MAX_WARM",
    "POOL_MIN_WARM",
    "POOL_SANDBOX_TTL",
    "POOL_SCALE_DOWN_THRESHOLD",
    "QUEUE_MAX_CONCURRENT",
    "QUEUE_WAIT_TIMEOUT",
    "SANDBOX_AUTO_STOP_INTERVAL",
    "SANDBOX_CPU",
    "SANDBOX_DISK",
    "SANDBOX_MEMORY",
    "SYNC_CONCURRENCY",
];

/// Those that mean a setting of ours.
const OF_SETTINGS: [&str; 7] = ["API_KEY", "DAYTONA_IMAGE", BUCKET, "S3_ENDPOINT", "S3_REGION", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"];
/// Where it has a name alone, we have an address.
const BUCKET: &str = "S3_BUCKET";

/// Whether a variable is as good as absent: an empty one of boxbox's, and one that others have as well where none of its own is set.
pub(super) fn is_absent(name: &OsStr, value: &OsStr, environment: &Environment) -> bool {
    let is_set = |(name, value): &(OsString, OsString)| {
        let own =
            name == "API_KEY" || ["DAYTONA_", "CAISSON_BOXBOX_"].iter().any(|begin| name.as_encoded_bytes().starts_with(begin.as_bytes()));
        own && !value.is_empty()
    };
    let of_others = name.as_encoded_bytes().starts_with(b"S3_");
    OF_SETTINGS.iter().any(|own| name == *own) && (value.is_empty() || (of_others && !environment.0.iter().any(is_set)))
}

/// What a variable says as a setting of ours would.
pub(super) fn in_our_words<'a>(name: &str, text: &'a str) -> Cow<'a, str> {
    if name == BUCKET { format!("s3://{text}").into() } else { text.into() }
}

/// Names that change nothing here, and why.
const OF_NO_USE: [(&str, &str); 3] = [
    ("DAYTONA_API_KEY", "is not needed: sandboxes are made on this machine"),
    ("DAYTONA_API_URL", "is not needed: sandboxes are made on this machine"),
    ("SANDBOX_AUTO_STOP_INTERVAL", "is not used: a sandbox ends with its one execution"),
];

/// What is made of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Boxbox {
    /// For this API alone.
    pub(crate) key: Option<Key>,
    /// What sandboxes are made of, by name.
    pub(crate) image: Option<String>,
    /// What their image is built from, instead of what comes with the program.
    pub(crate) dockerfile: Option<PathBuf>,
    /// Whether this is an installation of boxbox's, which has an image built where it names none.
    pub(crate) is_meant: bool,
    pub(crate) port: Option<u16>,
    pub(crate) settings: BoxboxSettings,
    /// For the log.
    pub(crate) notes: Vec<String>,
}

pub(super) fn read(reader: &mut Reader<'_>, environment: &Environment) -> Boxbox {
    let key = reader.get(Setting::BoxboxApiKey, values::api_key);
    let image = reader.get(Setting::BoxboxImage, |text| Ok(text.to_owned()));
    let dockerfile = reader.get(Setting::BoxboxDockerfile, values::path);
    let mut names = Names { environment, notes: Vec::new() };
    let is_theirs = names.text("DAYTONA_API_KEY").is_some() || names.text("DAYTONA_API_URL").is_some();
    let is_meant = dockerfile.is_some() || (key.is_some() && (is_theirs || !reader.is_alias(Setting::BoxboxApiKey)));
    for (name, why) in OF_NO_USE {
        if names.text(name).is_some() {
            names.notes.push(format!("{name} {why}"));
        }
    }
    let port = names.number("API_PORT", 1..=u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    let settings = settings(&mut names, is_meant);
    Boxbox { key, image, dockerfile, is_meant, port, settings, notes: names.notes }
}

/// Those of an installation of boxbox's, or of one that has nothing to do with it and may be asked all the same.
fn settings(names: &mut Names<'_>, is_meant: bool) -> BoxboxSettings {
    let default = BoxboxSettings::default();
    let usize_of = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let memory_bytes = names.number("SANDBOX_MEMORY", 1..=1024).map_or(default.limits.memory_bytes, |gib| gib * GIB);
    let disk = names.number("SANDBOX_DISK", 1..=1024).map(|gib| gib * GIB);
    let cores = names.number("SANDBOX_CPU", 1..=512).and_then(|cores| u32::try_from(cores).ok());
    let mut count = |name: &str, most: u64| names.number(name, 0..=most).and_then(|count| u32::try_from(count).ok());
    let kept = if is_meant { KEPT } else { 0 };
    let min = count("POOL_MIN_WARM", MOST_WARM).unwrap_or(kept);
    let max = count("POOL_MAX_WARM", MOST_WARM).unwrap_or(*default.warm.end());
    let warm_stay = count("POOL_SCALE_DOWN_THRESHOLD", MOST_WARM).unwrap_or(kept);
    if min > max {
        names.notes.push(format!("POOL_MIN_WARM is {min} and POOL_MAX_WARM is {max}; {min} is the most as well"));
    }
    BoxboxSettings {
        warm: min..=max.max(min),
        warm_stay,
        warm_age: names.duration("POOL_SANDBOX_TTL").unwrap_or(default.warm_age),
        files_at_once: names.number("SYNC_CONCURRENCY", 1..=MOST_AT_ONCE).map_or(default.files_at_once, usize_of),
        timeout: names.duration("EXECUTION_TIMEOUT").unwrap_or(default.timeout),
        slots: names.number("QUEUE_MAX_CONCURRENT", 1..=10_000).map_or(default.slots, usize_of),
        wait: names.duration("QUEUE_WAIT_TIMEOUT").unwrap_or(default.wait),
        max_file_bytes: names.number("MAX_FILE_SIZE_MB", 1..=1 << 20).map_or(default.max_file_bytes, |mib| mib << 20),
        limits: Limits {
            memory_bytes,
            cpu_millis: cores.map_or(default.limits.cpu_millis, |cores| cores * 1000),
            disk_bytes: disk.unwrap_or(memory_bytes / 100 * FILES),
            ..default.limits
        },
        // Only whoever says how large it is to be has one of its own.
        storage: if disk.is_some() { Storage::Disk } else { Storage::Memory },
        image: default.image,
    }
}

/// The environment as upstream reads it.
struct Names<'a> {
    environment: &'a Environment,
    notes: Vec<String>,
}

impl Names<'_> {
    /// What a name is set to, where it is.
    fn text(&self, name: &str) -> Option<String> {
        let found = self.environment.0.iter().find(|(known, _)| known == OsStr::new(name));
        found.map(|(_, value)| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
    }

    fn read<T>(&mut self, name: &str, wanted: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(&text);
        self.notes.push(match value {
            Some(_) => format!("{name} of the environment is used"),
            None => format!("{name} is `{}`, which is no {wanted}; the default is used", printable::text(&text)),
        });
        value
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("number from {} to {}", range.start(), range.end());
        self.read(name, &wanted, |text| u64::from_str(text).ok().filter(|number| range.contains(number)))
    }

    fn duration(&mut self, name: &str) -> Option<Duration> {
        self.read(name, "time such as 90s, 5m or 1h30m", |text| go_duration(text).filter(|duration| !duration.is_zero()))
    }
}

/// A time as Go writes it, and not before now.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (figure, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, behind) = behind.split_at(behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len()));
        let each = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += figure.parse::<f64>().ok()? * each;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// The listeners with one more: for everybody where a key says that it is meant, else for this machine.
pub(super) fn with_port(mut listen: Vec<SocketAddr>, port: Option<u16>, for_everybody: bool) -> Vec<SocketAddr> {
    let Some(port) = port else { return listen };
    let ip = if for_everybody { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    // One that listens everywhere has the rest as well, and leaves no room for it.
    let is_there = |address: &SocketAddr| address.port() == port && (address.ip() == ip || address.ip().is_unspecified());
    if !listen.iter().any(is_there) {
        listen.retain(|address| !for_everybody || address.port() != port || !address.is_ipv4());
        listen.push((ip, port).into());
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        for (text, seconds) in [("90s", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("+2ms", 0.002), ("0", 0.0), (".5m", 30.0)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5 m", "5d", "1h30", "..5s", "9999999999999999999999h", "5s x"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_adds_a_listener_and_none_that_cannot_be() {
        let with = |listen: &[&str], port, everybody| -> Vec<String> {
            let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
            with_port(listen, port, everybody).iter().map(ToString::to_string).collect()
        };
        assert_eq!(with(&["127.0.0.1:8080"], None, true), ["127.0.0.1:8080"]);
        assert_eq!(with(&["127.0.0.1:8080"], Some(8080), true), ["0.0.0.0:8080"]);
        assert_eq!(with(&["127.0.0.1:8080"], Some(8080), false), ["127.0.0.1:8080"]);
        assert_eq!(with(&["127.0.0.1:8080"], Some(9000), true), ["127.0.0.1:8080", "0.0.0.0:9000"]);
        assert_eq!(with(&["0.0.0.0:9000", "[::1]:9000"], Some(9000), true), ["0.0.0.0:9000", "[::1]:9000"]);
        assert_eq!(with(&["[::]:9000"], Some(9000), false), ["[::]:9000"]);
    }
}
