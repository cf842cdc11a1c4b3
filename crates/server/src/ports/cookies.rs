//! Cookies on their way in and out.
//!
//! A name of its own keeps a port's cookies by itself. Under a path they would be those of the whole API's origin: there each is given the
//! port's label in front of its name, only those go in again, and their path ends at the port. So no cookie of an operator's other programs
//! reaches a sandbox, and none of a sandbox reaches another.

use http::{HeaderMap, HeaderValue, header};

use super::{
    asked::{Form, PARAMETER, Place},
    links::Links,
    token::MARK,
};

/// What a browser may send in all.
const LONGEST: usize = 64 << 10;

/// Our own, which carries a token where it does not stand in the path.
pub(super) fn own(token: &str, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{PARAMETER}={token}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

/// The tokens in cookies of ours.
pub(super) fn tokens(headers: &HeaderMap) -> Vec<String> {
    let ours = pairs(headers).into_iter().filter(|(name, value)| name == PARAMETER && value.starts_with(MARK));
    ours.map(|(_, value)| value).collect()
}

/// Leaves those that are the port's own, as it named them.
pub(super) fn go_in(headers: &mut HeaderMap, place: &Place) {
    let pairs = pairs(headers);
    headers.remove(header::COOKIE);
    let mark = format!("{}.", place.label());
    let theirs = pairs.into_iter().filter_map(|(name, value)| match place.form {
        Form::Host => (name != PARAMETER).then(|| format!("{name}={value}")),
        Form::Path { .. } => name.strip_prefix(&mark).map(|name| format!("{name}={value}")),
    });
    let line = theirs.collect::<Vec<_>>().join("; ");
    if !line.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&latin(&line))
    {
        headers.insert(header::COOKIE, value);
    }
}

/// Binds those that a port sets to the port.
pub(super) fn come_out(headers: &mut HeaderMap, place: &Place, links: &Links) {
    let set: Vec<String> = headers.get_all(header::SET_COOKIE).iter().map(|value| text(value.as_bytes())).collect();
    headers.remove(header::SET_COOKIE);
    for cookie in set {
        if let Some(bound) = bind(&cookie, place, links)
            && let Ok(value) = HeaderValue::from_bytes(&latin(&bound))
        {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

fn bind(cookie: &str, place: &Place, links: &Links) -> Option<String> {
    let mut parts = cookie.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let name = name.trim();
    if name.is_empty() || name == PARAMETER {
        return None;
    }
    let under_path = matches!(place.form, Form::Path { .. });
    let kept = parts.filter(|attribute| {
        let name = attribute.split('=').next().unwrap_or_default().trim();
        !(name.eq_ignore_ascii_case("domain") || (under_path && name.eq_ignore_ascii_case("path")))
    });
    let mut bound = if under_path { format!("{}.{name}={value}", place.label()) } else { format!("{name}={value}") };
    kept.for_each(|attribute| {
        bound.push_str("; ");
        bound.push_str(attribute);
    });
    if under_path {
        bound.push_str("; Path=");
        bound.push_str(&links.prefix(place.id, place.port, None));
    }
    Some(bound)
}

/// Names and values. HTTP/2 may send them in several headers.
fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut left = LONGEST;
    let mut pairs = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        left = left.saturating_sub(line.len());
        if left == 0 {
            break;
        }
        let line = text(line.as_bytes());
        pairs.extend(
            line.split(';').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())),
        );
    }
    pairs
}

/// Bytes of a header as characters, one each, and back: what is in a cookie's value is nobody's business.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Asked, Public},
        *,
    };

    const ID: &str = "sbx0000000000000000000000000";

    fn place(host: bool) -> Place {
        let path = Asked::in_path(&format!("/v1/sandboxes/{ID}/ports/80/").parse().unwrap()).place().unwrap();
        if host { Place { form: Form::Host, ..path } } else { path }
    }

    fn out(cookie: &str, host: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_str(cookie).unwrap());
        come_out(&mut headers, &place(host), &Links::new(Public::default(), None, None));
        headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    fn inside(cookies: &[&str], host: bool) -> Option<String> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        go_in(&mut headers, &place(host));
        headers.get(header::COOKIE).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn r3_5_under_a_path_a_cookie_is_the_ports_alone() {
        let path = format!("/v1/sandboxes/{ID}/ports/80");
        assert_eq!(out("a=b; Path=/; HttpOnly; Domain=example.com", false), [format!("80-{ID}.a=b; HttpOnly; Path={path}")]);
        assert_eq!(out("a=b; path = /v1; DOMAIN=x", false), [format!("80-{ID}.a=b; Path={path}")]);
        assert_eq!(out("__Host-a=b; Secure; Path=/", false), [format!("80-{ID}.__Host-a=b; Secure; Path={path}")]);
        assert_eq!(inside(&[&format!("session=operators; 80-{ID}.a=b; 81-{ID}.a=c; {PARAMETER}=ct_x")], false).unwrap(), "a=b");
        assert_eq!(inside(&["session=operators"], false), None);
    }

    #[test]
    fn r3_5_at_a_name_of_its_own_only_ours_is_kept_from_it() {
        assert_eq!(out("a=b; Path=/x; Domain=box.example; SameSite=Lax", true), ["a=b; Path=/x; SameSite=Lax"]);
        assert_eq!(out(&format!("{PARAMETER}=ct_forged; Path=/"), true), [""; 0]);
        assert_eq!(inside(&["a=b", &format!("{PARAMETER}=ct_x; c=d=e")], true).unwrap(), "a=b; c=d=e");
    }

    #[test]
    fn what_is_no_cookie_is_none() {
        for cookie in ["", "a", "=b", ";", "; Path=/"] {
            assert_eq!(out(cookie, false), [""; 0], "{cookie}");
        }
    }
}
