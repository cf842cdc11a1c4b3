//! Languages: names, interpreters to look for, and how each is called.

use caisson_core::{Error, Result};
use caisson_wire::CODE_FILE;

/// The name of every code file, without its extension.
pub(crate) const STEM: &str = "main";

/// One way to run a file: a program and what it is called with; the client's arguments follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runner {
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
}

/// A language that is known by name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Language {
    pub(crate) name: &'static str,
    aliases: &'static [&'static str],
    pub(crate) extension: &'static str,
    /// In order of preference.
    pub(crate) runners: &'static [Runner],
}

/// How to run what a request calls its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Known(&'static Language),
    /// Not in the table: an interpreter of that very name is tried.
    Interpreter(String),
}

const FILE: &[&str] = &[CODE_FILE];

const fn plain(program: &'static str) -> Runner {
    Runner { program, arguments: FILE }
}

const fn language(name: &'static str, aliases: &'static [&'static str], extension: &'static str, runners: &'static [Runner]) -> Language {
    Language { name, aliases, extension, runners }
}

/// Everything known by name. Whether an image has it is found by looking.
pub(crate) const TABLE: &[Language] = &[
    language("python", &["py", "python3"], "py", &[plain("python3"), plain("python")]),
    language("node", &["javascript", "js", "nodejs"], "js", &[plain("node"), plain("nodejs")]),
    language(
        "typescript",
        &["ts"],
        "ts",
        &[
            plain("tsx"),
            Runner { program: "deno", arguments: &["run", CODE_FILE] },
            Runner { program: "bun", arguments: &["run", CODE_FILE] },
        ],
    ),
    language("bash", &[], "sh", &[plain("bash")]),
    language("sh", &["shell"], "sh", &[plain("sh")]),
    language("go", &["golang"], "go", &[Runner { program: "go", arguments: &["run", CODE_FILE] }]),
    language("ruby", &["rb"], "rb", &[plain("ruby")]),
    language("perl", &["pl"], "pl", &[plain("perl")]),
    language("php", &[], "php", &[plain("php")]),
    language("lua", &[], "lua", &[plain("lua"), plain("lua5.4"), plain("lua5.3"), plain("luajit")]),
    language("r", &["rscript"], "R", &[plain("Rscript")]),
    language("java", &[], "java", &[plain("java")]),
    language("tcl", &["tclsh"], "tcl", &[plain("tclsh")]),
    language("awk", &[], "awk", &[Runner { program: "awk", arguments: &["-f", CODE_FILE] }]),
];

/// What a request means by this name. A name that cannot be a program's is refused with the names of the table.
pub(crate) fn find(name: &str) -> Result<Found> {
    let lower = name.to_ascii_lowercase();
    if let Some(known) = TABLE.iter().find(|l| l.name == lower || l.aliases.contains(&lower.as_str())) {
        return Ok(Found::Known(known));
    }
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'+' | b'.' | b'-');
    if (1..=32).contains(&lower.len()) && lower.bytes().all(fine) && lower.as_bytes()[0].is_ascii_alphanumeric() {
        return Ok(Found::Interpreter(lower));
    }
    Err(Error::invalid(
        "unknown_language",
        format!(
            "language `{}` is not known; there are {}, and every other interpreter of the image by its name",
            name.escape_debug(),
            names()
        ),
    ))
}

/// The name in the table of what is called like this, if it is there.
#[must_use]
pub fn known_language(name: &str) -> Option<&'static str> {
    match find(name) {
        Ok(Found::Known(language)) => Some(language.name),
        _ => None,
    }
}

/// All names of the table.
pub(crate) fn names() -> String {
    TABLE.iter().map(|language| language.name).collect::<Vec<_>>().join(", ")
}

/// The language of files with this extension, which comes without its dot.
#[must_use]
pub fn language_of_extension(extension: &str) -> Option<&'static str> {
    let lower = extension.to_ascii_lowercase();
    let by_extension = TABLE.iter().find(|l| l.extension.eq_ignore_ascii_case(&lower));
    by_extension.or_else(|| TABLE.iter().find(|l| l.name == lower || l.aliases.contains(&lower.as_str()))).map(|l| l.name)
}

/// The interpreter that a `#!` line names, without its path; to be asked for as a language.
#[must_use]
pub fn language_of_shebang(code: &str) -> Option<&str> {
    let mut words = code.strip_prefix("#!")?.lines().next()?.split_ascii_whitespace();
    let mut program = file_name(words.next()?)?;
    if program == "env" {
        // `env -S python3 -u`, `env LANG=C perl`
        program = file_name(words.find(|word| !word.starts_with('-') && !word.contains('='))?)?;
    }
    Some(program)
}

fn file_name(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// All programs of the table, for asking an image which of them it has.
pub(crate) fn programs() -> Vec<String> {
    TABLE.iter().flat_map(|l| l.runners).map(|r| r.program.to_owned()).collect()
}

/// The languages that an image with these programs has.
pub(crate) fn available(programs: &[String]) -> Vec<&'static str> {
    TABLE.iter().filter(|l| l.runners.iter().any(|r| programs.iter().any(|p| p == r.program))).map(|l| l.name).collect()
}

impl Language {
    /// Whether its runners differ in more than the program, so that one must know which there is before it can be called.
    pub(crate) fn must_be_looked_for(&self) -> bool {
        self.runners.windows(2).any(|pair| pair[0].arguments != pair[1].arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_found() {
        for (asked, name) in [("python", "python"), ("PY", "python"), ("js", "node"), ("JavaScript", "node"), ("shell", "sh"), ("r", "r")] {
            assert!(matches!(find(asked).unwrap(), Found::Known(l) if l.name == name), "{asked}");
        }
        assert_eq!(find("guile").unwrap(), Found::Interpreter("guile".to_owned()));
        assert_eq!(find("g++-12").unwrap(), Found::Interpreter("g++-12".to_owned()));
        for bad in ["", "../sh", "a b", "-x", ".x", "py\n", &"x".repeat(33)] {
            assert_eq!(find(bad).unwrap_err().code(), "unknown_language", "{bad}");
        }
    }

    #[test]
    fn files_tell_their_language() {
        for (extension, name) in [("py", "python"), ("JS", "node"), ("sh", "bash"), ("bash", "bash"), ("R", "r"), ("go", "go")] {
            assert_eq!(language_of_extension(extension), Some(name), "{extension}");
        }
        assert_eq!(language_of_extension("txt"), None);
        for (line, name) in [
            ("#!/bin/sh", Some("sh")),
            ("#! /usr/bin/perl -w\nx", Some("perl")),
            ("#!/usr/bin/env python3\n", Some("python3")),
            ("#!/usr/bin/env -S python3 -u", Some("python3")),
            ("#!/usr/bin/env LANG=C ruby", Some("ruby")),
            ("#!", None),
            ("#!\n/bin/sh", None),
            ("#!/usr/bin/env", None),
            ("#!/bin/", None),
            ("# a comment", None),
        ] {
            assert_eq!(language_of_shebang(line), name, "{line}");
        }
    }

    #[test]
    fn no_name_means_two_languages() {
        let mut names: Vec<&str> = TABLE.iter().flat_map(|l| l.aliases.iter().chain([&l.name])).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(TABLE.iter().all(|l| l.runners.iter().all(|r| r.arguments.contains(&CODE_FILE))));
    }

    #[test]
    fn an_image_has_what_its_programs_say() {
        assert_eq!(available(&["python3".to_owned(), "bash".to_owned(), "bun".to_owned()]), ["python", "typescript", "bash"]);
        let looked_for: Vec<&str> = TABLE.iter().filter(|l| l.must_be_looked_for()).map(|l| l.name).collect();
        assert_eq!(looked_for, ["typescript"]);
    }
}
