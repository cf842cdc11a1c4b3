//! Patterns for names and for paths, as Python's `fnmatch` and `glob` have them: what cannot be a set stands for itself.

/// A pattern for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Vec<Token>);

/// A pattern for a path below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

/// What stands between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`.
    Any,
    Name(Name),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
    Set { ranges: Vec<(char, char)>, not: bool },
}

pub(super) fn names<'a>(patterns: impl Iterator<Item = &'a String>) -> Vec<Name> {
    patterns.map(|pattern| Name::parse(pattern)).collect()
}

impl Name {
    pub(super) fn parse(pattern: &str) -> Self {
        let text: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(c) = text.get(at) {
            at += 1;
            match c {
                '*' if tokens.last() == Some(&Token::Many) => {}
                '*' => tokens.push(Token::Many),
                '?' => tokens.push(Token::One),
                '[' => match set(&text[at..]) {
                    Some((token, length)) => {
                        tokens.push(token);
                        at += length;
                    }
                    None => tokens.push(Token::Char('[')),
                },
                c => tokens.push(Token::Char(*c)),
            }
        }
        Self(tokens)
    }

    /// Goes back to the last `*` alone: what an earlier one could take, the last one can take as well.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut again: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.0.get(token) {
                Some(Token::Many) => {
                    again = Some((token, at));
                    token += 1;
                }
                Some(one) if one.is(name[at]) => (token, at) = (token + 1, at + 1),
                _ => match again {
                    Some((many, from)) => {
                        again = Some((many, from + 1));
                        (token, at) = (many + 1, from + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[token..].iter().all(|token| *token == Token::Many)
    }
}

impl Token {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Many => false,
            Self::Set { ranges, not } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not,
        }
    }
}

/// What stands behind an opening bracket, if it is a set, and how long that is.
fn set(text: &[char]) -> Option<(Token, usize)> {
    let not = text.first() == Some(&'!');
    let begin = usize::from(not);
    // The first may be a closing bracket itself.
    let end = begin + 1 + text.get(begin + 1..)?.iter().position(|c| *c == ']')?;
    let members = &text[begin..end];
    if members.contains(&'/') {
        return None;
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        match members[at..] {
            [low, '-', high, ..] => {
                ranges.push((low, high));
                at += 3;
            }
            _ => {
                ranges.push((members[at], members[at]));
                at += 1;
            }
        }
    }
    Some((Token::Set { ranges, not }, end + 1))
}

impl Pattern {
    pub(super) fn parse(pattern: &str) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for part in pattern.split('/') {
            match part {
                "**" if parts.last() == Some(&Part::Any) => {}
                "**" => parts.push(Part::Any),
                part => parts.push(Part::Name(Name::parse(part))),
            }
        }
        Self(parts)
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let (mut part, mut at) = (0, 0);
        let mut again: Option<(usize, usize)> = None;
        while at < names.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    again = Some((part, at));
                    part += 1;
                }
                Some(Part::Name(name)) if name.matches(names[at]) => (part, at) = (part + 1, at + 1),
                _ => match again {
                    Some((any, from)) => {
                        again = Some((any, from + 1));
                        (part, at) = (any + 1, from + 1);
                    }
                    None => return false,
                },
            }
        }
        // Behind a slash there is something, if only a name without letters, which nothing has.
        self.0[part..].is_empty() || (self.0[part..] == [Part::Any] && self.0.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &str, expect: bool) {
        assert_eq!(Pattern::parse(pattern).matches(path), expect, "{pattern} {path}");
    }

    #[test]
    fn paths_match_part_by_part() {
        for (pattern, path) in [
            ("*", "a"),
            ("*", ".hidden"),
            ("*.py", "a.py"),
            ("**/*.py", "a.py"),
            ("**/*.py", "a/b/c.py"),
            ("a/**", "a/b/c"),
            ("a/**/c", "a/c"),
            ("a/**/c", "a/x/y/c"),
            ("**", "a/b"),
            ("?", "ü"),
            ("[ab]?", "ax"),
            ("[!ab]", "c"),
            ("[a-c]x", "bx"),
            ("[]x]", "]"),
            ("[x", "[x"),
            ("a**b", "axyb"),
            ("**/**/x", "x"),
        ] {
            check(pattern, path, true);
        }
        for (pattern, path) in [
            ("*", "a/b"),
            ("*.py", "a/b.py"),
            ("**/*.py", "a.pyc"),
            ("a/**", "a"),
            ("?", "ab"),
            ("[!ab]", "a"),
            ("[ab]", "c"),
            ("a/c", "a/x/c"),
            ("", "a"),
            ("a/", "a"),
            ("[a", "a"),
        ] {
            check(pattern, path, false);
        }
    }

    #[test]
    fn names_match_as_a_whole() {
        for (pattern, name, expect) in [
            ("*.egg-info", "x.egg-info", true),
            ("*.egg-info", "egg-info", false),
            (".git", ".git", true),
            (".git", ".github", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c2b", false),
        ] {
            assert_eq!(Name::parse(pattern).matches(name), expect, "{pattern} {name}");
        }
        let slow = "*a".repeat(50) + "b";
        assert!(!Name::parse(&slow).matches(&"a".repeat(5000)));
    }
}
