//! Where records are kept, as an operator writes it.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// What may stand behind the `?` of a `postgres://` URL.
const OPTIONS: [&str; 9] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "dbname", "user", "password"];

/// Parsed from `sqlite://PATH` or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. Shows no password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file; it is made where it is missing.
    Sqlite(PathBuf),
    Postgres(PostgresUrl),
}

/// The address of a database with whatever opens it.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

/// Why a text is no place for records. The text itself is not in it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

impl FromStr for Location {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        match text.split_once("://") {
            Some(("sqlite", path)) => sqlite(path),
            Some(("postgres" | "postgresql", rest)) => postgres(text, rest),
            _ => Err(BadUrl("expected postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH".to_owned())),
        }
    }
}

fn sqlite(path: &str) -> Result<Location, BadUrl> {
    let refuse = |what: &str| Err(BadUrl(what.to_owned()));
    if path.is_empty() || path.ends_with('/') {
        return refuse("names no file; write it as sqlite:///var/lib/caisson/caisson.db");
    }
    if path.contains(['?', '#', '%', '\0']) {
        return refuse("has an option or an escape (`?`, `#` or `%`), which are not supported; write the path as it is");
    }
    std::path::absolute(path).map(Location::Sqlite).map_err(|error| BadUrl(format!("has no path: {error}")))
}

fn postgres(text: &str, rest: &str) -> Result<Location, BadUrl> {
    let options = rest.split_once('?').map_or("", |(_, options)| options);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        if !OPTIONS.contains(&name) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(BadUrl(format!("has the option `{name}`, which is not known; known are {}", OPTIONS.join(", "))));
        }
    }
    let url = PostgresUrl(text.to_owned());
    url.options()?;
    Ok(Location::Postgres(url))
}

impl PostgresUrl {
    /// What is not in the URL is taken from where every program of PostgreSQL takes it (`PGPASSWORD`, `~/.pgpass` and the like).
    pub(crate) fn options(&self) -> Result<PgConnectOptions, BadUrl> {
        // Its own words may quote the text.
        PgConnectOptions::from_str(&self.0)
            .map_err(|_| BadUrl("is no URL; write it as postgres://USER:PASSWORD@HOST/DATABASE, special characters as %XX".to_owned()))
    }
}

impl fmt::Display for PostgresUrl {
    /// Without password and options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(options) = self.options() else { return f.write_str("postgres://") };
        let user = options.get_username();
        let database = options.get_database().unwrap_or(user);
        match options.get_socket() {
            Some(socket) => write!(f, "postgres://{user}@{}/{database}", socket.display()),
            None => write!(f, "postgres://{user}@{}:{}/{database}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, BadUrl> {
        text.parse()
    }

    #[test]
    fn files_and_servers_are_told_apart() {
        assert_eq!(parse("sqlite:///srv/a b.db").unwrap(), Location::Sqlite("/srv/a b.db".into()));
        let Location::Sqlite(relative) = parse("sqlite://records.db").unwrap() else { panic!("it is a file") };
        assert!(relative.is_absolute() && relative.ends_with("records.db"));
        for scheme in ["postgres", "postgresql"] {
            let found = parse(&format!("{scheme}://me:pass%2Fword@db.lan:5433/records?sslmode=verify-full")).unwrap();
            assert_eq!(found.to_string(), "postgres://me@db.lan:5433/records");
            assert_eq!(format!("{found:?}"), found.to_string(), "no password is shown");
        }
        let socket = parse("postgres://me@%2Frun%2Fpostgresql/records").unwrap();
        assert_eq!(socket.to_string(), "postgres://me@/run/postgresql/records");
        assert_eq!(parse("postgres:///records?host=/run/db&user=me").unwrap().to_string(), "postgres://me@/run/db/records");
    }

    #[test]
    fn what_is_neither_is_refused_without_being_shown() {
        for (text, word) in [
            ("", "expected postgres://"),
            ("mysql://secret@h/d", "expected postgres://"),
            ("/secret/records.db", "expected postgres://"),
            ("sqlite://", "names no file"),
            ("sqlite:///secret/", "names no file"),
            ("sqlite:///secret?mode=ro", "not supported"),
            ("postgres://u:secret@h:port/d", "is no URL"),
            ("postgres://u:secret@h/d?sslmode=secret", "is no URL"),
            ("postgres://u:secret@h/d?pool=9", "`pool`"),
            ("postgres://u:secret@h/d?options=-csearch_path%3Dx", "`options`"),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(word) && !refused.contains("secret"), "{text}: {refused}");
        }
    }
}
