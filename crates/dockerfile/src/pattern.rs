//! Patterns of paths, as ignore files and sources of copies have them.

/// A pattern: `*` and `?` stand for anything within a name, `[…]` for one of a set, `**` for any number of directories, and a backslash takes
/// the next character as it is. Matching takes time that is linear in the path, whatever the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// One character of a name.
    One,
    /// Any number of characters of a name.
    Many,
    /// Anything at all.
    All,
    /// Either this token and the next are passed over, or the next begins.
    Fork,
    /// Anything at all that ends in a slash.
    Directories,
    /// Ranges, and whether what is in none of them is meant.
    Set(Vec<(char, char)>, bool),
}

impl Pattern {
    /// Reads a pattern.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    while chars.next_if_eq(&'*').is_some() {}
                    if chars.next_if_eq(&'/').is_some() {
                        tokens.push(Token::Fork);
                        Token::Directories
                    } else {
                        Token::All
                    }
                }
                '*' => Token::Many,
                '?' => Token::One,
                '[' => set(&mut chars).ok_or_else(|| format!("`{text}` has a `[` that is not closed by `]`"))?,
                '\\' => Token::Char(chars.next().ok_or_else(|| format!("`{text}` ends in a backslash"))?),
                _ => Token::Char(c),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// Whether it says more than one path.
    #[must_use]
    pub fn is_wild(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    /// Whether the whole of `path` is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let end = self.tokens.len();
        let mut now = vec![false; end + 1];
        self.enter(&mut now, 0);
        for c in path.chars() {
            let mut next = vec![false; end + 1];
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| now[*at]) {
                match token {
                    Token::Char(wanted) if *wanted == c => self.enter(&mut next, at + 1),
                    Token::One if c != '/' => self.enter(&mut next, at + 1),
                    Token::Many if c != '/' => self.enter(&mut next, at),
                    Token::All => self.enter(&mut next, at),
                    Token::Directories => {
                        next[at] = true;
                        if c == '/' {
                            self.enter(&mut next, at + 1);
                        }
                    }
                    Token::Set(ranges, negated) if c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated => {
                        self.enter(&mut next, at + 1);
                    }
                    _ => {}
                }
            }
            now = next;
        }
        now[end]
    }

    /// Marks a place in the pattern, and those that are reached from it by nothing.
    fn enter(&self, places: &mut [bool], mut at: usize) {
        while !places[at] {
            places[at] = true;
            match self.tokens.get(at) {
                Some(Token::Many | Token::All) => at += 1,
                Some(Token::Fork) => {
                    places[at + 1] = true;
                    at += 2;
                }
                _ => return,
            }
        }
    }
}

fn set(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if(|c| matches!(c, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Set(ranges, negated)),
            '\\' => chars.next()?,
            c => c,
        };
        let high = if chars.next_if_eq(&'-').is_some() {
            match chars.next()? {
                '\\' => chars.next()?,
                c => c,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_sign_of_the_reference() {
        for (pattern, path, expect) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*/temp*", "x/temporary.txt", true),
            ("*/temp*", "temp", false),
            ("*/*/temp*", "x/y/temp", true),
            ("*/*/temp*", "x/temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "temp/", false),
            ("*.go", "a.go", true),
            ("*.go", "a/b.go", false),
            ("**/*.go", "b.go", true),
            ("**/*.go", "a/b/c.go", true),
            ("**/b", "ab", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/xc", false),
            ("**", "anything/at/all", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "/x", false),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("home[!x]txt", "home.txt", true),
        ] {
            match Pattern::new(pattern) {
                Ok(compiled) => assert_eq!(compiled.matches(path), expect, "{pattern} {path}"),
                Err(_) => assert!(!expect, "{pattern}"),
            }
        }
        for bad in ["[a", "a\\", "[a-", "["] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(pattern in "[a*?\\[\\]/\\\\^-]{0,20}", path in "[a/]{0,20}") {
            if let Ok(pattern) = Pattern::new(&pattern) {
                std::hint::black_box(pattern.matches(&path));
            }
        }

        #[test]
        fn a_path_without_signs_means_itself(path in "[a-z/.]{0,20}", other in "[a-z/.]{0,20}") {
            prop_assert!(Pattern::new(&path).unwrap().matches(&path));
            prop_assert_eq!(Pattern::new(&path).unwrap().matches(&other), path == other);
        }
    }
}
