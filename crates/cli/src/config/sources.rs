//! Where configuration comes from.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    boxbox, daiv,
    settings::{ALIASES, PREFIX, Setting, variable},
};

/// The file that is read when no other is named.
const DEFAULT_FILE: &str = "caisson.toml";

/// All variables of the environment whose names are ours, or those of other systems that we take.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(pub(crate) Vec<(OsString, OsString)>);

impl Environment {
    /// That of this process.
    pub(crate) fn now() -> Self {
        let is_alias = |name: &OsString| ALIASES.iter().map(|(alias, _)| alias).chain(&boxbox::NAMES).any(|known| name == known);
        let is_ours = |name: &OsString| {
            name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) || is_alias(name) || daiv::is_its(&name.to_string_lossy())
        };
        let variables: Vec<(OsString, OsString)> = std::env::vars_os().filter(|(name, _)| is_ours(name)).collect();
        let secrets = daiv::secrets(Path::new(daiv::SECRETS), &variables);
        Self(variables.into_iter().chain(secrets).collect())
    }

    /// Those of this process that are about these settings.
    pub(super) fn about(settings: &[Setting]) -> Self {
        let aliases = ALIASES.iter().filter(|(_, setting)| settings.contains(setting)).map(|(alias, _)| (*alias).to_owned());
        let names: Vec<String> = settings.iter().map(|setting| variable(setting.name())).chain(aliases).collect();
        Self(std::env::vars_os().filter(|(name, _)| names.iter().any(|known| name == known.as_str())).collect())
    }
}

/// Everything that has a say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Where to read, and whether it must be there.
    pub(crate) file: Option<(PathBuf, bool)>,
    pub(crate) environment: Environment,
    /// With the names of the flags.
    pub(crate) flags: Vec<(Setting, &'static str, String)>,
}

impl Sources {
    /// The file to read when `named` may name one.
    pub(crate) fn file(named: Option<&Path>) -> Option<(PathBuf, bool)> {
        Some(named.map_or_else(|| (PathBuf::from(DEFAULT_FILE), false), |path| (path.to_owned(), true)))
    }
}
