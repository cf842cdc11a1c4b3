//! Variables: `ARG`, `ENV`, and what comes with the command line.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use caisson_dockerfile::{Dockerfile, Problem, expand};

/// Given to every `RUN` where the command line says them, without a word in the Dockerfile, and without a say in what is cached.
pub(super) const PROXIES: [&str; 10] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"];

/// What all stages have in common.
#[derive(Debug)]
pub(super) struct Globals {
    escape: char,
    /// `--build-arg`.
    given: BTreeMap<String, String>,
    /// What the machine is.
    machine: BTreeMap<&'static str, String>,
    /// `ARG`s in front of the first `FROM`.
    before: BTreeMap<String, String>,
    /// Those given that something has asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl Globals {
    pub(super) fn new(file: &Dockerfile, given: BTreeMap<String, String>) -> Result<Self, Problem> {
        let platform = format!("linux/{}", architecture());
        let mut machine = BTreeMap::new();
        for (os, arch, variant, whole) in
            [("TARGETOS", "TARGETARCH", "TARGETVARIANT", "TARGETPLATFORM"), ("BUILDOS", "BUILDARCH", "BUILDVARIANT", "BUILDPLATFORM")]
        {
            machine.extend([
                (os, "linux".to_owned()),
                (arch, architecture().to_owned()),
                (variant, String::new()),
                (whole, platform.clone()),
            ]);
        }
        let mut globals = Self { escape: file.escape, given, machine, before: BTreeMap::new(), asked: RefCell::default() };
        for (line, name, default) in &file.args {
            let value = match (globals.given(name), default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(globals.expand(*line, default)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.before.insert(name.clone(), value);
            }
        }
        Ok(globals)
    }

    /// A word of `FROM`.
    pub(super) fn expand(&self, line: usize, text: &str) -> Result<String, Problem> {
        let value = |name: &str| self.before.get(name).or_else(|| self.machine.get(name)).cloned();
        expand(text, self.escape, &value).map_err(|message| Problem { line, message })
    }

    /// Whether a platform is the one that things are built for.
    pub(super) fn is_ours(&self, platform: &str) -> bool {
        platform == self.machine["TARGETPLATFORM"]
    }

    fn given(&self, name: &str) -> Option<String> {
        let value = self.given.get(name)?;
        self.asked.borrow_mut().insert(name.to_owned());
        Some(value.clone())
    }

    /// What was given for nothing.
    pub(super) fn unasked(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        self.given.keys().filter(|name| !asked.contains(*name) && !PROXIES.contains(&name.as_str())).cloned().collect()
    }

    /// Proxies of the command line.
    pub(super) fn proxies(&self) -> impl Iterator<Item = (&String, &String)> {
        self.given.iter().filter(|(name, _)| PROXIES.contains(&name.as_str()))
    }
}

/// As Docker calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The variables of a stage.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    globals: &'a Globals,
    args: BTreeMap<String, String>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(globals: &'a Globals) -> Self {
        Self { globals, args: BTreeMap::new() }
    }

    /// A word with its variables replaced; those of the environment win.
    pub(super) fn expand(&self, line: usize, text: &str, env: &[(String, String)]) -> Result<String, Problem> {
        let value = |name: &str| {
            let of_env = env.iter().rfind(|(known, _)| known == name).map(|(_, value)| value);
            of_env.or_else(|| self.args.get(name)).cloned()
        };
        expand(text, self.globals.escape, &value).map_err(|message| Problem { line, message })
    }

    /// `ARG`.
    pub(super) fn declare(&mut self, line: usize, name: &str, default: Option<&str>, env: &[(String, String)]) -> Result<(), Problem> {
        let globals = self.globals;
        let value = match (globals.given(name), default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(self.expand(line, default, env)?),
            (None, None) => globals.before.get(name).or_else(|| globals.machine.get(name)).cloned(),
        };
        if let Some(value) = value {
            self.args.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// What commands see beside the environment of the image.
    pub(super) fn args(&self) -> &BTreeMap<String, String> {
        &self.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_come_from_where_the_reference_says() {
        let file = caisson_dockerfile::parse("ARG V=1\nARG W=$V.2\nARG X\nFROM a:$W\n").unwrap();
        let globals = Globals::new(&file, pairs(&[("V", "7"), ("MINE", "m"), ("http_proxy", "p"), ("UNUSED", "u")])).unwrap();
        assert_eq!(globals.expand(4, "a:$W${X:-none}").unwrap(), "a:7.2none");
        assert!(globals.is_ours(&globals.expand(4, "$BUILDPLATFORM").unwrap()) && !globals.is_ours("linux/s390x"));
        let (mut scope, env) = (Scope::new(&globals), vec![("E".to_owned(), "env".to_owned())]);
        assert_eq!(scope.expand(5, "$W$TARGETOS", &env).unwrap(), "", "not before it is declared");
        for (name, default) in
            [("W", None), ("TARGETOS", None), ("MINE", Some("default")), ("D", Some("${W}d")), ("NONE", None), ("E", Some("arg"))]
        {
            scope.declare(6, name, default, &env).unwrap();
        }
        assert_eq!(scope.expand(7, "$W $TARGETOS $MINE $D $NONE$E", &env).unwrap(), "7.2 linux m 7.2d env");
        assert_eq!(globals.unasked(), ["UNUSED"]);
        assert_eq!(globals.proxies().count(), 1);
        assert_eq!(scope.expand(9, "${A:?no}", &env).unwrap_err().line, 9);
    }
}
