//! Instructions.

use crate::{HereDocument, lines::Line, words};

/// Where to turn with what cannot be built here.
const WAY_ROUND: &str = "build the image with `buildah` and take it in with `caisson image import`";

/// An instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    /// As it stands in the file, in one line.
    pub text: String,
    pub what: What,
}

/// What an instruction asks for. Variables are not replaced yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Run(Form),
    Copy(Transfer),
    Env(Vec<Pair>),
    Label(Vec<Pair>),
    /// Names with their defaults.
    Arg(Vec<(String, Option<String>)>),
    WorkDir(String),
    User(String),
    Expose(Vec<String>),
    Entrypoint(Form),
    Cmd(Form),
    Shell(Vec<String>),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// For the shell of the stage.
    Shell(String),
    /// A program and its arguments, as a JSON list.
    Exec(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub value: String,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Whether archives are unpacked.
    pub add: bool,
    /// A stage or an image; the context where absent.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub sources: Vec<Source>,
    pub destination: String,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(String),
    /// A file with the document's name.
    Document(HereDocument),
}

/// `FROM` is no step, as it begins a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    From { image: String, platform: Option<String>, name: Option<String> },
    Step(What),
}

/// What a line asks for, or why it cannot be done.
pub(crate) fn read(line: &Line, escape: char) -> Result<Instruction, String> {
    let (name, rest) = words::first(&line.text);
    let name = name.to_ascii_uppercase();
    let (mut flags, rest) = flags(rest)?;
    let refused = |why: &str| Err(format!("{name} is not supported{why}; leave it out, or {WAY_ROUND}"));
    let missing = |what: &str| format!("{name} needs {what}");
    let what = match name.as_str() {
        "FROM" => {
            let platform = flags.take("platform");
            let words: Vec<&str> = rest.split_whitespace().collect();
            let (image, name) = match words[..] {
                [image] => (image, None),
                [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(stage_name(name)?)),
                _ => return Err("FROM is written `FROM IMAGE` or `FROM IMAGE AS NAME`".to_owned()),
            };
            flags.finish("FROM")?;
            return Ok(Instruction::From { image: image.to_owned(), platform, name });
        }
        "RUN" => What::Run(command(rest, line)?.ok_or_else(|| missing("a command"))?),
        "COPY" | "ADD" => What::Copy(transfer(&name, &mut flags, rest, line)?),
        "ENV" => What::Env(pairs("ENV", rest, escape)?),
        "LABEL" => What::Label(pairs("LABEL", rest, escape)?),
        "ARG" => What::Arg(arguments(rest, escape)?),
        "WORKDIR" => What::WorkDir(one(rest).ok_or_else(|| missing("a directory"))?),
        "USER" => What::User(one(rest).ok_or_else(|| missing("a user"))?),
        "EXPOSE" => {
            let ports: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            if ports.is_empty() {
                return Err(missing("a port"));
            }
            What::Expose(ports)
        }
        // Nothing is a way to take away what the image below says.
        "ENTRYPOINT" => What::Entrypoint(form(rest)?.unwrap_or(Form::Exec(Vec::new()))),
        "CMD" => What::Cmd(form(rest)?.unwrap_or(Form::Exec(Vec::new()))),
        "SHELL" => match form(rest)? {
            Some(Form::Exec(words)) if !words.is_empty() => What::Shell(words),
            _ => return Err("SHELL needs a JSON list, such as SHELL [\"/bin/bash\", \"-c\"]".to_owned()),
        },
        "MAINTAINER" => return Err("MAINTAINER is not supported; write LABEL org.opencontainers.image.authors=… instead".to_owned()),
        "VOLUME" => return refused(", as sandboxes have no volumes"),
        "HEALTHCHECK" => return refused(", as nobody would ask"),
        "STOPSIGNAL" => return refused(", as sandboxes are ended as a whole"),
        "ONBUILD" => return refused(""),
        other => return Err(format!("`{}` is no instruction", other.escape_debug())),
    };
    flags.finish(&name)?;
    Ok(Instruction::Step(what))
}

/// The part of an instruction that begins with dashes.
struct Flags(Vec<(String, Option<String>)>);

fn flags(mut rest: &str) -> Result<(Flags, &str), String> {
    let mut all: Vec<(String, Option<String>)> = Vec::new();
    loop {
        let (word, tail) = words::first(rest);
        let Some(flag) = word.strip_prefix("--") else { return Ok((Flags(all), rest)) };
        rest = tail;
        if flag.is_empty() {
            return Ok((Flags(all), rest));
        }
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
        if all.iter().any(|(known, _)| known == name) {
            return Err(format!("--{name} stands there twice"));
        }
        all.push((name.to_owned(), value));
    }
}

impl Flags {
    fn take(&mut self, name: &str) -> Option<String> {
        // One without a value stays, and is complained of.
        let at = self.0.iter().position(|(known, value)| known == name && value.is_some())?;
        self.0.remove(at).1
    }

    /// Nothing may be left that nobody has taken.
    fn finish(&self, instruction: &str) -> Result<(), String> {
        let Some((name, value)) = self.0.first() else { return Ok(()) };
        let known = matches!((instruction, name.as_str()), ("FROM", "platform") | ("COPY", "from") | ("COPY" | "ADD", "chown" | "chmod"));
        Err(match name.as_str() {
            _ if known && value.is_none() => format!("{instruction} --{name} needs a value: --{name}=VALUE"),
            "link" => format!("{instruction} --link is not supported, and makes no difference to what is built as a rule; leave it out"),
            _ => format!("{instruction} --{} is not supported; leave it out, or {WAY_ROUND}", name.escape_debug()),
        })
    }
}

fn stage_name(name: &str) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
    match fine && name != "scratch" {
        true => Ok(name),
        false => Err(format!("`{}` is no name for a stage: a letter, then letters, digits, `-`, `_` and `.`", name.escape_debug())),
    }
}

fn one(rest: &str) -> Option<String> {
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// A JSON list of texts, where it is one. Anything else that looks like a list is for the shell.
fn list(rest: &str) -> Result<Option<Vec<String>>, String> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(rest) {
        Ok(values) => values
            .into_iter()
            .map(|value| match value {
                serde_json::Value::String(text) => Ok(text),
                other => Err(format!("a JSON list may have texts alone, and `{other}` is none")),
            })
            .collect::<Result<_, _>>()
            .map(Some),
        Err(_) => Ok(None),
    }
}

fn form(rest: &str) -> Result<Option<Form>, String> {
    let form = match list(rest)? {
        Some(words) => Form::Exec(words),
        None if rest.is_empty() => return Ok(None),
        None => Form::Shell(rest.to_owned()),
    };
    let harmful = match &form {
        Form::Shell(text) => text.contains('\0'),
        Form::Exec(words) => words.iter().any(|word| word.contains('\0')),
    };
    if harmful { Err("there is a NUL in the command".to_owned()) } else { Ok(Some(form)) }
}

/// The command of `RUN`, with the documents that it reads.
fn command(rest: &str, line: &Line) -> Result<Option<Form>, String> {
    let Some(first) = line.documents.first() else { return Ok(form(rest)?.filter(|form| *form != Form::Exec(Vec::new()))) };
    if rest == first.word {
        if first.content.starts_with("#!") {
            return Err(format!("a document that names its interpreter (`#!`) is not supported; write `RUN INTERPRETER {}`", first.word));
        }
        return form(&first.content);
    }
    // The shell knows what to do with them.
    let mut text = format!("{rest}\n");
    for document in &line.documents {
        text.push_str(&format!("{}{}\n", document.content, document.name));
    }
    form(&text)
}

fn transfer(name: &str, flags: &mut Flags, rest: &str, line: &Line) -> Result<Transfer, String> {
    let add = name == "ADD";
    let from = if add { None } else { flags.take("from") };
    let (chown, chmod) = (flags.take("chown"), flags.take("chmod"));
    let words = list(rest)?.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    let Some((destination, sources)) = words.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Err(format!("{name} needs what to copy, and where to"));
    };
    if sources.len() > 1 && !destination.ends_with('/') && !destination.contains('$') {
        return Err(format!("{name} of several things needs a directory to copy them to, with a slash at its end: {destination}/"));
    }
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        if let Some(document) = line.documents.iter().find(|document| document.word == *source) {
            if from.is_some() {
                return Err(format!("{name} --from copies what is there, and no document such as `{source}`"));
            }
            all.push(Source::Document(document.clone()));
            continue;
        }
        let remote = ["http://", "https://", "ftp://", "git://", "git@", "ssh://"].iter().any(|begin| source.starts_with(begin));
        if add && remote {
            return Err(format!("ADD of `{source}` is not supported, as a build fetches nothing itself; get it before, and ADD the file"));
        }
        all.push(Source::Path(source.clone()));
    }
    Ok(Transfer { add, from, chown, chmod, sources: all, destination: destination.clone() })
}

/// `NAME=VALUE …`, or the older `NAME VALUE`, whose value is the rest of the line.
fn pairs(instruction: &str, rest: &str, escape: char) -> Result<Vec<Pair>, String> {
    let words = words::quoted(rest, escape);
    let Some(first) = words.first() else { return Err(format!("{instruction} needs NAME=VALUE")) };
    if !first.contains('=') {
        let (name, value) = words::first(rest);
        if value.is_empty() {
            return Err(format!("{instruction} {name} has no value; write {instruction} {name}=VALUE"));
        }
        return Ok(vec![Pair { name: name.to_owned(), value: value.to_owned() }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("`{word}` has no name")),
            Some((name, value)) => Ok(Pair { name: name.to_owned(), value: value.to_owned() }),
            None => Err(format!("`{word}` is no NAME=VALUE; a value with spaces needs quotes")),
        })
        .collect()
}

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = words::quoted(rest, escape);
    if words.is_empty() {
        return Err("ARG needs a name".to_owned());
    }
    words
        .iter()
        .map(|word| {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value.to_owned())));
            let fine = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if fine { Ok((name.to_owned(), value)) } else { Err(format!("`{name}` is no name for an ARG: letters, digits and `_`")) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines;

    fn instruction(text: &str) -> Result<Instruction, String> {
        let (escape, lines) = lines::split(text).unwrap();
        assert_eq!(lines.len(), 1, "{text}");
        read(&lines[0], escape)
    }

    #[track_caller]
    fn what(text: &str) -> What {
        match instruction(text) {
            Ok(Instruction::Step(what)) => what,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn shell(text: &str) -> Form {
        Form::Shell(text.to_owned())
    }

    fn exec(words: &[&str]) -> Form {
        Form::Exec(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn commands_have_two_forms() {
        assert_eq!(what("RUN make  -j2 && \\\n  make install"), What::Run(shell("make  -j2 &&   make install")));
        assert_eq!(what("run [\"/bin/a\", \"b c\"]"), What::Run(exec(&["/bin/a", "b c"])));
        assert_eq!(what("RUN [ -d /x ] && y"), What::Run(shell("[ -d /x ] && y")));
        assert_eq!(what("RUN ['a', 'b']"), What::Run(shell("['a', 'b']")));
        assert_eq!(what("CMD"), What::Cmd(exec(&[])));
        assert_eq!(what("CMD []"), What::Cmd(exec(&[])));
        assert_eq!(what("ENTRYPOINT exec top -b"), What::Entrypoint(shell("exec top -b")));
        assert_eq!(what("SHELL [\"/bin/bash\", \"-c\"]"), What::Shell(vec!["/bin/bash".to_owned(), "-c".to_owned()]));
    }

    #[test]
    fn documents_are_scripts_and_input() {
        assert_eq!(what("RUN <<EOF\nset -e\nmake\nEOF"), What::Run(shell("set -e\nmake\n")));
        assert_eq!(what("RUN cat <<EOF > /x\n$a\nEOF"), What::Run(shell("cat <<EOF > /x\n$a\nEOF\n")));
        let What::Copy(copy) = what("COPY <<EOF <<'B' /d/\na\nEOF\nb\nB") else { panic!() };
        let [Source::Document(a), Source::Document(b)] = &copy.sources[..] else { panic!("{copy:?}") };
        assert_eq!((a.content.as_str(), a.expands, b.name.as_str(), b.expands), ("a\n", true, "B", false));
    }

    #[test]
    fn pairs_have_two_forms() {
        let pair = |name: &str, value: &str| Pair { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(what("ENV A=1 B=\"x y\" C=x\\ y"), What::Env(vec![pair("A", "1"), pair("B", "\"x y\""), pair("C", "x\\ y")]));
        assert_eq!(what("ENV A  some = value"), What::Env(vec![pair("A", "some = value")]));
        assert_eq!(what("LABEL \"a b\"=c d=''"), What::Label(vec![pair("\"a b\"", "c"), pair("d", "''")]));
        assert_eq!(what("ARG A B=2"), What::Arg(vec![("A".to_owned(), None), ("B".to_owned(), Some("2".to_owned()))]));
    }

    #[test]
    fn copies_say_from_where_and_whose() {
        let copy = |text: &str| match what(text) {
            What::Copy(copy) => copy,
            other => panic!("{other:?}"),
        };
        let all = copy("COPY --from=build --chown=1:2 --chmod=755 a b/ /c/");
        assert_eq!(
            (all.from.as_deref(), all.chown.as_deref(), all.chmod.as_deref(), all.add),
            (Some("build"), Some("1:2"), Some("755"), false)
        );
        assert_eq!(all.sources, [Source::Path("a".to_owned()), Source::Path("b/".to_owned())]);
        assert_eq!(copy("ADD [\"a b\", \"/c d\"]").destination, "/c d");
    }

    #[test]
    fn stages_begin() {
        let from = |image: &str, platform: Option<&str>, name: Option<&str>| {
            Ok(Instruction::From { image: image.to_owned(), platform: platform.map(str::to_owned), name: name.map(str::to_owned) })
        };
        assert_eq!(instruction("FROM alpine"), from("alpine", None, None));
        assert_eq!(instruction("from --platform=$P a:1 as Build_1"), from("a:1", Some("$P"), Some("build_1")));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (text, word) in [
            ("VOLUME /data", "VOLUME is not supported, as sandboxes have no volumes; leave it out, or build the image with `buildah`"),
            ("ONBUILD RUN x", "caisson image import"),
            ("HEALTHCHECK NONE", "HEALTHCHECK is not"),
            ("STOPSIGNAL 9", "STOPSIGNAL is not"),
            ("MAINTAINER x", "LABEL"),
            ("RUN --mount=type=cache,target=/x make", "RUN --mount is not supported"),
            ("RUN --network=none make", "RUN --network is not"),
            ("RUN", "needs a command"),
            ("RUN []", "needs a command"),
            ("RUN <<EOF\n#!/usr/bin/python\nEOF", "RUN INTERPRETER <<EOF"),
            ("COPY --link a b", "makes no difference"),
            ("COPY --from a b", "--from=VALUE"),
            ("COPY --chown=1 --chown=2 a b", "twice"),
            ("COPY a", "needs what to copy"),
            ("COPY a b c", "c/"),
            ("COPY [\"a\", 1]", "texts alone"),
            ("COPY --from=x <<E /d\nE", "no document"),
            ("ADD --from=x a b", "ADD --from is not"),
            ("ADD https://example.com/x /x", "get it before"),
            ("ADD git@example.com:x /x", "get it before"),
            ("ENV", "NAME=VALUE"),
            ("ENV A", "no value"),
            ("ENV A=1 B", "quotes"),
            ("ENV =1", "no name"),
            ("LABEL a=b c", "quotes"),
            ("ARG", "a name"),
            ("ARG 1A=2", "no name for an ARG"),
            ("WORKDIR", "a directory"),
            ("USER", "a user"),
            ("EXPOSE", "a port"),
            ("SHELL /bin/sh", "JSON list"),
            ("SHELL []", "JSON list"),
            ("FROM", "FROM IMAGE"),
            ("FROM a b", "FROM IMAGE"),
            ("FROM a as 1b", "no name for a stage"),
            ("FROM a as scratch", "no name for a stage"),
            ("FROM --pull=x a", "FROM --pull is not"),
            ("INCLUDE x", "no instruction"),
        ] {
            let error = instruction(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
