//! Where an answer may lead its client.
//!
//! Clients that follow a `Location` at one origin take their key along. So one that stays at the API's origin has to stay at the port: a
//! program could otherwise have them ask for anything that their key allows.

use http::{HeaderValue, Uri};
use reqwest::Url;

use super::{asked::Place, links::Links};

/// The `Location` as the client may hear it, if it may.
pub(super) fn led(location: &HeaderValue, place: &Place, links: &Links, asked: &str) -> Option<HeaderValue> {
    let location = std::str::from_utf8(location.as_bytes()).ok()?;
    let asked = if asked.is_empty() { "localhost" } else { asked };
    let token = place.token.as_deref().filter(|_| place.is_link());
    let prefix = links.prefix(place.id, place.port, token);
    let told = within(location, &prefix, place).unwrap_or_else(|| location.to_owned());
    // Some take this for a slash and leave out others, and some do not.
    let odd = told.contains('\\') || told.chars().any(char::is_control) || told.trim() != told;
    // Who stands before us decides which of both it is, and that decides what some locations mean.
    let mut same = None;
    for scheme in ["http", "https"] {
        let base = Url::parse(&format!("{scheme}://{asked}{prefix}{}", place.path)).ok()?;
        let to = base.join(&told).ok()?;
        if !links.is_api(&to, &base) {
            continue;
        }
        if !is_below(to.path(), &links.prefix(place.id, place.port, None)) {
            return None;
        }
        same = Some(to);
    }
    match same {
        // Steps are taken here, as not all take them alike. Without the slash behind the port they would begin elsewhere.
        Some(to) if odd || place.bare || has_steps(&told) => HeaderValue::from_str(&without_origin(&to)).ok(),
        None if odd => None,
        _ => HeaderValue::from_str(&told).ok(),
    }
}

fn without_origin(url: &Url) -> String {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let fragment = url.fragment().map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{}{query}{fragment}", url.path())
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether parts of it may mean the place above.
fn has_steps(location: &str) -> bool {
    location.contains("..") || location.to_ascii_lowercase().contains("%2e")
}

/// Where a program leads that means a place of its own, as it is told from outside; `None` for all other places.
fn within(location: &str, prefix: &str, place: &Place) -> Option<String> {
    let own = |path: &str| {
        // It may have gone by `X-Forwarded-Prefix` itself.
        let told = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        if told { path.to_owned() } else { format!("{prefix}{path}") }
    };
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(own(location));
    }
    let uri: Uri = location.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let names = [format!("localhost:{}", place.port), format!("127.0.0.1:{}", place.port)];
    let authority =
        uri.authority().filter(|authority| is_http && names.iter().any(|name| authority.as_str().eq_ignore_ascii_case(name)))?;
    let behind = location.split_once("://")?.1.strip_prefix(authority.as_str())?;
    Some(if behind.starts_with('/') { own(behind) } else { own(&format!("/{behind}")) })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Asked, Public},
        *,
    };

    const ID: &str = "sbx0000000000000000000000000";
    const API: &str = "localhost:8080";

    /// What becomes of a `Location` in the answer to a request for this behind the port.
    fn told(rest: &str, location: &str) -> Option<String> {
        let place = Asked::in_path(&format!("/v1/sandboxes/{ID}/ports/80{rest}").parse().unwrap()).place().unwrap();
        let public = Public { url: Some("https://api.example".parse().unwrap()), domain: None };
        let to = led(&HeaderValue::from_bytes(location.as_bytes()).unwrap(), &place, &Links::new(public, None, None), API)?;
        Some(String::from_utf8(to.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn where_a_program_leads_is_told_from_outside() {
        let prefix = format!("/v1/sandboxes/{ID}/ports/80");
        for (rest, location, expect) in [
            ("/", "/login?x=1#y", format!("{prefix}/login?x=1#y")),
            ("/~ct_x/", "/login", format!("{prefix}/~ct_x/login")),
            ("/", "http://localhost:80/a", format!("{prefix}/a")),
            ("/", "https://127.0.0.1:80", format!("{prefix}/")),
            ("/", "http://localhost:81/a", "http://localhost:81/a".to_owned()),
            ("/", "https://example.com/a", "https://example.com/a".to_owned()),
            ("/", "//example.com/a", "//example.com/a".to_owned()),
            ("/", "https://example.com/../a", "https://example.com/../a".to_owned()),
            ("/", "next", "next".to_owned()),
            ("/", "?page=2", "?page=2".to_owned()),
            ("", "next", format!("{prefix}/next")),
            ("/a/b", "../c?d#e", format!("{prefix}/c?d#e")),
            ("/~ct_x/a/b", "../c", format!("{prefix}/~ct_x/c")),
            ("/a//b", "../c", format!("{prefix}/a/c")),
            ("/", &format!("http://{API}{prefix}/x"), format!("http://{API}{prefix}/x")),
            ("/", &format!("{prefix}/x"), format!("{prefix}/x")),
        ] {
            assert_eq!(told(rest, location).as_deref(), Some(expect.as_str()), "{location} at {rest}");
        }
    }

    #[test]
    fn r3_5_no_answer_leads_a_key_elsewhere_in_the_api() {
        let (other, prefix) = ("sbx1111111111111111111111111/exec", format!("/v1/sandboxes/{ID}/ports/80"));
        for (rest, location) in [
            ("/", format!("../../../{other}")),
            ("/", format!("x/../../../../{other}")),
            ("/~ct_x/", format!("../../../../{other}")),
            ("/", format!("/../../../{other}")),
            ("/", format!("{prefix}/../../../{other}")),
            ("/", format!("%2e%2e/%2E./.%2e/{other}")),
            ("/", format!("..\\..\\..\\{other}")),
            ("/", format!("a\\b\\c\\../../../../../../{other}")),
            ("/", format!(".\t./.\t./.\t./{other}")),
            ("/", format!(" ../../../{other}")),
            ("/", format!("http:../../../{other}")),
            ("/", format!("https:../../../{other}")),
            ("/", format!("http:/v1/sandboxes/{other}")),
            ("/", format!("//{API}/v1/sandboxes/{other}")),
            ("/", format!("\\\\{API}/v1/sandboxes/{other}")),
            ("/", format!("http://{API}/v1/sandboxes/{other}")),
            ("/", format!("HTTP://LOCALHOST:8080/v1/sandboxes/{other}")),
            ("/", format!("http://localhost.:8080/v1/sandboxes/{other}")),
            ("/", format!("https://user:word@{API}/v1/sandboxes/{other}")),
            ("/", format!("https://api.example:443/v1/sandboxes/{other}")),
            ("/", format!("http://{API}{prefix}0/")),
            ("/", format!("http://{API}{prefix}/../81/")),
            ("/", "../81/".to_owned()),
            ("", "../../../../keys".to_owned()),
            ("/", "http://[".to_owned()),
        ] {
            assert_eq!(told(rest, &location), None, "{location:?} at {rest}");
        }
        // Where slashes are counted in two ways, no step is left to count.
        for location in ["a////../../../../x", "a\\b\\../../x"] {
            let led = told("/", location).unwrap();
            assert!(led.starts_with(&prefix) && !led.contains("..") && !led.contains('\\'), "{location}: {led}");
        }
    }
}
