//! A line in words.

/// Words as a shell has them, quotes and escapes left in place: what is in quotes may have spaces.
pub(crate) fn quoted(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(c);
        match quote {
            // Nothing is escaped between single quotes.
            _ if c == escape && quote != Some('\'') => word.extend(chars.next()),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The first word, and what comes behind the spaces that follow it.
pub(crate) fn first(text: &str) -> (&str, &str) {
    match text.find(char::is_whitespace) {
        Some(at) => (&text[..at], text[at..].trim_start()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_words_together() {
        for (text, words) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            (r#"a="b c" d"#, &[r#"a="b c""#, "d"]),
            (r"a='b \' c", &[r"a='b \'", "c"]),
            (r"a=b\ c d", &[r"a=b\ c", "d"]),
            (r#"a="x\" y" z"#, &[r#"a="x\" y""#, "z"]),
            (r#""a b"#, &[r#""a b"#]),
            ("", &[]),
        ] {
            assert_eq!(quoted(text, '\\'), words, "{text}");
        }
        assert_eq!(quoted(r"C:\dir a` b", '`'), [r"C:\dir", "a` b"]);
        assert_eq!(first("RUN   a b"), ("RUN", "a b"));
        assert_eq!(first("RUN"), ("RUN", ""));
    }
}
