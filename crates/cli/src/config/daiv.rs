//! daiv-sandbox's own names in the environment. They are taken as upstream takes them: empty is as good as absent, what is not in the environment may be in
//! a file of `/run/secrets`, and what cannot be read is a problem.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    str::FromStr,
    time::Duration,
};

use caisson_core::Storage;
use caisson_oci::Kind;
use caisson_server::DaivSettings;

use super::{
    settings::Setting,
    sources::Environment,
    values::{self, Reader},
};
use crate::{key::Key, printable, reports};

const PREFIX: &str = "DAIV_SANDBOX_";
/// Where secrets are, in files that are called like variables.
pub(super) const SECRETS: &str = "/run/secrets";
const PORT: u16 = 8000;
/// Ids that a sandbox has.
const MOST_ID: u64 = 65_535;
/// The longest of all times: a year.
const LONGEST: f64 = 366.0 * 24.0 * 3600.0;

/// Names that are settings of ours.
const OF_SETTINGS: [&str; 4] = ["API_KEY", "EGRESS_CA_CERT_FILE", "EGRESS_CA_KEY_FILE", "REDIS_URL"];
/// Names that change something here.
const USED: [&str; 22] = [
    "API_V1_STR",
    "COMMAND_TIMEOUT",
    "FS_PRUNE_DIRS",
    "HOST",
    "LOG_LEVEL",
    "MAX_STOPPED_SESSIONS",
    "PORT",
    "REAPER_ENABLED",
    "REAPER_INTERVAL_SECONDS",
    "RUNNING_SESSION_MAX_IDLE_SECONDS",
    "RUNTIME",
    "RUN_GID",
    "RUN_UID",
    "SENTRY_DSN",
    "SENTRY_ENABLE_LOGS",
    "SENTRY_SEND_DEFAULT_PII",
    "SENTRY_TRACES_SAMPLE_RATE",
    "SESSION_GRACE_SECONDS",
    "SESSION_LOCK_REFRESH_SECONDS",
    "SESSION_LOCK_TTL_SECONDS",
    "SESSION_LOCK_WAIT_SECONDS",
    "ENVIRONMENT",
];

/// Names that change nothing here, and why.
const OF_NO_USE: [(&str, &str); 10] = [
    ("EGRESS_PROXY_CPUS", NO_EGRESS),
    ("EGRESS_PROXY_IMAGE", NO_EGRESS),
    ("EGRESS_PROXY_MEMORY_BYTES", NO_EGRESS),
    ("EGRESS_PROXY_NETWORK", NO_EGRESS),
    ("EGRESS_PROXY_PORT", NO_EGRESS),
    ("EGRESS_PROXY_RUNTIME", NO_EGRESS),
    ("GIT_IMAGE", "is not used: patches are made without an image of git"),
    ("NETWORK", NO_EGRESS),
    ("SENTRY_PROFILES_SAMPLE_RATE", "is not used: the Sentry client makes no profiles"),
    ("STOP_TIMEOUT_SECONDS", "is not used: what runs in a session that is stopped is ended at once"),
];
const NO_EGRESS: &str = "is not used: sessions get out through this program itself, where CAISSON_EGRESS is `on`";

/// Whether a variable is one of daiv-sandbox's.
pub(super) fn is_its(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether a variable is as good as absent.
pub(super) fn is_absent(name: &OsStr, value: &OsStr) -> bool {
    is_its(&name.to_string_lossy()) && value.is_empty()
}

/// What files of this directory say that no variable does.
pub(super) fn secrets(directory: &Path, variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let known = OF_SETTINGS.iter().chain(&USED).chain(OF_NO_USE.iter().map(|(name, _)| name));
    known
        .filter_map(|name| {
            let name = format!("{PREFIX}{name}");
            let is_set = variables.iter().any(|(known, value)| known == name.as_str() && !value.is_empty());
            let text = [name.clone(), name.to_lowercase()].iter().find_map(|file| std::fs::read_to_string(directory.join(file)).ok());
            let text = text.filter(|_| !is_set)?.trim().to_owned();
            (!text.is_empty()).then(|| (name.into(), text.into()))
        })
        .collect()
}

/// What is made of them.
#[derive(Debug, Clone)]
pub(crate) struct Daiv {
    /// For this API alone.
    pub(crate) key: Option<Key>,
    /// One more address to listen on.
    pub(crate) listen: Option<SocketAddr>,
    /// Which events are logged, where nobody else says.
    pub(crate) log: Option<String>,
    /// The runtime that sessions are made by, where it is another than this program's own walls.
    pub(crate) runtime: Option<Kind>,
    pub(crate) settings: DaivSettings,
    pub(crate) stopped: Stopped,
    /// How locks of sessions are kept in Redis.
    pub(crate) locks: caisson_locks::Settings,
    /// Who is told what goes wrong.
    pub(crate) sentry: Option<reports::Settings>,
    /// For the log.
    pub(crate) notes: Vec<String>,
}

/// What is said of stopped sessions, which holds for all stopped sandboxes where nobody says otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopped {
    /// Zero is none.
    grace: Option<Duration>,
    max: Option<usize>,
    /// How often they are looked at.
    pub(crate) every: Option<Duration>,
    /// Whether nobody looks for those that are too many or too old.
    is_off: bool,
}

impl Stopped {
    pub(super) fn grace(&self, default: Option<Duration>) -> Option<Duration> {
        self.grace.or(default).filter(|grace| !self.is_off && !grace.is_zero())
    }

    pub(super) fn max(&self, default: Option<usize>) -> Option<usize> {
        self.max.or(default).filter(|_| !self.is_off)
    }
}

pub(super) fn read(reader: &mut Reader<'_>, environment: &Environment, data_dir: Option<&Path>, is_root: bool) -> Daiv {
    let key = reader.get(Setting::DaivApiKey, values::api_key);
    let mut names = Names { environment, reader, notes: Vec::new() };
    let default = DaivSettings::default();
    let prefix = names.get("API_V1_STR", "path such as /api/v1", path);
    let host = names.get("HOST", "address such as 0.0.0.0", |text| match text {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        text => text.parse::<IpAddr>().ok(),
    });
    let port = names.number("PORT", 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    let listen =
        (host.is_some() || port.is_some()).then(|| SocketAddr::new(host.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port.unwrap_or(PORT)));
    let id = |number: u64| u32::try_from(number).unwrap_or_default();
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let log = names.get("LOG_LEVEL", "level: DEBUG, INFO, WARNING, ERROR or CRITICAL", level);
    let environment = names
        .get("ENVIRONMENT", "environment: `production` or `local`", |text| matches!(text, "production" | "local").then(|| text.to_owned()));
    let sentry = sentry(&mut names, environment);
    let reaps = names.get("REAPER_ENABLED", TRUTH, truth).unwrap_or(true);
    let idle = names.number("RUNNING_SESSION_MAX_IDLE_SECONDS", 0, LONGEST as u64);
    let stopped = Stopped {
        grace: names.number("SESSION_GRACE_SECONDS", 0, LONGEST as u64).map(Duration::from_secs),
        max: names.number("MAX_STOPPED_SESSIONS", 0, 100_000).and_then(|max| usize::try_from(max).ok()),
        every: names.number("REAPER_INTERVAL_SECONDS", 1, LONGEST as u64).map(Duration::from_secs),
        is_off: !reaps,
    };
    // Whoever asks for another wall than there is gets none that only looks like it.
    let runtime =
        names.get("RUNTIME", "runtime that is here: `runc`, for which this program's own walls stand, or `runsc`", |text| match text {
            "runc" => Some(None),
            "runsc" => Some(Some(Kind::Runsc)),
            _ => None,
        });
    let runtime = runtime.flatten();
    let settings = DaivSettings {
        backend: runtime.map(|kind| kind.backend().to_owned()).unwrap_or_default(),
        prefix: prefix.unwrap_or(default.prefix),
        uid: names.number("RUN_UID", 0, MOST_ID).map_or(default.uid, id),
        gid: names.number("RUN_GID", 0, MOST_ID).map_or(default.gid, id),
        command_timeout: names.number("COMMAND_TIMEOUT", 0, LONGEST as u64).map_or(default.command_timeout, seconds),
        lock_wait: names.get("SESSION_LOCK_WAIT_SECONDS", "number of seconds, 0 or more", wait).unwrap_or(default.lock_wait),
        idle: idle.map_or(default.idle, seconds).filter(|_| reaps),
        look_every: stopped.every.unwrap_or(default.look_every),
        // Only root may mount a disk, and no runtime has one.
        storage: if is_root && runtime.is_none() { Storage::Disk } else { default.storage },
        prune: names.get("FS_PRUNE_DIRS", "list of names with commas between them", |text| Some(list(text))).unwrap_or(default.prune),
        spool: data_dir.map_or(default.spool, Path::to_owned),
        ..default
    };
    let locks = caisson_locks::Settings::default();
    let locks = caisson_locks::Settings {
        ttl: names.get("SESSION_LOCK_TTL_SECONDS", LOCK_TIME, lock_time).unwrap_or(locks.ttl),
        refresh: names.get("SESSION_LOCK_REFRESH_SECONDS", LOCK_TIME, lock_time).unwrap_or(locks.refresh),
        ..locks
    };
    if locks.refresh >= locks.ttl {
        let (ttl, refresh) = (locks.ttl, locks.refresh);
        names.reader.problem(format!("DAIV_SANDBOX_SESSION_LOCK_REFRESH_SECONDS ({refresh:?}) has to be less than the TTL ({ttl:?})"));
    }
    names.note_the_rest();
    let notes = names.notes;
    Daiv { key, listen, log, runtime, settings, stopped, locks, sentry, notes }
}

/// Whom to tell what goes wrong, if anybody.
fn sentry(names: &mut Names<'_, '_>, environment: Option<String>) -> Option<reports::Settings> {
    let dsn = names.get("SENTRY_DSN", "DSN such as https://key@sentry.example.com/1", |text| text.parse().ok());
    let logs = names.get("SENTRY_ENABLE_LOGS", TRUTH, truth).unwrap_or_default();
    let addresses = names.get("SENTRY_SEND_DEFAULT_PII", TRUTH, truth).unwrap_or_default();
    let traces =
        names.get("SENTRY_TRACES_SAMPLE_RATE", "part, from 0.0 to 1.0", |text| text.parse().ok().filter(|part| (0.0..=1.0).contains(part)));
    Some(reports::Settings { dsn: dsn?, environment, logs, addresses, traces: traces.unwrap_or_default() })
}

/// The environment as upstream reads it.
struct Names<'a, 'b> {
    environment: &'a Environment,
    reader: &'a mut Reader<'b>,
    notes: Vec<String>,
}

impl Names<'_, '_> {
    fn get<T>(&mut self, name: &str, wanted: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let name = format!("{PREFIX}{name}");
        let (_, value) = self.environment.0.iter().find(|(known, value)| known == name.as_str() && !value.is_empty())?;
        let text = value.to_string_lossy();
        let parsed = parse(&text);
        match parsed {
            Some(_) => self.notes.push(format!("{name} of the environment is used")),
            None => self.reader.problem(format!("{name} is `{}`, which is no {wanted}", printable::text(&text))),
        }
        parsed
    }

    fn number(&mut self, name: &str, low: u64, high: u64) -> Option<u64> {
        let wanted = format!("number from {low} to {high}");
        self.get(name, &wanted, |text| u64::from_str(text).ok().filter(|number| (low..=high).contains(number)))
    }

    /// Whatever is set and changes nothing.
    fn note_the_rest(&mut self) {
        for (name, value) in &self.environment.0 {
            let name = name.to_string_lossy();
            let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { continue };
            if USED.contains(&rest) || OF_SETTINGS.contains(&rest) {
                continue;
            }
            let why = OF_NO_USE.iter().find(|(known, _)| *known == rest).map_or("is not known, and not used", |(_, why)| why);
            self.notes.push(format!("{} {why}", printable::text(&name)));
        }
    }
}

/// What stands in front of paths: nothing, or something between slashes.
fn path(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let fine = text.is_empty() || text.starts_with('/');
    (fine && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)) && !text.contains("//"))
        .then(|| text.to_owned())
}

fn level(text: &str) -> Option<String> {
    let level = match text.to_ascii_uppercase().as_str() {
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARNING" => "warn",
        "ERROR" | "CRITICAL" => "error",
        _ => return None,
    };
    Some(level.to_owned())
}

const TRUTH: &str = "truth such as true or false";

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn wait(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=LONGEST).contains(seconds))?;
    Duration::try_from_secs_f64(seconds).ok()
}

const LOCK_TIME: &str = "number of seconds from 0.001 to a year";

fn lock_time(text: &str) -> Option<Duration> {
    wait(text).filter(|time| *time >= Duration::from_millis(1))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The listeners with one more, in the place of those that would leave it no room.
pub(super) fn with_address(mut listen: Vec<SocketAddr>, address: Option<SocketAddr>) -> Vec<SocketAddr> {
    let Some(address) = address else { return listen };
    let has_it = |one: &SocketAddr| one.port() == address.port() && (one.ip() == address.ip() || one.ip().is_unspecified());
    if !listen.iter().any(has_it) {
        let leaves_room =
            |one: &SocketAddr| one.port() != address.port() || !address.ip().is_unspecified() || one.is_ipv4() != address.is_ipv4();
        listen.retain(leaves_room);
        listen.push(address);
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_upstreams() {
        for (text, expect) in
            [("/api/v1", Some("/api/v1")), ("/", Some("")), ("/x/", Some("/x")), ("x", None), ("/a//b", None), ("/a?", None)]
        {
            assert_eq!(path(text).as_deref(), expect, "{text}");
        }
        for (text, expect) in [("WARNING", Some("warn")), ("critical", Some("error")), ("TRACE", None)] {
            assert_eq!(level(text).as_deref(), expect, "{text}");
        }
        for (text, expect) in
            [("1.0", Some(1000)), ("0", Some(0)), ("30", Some(30_000)), ("-1", None), ("nan", None), ("inf", None), ("", None)]
        {
            assert_eq!(wait(text), expect.map(Duration::from_millis), "{text}");
        }
        assert_eq!((lock_time("0"), lock_time("0.5")), (None, Some(Duration::from_millis(500))));
        assert_eq!(list(".git, node_modules,,"), [".git", "node_modules"]);
    }

    #[test]
    fn secrets_stand_in_files_where_no_variable_says_otherwise() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join("DAIV_SANDBOX_API_KEY"), "secret\n").unwrap();
        std::fs::write(directory.path().join("daiv_sandbox_run_uid"), "7").unwrap();
        std::fs::write(directory.path().join("DAIV_SANDBOX_PORT"), " \n").unwrap();
        std::fs::write(directory.path().join("PATH"), "x").unwrap();
        let found = |variables: &[(&str, &str)]| -> Vec<(String, String)> {
            let variables: Vec<(OsString, OsString)> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let text = |text: OsString| text.into_string().unwrap();
            secrets(directory.path(), &variables).into_iter().map(|(name, value)| (text(name), text(value))).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found(&[("DAIV_SANDBOX_API_KEY", "")]), [pair("DAIV_SANDBOX_API_KEY", "secret"), pair("DAIV_SANDBOX_RUN_UID", "7")]);
        assert_eq!(found(&[("DAIV_SANDBOX_API_KEY", "other")]), [pair("DAIV_SANDBOX_RUN_UID", "7")]);
    }

    #[test]
    fn an_address_takes_the_place_of_those_that_it_has() {
        let with = |listen: &[&str], address: &str| -> Vec<String> {
            let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
            with_address(listen, address.parse().ok()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(with(&["127.0.0.1:8080"], ""), ["127.0.0.1:8080"]);
        assert_eq!(with(&["127.0.0.1:8080"], "0.0.0.0:8000"), ["127.0.0.1:8080", "0.0.0.0:8000"]);
        assert_eq!(with(&["127.0.0.1:8000"], "0.0.0.0:8000"), ["0.0.0.0:8000"]);
        assert_eq!(with(&["0.0.0.0:8000"], "127.0.0.1:8000"), ["0.0.0.0:8000"]);
    }
}
