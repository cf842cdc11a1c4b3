//! What variables stand for, and quotes.

use std::{iter::Peekable, str::Chars};

/// Parameters of a shell that a Dockerfile has none of: they stand for nothing.
const SPECIAL: &str = "@*#?-$!";
/// Braces within braces.
const MAX_DEPTH: usize = 32;

/// A word with its variables replaced and its quotes removed: `$name`, `${name}`, and `${name:-word}`, `${name:+word}`, `${name:?word}`, each
/// also without the colon, which then makes a difference where the variable is empty. Nothing is replaced between single quotes or behind
/// the escape character.
pub fn expand(text: &str, escape: char, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanding = Expanding { chars: text.chars().peekable(), escape, value, depth: 0 };
    expanding.until(None)
}

struct Expanding<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    value: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expanding<'_> {
    fn until(&mut self, stop: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                _ if Some(c) == stop => return Ok(out),
                '\'' => loop {
                    match self.chars.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err("a single quote (') is not closed".to_owned()),
                    }
                },
                '"' => self.double(&mut out)?,
                '$' => out.push_str(&self.dollar()?),
                _ if c == self.escape => out.extend(self.chars.next()),
                _ => out.push(c),
            }
        }
        match stop {
            None => Ok(out),
            Some(_) => Err("`${` is not closed by `}`".to_owned()),
        }
    }

    fn double(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.chars.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.escape => match self.chars.next() {
                    Some(next) if next == '"' || next == '$' || next == c => out.push(next),
                    Some(next) => out.extend([c, next]),
                    None => break,
                },
                Some(c) => out.push(c),
                None => break,
            }
        }
        Err("a double quote (\") is not closed".to_owned())
    }

    /// Behind a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { (self.value)(&name).unwrap_or_default() });
        }
        let name = self.name();
        if name.is_empty() {
            return Err("behind `${` stands no name of a variable".to_owned());
        }
        let value = (self.value)(&name);
        let mut operator = self.chars.next();
        if operator == Some('}') {
            return Ok(value.unwrap_or_default());
        }
        let colon = operator == Some(':');
        if colon {
            operator = self.chars.next();
        }
        let value = value.filter(|value| !colon || !value.is_empty());
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("there are more than {MAX_DEPTH} braces within braces"));
        }
        let result = match operator {
            Some('-') => {
                let word = self.until(Some('}'))?;
                value.unwrap_or(word)
            }
            Some('+') => {
                let word = self.until(Some('}'))?;
                if value.is_some() { word } else { String::new() }
            }
            Some('?') => {
                let word = self.until(Some('}'))?;
                let why = if word.is_empty() { "it has to have a value" } else { &word };
                value.ok_or_else(|| format!("variable `{name}`: {why}"))?
            }
            Some(other) => {
                let colon = if colon { ":" } else { "" };
                return Err(format!("`${{{name}{colon}{other}` is not supported; there are `:-`, `:+` and `:?`, also without the colon"));
            }
            None => return Err("`${` is not closed by `}`".to_owned()),
        };
        self.depth -= 1;
        Ok(result)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => {
                while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
            }
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.chars.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some(c) if SPECIAL.contains(*c) => name.extend(self.chars.next()),
            _ => {}
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn every_form_of_the_reference() {
        for (text, expect) in [
            ("$A", "one"),
            ("${A}x", "onex"),
            ("$Ax", ""),
            ("a${NONE}b", "ab"),
            ("${A:-two}", "one"),
            ("${NONE:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${NONE-two}", "two"),
            ("${A:+two}", "two"),
            ("${NONE:+two}", ""),
            ("${EMPTY:+two}", ""),
            ("${EMPTY+two}", "two"),
            ("${NONE:-${A}/x}", "one/x"),
            ("${NONE:-${NONE2:-$A}}", "one"),
            ("${NONE:-'}'}", "}"),
            ("${A:?must be}", "one"),
            ("${EMPTY?must be}", ""),
            (r"\$A", "$A"),
            (r"\${A}", "${A}"),
            (r"a\b", "ab"),
            ("'$A'", "$A"),
            ("\"$A\"", "one"),
            (r#""\$A \" \\ \n""#, r#"$A " \ \n"#),
            ("\"a b\"'c d'", "a bc d"),
            ("$DOLLAR", "$A"),
            ("$", "$"),
            ("a$.b", "a$.b"),
            ("$$A", "A"),
            ("$1x", "x"),
            ("end\\", "end"),
            ("", ""),
        ] {
            assert_eq!(expand(text, '\\', &value).as_deref(), Ok(expect), "{text}");
        }
        assert_eq!(expand(r"C:\dir`$A$A", '`', &value).as_deref(), Ok(r"C:\dir$Aone"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, word) in [
            ("'a", "single quote"),
            ("\"a", "double quote"),
            ("${A", "not closed"),
            ("${A:-b", "not closed"),
            ("${}", "no name"),
            ("${A#x}", "not supported"),
            ("${A/x/y}", "not supported"),
            ("${A:1}", "not supported"),
            ("${NONE:?give it}", "`NONE`: give it"),
            ("${EMPTY:?}", "has to have a value"),
        ] {
            let error = expand(text, '\\', &value).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(expand(&"${A:-".repeat(100), '\\', &value).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[${}a:+?'\"\\\\ -]{0,60}") {
            expand(&text, '\\', &value).ok();
        }
    }
}
