//! Who may ask.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    app::{Admitted, App, Peer},
    error::{ApiError, ApiResult},
    ports,
    routes::Access,
};

/// Whom a server lets in.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Whoever shows one of these keys.
    Keys(Vec<KeyHash>),
    /// Everybody on this machine, and no web page.
    None,
}

/// What is kept of a key.
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash")
    }
}

/// Stands before every route of the table: who asks, and how it went for the metrics.
pub(crate) async fn guard(State((app, access)): State<(Arc<App>, Access)>, mut request: Request, next: Next) -> Response {
    let start = std::time::Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let admitted = match access {
        Access::Port => ports::admit(&app, &mut request),
        _ => refuse_siblings(&app, &request).and_then(|()| admit(&app.config.auth, access, &request)),
    };
    let response = match admitted {
        Ok(()) => {
            let mut response = next.run(request).await;
            if access == Access::Key {
                response.extensions_mut().insert(Admitted);
            }
            response
        }
        Err(refusal) if access == Access::Port => ports::refuse(refusal, request.headers()),
        Err(refusal) => refusal.into_response(),
    };
    app.metrics.answered(route.as_ref().map_or("", MatchedPath::as_str), response.status(), start.elapsed());
    response
}

fn admit(auth: &Auth, access: Access, request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    match auth {
        // Only what runs on this machine can ask, but a browser on this machine asks for any web page.
        Auth::None => refuse_web_pages(request)?,
        Auth::Keys(keys) => match access {
            Access::Public => {}
            Access::KeyUnlessLocal if is_local(request) => {}
            Access::Key | Access::KeyUnlessLocal | Access::Port => check_key(keys, headers)?,
        },
    }
    let coding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default().trim());
    if coding.is_some_and(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        let message = "the body is announced with a `Content-Encoding`, and none is supported; send it as it is";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    if access == Access::Key && headers.contains_key("idempotency-key") {
        return Err(ApiError::unsupported("`Idempotency-Key` is not supported yet; leave the header out"));
    }
    Ok(())
}

/// Whether a key was shown that is one of these.
pub(crate) fn check_key(keys: &[KeyHash], headers: &HeaderMap) -> ApiResult<()> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let plain = headers.get("x-api-key").map(http::HeaderValue::as_bytes);
    let mut valid = Choice::from(0);
    for shown in [bearer, plain].into_iter().flatten() {
        let shown = KeyHash::of(shown);
        for key in keys {
            valid |= shown.0.ct_eq(&key.0);
        }
    }
    if valid.into() {
        return Ok(());
    }
    let message = match (bearer, plain) {
        (None, None) => "a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        _ => "the key is not valid here",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Where ports of sandboxes have names, a browser may take those for the same site as this server, and so not say that they are others.
fn refuse_siblings(app: &App, request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    let same_site = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"same-site"));
    if matches!(app.config.auth, Auth::None) && app.links.domain().is_some() && same_site && !headers.contains_key(header::ORIGIN) {
        return Err(not_this_machine("origin", "same-site"));
    }
    Ok(())
}

fn not_this_machine(what: &str, value: &str) -> ApiError {
    let message = format!("{what} `{value}` is not this machine; a server without a key serves only programs on its own machine");
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
}

/// A name that was bound to this machine is not its own.
pub(crate) fn refuse_other_hosts(request: &Request) -> ApiResult<()> {
    if let Some(other) = hosts(request).find(|host| !is_loopback(host)) {
        return Err(not_this_machine("host", other));
    }
    if hosts(request).next().is_none() {
        return Err(not_this_machine("host", ""));
    }
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return Err(not_this_machine("host", "given twice"));
    }
    Ok(())
}

pub(crate) fn refuse_web_pages(request: &Request) -> ApiResult<()> {
    refuse_other_hosts(request)?;
    // Images, scripts and links of a page come without an `Origin`, but browsers say where they come from.
    if request.headers().get("sec-fetch-site").is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
        return Err(not_this_machine("origin", "cross-site"));
    }
    match request.headers().get(header::ORIGIN).map(|value| value.to_str().unwrap_or_default()) {
        None => Ok(()),
        Some(origin) if origin.split_once("://").is_some_and(|(_, host)| is_loopback(host)) => Ok(()),
        Some(origin) => Err(not_this_machine("origin", origin)),
    }
}

/// A browser asks nobody before a page of any site opens a WebSocket, and says from where only here. So pages of other sites get none, with
/// or without a key: only those of this server's own address, or of this machine where the server is asked as that.
pub(crate) fn refuse_other_sites(head: &Parts) -> ApiResult<()> {
    let host = head.headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_own = |origin: &str| match origin.split_once("://") {
        Some((_, page)) => !page.is_empty() && (page.eq_ignore_ascii_case(host) || (is_loopback(page) && is_loopback(host))),
        None => false,
    };
    match head.headers.get_all(header::ORIGIN).iter().map(|value| value.to_str().unwrap_or_default()).find(|origin| !is_own(origin)) {
        None => Ok(()),
        Some(other) => {
            let message =
                format!("a page of `{other}` gets no WebSocket of `{host}`; behind a proxy, let `Host` be what the browser asked for");
            Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
        }
    }
}

/// Whether the request comes from this machine and was not passed on by a proxy on it.
fn is_local(request: &Request) -> bool {
    let from_here = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    let passed_on = ["forwarded", "x-forwarded-for", "via"].iter().any(|name| request.headers().contains_key(*name));
    from_here && !passed_on && hosts(request).next().is_some() && hosts(request).all(is_loopback)
}

/// Hosts and ports as the client wrote them: in the target, in the header. They may differ, and then whoever stands between may go by
/// either.
pub(crate) fn hosts(request: &Request) -> impl Iterator<Item = &str> {
    let target = request.uri().authority().map(|authority| authority.as_str());
    let headers = request.headers().get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    target.into_iter().chain(headers)
}

/// The first of them.
pub(crate) fn first_host(head: &Parts) -> Option<String> {
    let target = head.uri.authority().map(|authority| authority.as_str());
    target.or_else(|| head.headers.get(header::HOST)?.to_str().ok()).map(str::to_owned)
}

/// Whether `host[:port]` names this machine.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri("/v1/sandboxes");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn r6_1_a_key_is_taken_from_either_header() {
        let auth = Auth::Keys(vec![KeyHash::of(b"first"), KeyHash::of(b"second")]);
        let status = |headers: &[(&str, &str)]| admit(&auth, Access::Key, &request(headers)).map_err(|e| e.parts().0);
        for good in [[("authorization", "Bearer first")], [("authorization", "bearer  second ")], [("x-api-key", "second")]] {
            assert_eq!(status(&good), Ok(()), "{good:?}");
        }
        for bad in [
            [("authorization", "Bearer firs")],
            [("authorization", "Bearer ")],
            [("authorization", "Basic first")],
            [("authorization", "first")],
            [("x-api-key", "")],
            [("x-api-key", "third")],
        ] {
            assert_eq!(status(&bad), Err(401), "{bad:?}");
        }
        assert_eq!(status(&[]), Err(401));
    }

    #[test]
    fn r6_1_no_key_at_all_never_matches() {
        assert!(admit(&Auth::Keys(vec![]), Access::Key, &request(&[("x-api-key", "")])).is_err());
    }

    #[test]
    fn r6_4_without_keys_web_pages_stay_out() {
        let status = |headers: &[(&str, &str)]| admit(&Auth::None, Access::Key, &request(headers)).map_err(|e| e.parts().0);
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "[::1]", "127.9.9.9", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(status(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "localhost:x@example.com",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com:8080",
            "10.0.0.1",
            "[::2]",
            "[::1]x",
            "",
            "0.0.0.0",
        ] {
            assert_eq!(status(&[("host", host)]), Err(403), "{host}");
        }
        assert_eq!(status(&[]), Err(403), "no host at all");
        assert_eq!(status(&[("host", "localhost"), ("host", "example.com")]), Err(403), "two hosts");
        let mut elsewhere = request(&[("host", "localhost")]);
        *elsewhere.uri_mut() = "http://example.com/v1/sandboxes".parse().unwrap();
        assert!(admit(&Auth::None, Access::Key, &elsewhere).is_err(), "the target names another host than the header");
        *elsewhere.uri_mut() = "http://localhost/v1/sandboxes".parse().unwrap();
        assert!(admit(&Auth::None, Access::Key, &elsewhere).is_ok());
        elsewhere.headers_mut().insert("host", "example.com".parse().unwrap());
        assert!(admit(&Auth::None, Access::Key, &elsewhere).is_err(), "the header names another host than the target");
        for (site, ok) in [("cross-site", false), ("Cross-Site", false), ("same-origin", true), ("same-site", true), ("none", true)] {
            assert_eq!(status(&[("host", "localhost"), ("sec-fetch-site", site)]).is_ok(), ok, "{site}");
        }
        assert_eq!(status(&[("host", "localhost"), ("origin", "http://localhost:3000")]), Ok(()));
        for origin in ["https://example.com", "null", "http://localhost.example.com", ""] {
            assert_eq!(status(&[("host", "localhost"), ("origin", origin)]), Err(403), "{origin}");
        }
    }

    #[test]
    fn r6_4_pages_of_other_sites_get_no_websocket() {
        let status = |headers: &[(&str, &str)]| refuse_other_sites(&request(headers).into_parts().0).map_err(|error| error.parts().0);
        for (host, origin, ok) in [
            ("example.com", "https://example.com", true),
            ("example.com:8080", "http://Example.com:8080", true),
            ("example.com:8080", "http://example.com", false),
            ("example.com", "https://other.example.com", false),
            ("127.0.0.1:8080", "http://localhost:3000", true),
            ("example.com", "http://localhost:3000", false),
            ("localhost", "https://example.com", false),
            ("localhost", "null", false),
            ("localhost", "", false),
            ("", "http://", false),
        ] {
            assert_eq!(status(&[("host", host), ("origin", origin)]).is_ok(), ok, "{origin} at {host}");
        }
        assert_eq!(status(&[("host", "example.com")]), Ok(()), "no browser");
        let mut two = request(&[("host", "example.com"), ("origin", "https://example.com")]);
        two.headers_mut().append("origin", "https://other.example.com".parse().unwrap());
        assert!(refuse_other_sites(&two.into_parts().0).is_err());
    }

    #[test]
    fn r6_7_metrics_are_open_to_this_machine_alone() {
        let auth = Auth::Keys(vec![KeyHash::of(b"key")]);
        let ask = |peer: &str, headers: &[(&str, &str)]| {
            let mut request = request(headers);
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
            admit(&auth, Access::KeyUnlessLocal, &request).is_ok()
        };
        assert!(ask("127.0.0.1:5", &[("host", "localhost:8080")]));
        assert!(!ask("10.0.0.1:5", &[("host", "localhost:8080")]));
        assert!(!ask("127.0.0.1:5", &[("host", "example.com")]), "a name that was bound to this machine");
        assert!(!ask("127.0.0.1:5", &[("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]));
        assert!(ask("10.0.0.1:5", &[("x-api-key", "key")]));
    }

    #[test]
    fn what_is_not_supported_is_not_ignored() {
        let auth = Auth::Keys(vec![KeyHash::of(b"key")]);
        let coded = |coding| admit(&auth, Access::Key, &request(&[("x-api-key", "key"), ("content-encoding", coding)]));
        assert!(coded("identity").is_ok());
        assert_eq!(coded("gzip").unwrap_err().parts().0, 415);
        let error = admit(&auth, Access::Key, &request(&[("x-api-key", "key"), ("idempotency-key", "1")])).unwrap_err();
        assert_eq!((error.parts().0, error.parts().1), (400, "unsupported"));
    }
}
