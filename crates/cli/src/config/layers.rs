//! From sources to one text per key: the last that speaks wins.

use std::{collections::HashMap, ffi::OsStr, io, os::unix::fs::MetadataExt, path::Path};

use super::{
    boxbox, daiv,
    settings::{self, Found, Setting},
    sources::Sources,
};
use crate::printable;

/// What a key is set to, and where.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) text: String,
    /// For messages: `CAISSON_LISTEN`, `--listen`, `listen in caisson.toml`.
    pub(super) place: String,
    /// Whether a variable of the environment says so.
    is_variable: bool,
}

/// One text per key.
#[derive(Debug, Default)]
pub(super) struct Layers(HashMap<Setting, Given>);

impl Layers {
    /// Reads all sources. What cannot be read is a problem, and the rest is read all the same.
    pub(super) fn collect(sources: &Sources, problems: &mut Vec<String>) -> Self {
        let mut layers = Self::default();
        if let Some((path, must_be_there)) = &sources.file {
            layers.add_file(path, *must_be_there, problems);
        }
        let is_absent = |name: &OsStr, value: &OsStr| boxbox::is_absent(name, value, &sources.environment) || daiv::is_absent(name, value);
        for (name, value) in sources.environment.0.iter().filter(|(name, value)| !is_absent(name, value)) {
            layers.add_variable(name, value, problems);
        }
        for (key, flag, value) in &sources.flags {
            layers.0.insert(*key, Given { text: value.clone(), place: (*flag).to_owned(), is_variable: false });
        }
        layers
    }

    pub(super) fn get(&self, key: Setting) -> Option<&Given> {
        self.0.get(&key)
    }

    /// Whether anybody says anything about it.
    pub(super) fn has(&self, key: Setting) -> bool {
        self.0.contains_key(&key)
    }

    fn add_file(&mut self, path: &Path, must_be_there: bool, problems: &mut Vec<String>) {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there => return,
            Err(error) => {
                return problems
                    .push(format!("cannot read the configuration file {shown}: {error}; correct --config or the file's permissions"));
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let place =
                    error.span().map(|span| format!(" in line {}", text[..span.start].matches('\n').count() + 1)).unwrap_or_default();
                return problems.push(format!("{shown} is not TOML{place}: {}", toml::de::Error::message(&error)));
            }
        };
        for (name, value) in table {
            let place = format!("`{}` in {shown}", printable::text(&name));
            match settings::in_file(&name) {
                Found::Refused(why) => problems.push(format!("{place} {why}")),
                Found::Elsewhere => {}
                Found::Setting(key) => match text_of(&value) {
                    None => problems.push(format!(
                        "{place} is a {}; write one text or number (a list of texts for addresses and registries, a table of texts for aliases and mirrors)",
                        value.type_str()
                    )),
                    Some(text) => {
                        if key.is_secret() && can_be_read_by_others(path) {
                            problems.push(format!("{place} is a secret, but others can read the file; run `chmod 600 {shown}`"));
                        }
                        self.0.insert(key, Given { text, place, is_variable: false });
                    }
                },
            }
        }
    }

    fn add_variable(&mut self, name: &OsStr, value: &OsStr, problems: &mut Vec<String>) {
        let shown = printable::text(&name.to_string_lossy());
        match (settings::in_environment(&name.to_string_lossy()), value.to_str()) {
            (Found::Refused(why), _) => problems.push(format!("{shown} {why}")),
            (Found::Elsewhere, _) => {}
            (Found::Setting(_), None) => problems.push(format!("{shown} is not UTF-8; write it anew")),
            (Found::Setting(key), Some(text)) => {
                let text = boxbox::in_our_words(&shown, text);
                // Of another name that means the same.
                if let Some(other) = self.0.get(&key).filter(|given| given.is_variable && given.text != *text) {
                    problems.push(format!("{} and {shown} mean the same and disagree; leave out one of them", other.place));
                }
                self.0.insert(key, Given { text: text.into_owned(), place: shown, is_variable: true });
            }
        }
    }
}

/// A value as it would be written in the environment.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Table(pairs) => {
            let texts: Option<Vec<String>> = pairs.iter().map(|(name, value)| Some(format!("{name}={}", value.as_str()?))).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn can_be_read_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}
