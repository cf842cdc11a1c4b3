//! From the words of the command line to a program.

use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use caisson_engine::{language_of_extension, language_of_shebang};

use crate::{
    args::{MAX_CODE, ProgramArgs, text},
    stdin,
};

/// A program as the API takes it: `cmd`, or `language` with `code` and `args`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) cmd: Option<Vec<String>>,
    pub(super) language: Option<String>,
    pub(super) code: Option<String>,
    pub(super) args: Option<Vec<String>>,
    pub(super) stdin_is_code: bool,
}

/// What to run: with `behind_dashes` the words are a program of the image. Reads the file or standard input where the code is there.
pub(super) fn of(given: &ProgramArgs, words: Vec<OsString>, behind_dashes: bool, image_given: bool) -> Result<Program> {
    let texts = |words: Vec<OsString>| words.into_iter().map(text).collect::<Result<Vec<String>>>();
    if let Some(code) = &given.code {
        let args = texts(words)?;
        return Ok(Program { language: given.lang.clone(), code: Some(code.clone()), args: Some(args), ..Program::default() });
    }
    if behind_dashes && !words.is_empty() {
        if let Some(lang) = &given.lang {
            bail!("--lang {lang} goes with code: give -c CODE, a file or `-`; a program behind `--` needs no language");
        }
        return Ok(Program { cmd: Some(texts(words)?), ..Program::default() });
    }
    let mut words = words.into_iter();
    match words.next() {
        // The image may say what to run.
        None if image_given && given.lang.is_none() => Ok(Program::default()),
        None => bail!("there is nothing to run; give a file, -l LANG -c CODE, or -- PROGRAM (`caisson run --help` has examples)"),
        Some(word) if word == "-" => {
            let Some(language) = given.lang.clone() else {
                bail!("the language of code on standard input must be said: caisson run -l python -");
            };
            let code = stdin::read_code("put it in with --file and run it with `--`")?;
            let args = texts(words.collect())?;
            Ok(Program { language: Some(language), code: Some(code), args: Some(args), stdin_is_code: true, ..Program::default() })
        }
        Some(word) => {
            let path = PathBuf::from(word);
            let code = read(&path)?;
            let language = match &given.lang {
                Some(language) => language.clone(),
                None => infer(&path, &code)?,
            };
            Ok(Program { language: Some(language), code: Some(code), args: Some(texts(words.collect())?), ..Program::default() })
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("there is no file {shown}; to run a program of the image, write `caisson run -- {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let mut code = Vec::new();
    file.take(MAX_CODE as u64 + 1).read_to_end(&mut code).with_context(|| format!("cannot read {shown}"))?;
    if code.len() > MAX_CODE {
        bail!("{shown} is larger than {} MiB; put it in with --file and run it with `--`", MAX_CODE >> 20);
    }
    String::from_utf8(code).with_context(|| format!("{shown} is not UTF-8 text; put it in with --file {shown} and run it with `-- ./NAME`"))
}

/// The language by the file's extension, or else by its `#!` line.
fn infer(path: &Path, code: &str) -> Result<String> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if let Some(language) = extension.and_then(language_of_extension) {
        return Ok(language.to_owned());
    }
    match language_of_shebang(code) {
        Some(language) => Ok(language.to_owned()),
        None => bail!("the language of {} shows neither in its name nor in a #! line; say it with -l LANG", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(lang: Option<&str>, code: Option<&str>) -> ProgramArgs {
        ProgramArgs { lang: lang.map(str::to_owned), code: code.map(str::to_owned), env: Vec::new(), cwd: None, timeout: None }
    }

    fn program(lang: Option<&str>, code: Option<&str>, words: &[&str], behind_dashes: bool) -> Result<Program> {
        of(&given(lang, code), words.iter().map(OsString::from).collect(), behind_dashes, false)
    }

    #[test]
    fn code_on_the_command_line_takes_all_words_as_arguments() {
        let found = program(Some("python"), Some("1"), &["a", "-b"], true).unwrap();
        assert_eq!((found.language.as_deref(), found.code.as_deref()), (Some("python"), Some("1")));
        assert_eq!(found.args, Some(vec!["a".to_owned(), "-b".to_owned()]));
    }

    #[test]
    fn programs_of_the_image_stand_behind_two_dashes() {
        let found = program(None, None, &["ls", "-la"], true).unwrap();
        assert_eq!(found, Program { cmd: Some(vec!["ls".to_owned(), "-la".to_owned()]), ..Program::default() });
        assert!(program(Some("bash"), None, &["ls"], true).unwrap_err().to_string().contains("needs no language"));
    }

    #[test]
    fn files_tell_their_language() {
        let dir = tempfile::tempdir().unwrap();
        let language = |name: &str, code: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, code).unwrap();
            program(None, None, &[path.to_str().unwrap(), "x"], false).map(|found| found.language.unwrap())
        };
        assert_eq!(language("a.py", "").unwrap(), "python");
        assert_eq!(language("a.JS", "").unwrap(), "node");
        assert_eq!(language("a.sh", "#!/usr/bin/perl").unwrap(), "bash");
        assert_eq!(language("script", "#!/usr/bin/env python3\n1").unwrap(), "python3");
        assert_eq!(language("script.unknown", "#!/bin/sh -e\n").unwrap(), "sh");
        assert!(language("nothing", "x").unwrap_err().to_string().contains("say it with -l LANG"));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_remedy() {
        assert!(program(None, None, &[], false).unwrap_err().to_string().contains("nothing to run"));
        assert!(program(None, None, &["-"], false).unwrap_err().to_string().contains("-l python -"));
        assert!(program(None, None, &["no-such-program"], false).unwrap_err().to_string().contains("`caisson run -- no-such-program`"));
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("x.py");
        std::fs::write(&binary, b"\xff").unwrap();
        assert!(format!("{:#}", program(None, None, &[binary.to_str().unwrap()], false).unwrap_err()).contains("not UTF-8"));
    }
}
