//! The rules of `.gitignore` files. Written here, as libraries that know them bring regular expressions or half of a git along, and these few
//! rules can be compared with the real one (`tests/ignore.rs`).

use std::{cell::Cell, time::Instant};

/// How many steps of comparing come between two looks at the clock.
const CLOCK: u32 = 1 << 16;

/// The rules that hold in a directory: its own and those of all above it.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    levels: Vec<Level>,
    time: Time,
}

/// Whoever writes rules decides how long it takes to compare them.
#[derive(Debug, Default)]
struct Time {
    until: Option<Instant>,
    steps: Cell<u32>,
    is_over: Cell<bool>,
}

/// One `.gitignore`.
#[derive(Debug)]
struct Level {
    /// How many bytes of a path come before what the patterns are about.
    base: usize,
    /// Its own length.
    bytes: usize,
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    negated: bool,
    directories_only: bool,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    /// The last part of a path, at any depth.
    Name(Vec<Token>),
    Path(Vec<Part>),
}

/// Of a pattern, between slashes.
#[derive(Debug)]
enum Part {
    /// `**`
    Any,
    One(Vec<Token>),
}

#[derive(Debug)]
enum Token {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Any,
    /// `[…]`
    Of(Box<Set>),
}

/// Of bytes.
#[derive(Debug, Default)]
struct Set([u64; 4]);

impl Set {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }
}

impl Rules {
    /// Which are compared until then.
    pub(crate) fn until(until: Option<Instant>) -> Self {
        Self { levels: Vec::new(), time: Time { until, ..Time::default() } }
    }

    /// Whether there was no time left, so that nothing of what was said counts.
    pub(crate) fn out_of_time(&self) -> bool {
        self.time.is_over.get()
    }

    /// Bytes of all that hold.
    pub(crate) fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.bytes).sum()
    }

    /// Those of a file in the directory at `path`, empty for the root. It is one that is entered now.
    pub(crate) fn enter(&mut self, path: &[u8], file: &[u8]) {
        let base = if path.is_empty() { 0 } else { path.len() + 1 };
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let patterns: Vec<_> = file.split(|byte| *byte == b'\n').filter_map(Pattern::new).collect();
        if !patterns.is_empty() {
            self.levels.push(Level { base, bytes: file.len(), patterns });
        }
    }

    /// Drops those of directories that an entry at depth `depth` is not in; 1 is in the root. Entries come in the order of a walk.
    pub(crate) fn leave(&mut self, path: &[u8], depth: usize) {
        let in_root = depth == 1;
        let end = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        while self.levels.last().is_some_and(|level| level.base > end || in_root && level.base > 0) {
            self.levels.pop();
        }
    }

    /// Whether an entry is ignored, none of the directories it is in being so.
    pub(crate) fn ignores(&self, path: &[u8], directory: bool) -> bool {
        let last = self.levels.iter().rev().find_map(|level| {
            let path = path.get(level.base..)?;
            level
                .patterns
                .iter()
                .rev()
                .find(|pattern| (directory || !pattern.directories_only) && pattern.matcher.matches(path, &self.time))
        });
        last.is_some_and(|pattern| !pattern.negated)
    }
}

impl Pattern {
    /// Of a line; absent for one that says nothing or can match nothing.
    fn new(line: &[u8]) -> Option<Self> {
        let mut line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b'#') {
            return None;
        }
        line = &line[..end(line)];
        let negated = line.first() == Some(&b'!');
        line = &line[usize::from(negated)..];
        let directories_only = line.last() == Some(&b'/');
        line = &line[..line.len() - usize::from(directories_only)];
        let matcher = if line.contains(&b'/') {
            Matcher::Path(parts(line.strip_prefix(b"/").unwrap_or(line))?)
        } else {
            match parts(line)?.pop()? {
                Part::Any => Matcher::Name(vec![Token::Any]),
                Part::One(tokens) => Matcher::Name(tokens),
            }
        };
        Some(Self { negated, directories_only, matcher })
    }
}

/// Where a line ends without its last blanks; a blank behind a backslash stays.
fn end(line: &[u8]) -> usize {
    let (mut end, mut at) = (0, 0);
    while at < line.len() {
        let escaped = line[at] == b'\\' && at + 1 < line.len();
        let last_blank = line[at] == b' ';
        at += 1 + usize::from(escaped);
        if !last_blank {
            end = at;
        }
    }
    end
}

/// Absent for what can match nothing: a bracket or an escape without an end.
fn parts(pattern: &[u8]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut tokens = Vec::new();
    let mut stars = 0;
    let mut rest = pattern;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        let mut first = first;
        if first == b'\\' {
            let (&escaped, behind) = rest.split_first()?;
            rest = behind;
            if escaped != b'/' {
                tokens.push(Token::Byte(escaped));
                continue;
            }
            first = b'/';
        }
        match first {
            b'/' => {
                parts.push(part(std::mem::take(&mut tokens), stars));
                stars = 0;
            }
            b'*' => {
                stars += 1;
                tokens.push(Token::Any);
            }
            b'?' => tokens.push(Token::One),
            b'[' => {
                let (set, behind) = bracket(rest)?;
                rest = behind;
                tokens.push(Token::Of(set));
            }
            byte => tokens.push(Token::Byte(byte)),
        }
    }
    parts.push(part(tokens, stars));
    Some(parts)
}

fn part(tokens: Vec<Token>, stars: usize) -> Part {
    if stars >= 2 && stars == tokens.len() { Part::Any } else { Part::One(tokens) }
}

/// The bytes that a bracket stands for, from behind it begins.
fn bracket(mut rest: &[u8]) -> Option<(Box<Set>, &[u8])> {
    let mut set = Box::new(Set::default());
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    rest = &rest[usize::from(negated)..];
    let mut previous: Option<u8> = None;
    let mut first = true;
    loop {
        let (&byte, behind) = rest.split_first()?;
        rest = behind;
        match byte {
            b']' if !first => break,
            b'\\' => {
                let (&escaped, behind) = rest.split_first()?;
                rest = behind;
                set.add(escaped);
                previous = Some(escaped);
            }
            b'-' if previous.is_some() && !matches!(rest.first(), None | Some(b']')) => {
                let (&next, behind) = rest.split_first()?;
                rest = behind;
                let to = if next == b'\\' {
                    let (&escaped, behind) = rest.split_first()?;
                    rest = behind;
                    escaped
                } else {
                    next
                };
                (previous?..=to).for_each(|byte| set.add(byte));
                previous = None;
            }
            b'[' if rest.first() == Some(&b':') => {
                let end = rest.iter().position(|byte| *byte == b']')?;
                if end < 2 || rest[end - 1] != b':' {
                    // No class after all, but a bracket in a bracket.
                    set.add(b'[');
                    previous = Some(b'[');
                } else {
                    let class = class(&rest[1..end - 1])?;
                    (0..=u8::MAX).filter(class).for_each(|byte| set.add(byte));
                    rest = &rest[end + 1..];
                    previous = None;
                }
            }
            byte => {
                set.add(byte);
                previous = Some(byte);
            }
        }
        first = false;
    }
    if negated {
        set.0.iter_mut().for_each(|bits| *bits = !*bits);
    }
    Some((set, rest))
}

fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

impl Matcher {
    fn matches(&self, path: &[u8], time: &Time) -> bool {
        match self {
            Self::Name(tokens) => matches(tokens, path.rsplit(|byte| *byte == b'/').next().unwrap_or_default(), time),
            Self::Path(parts) => {
                let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
                let any = |part: &Part| matches!(part, Part::Any);
                let one = |part: &Part, name: &&[u8]| matches!(part, Part::One(tokens) if matches(tokens, name, time));
                match parts.split_last() {
                    // At the end, `**` stands for at least one name.
                    Some((Part::Any, before)) => glob(before, &names[..names.len() - 1], any, one, false, time),
                    _ => glob(parts, &names, any, one, true, time),
                }
            }
        }
    }
}

fn matches(tokens: &[Token], name: &[u8], time: &Time) -> bool {
    let any = |token: &Token| matches!(token, Token::Any);
    let one = |token: &Token, byte: &u8| match token {
        Token::Any => false,
        Token::One => true,
        Token::Byte(expect) => expect == byte,
        Token::Of(set) => set.has(*byte),
    };
    glob(tokens, name, any, one, true, time)
}

/// Whether a pattern fits all things, or, where not the `whole` is asked for, however many of the first ones. Of its pieces some stand for `any` number of
/// things and the others for `one`. It only ever goes back to the last of the former, as going back further could not help, so that no pattern takes
/// long.
fn glob<P, T>(pattern: &[P], things: &[T], any: impl Fn(&P) -> bool, one: impl Fn(&P, &T) -> bool, whole: bool, time: &Time) -> bool {
    let (mut at, mut next) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        if time.step() {
            return false;
        }
        let left = next < things.len();
        match pattern.get(at) {
            None if !left || !whole => return true,
            Some(piece) if any(piece) => {
                at += 1;
                back = Some((at, next));
            }
            Some(piece) if left && one(piece, &things[next]) => (at, next) = (at + 1, next + 1),
            // What begins later has less to fit.
            _ if !left => return false,
            _ => {
                let Some((from, taken)) = back else { return false };
                back = Some((from, taken + 1));
                (at, next) = (from, taken + 1);
            }
        }
    }
}

impl Time {
    /// Whether it is over.
    fn step(&self) -> bool {
        let steps = self.steps.get().wrapping_add(1);
        self.steps.set(steps);
        if steps.is_multiple_of(CLOCK) && self.until.is_some_and(|until| Instant::now() >= until) {
            self.is_over.set(true);
        }
        self.is_over.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rules: &str, ignored: &[&str], kept: &[&str]) {
        let mut all = Rules::default();
        all.enter(b"", rules.as_bytes());
        let ignores = |path: &str| all.ignores(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
        for path in ignored {
            assert!(ignores(path), "{rules:?} ignores {path}");
        }
        for path in kept {
            assert!(!ignores(path), "{rules:?} keeps {path}");
        }
    }

    #[test]
    fn rules_say_what_they_say_in_git() {
        check("*.o\n!keep.o\n", &["a.o", "d/a.o"], &["keep.o", "d/keep.o", "a.c"]);
        check("/build\ndoc/*.txt", &["build", "build/", "doc/a.txt"], &["d/build", "doc/d/a.txt", "d/doc/a.txt"]);
        check("target/\r\n", &["target/", "d/target/"], &["target"]);
        check("a/**/b\n**/c/d\ne/**", &["a/b", "a/x/y/b", "c/d", "x/c/d", "e/x", "e/x/y"], &["a", "e/", "x/a/b"]);
        check("# no\n\\#yes\n\\!yes\nblank\\ \nlast  ", &["#yes", "!yes", "blank ", "last"], &["# no", "blank"]);
        check("a/**/b/**\n/x/**/**\nq/*/**", &["a/b/c", "a/x/b/c/d", "x/y", "q/r/s"], &["a/b", "a/x/b", "x", "q/r", "q"]);
        check("[a-c]?\n[!x]y\n[[:digit:]]\n[]]\nq[", &["bz", "zy", "7", "]"], &["dz", "xy", "d", "q["]);
    }

    #[test]
    fn no_pattern_takes_long() {
        let mut all = Rules::default();
        all.enter(b"", format!("{}b\n{}b", "*a".repeat(500), "**/a/".repeat(500)).as_bytes());
        assert!(!all.ignores("a".repeat(4000).as_bytes(), false));
        assert!(!all.ignores("a/".repeat(2000).as_bytes(), false));
    }

    #[test]
    fn many_patterns_take_no_longer_than_they_may() {
        let mut all = Rules::until(Some(Instant::now() + std::time::Duration::from_millis(50)));
        all.enter(b"", "**/a/b/**\n".repeat(50_000).as_bytes());
        let path = ["a"; 2000].join("/");
        let begun = Instant::now();
        while !all.out_of_time() {
            assert!(!all.ignores(path.as_bytes(), false) && begun.elapsed().as_secs() < 20);
        }
    }
}
