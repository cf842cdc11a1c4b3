//! For which languages there are contexts, and how the interpreter of each is started.

use caisson_core::{Error, Result};

use crate::languages::{self, Found};

/// The driver of one language: a program in it that runs code which it is sent.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) language: &'static str,
    /// Its interpreters, in order of preference.
    pub(super) programs: &'static [&'static str],
    /// What the interpreter is called with; the driver's source comes behind.
    arguments: &'static [&'static str],
    source: &'static str,
    /// Cannot move its channel to another descriptor by itself, so that a shell has to do it.
    moved_by_shell: bool,
}

const DRIVERS: &[Driver] = &[
    Driver {
        language: "python",
        programs: &["python3", "python"],
        arguments: &["-c"],
        source: include_str!("drivers/python.py"),
        moved_by_shell: false,
    },
    Driver {
        language: "node",
        programs: &["node", "nodejs"],
        arguments: &["-e"],
        source: include_str!("drivers/node.js"),
        moved_by_shell: true,
    },
    Driver {
        language: "bash",
        programs: &["bash"],
        arguments: &["--norc", "--noprofile", "-c"],
        source: include_str!("drivers/bash.sh"),
        moved_by_shell: false,
    },
];

/// The driver of what a request calls its language.
pub(super) fn find(name: &str) -> Result<&'static Driver> {
    let known = match languages::find(name)? {
        Found::Known(language) => DRIVERS.iter().find(|driver| driver.language == language.name),
        Found::Interpreter(_) => None,
    };
    known.ok_or_else(|| {
        let there: Vec<&str> = DRIVERS.iter().map(|driver| driver.language).collect();
        let message = format!("there are no contexts for `{}`, only for {}; run it with `exec`", name.escape_debug(), there.join(", "));
        Error::invalid("unknown_language", message)
    })
}

/// Every program that an image may be asked for.
pub(super) fn programs() -> Vec<String> {
    DRIVERS.iter().flat_map(|driver| driver.programs).map(|program| (*program).to_owned()).collect()
}

impl Driver {
    /// What to start, given what the image has of [`programs`].
    pub(super) fn argv(&self, there: &[String]) -> Result<Vec<String>> {
        let has = |driver: &Driver| driver.programs.iter().find(|program| there.iter().any(|name| name == *program));
        let Some(program) = has(self) else {
            let others: Vec<&str> = DRIVERS.iter().filter(|driver| has(driver).is_some()).map(|driver| driver.language).collect();
            let others = if others.is_empty() { "no language that there are contexts for".to_owned() } else { others.join(", ") };
            let message =
                format!("this image has no interpreter for {} (looked for {}); it has {others}", self.language, self.programs.join(", "));
            return Err(Error::invalid("interpreter_missing", message));
        };
        let moving = ["sh", "-c", "exec \"$0\" \"$@\" 9<&0 </dev/null"];
        let shell = if self.moved_by_shell { &moving[..] } else { &[] };
        let words = shell.iter().chain([program]).chain(self.arguments).chain([&self.source]);
        Ok(words.map(|word| (*word).to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_is_found_by_all_its_names_and_fits_into_an_argument() {
        for (name, language) in [("python", "python"), ("py", "python"), ("JS", "node"), ("nodejs", "node"), ("bash", "bash")] {
            assert_eq!(find(name).unwrap().language, language, "{name}");
        }
        assert!(DRIVERS.iter().all(|driver| driver.source.len() < 64 << 10));
        for bad in ["ruby", "cobol", "../sh", ""] {
            assert_eq!(find(bad).unwrap_err().code(), "unknown_language", "{bad}");
        }
    }

    #[test]
    fn the_interpreter_is_one_that_the_image_has() {
        let there = ["python".to_owned(), "nodejs".to_owned()];
        assert_eq!(find("python").unwrap().argv(&there).unwrap()[..2], ["python", "-c"]);
        assert_eq!(find("node").unwrap().argv(&there).unwrap()[3], "nodejs");
        let missing = find("bash").unwrap().argv(&there).unwrap_err();
        assert_eq!(missing.code(), "interpreter_missing");
        assert!(missing.to_string().ends_with("it has python, node"), "{missing}");
    }
}
