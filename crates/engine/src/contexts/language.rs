//! For which languages there are contexts, and how the interpreter of each is started.

use std::collections::BTreeMap;

use caisson_core::{Error, Result};
use caisson_wire::CODE_FILE;

use super::Driver;
use crate::languages::{self, Found};

/// Our own driver of one language: a program in it that runs code which it is sent.
#[derive(Debug)]
struct Builtin {
    language: &'static str,
    /// What Jupyter kernels call it.
    kernels: &'static str,
    /// Its interpreters, in order of preference.
    programs: &'static [&'static str],
    /// What the interpreter is called with; the driver's source comes behind.
    arguments: &'static [&'static str],
    source: &'static str,
    /// Cannot move its channel to another descriptor by itself, so that a shell has to do it.
    moved_by_shell: bool,
    /// Whether it runs in the program that runs code of the language, which a template may name.
    same_program: bool,
}

const BUILTIN: &[Builtin] = &[
    Builtin {
        language: "python",
        kernels: "python",
        programs: PYTHONS,
        arguments: &["-c"],
        source: include_str!("drivers/python.py"),
        moved_by_shell: false,
        same_program: true,
    },
    Builtin {
        language: "node",
        kernels: "javascript,node",
        programs: &["node", "nodejs"],
        arguments: &["-e"],
        source: include_str!("drivers/node.js"),
        moved_by_shell: true,
        same_program: true,
    },
    Builtin {
        language: "bash",
        kernels: "bash",
        programs: &["bash"],
        arguments: &["--norc", "--noprofile", "-c"],
        source: include_str!("drivers/bash.sh"),
        moved_by_shell: false,
        same_program: true,
    },
    Builtin {
        language: "r",
        kernels: "r",
        programs: &["R"],
        arguments: &["--slave", "--no-restore", "--no-save", "-e", "eval(parse(text = commandArgs(TRUE)))", "--args"],
        source: include_str!("drivers/r.R"),
        moved_by_shell: true,
        same_program: false,
    },
];

const PYTHONS: &[&str] = &["python3", "python"];
/// The driver of every language that a kernel of the image speaks. It runs in Python, which is where there are kernels.
const BRIDGE: &str = include_str!("drivers/jupyter.py");

/// What a request calls its language, understood.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) name: String,
    builtin: Option<&'static Builtin>,
    driver: Driver,
}

/// What to start.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) argv: Vec<String>,
    /// What it means when that finds no kernel.
    pub(super) without_kernel: Error,
}

/// The language of a request; one that we have no driver for may have a kernel.
pub(super) fn find(name: &str, driver: Driver) -> Result<Language> {
    let (name, builtin) = match languages::find(name)? {
        Found::Known(language) => (language.name.to_owned(), BUILTIN.iter().find(|builtin| builtin.language == language.name)),
        Found::Interpreter(name) => (name, None),
    };
    let language = Language { name, builtin, driver };
    if driver == Driver::Builtin && builtin.is_none() {
        return Err(language.unknown(""));
    }
    Ok(language)
}

/// Every program that an image may be asked for.
pub(super) fn programs() -> Vec<String> {
    BUILTIN.iter().flat_map(|builtin| builtin.programs).map(|program| (*program).to_owned()).collect()
}

impl Language {
    /// What to start, given what the image has of [`programs`]. What the template says is taken as it is: a kernel would be another one.
    pub(super) fn plan(&self, there: &[String], of_template: &BTreeMap<String, Vec<String>>) -> Result<Plan> {
        if let Some(builtin) = self.builtin.filter(|builtin| builtin.same_program && self.driver != Driver::Jupyter)
            && let Some(words) = of_template.get(builtin.language)
        {
            // The driver stands where the file would.
            let before = words.iter().map(String::as_str).take_while(|word| *word != CODE_FILE);
            return Ok(Plan { argv: builtin.in_program(before), without_kernel: self.kernel_missing() });
        }
        let own = match self.builtin {
            Some(builtin) => builtin.argv(there),
            None => Err(self.unknown(", and this image has no Jupyter kernel for it")),
        };
        let python = PYTHONS.iter().find(|program| there.iter().any(|name| name == *program));
        let (Some(python), true) = (python, self.driver != Driver::Builtin) else {
            return if self.driver == Driver::Jupyter {
                Err(self.kernel_missing())
            } else {
                Ok(Plan { argv: own?, without_kernel: self.kernel_missing() })
            };
        };
        let kernels = self.builtin.map_or(self.name.as_str(), |builtin| builtin.kernels);
        let bridge = [python, "-I", "-c", BRIDGE, kernels].map(str::to_owned);
        let (instead, without_kernel) = match own {
            _ if self.driver == Driver::Jupyter => (Vec::new(), self.kernel_missing()),
            Ok(argv) => (argv, self.kernel_missing()),
            Err(missing) => (Vec::new(), missing),
        };
        Ok(Plan { argv: bridge.into_iter().chain(instead).collect(), without_kernel })
    }

    fn unknown(&self, more: &str) -> Error {
        let there: Vec<&str> = BUILTIN.iter().map(|builtin| builtin.language).collect();
        let message = format!("there are no contexts for `{}`, only for {}{more}; run it with `exec`", self.name, there.join(", "));
        Error::invalid("unknown_language", message)
    }

    fn kernel_missing(&self) -> Error {
        let message = format!(
            "this image has no Jupyter kernel for {}, or no Python to find it with; install one, or let the field `driver` be `auto`",
            self.name
        );
        Error::invalid("kernel_missing", message)
    }
}

impl Builtin {
    fn argv(&self, there: &[String]) -> Result<Vec<String>> {
        let has = |builtin: &Self| builtin.programs.iter().find(|program| there.iter().any(|name| name == *program));
        let Some(program) = has(self) else {
            let others: Vec<&str> = BUILTIN.iter().filter(|builtin| has(builtin).is_some()).map(|builtin| builtin.language).collect();
            let others = if others.is_empty() { "no language that there are contexts for".to_owned() } else { others.join(", ") };
            let message =
                format!("this image has no interpreter for {} (looked for {}); it has {others}", self.language, self.programs.join(", "));
            return Err(Error::invalid("interpreter_missing", message));
        };
        Ok(self.in_program([*program]))
    }

    /// The driver in this program.
    fn in_program<'a>(&self, program: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let moving = ["sh", "-c", "exec \"$0\" \"$@\" 9<&0 </dev/null"];
        let shell = if self.moved_by_shell { &moving[..] } else { &[] };
        let words = shell.iter().copied().chain(program).chain(self.arguments.iter().copied()).chain([self.source]);
        words.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(name: &str, driver: Driver, there: &[&str]) -> Result<Vec<String>> {
        let there: Vec<String> = there.iter().map(|program| (*program).to_owned()).collect();
        find(name, driver)?.plan(&there, &BTreeMap::new()).map(|plan| plan.argv)
    }

    #[test]
    fn every_language_is_found_by_all_its_names_and_fits_into_an_argument() {
        for (name, language) in [("python", "python"), ("py", "python"), ("JS", "node"), ("nodejs", "node"), ("bash", "bash"), ("R", "r")] {
            assert_eq!(find(name, Driver::Builtin).unwrap().name, language, "{name}");
        }
        assert!(BUILTIN.iter().map(|builtin| builtin.source).chain([BRIDGE]).all(|source| source.len() < 64 << 10));
        for bad in ["ruby", "cobol", "../sh", ""] {
            assert_eq!(find(bad, Driver::Builtin).unwrap_err().code(), "unknown_language", "{bad}");
        }
        for kernel in ["ruby", "julia"] {
            assert_eq!(find(kernel, Driver::Auto).unwrap().name, kernel);
        }
        assert_eq!(find("../sh", Driver::Auto).unwrap_err().code(), "unknown_language");
    }

    #[test]
    fn the_interpreter_is_one_that_the_image_has() {
        let there = ["python", "nodejs"];
        assert_eq!(argv("python", Driver::Builtin, &there).unwrap()[..2], ["python", "-c"]);
        assert_eq!(argv("node", Driver::Builtin, &there).unwrap()[3], "nodejs");
        let missing = argv("bash", Driver::Builtin, &there).unwrap_err();
        assert_eq!(missing.code(), "interpreter_missing");
        assert!(missing.to_string().ends_with("it has python, node"), "{missing}");
    }

    #[test]
    fn what_a_template_says_comes_before_kernels_and_what_is_looked_for() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let of_template = BTreeMap::from([
            ("python".to_owned(), words(&["/opt/venv/bin/python3", "-X", "dev", "{file}", "x"])),
            ("node".to_owned(), words(&["/opt/node"])),
            ("r".to_owned(), words(&["/opt/Rscript"])),
        ]);
        let there = words(&["python3", "node", "R"]);
        let plan = |name, driver| find(name, driver).unwrap().plan(&there, &of_template).unwrap().argv;
        assert_eq!(plan("py", Driver::Auto)[..4], ["/opt/venv/bin/python3", "-X", "dev", "-c"]);
        assert_eq!(plan("node", Driver::Builtin)[..4], ["sh", "-c", "exec \"$0\" \"$@\" 9<&0 </dev/null", "/opt/node"]);
        assert_eq!(plan("python", Driver::Jupyter)[..3], ["python3", "-I", "-c"], "a kernel that is asked for is looked for");
        assert!(!plan("r", Driver::Builtin).contains(&"/opt/Rscript".to_owned()), "contexts of R live in another program than scripts");
    }

    #[test]
    fn kernels_come_first_where_there_is_a_python_to_find_them() {
        let both = argv("node", Driver::Auto, &["python3", "node"]).unwrap();
        assert_eq!(
            (&both[..3], both[4].as_str(), both[5].as_str()),
            (&["python3", "-I", "-c"].map(str::to_owned)[..], "javascript,node", "sh")
        );
        assert_eq!(argv("node", Driver::Jupyter, &["python3", "node"]).unwrap().len(), 5, "nothing instead");
        assert_eq!(argv("julia", Driver::Auto, &["python3", "node"]).unwrap()[4..], ["julia"]);
        assert_eq!(argv("node", Driver::Auto, &["node"]).unwrap()[0], "sh");
        assert_eq!(argv("node", Driver::Jupyter, &["node"]).unwrap_err().code(), "kernel_missing");
        assert_eq!(argv("julia", Driver::Auto, &["node"]).unwrap_err().code(), "unknown_language");
    }
}
