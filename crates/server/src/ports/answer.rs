//! What of an answer comes out of the sandbox. It is hostile: what would change more than its own page is taken from it.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    asked::{Form, Place},
    cookies, forward, leads,
    links::Links,
};

/// What is meant for a whole origin or host, or for longer than the sandbox lives.
const FOR_AN_ORIGIN: [&str; 15] = [
    "accept-ch",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "expect-ct",
    "nel",
    "origin-agent-cluster",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "use-as-dictionary",
    "x-request-id",
];
/// What a browser would ask and keep for the API's origin: whom to let in, and passwords.
const FOR_THE_API: [&str; 9] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "authentication-info",
    "www-authenticate",
];
/// Makes of a page one of no origin at all: it may do what pages do, but not as a page of the API.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-scripts");
const EVERYBODY: HeaderValue = HeaderValue::from_static("*");

/// Takes from an answer what it may not have, and adds what keeps its page apart. `opaque`: a page without an origin asks.
/// `asked`: the host that the client asked.
pub(super) fn clean(headers: &mut HeaderMap, place: &Place, links: &Links, asked: &str, opaque: bool) {
    // Where both are, the length is a lie (RFC 9112 §6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let upgraded = headers.get(header::UPGRADE).cloned();
    forward::remove_what_is_of_the_connection(headers);
    headers.remove("proxy-authenticate");
    FOR_AN_ORIGIN.iter().for_each(|name| drop(headers.remove(*name)));
    cookies::come_out(headers, place, links);
    if let Some(upgraded) = upgraded {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgraded);
    }
    if place.form == Form::Host {
        return;
    }
    FOR_THE_API.iter().for_each(|name| drop(headers.remove(*name)));
    headers.append(header::CONTENT_SECURITY_POLICY, SANDBOX);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if place.is_link() && opaque {
        // To its browser, its own port is another site. Whoever asks has the token.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, EVERYBODY);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EVERYBODY);
    }
    // One at most, so that nobody chooses another.
    if let Some(to) = headers.remove(header::LOCATION)
        && let Some(to) = leads::led(&to, place, links, asked)
    {
        headers.insert(header::LOCATION, to);
    }
}

/// Whether a page asks that has no origin: one of ours, or one that somebody else keeps apart.
pub(super) fn is_from_opaque(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin == "null")
}

/// Whether a browser asks for such a page whether it may ask.
pub(super) fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS && is_from_opaque(headers) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// It may: a program that means to be asked by its own page alone answers no such question.
pub(super) fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answer = response.headers_mut();
    let mut repeat = |to: HeaderName, from: HeaderName| {
        if let Some(value) = headers.get(from) {
            answer.insert(to, value.clone());
        }
    };
    repeat(header::ACCESS_CONTROL_ALLOW_METHODS, header::ACCESS_CONTROL_REQUEST_METHOD);
    repeat(header::ACCESS_CONTROL_ALLOW_HEADERS, header::ACCESS_CONTROL_REQUEST_HEADERS);
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, EVERYBODY);
    response
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Asked, Public},
        *,
    };

    const ID: &str = "sbx0000000000000000000000000";

    fn place(rest: &str) -> Place {
        Asked::in_path(&format!("/v1/sandboxes/{ID}/ports/80{rest}").parse().unwrap()).place().unwrap()
    }

    fn cleaned(place: &Place, opaque: bool, said: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        clean(&mut headers, place, &Links::new(Public::default(), None, None), "localhost:8080", opaque);
        headers
    }

    #[test]
    fn r3_5_nothing_passes_that_is_for_a_whole_origin() {
        let said: Vec<_> = FOR_AN_ORIGIN.iter().chain(&FOR_THE_API).map(|name| (*name, "x")).collect();
        let headers = cleaned(&place("/"), true, &said);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["content-security-policy", "referrer-policy"]);
        let policies = cleaned(&place("/"), false, &[("content-security-policy", "sandbox allow-same-origin allow-scripts")]);
        assert_eq!(policies.get_all("content-security-policy").iter().count(), 2, "the stricter of both is kept");
        assert!(policies.get_all("content-security-policy").iter().any(|policy| policy == SANDBOX));
        assert!(!SANDBOX.to_str().unwrap().contains("same-origin"));
        let by_name = Place { form: Form::Host, ..place("/") };
        let headers = cleaned(&by_name, false, &said);
        assert!(FOR_THE_API.iter().all(|name| headers.contains_key(*name)) && headers.len() == FOR_THE_API.len());
    }

    #[test]
    fn pages_of_a_link_may_ask_their_own_port() {
        let link = place("/~ct_x/");
        assert_eq!(cleaned(&link, true, &[("access-control-allow-origin", "https://x")])["access-control-allow-origin"], "*");
        assert!(!cleaned(&link, false, &[]).contains_key("access-control-allow-origin"));
    }

    #[test]
    fn r3_5_a_length_that_is_a_lie_does_not_pass() {
        let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
        for place in [place("/"), Place { form: Form::Host, ..place("/") }] {
            let headers = cleaned(&place, false, &both);
            assert!(!headers.contains_key("content-length") && !headers.contains_key("transfer-encoding"), "{headers:?}");
            assert_eq!(cleaned(&place, false, &both[..1])["content-length"], "5");
        }
    }

    #[test]
    fn r3_5_an_answer_leads_to_one_place() {
        let two = [("location", "next"), ("location", "../../sbxother/ports/1/")];
        let headers = cleaned(&place("/"), false, &two);
        assert_eq!(headers.get_all("location").iter().collect::<Vec<_>>(), ["next"]);
    }
}
