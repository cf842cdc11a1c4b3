//! Which addresses may be named. Where they lead is the operator's business: no network is left out.

use caisson_core::{Error, Result};
use caisson_engine::bounds::URL_BYTES;
use reqwest::Url;

/// The address, or what is wrong with it.
pub(crate) fn check(text: &str) -> Result<Url> {
    let refuse = |what: String| Error::invalid("invalid_url", format!("field `url` {what}"));
    if text.len() > URL_BYTES {
        return Err(refuse(format!("has more than {URL_BYTES} bytes")));
    }
    // The parser would drop some of these silently, and read a backslash as a slash.
    if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '\\') {
        return Err(refuse(format!("has the character {bad:?}; write it as `%` and two hexadecimal digits, if it is meant")));
    }
    let url = Url::parse(text).map_err(|error| refuse(format!("is no address ({error}); write it as `https://host/path`")))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(refuse(format!("begins with `{}:`, expected `https:`, or `http:` for a network that you trust", url.scheme())));
    }
    // The parser forgives `https:host` and `https:///host`.
    let behind = text.get(url.scheme().len()..).unwrap_or_default();
    if behind.strip_prefix("://").is_none_or(|rest| rest.starts_with('/')) {
        return Err(refuse("needs `//` and a host behind the scheme; write it as `https://host/path`".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() || authority(behind).contains('@') {
        return Err(refuse("has a user or password in it; messages are signed instead".to_owned()));
    }
    if url.fragment().is_some() {
        return Err(refuse("has a `#`; what is behind it is never sent".to_owned()));
    }
    if url.port() == Some(0) {
        return Err(refuse("names port 0, where nobody can listen".to_owned()));
    }
    Ok(url)
}

/// What stands between `://` and the path.
fn authority(behind_scheme: &str) -> &str {
    let rest = behind_scheme.trim_start_matches("://");
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_written() {
        for good in [
            "https://example.com",
            "https://example.com/a%20b?c=@d",
            "HTTPS://EXAMPLE.com:8443/hook",
            "http://127.0.0.1:9000/",
            "http://[::1]:9000/x",
            "https://[fe80::1]/",
            "http://service.internal/hook",
        ] {
            assert!(check(good).is_ok(), "{good}: {:?}", check(good));
        }
    }

    #[test]
    fn r6_8_what_is_no_address_of_a_receiver_is_refused() {
        for (bad, why) in [
            ("", "no address"),
            ("example.com/hook", "no address"),
            ("/hook", "no address"),
            ("//example.com/hook", "no address"),
            ("ftp://example.com/", "`ftp:`"),
            ("file:///etc/passwd", "`file:`"),
            ("unix:///run/x.sock", "`unix:`"),
            ("http+unix://%2Frun%2Fx.sock/", "`http+unix:`"),
            ("javascript:alert(1)", "`javascript:`"),
            ("https://", "no address"),
            ("https:example.com", "`//`"),
            ("https:///example.com", "`//`"),
            ("https:/example.com", "`//`"),
            ("https://user@example.com/", "user or password"),
            ("https://user:secret@example.com/", "user or password"),
            ("https://:secret@example.com/", "user or password"),
            ("https://@example.com/", "user or password"),
            ("https://example.com/#part", "`#`"),
            ("https://example.com:0/", "port 0"),
            ("https://example.com:65536/", "no address"),
            ("https://example.com/a b", "character"),
            ("https://exam\tple.com/", "character"),
            (" https://example.com/", "character"),
            ("https://example.com/\r\nX: y", "character"),
            ("https:\\\\example.com/", "character"),
            ("https://[::1/", "no address"),
            ("https://exa mple.com/", "character"),
            ("https://1.2.3.4.5.6/", "no address"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.code() == "invalid_url" && error.to_string().contains(why), "{bad}: {error}");
        }
        assert!(check(&format!("https://example.com/{}", "a".repeat(URL_BYTES))).is_err());
    }
}
