//! Names as patches have them, with `core.quotePath` on: whatever is no plain ASCII is quoted as in C, so that every name is.

/// `prefix` and `path`, quoted together where the path needs it.
pub(crate) fn quoted(prefix: &str, path: &[u8]) -> Vec<u8> {
    let mut out = prefix.as_bytes().to_vec();
    // A directory with a blank at its end git writes without quotes, and then cannot read.
    let is_plain = path.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
    if is_plain && !path.windows(2).any(|pair| pair == b" /") {
        out.extend_from_slice(path);
        return out;
    }
    out.insert(0, b'"');
    for &byte in path {
        let short = match byte {
            0x07 => b'a',
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0b => b'v',
            0x0c => b'f',
            b'\r' => b'r',
            b'"' | b'\\' => byte,
            b' '..=b'~' => {
                out.push(byte);
                continue;
            }
            _ => {
                out.extend([b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
                continue;
            }
        };
        out.extend([b'\\', short]);
    }
    out.push(b'"');
    out
}

/// Whether git takes such a path at all (`verify_path` with `core.protectNTFS`, which is on everywhere): some names mean `.git` somewhere.
pub(crate) fn is_taken(path: &[u8], link: bool) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).all(|name| !(means_git(name) || link && means_modules(name)))
}

/// `.git` as Windows or a file system without upper and lower case reads it.
fn means_git(name: &[u8]) -> bool {
    [&b".git"[..], b"git~1"].iter().any(|git| has_prefix(name, git) && is_nothing(&name[git.len()..]))
}

/// `.gitmodules` likewise, in short forms too. Links with such a name are refused; a few more than git refuses are here.
fn means_modules(name: &[u8]) -> bool {
    const LONG: &[u8] = b".gitmodules";
    has_prefix(name, LONG) && is_nothing(&name[LONG.len()..]) || has_prefix(name, b"gitmod~") || has_prefix(name, b"gi7eb")
}

fn has_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// What Windows drops from the end of a name, and the name of a stream.
fn is_nothing(rest: &[u8]) -> bool {
    rest.split(|byte| *byte == b':').next().unwrap_or_default().iter().all(|byte| matches!(byte, b' ' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_git_quotes_them() {
        for (path, expect) in [
            (&b"plain"[..], "a/plain"),
            (b"with space ", "a/with space "),
            (b"dir /a", "\"a/dir /a\""),
            (b"q\"b\\", r#""a/q\"b\\""#),
            (b"\x07\x08\t\n\x0b\x0c\r", r#""a/\a\b\t\n\v\f\r""#),
            ("ü".as_bytes(), r#""a/\303\274""#),
            (b"\x01\x7f\xff", r#""a/\001\177\377""#),
        ] {
            assert_eq!(String::from_utf8(quoted("a/", path)).unwrap(), expect);
        }
    }

    #[test]
    fn what_means_git_is_not_taken() {
        for path in ["a/.git/x", ".GIT", "GIT~1/x", ".git. .", ".git:x", "a\\.git", "x/.git ::$INDEX_ALLOCATION"] {
            assert!(!is_taken(path.as_bytes(), false), "{path}");
        }
        for path in [".gitignore", ".gitx", "git~2", "git", ".gitmodules", "a.git", ".git~1"] {
            assert!(is_taken(path.as_bytes(), false), "{path}");
        }
        assert!(!is_taken(b"x/.gitModules", true) && is_taken(b".gitignore", true));
    }
}
