//! Lines: directives, comments, continuations, and documents that stand behind an instruction.

use crate::{Problem, words};

/// The only program that reads Dockerfiles of this kind, by any version.
const SYNTAX: [&str; 2] = ["docker/dockerfile", "docker.io/docker/dockerfile"];

/// An instruction with all the lines that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Of its first line, from 1 on.
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) documents: Vec<HereDocument>,
}

/// `<<NAME`, and the lines down to the one that is `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HereDocument {
    /// The word that announces it.
    pub word: String,
    pub name: String,
    /// As it stands, without the tabs that `<<-` takes away.
    pub content: String,
    /// Whether variables in it are replaced: not where the name has quotes.
    pub expands: bool,
    /// Whether `<<-` announced it.
    pub chomps: bool,
}

/// The escape character, and the instructions.
pub(crate) fn split(text: &str) -> Result<(char, Vec<Line>), Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = directives(text)?;
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut all = Vec::new();
    while let Some((number, first)) = lines.next() {
        let first = first.trim_start();
        if is_nothing(first) {
            continue;
        }
        let mut whole = String::new();
        let mut piece = first;
        while let Some(before) = continued(piece, escape) {
            whole.push_str(before);
            // Comments and empty lines may stand in between.
            match lines.by_ref().find(|(_, line)| !is_nothing(line.trim_start())) {
                Some((_, next)) => piece = next,
                None => {
                    piece = "";
                    break;
                }
            }
        }
        whole.push_str(piece);
        let whole = whole.trim_end().to_owned();
        if whole.is_empty() {
            continue;
        }
        let mut documents = announced(&whole, escape);
        for document in &mut documents {
            loop {
                let Some((_, line)) = lines.next() else {
                    return Err(Problem::new(number, format!("`{}` has no end: there is no line `{}`", document.word, document.name)));
                };
                let line = if document.chomps { line.trim_start_matches('\t') } else { line };
                if line == document.name {
                    break;
                }
                document.content.push_str(line);
                document.content.push('\n');
            }
        }
        all.push(Line { number, text: whole, documents });
    }
    Ok((escape, all))
}

fn is_nothing(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

/// What stands in front of the escape character that ends a line. Two of them are one that does not.
fn continued(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    if before.ends_with(escape) { None } else { Some(before) }
}

/// `# name=value`, in front of everything else. Names that are not known are comments, and end them.
fn directives(text: &str) -> Result<char, Problem> {
    let (mut escape, mut seen) = ('\\', Vec::new());
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let Some((name, value)) = line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('=')) else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "escape" => {
                escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => return Err(Problem::new(number, format!("`escape` is `{value}`; it can be `\\` or ` alone"))),
                };
            }
            "syntax" => {
                let repository = value.split(['@', ':']).next().unwrap_or_default();
                if !SYNTAX.contains(&repository) {
                    return Err(Problem::new(
                        number,
                        format!("`syntax={value}` asks for another reader of Dockerfiles; there is only that of {}", SYNTAX[0]),
                    ));
                }
            }
            // What a check of the file is to complain of; it builds nothing.
            "check" => {}
            _ => break,
        }
        if seen.contains(&name) {
            return Err(Problem::new(number, format!("the directive `{name}` stands there twice")));
        }
        seen.push(name);
    }
    Ok(escape)
}

/// The documents that a line announces, where it is an instruction that may.
fn announced(line: &str, escape: char) -> Vec<HereDocument> {
    let (name, rest) = words::first(line);
    if !["RUN", "COPY", "ADD"].iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Vec::new();
    }
    words::quoted(rest, escape).iter().filter_map(|word| document(word)).collect()
}

fn document(word: &str) -> Option<HereDocument> {
    let behind = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomps, quoted) = behind.strip_prefix('-').map_or((false, behind), |rest| (true, rest));
    let name: String = quoted.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
    if name.is_empty() || name.contains(['<', '/', ';', '|', '>']) {
        return None;
    }
    let expands = name.len() == quoted.len();
    Some(HereDocument { word: word.to_owned(), name, content: String::new(), expands, chomps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn texts(file: &str) -> Vec<(usize, String)> {
        split(file).unwrap().1.into_iter().map(|line| (line.number, line.text)).collect()
    }

    #[test]
    fn lines_go_on_behind_an_escape() {
        let file = "\n# a comment\nRUN a \\\n  b \\\n# between\n\n   # set in\n  c\n  CMD d\\\\\nEND";
        assert_eq!(texts(file), [(3, "RUN a   b   c".to_owned()), (9, r"CMD d\\".to_owned()), (10, "END".to_owned())]);
        assert_eq!(texts("RUN a \\  \n b\r\nX"), [(1, "RUN a  b".to_owned()), (3, "X".to_owned())]);
        assert_eq!(texts("RUN a \\"), [(1, "RUN a".to_owned())]);
        assert_eq!(texts("\u{feff}FROM x"), [(1, "FROM x".to_owned())]);
        assert_eq!(texts("RUN echo # no comment"), [(1, "RUN echo # no comment".to_owned())]);
    }

    #[test]
    fn directives_stand_in_front() {
        assert_eq!(split("# escape=`\nRUN a `\n b\\\n").unwrap(), ('`', split("# escape=`\nRUN a  b\\").unwrap().1));
        assert_eq!(split("#syntax=docker/dockerfile:1.7\n# ESCAPE = ` \n").unwrap().0, '`');
        for none in ["FROM x\n# escape=`\n", "# comment\n# escape=`\n", "\n# escape=`\n", "# unknown=1\n# escape=`\n"] {
            assert_eq!(split(none).unwrap().0, '\\', "{none}");
        }
        for (bad, line) in [
            ("# escape=x", 1),
            ("# escape=", 1),
            ("# escape=\\\n# escape=`", 2),
            ("# syntax=docker/dockerfile:1\n# syntax=docker/dockerfile:1", 2),
            ("# syntax=example.com/other", 1),
        ] {
            assert_eq!(split(bad).unwrap_err().line, line, "{bad}");
        }
    }

    #[test]
    fn documents_stand_behind_their_instruction() {
        let file = "RUN cat <<EOF >/a <<-'B'\n x\\\n# y\nEOF\n\t\tz\n\tB\nCOPY <<\"F\" /f\nF\nENV A=<<EOF\n";
        let lines = split(file).unwrap().1;
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 7, 9]);
        let [first, second] = &lines[0].documents[..] else { panic!("{lines:?}") };
        assert_eq!((first.name.as_str(), first.content.as_str(), first.expands), ("EOF", " x\\\n# y\n", true));
        assert_eq!((second.content.as_str(), second.expands, second.chomps), ("z\n", false, true));
        assert_eq!((lines[1].documents[0].content.as_str(), lines[2].documents.len()), ("", 0));
        assert_eq!(split("FROM x\nRUN <<EOF\na\n").unwrap_err().line, 2);
        assert!(split("RUN cat <<< word").unwrap().1[0].documents.is_empty());
    }
}
