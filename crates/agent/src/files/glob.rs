//! Patterns for paths.
//!
//! `?` is one byte, `*` any number of them, `[a-z]` and `[!a-z]` one of a set, none of them a slash; `**` as a whole part is any number of
//! directories; `{a,b}` is one or the other; a backslash takes a meaning away. Names that begin with a dot are nothing special.

use caisson_wire::{Refusal, RefusalCode};

use crate::refusal::refuse;

/// Patterns that the braces of one may stand for.
const MAX_ALTERNATIVES: usize = 64;
const MAX_LENGTH: usize = 4096;

/// One pattern.
#[derive(Debug)]
pub(crate) struct Glob {
    alternatives: Vec<Vec<Part>>,
    /// Whether it is about names, wherever they are: it has no slash.
    anywhere: bool,
}

/// What stands between two slashes.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// `**`.
    Directories,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Many,
    Set { bytes: Vec<(u8, u8)>, not: bool },
}

impl Glob {
    pub(crate) fn parse(pattern: &[u8]) -> Result<Self, Refusal> {
        let invalid = |why: &str| refuse(RefusalCode::InvalidPattern, format!("the pattern `{}` {why}", pattern.escape_ascii()));
        if pattern.is_empty() || pattern.len() > MAX_LENGTH {
            return Err(invalid("is empty or longer than 4096 bytes"));
        }
        if pattern.starts_with(b"/") {
            return Err(invalid("begins with `/`; patterns are about paths below the directory that is searched"));
        }
        let mut whole = Vec::new();
        expand(pattern, &mut whole).map_err(invalid)?;
        let alternatives = whole.iter().map(|one| parts(one)).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        Ok(Self { anywhere: !pattern.contains(&b'/'), alternatives })
    }

    /// Whether a path is what the pattern says.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.alternatives.iter().any(|parts| matches(parts, path, End::Both))
    }

    /// The same, where a pattern without a slash is about the last part of the path.
    pub(crate) fn is_about(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        self.matches(if self.anywhere { name } else { path })
    }

    /// Whether something in this directory could be what the pattern says.
    pub(crate) fn leads_into(&self, directory: &[u8]) -> bool {
        self.alternatives.iter().any(|parts| matches(parts, directory, End::Path))
    }
}

/// What must have come to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Both,
    /// The path, with something of the pattern left for what is in it.
    Path,
}

/// Goes back to the last `**` alone: what an earlier one could take the last one can take as well. So the time is the product of the lengths at
/// most.
fn matches(parts: &[Part], path: &[u8], end: End) -> bool {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (mut part, mut name) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while name < names.len() {
        match parts.get(part) {
            Some(Part::Directories) => {
                if end == End::Path {
                    return true;
                }
                again = Some((part, name));
                part += 1;
            }
            Some(Part::Name(tokens)) if named(tokens, names[name]) => (part, name) = (part + 1, name + 1),
            _ => match again {
                Some((directories, from)) => {
                    again = Some((directories, from + 1));
                    (part, name) = (directories + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    match end {
        End::Path => part < parts.len(),
        // `**` at the end is everything in a directory, not the directory.
        End::Both => part == parts.len(),
    }
}

/// The same for the bytes of a name.
fn named(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut byte) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while byte < name.len() {
        let fits = match tokens.get(token) {
            Some(Token::Many) => {
                again = Some((token, byte));
                token += 1;
                continue;
            }
            Some(Token::Byte(wanted)) => *wanted == name[byte],
            Some(Token::Any) => true,
            Some(Token::Set { bytes, not }) => bytes.iter().any(|(from, to)| (*from..=*to).contains(&name[byte])) != *not,
            None => false,
        };
        if fits {
            (token, byte) = (token + 1, byte + 1);
        } else if let Some((many, from)) = again {
            again = Some((many, from + 1));
            (token, byte) = (many + 1, from + 1);
        } else {
            return false;
        }
    }
    tokens[token..].iter().all(|token| *token == Token::Many)
}

/// Takes braces apart, the first one and then those of the rest.
fn expand(pattern: &[u8], whole: &mut Vec<Vec<u8>>) -> Result<(), &'static str> {
    const TOO_MANY: &str = "stands for too many patterns";
    let mut waiting = vec![pattern.to_vec()];
    while let Some(one) = waiting.pop() {
        let Some((open, inner, close)) = braces(&one)? else {
            whole.push(one);
            if whole.len() > MAX_ALTERNATIVES {
                return Err(TOO_MANY);
            }
            continue;
        };
        for part in inner {
            waiting.push([&one[..open], &part, &one[close + 1..]].concat());
        }
        if waiting.len() > MAX_ALTERNATIVES {
            return Err(TOO_MANY);
        }
    }
    Ok(())
}

/// The first pair of braces: where it opens, what stands in it between commas, where it closes.
type Braces = (usize, Vec<Vec<u8>>, usize);

fn braces(pattern: &[u8]) -> Result<Option<Braces>, &'static str> {
    let (mut open, mut depth, mut inner, mut set) = (None, 0, Vec::new(), false);
    let mut begin = 0;
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'[' => set = true,
            b']' => set = false,
            b'{' if !set => {
                if depth == 0 {
                    (open, begin) = (Some(at), at + 1);
                }
                depth += 1;
            }
            b',' if depth == 1 && !set => {
                inner.push(pattern[begin..at].to_vec());
                begin = at + 1;
            }
            b'}' if depth > 0 && !set => {
                depth -= 1;
                if depth == 0 {
                    inner.push(pattern[begin..at].to_vec());
                    return Ok(open.map(|open| (open, inner, at)));
                }
            }
            _ => {}
        }
        at += 1;
    }
    if depth > 0 { Err("has a `{` that is not closed") } else { Ok(None) }
}

fn parts(pattern: &[u8]) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    for part in pattern.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("has `..` in it; search the directory above instead"),
            b"**" => {
                // Several in a row say no more than one.
                if parts.last() != Some(&Part::Directories) {
                    parts.push(Part::Directories);
                }
            }
            part => parts.push(Part::Name(tokens(part)?)),
        }
    }
    // At the end it stands for everything in there.
    if parts.last() == Some(&Part::Directories) {
        parts.push(Part::Name(vec![Token::Many]));
    }
    if parts.is_empty() { Err("names nothing") } else { Ok(parts) }
}

fn tokens(part: &[u8]) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = part;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        tokens.push(match first {
            b'?' => Token::Any,
            b'*' => {
                if tokens.last() == Some(&Token::Many) {
                    continue;
                }
                Token::Many
            }
            b'[' => {
                let (set, behind) = set(rest)?;
                rest = behind;
                set
            }
            b'\\' => {
                let (byte, behind) = rest.split_first().ok_or("ends with a backslash")?;
                rest = behind;
                Token::Byte(*byte)
            }
            byte => Token::Byte(*byte),
        });
    }
    Ok(tokens)
}

/// What stands behind `[`, and what comes after the closing bracket.
fn set(text: &[u8]) -> Result<(Token, &[u8]), &'static str> {
    const OPEN: &str = "has a `[` that is not closed";
    let (not, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut bytes = Vec::new();
    loop {
        match rest {
            // A bracket that closes at once is meant as one of the set.
            [b']', behind @ ..] if !bytes.is_empty() => return Ok((Token::Set { bytes, not }, behind)),
            [from, b'-', to, behind @ ..] if *to != b']' => {
                if from > to {
                    return Err("has a set that goes backwards");
                }
                bytes.push((*from, *to));
                rest = behind;
            }
            [byte, behind @ ..] => {
                bytes.push((*byte, *byte));
                rest = behind;
            }
            [] => return Err(OPEN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::parse(pattern.as_bytes()).unwrap();
        for (paths, expect) in [(yes, true), (no, false)] {
            for path in paths {
                assert_eq!(glob.matches(path.as_bytes()), expect, "{pattern} and {path}");
            }
        }
        for path in yes {
            for (at, _) in path.match_indices('/') {
                assert!(glob.leads_into(&path.as_bytes()[..at]), "{pattern} leads into {}", &path[..at]);
            }
        }
    }

    #[test]
    fn patterns_are_what_people_expect() {
        check("*.py", &["a.py", ".py"], &["a/b.py", "a.pyc", "py"]);
        check("**/*.py", &["a.py", "a/b.py", "a/b/c.py"], &["a.pyc", "a.py/b"]);
        check("src/**/test_?.py", &["src/test_1.py", "src/a/b/test_x.py"], &["test_1.py", "src/test_12.py", "a/src/test_1.py"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "b/a"]);
        check("a/**/b/**/c", &["a/b/c", "a/b/b/x/c", "a/x/b/c"], &["a/c", "a/b/c/d"]);
        check("*", &["a", ".hidden"], &["a/b"]);
        check("a*b*c", &["abc", "aXbYbZc"], &["abd", "ab"]);
        check("[a-c]?[!x]", &["b1y", "c]z"], &["d1y", "b1x"]);
        check("[]]", &["]"], &["["]);
        check("{a,b/c}.{x,y}", &["a.x", "b/c.y"], &["a", "b/c", "c.y"]);
        check("{a{1,2},b}", &["a1", "a2", "b"], &["a"]);
        check(r"\*\{", &["*{"], &["a{"]);
        check("\u{e4}*", &["\u{e4}b"], &["ab"]);
        let glob = Glob::parse(b"a/b*/c").unwrap();
        assert!(glob.leads_into(b"a") && glob.leads_into(b"a/bx") && !glob.leads_into(b"b") && !glob.leads_into(b"a/bx/c"));
        assert!(Glob::parse(b"*.rs").unwrap().is_about(b"a/b.rs") && !Glob::parse(b"./*.rs").unwrap().is_about(b"a/b.rs"));
    }

    #[test]
    fn bad_patterns_are_refused_and_none_takes_long() {
        for bad in ["", "/a", "../a", "a/..", "[a", "[", "{a", "a\\", "[z-a]", ".", &"x".repeat(5000), &"{a,b}".repeat(10)] {
            assert!(Glob::parse(bad.as_bytes()).is_err(), "{bad:.20}");
        }
        let begin = std::time::Instant::now();
        let glob = Glob::parse(format!("{}b", "a*".repeat(1000)).as_bytes()).unwrap();
        assert!(!glob.matches(&[b'a'; 4000]));
        let glob = Glob::parse(format!("{}b", "**/a/".repeat(500)).as_bytes()).unwrap();
        assert!(!glob.matches(&b"a/".repeat(2000)));
        assert!(begin.elapsed().as_secs() < 5);
    }
}
