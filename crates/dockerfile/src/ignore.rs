//! Ignore files.

use crate::{Pattern, Problem};

/// What of a context is not there for a build. Later rules win over earlier ones, and what is said of a directory holds for all in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// Whether what it means is there after all (`!`).
    exception: bool,
}

impl Ignore {
    /// Reads an ignore file.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (exception, text) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if text.is_empty() {
                if exception {
                    return Err(Problem::new(index + 1, "`!` alone says nothing; a pattern has to follow it"));
                }
                continue;
            }
            let text = clean(text);
            // By an old custom the context as a whole cannot be meant.
            if text.is_empty() {
                continue;
            }
            rules.push(Rule { pattern: Pattern::new(&text).map_err(|why| Problem::new(index + 1, why))?, exception });
        }
        Ok(Self { rules })
    }

    /// Whether a path below the context, without a slash in front, is not there.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.rules {
            if rule.exception == ignored && rule.means(path) {
                ignored = !rule.exception;
            }
        }
        ignored
    }

    /// Whether something in an ignored directory may be there all the same.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }
}

impl Rule {
    fn means(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.chain([path]).any(|path| self.pattern.matches(path))
    }
}

/// A path without `.`, `..`, double slashes and slashes at its ends.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, ignored: &[&str], there: &[&str]) {
        let ignore = Ignore::parse(file).unwrap();
        for path in ignored {
            assert!(ignore.ignores(path), "{file:?} has to ignore {path}");
        }
        for path in there {
            assert!(!ignore.ignores(path), "{file:?} must not ignore {path}");
        }
    }

    #[test]
    fn every_rule_of_the_reference() {
        check("# comment\n\n  \n", &[], &["a", "# comment"]);
        check("*/temp*\n*/*/temp*\ntemp?", &["x/temporary.txt", "x/temp", "x/y/temp.txt", "tempa"], &["temp", "tempab", "x/y/z/temp"]);
        check("foo/bar", &["foo/bar", "foo/bar/baz"], &["foo", "foo/barx", "x/foo/bar"]);
        for same in ["/foo/bar", "foo/bar/", "./foo//bar", "foo/x/../bar", "  foo/bar  ", "../foo/bar"] {
            assert_eq!(Ignore::parse(same).unwrap(), Ignore::parse("foo/bar").unwrap(), "{same}");
        }
        check("**/*.go", &["a.go", "x/y/a.go"], &["a.gox"]);
        check("*.md\n!README.md", &["a.md"], &["README.md", "x/a.md"]);
        check("*.md\n!README*.md\nREADME-secret.md", &["a.md", "README-secret.md"], &["README.md", "README-x.md"]);
        check("*.md\nREADME-secret.md\n!README*.md", &["a.md"], &["README-secret.md", "README.md"]);
        check("*\n!src\n!go.mod", &["a", "x/src"], &["src", "src/deep/file", "go.mod"]);
        check("dir\n!dir/kept", &["dir", "dir/other"], &["dir/kept", "dir/kept/below"]);
        check(".\n/", &[], &["a"]);
        check(" # no comment", &["# no comment"], &["a"]);
        check("\u{feff}a\r\nb\r\n", &["a", "b"], &["c"]);
        assert!(Ignore::parse("a\n!b").unwrap().has_exceptions() && !Ignore::parse("a").unwrap().has_exceptions());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_line() {
        for (file, line) in [("a\n!", 2), ("[a", 1), ("a\n\nb\\", 3)] {
            assert_eq!(Ignore::parse(file).unwrap_err().line, line, "{file}");
        }
    }
}
