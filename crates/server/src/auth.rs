//! Who may ask.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use caisson_core::{KeyHash, Scope, Tenant};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    app::{Admitted, App, Peer},
    caller::View,
    dialects::{self, Dialect},
    error::{ApiError, ApiResult},
    idempotency, peers, ports, request_id,
    routes::Access,
};

/// Whom a server lets in.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Whoever shows a key: one of these, which are admin keys of the default tenant, or one that was made with them.
    Keys(Vec<KeyHash>),
    /// Everybody on this machine, as admin of the default tenant, and no web page.
    None,
}

/// The code where a dialect's request shows no key; some dialects tell it from one that is not valid.
pub(crate) const NO_KEY: &str = "no_key";

/// What is kept of a key.
#[must_use]
pub fn hash(key: &[u8]) -> KeyHash {
    KeyHash(Sha256::digest(key).into())
}

/// Stands before every route of the table: who asks, and how it went for the metrics.
pub(crate) async fn guard(State((app, access, repeatable)): State<(Arc<App>, Access, bool)>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match access {
        Access::Port => ports::guard(&app, request, next).await,
        _ => guard_api(&app, access, repeatable, request, next).await,
    };
    app.metrics.answered(route.as_ref().map_or("", MatchedPath::as_str), response.status(), start.elapsed());
    response
}

async fn guard_api(app: &Arc<App>, access: Access, repeatable: bool, request: Request, next: Next) -> Response {
    let (dialect, id) = (dialects::of(request.uri().path()), request_id::told(request.extensions()));
    let may_repeat = repeatable && request.method() == Method::POST;
    // Whoever follows another contract has it that the header may stand anywhere.
    let once = (dialect.is_none() || may_repeat) && request.headers().contains_key(idempotency::HEADER);
    // These say how this server is.
    let in_touch =
        if matches!(access, Access::Public | Access::AdminUnlessLocal) { Ok(()) } else { app.operator.in_touch().map_err(ApiError::from) };
    let (admitted, mut request) = match access {
        Access::Own => {
            let (head, body) = request.into_parts();
            let admitted = match refuse_coding(&head.headers) {
                Ok(()) => dialects::admit(app, &head).await.map(Some),
                Err(refusal) => Err(refusal),
            };
            (admitted, Request::from_parts(head, body))
        }
        _ => (refuse_siblings(app, &request).and_then(|()| admit(app, access, &request)), request),
    };
    let response = match in_touch.and(admitted) {
        Ok(Some(_)) if once && !may_repeat => {
            let message =
                "`Idempotency-Key` is for requests that make sandboxes, executions and webhooks, and for pulls; leave the header out";
            ApiError::bad_request("unsupported", message).into_response()
        }
        Ok(None) => next.run(request).await,
        Ok(Some(view)) => {
            let view = Arc::new(view);
            request.extensions_mut().insert(Arc::clone(&view));
            let admitted = Admitted(view.engine.tenant().clone());
            let answering = async {
                let host = match &view.peers {
                    Some(_) => Box::pin(peers::host(&view, &mut request)).await,
                    None => Ok(None),
                };
                match host {
                    Ok(Some(peer)) => {
                        let passing = Box::pin(peers::pass_on(&view, &peer, request));
                        passing.await.unwrap_or_else(IntoResponse::into_response)
                    }
                    Ok(None) if once => idempotency::once(&view, request, next).await,
                    Ok(None) => next.run(request).await,
                    Err(refusal) => refusal.into_response(),
                }
            };
            let mut response = Arc::clone(&view).while_valid(answering).await;
            response.extensions_mut().insert(admitted);
            response
        }
        Err(refusal) => dialects::refused_before_key(dialect, app, request, refusal).await.into_response(),
    };
    dialects::in_its_words(dialect, response, &id)
}

/// Who asks, where that matters.
pub(crate) fn admit(app: &Arc<App>, access: Access, request: &Request) -> ApiResult<Option<View>> {
    let view = match &app.config.auth {
        // Only what runs on this machine can ask, but a browser on this machine asks for any web page.
        Auth::None => {
            refuse_web_pages(request)?;
            (!matches!(access, Access::Public | Access::Link)).then(|| everything(app))
        }
        Auth::Keys(configured) => match access {
            Access::Public | Access::Link => None,
            Access::AdminUnlessLocal if is_local(request) => None,
            _ => Some(match dialects::of(request.uri().path()) {
                Some(dialect) => check_dialect_key(app, configured, dialect, request).and_then(|view| {
                    check_scope(view.scope, needed(access, request.method(), request.headers())).map_err(lacks_scope).map(|()| view)
                })?,
                None => by_key(app, configured, access, request)?,
            }),
        },
    };
    refuse_coding(request.headers())?;
    Ok(view)
}

/// Bodies are taken as they are.
fn refuse_coding(headers: &HeaderMap) -> ApiResult<()> {
    let coding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default().trim());
    if coding.is_some_and(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        let message = "the body is announced with a `Content-Encoding`, and none is supported; send it as it is";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    Ok(())
}

/// The caller by the key that the request shows, if it allows what the request is for.
pub(crate) fn by_key(app: &Arc<App>, configured: &[KeyHash], access: Access, request: &Request) -> ApiResult<View> {
    let view = check_key(app, configured, request.headers())?;
    check_scope(view.scope, needed(access, request.method(), request.headers()))?;
    Ok(view)
}

/// The caller where everybody is let in, and whoever has a configured key.
pub(crate) fn everything(app: &Arc<App>) -> View {
    View::new(app, app.operator.of(&Tenant::default()), Scope::Admin, None)
}

pub(crate) fn check_key(app: &Arc<App>, configured: &[KeyHash], headers: &HeaderMap) -> ApiResult<View> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let plain = headers.get("x-api-key").map(HeaderValue::as_bytes);
    if let Some(view) = [bearer, plain].into_iter().flatten().find_map(|shown| view_of(app, configured, &hash(shown))) {
        return Ok(view);
    }
    match (bearer, plain) {
        (None, None) => Err(unauthorized("a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")),
        _ => Err(not_valid()),
    }
}

/// What whoever has this key sees.
pub(crate) fn view_of(app: &Arc<App>, configured: &[KeyHash], shown: &KeyHash) -> Option<View> {
    // All of them, whichever it is.
    let is_configured = configured.iter().fold(false, |found, key| found | bool::from(shown.0.ct_eq(&key.0)));
    if is_configured {
        return Some(everything(app));
    }
    let credential = app.operator.credential(shown)?;
    if !bool::from(shown.0.ct_eq(&credential.key.hash.0)) || !credential.is_valid() {
        return None;
    }
    Some(View::new(app, app.operator.of(&credential.key.tenant), credential.key.scope, Some(credential)))
}

/// A dialect's requests show keys in its own way, and one key is for it alone.
fn check_dialect_key(app: &Arc<App>, configured: &[KeyHash], dialect: &Dialect, request: &Request) -> ApiResult<View> {
    let shown = (dialect.key)(request).ok_or_else(no_key)?;
    let shown = hash(&shown);
    let own = app.config.dialect_keys.get(dialect.name);
    if own.is_some_and(|own| bool::from(shown.0.ct_eq(&own.0))) {
        return Ok(View::new(app, app.operator.of(&dialect.tenant()), Scope::Run, None));
    }
    view_of(app, configured, &shown).ok_or_else(not_valid)
}

/// Whether an `Authorization` is the key of a dialect, which is none here.
pub(crate) fn is_a_dialects_key(app: &App, shown: &HeaderValue) -> bool {
    let shown = bearer(shown.as_bytes()).map(hash);
    let mut known = app.config.dialect_keys.values().chain(&app.config.sandbox_key);
    shown.is_some_and(|shown| known.any(|key| bool::from(shown.0.ct_eq(&key.0))))
}

/// A dialect's requests tell a key that may too little from other refusals.
pub(crate) fn lacks_scope(refusal: ApiError) -> ApiError {
    refusal.called("insufficient_scope")
}

/// For a request of a dialect's that shows no key.
pub(crate) fn no_key() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, NO_KEY, "a key is needed")
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// For a key that never was, was revoked, or has expired.
pub(crate) fn not_valid() -> ApiError {
    unauthorized("the key is not valid here")
}

/// The scope that a request needs.
pub(crate) fn needed(access: Access, method: &Method, headers: &HeaderMap) -> Scope {
    match access {
        Access::Admin | Access::AdminUnlessLocal => Scope::Admin,
        // A connection that is taken over by another protocol can do more than look.
        Access::Key | Access::Own | Access::Port | Access::Link | Access::Public if headers.contains_key(header::UPGRADE) => Scope::Run,
        Access::Key | Access::Own | Access::Port | Access::Link | Access::Public => match *method {
            Method::GET | Method::HEAD => Scope::Read,
            _ => Scope::Run,
        },
    }
}

pub(crate) fn check_scope(has: Scope, needed: Scope) -> ApiResult<()> {
    if has >= needed {
        return Ok(());
    }
    let message = format!("the key has the scope `{}`, and this needs `{}`; use another key", has.as_str(), needed.as_str());
    Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
}

pub(crate) fn bearer(value: &[u8]) -> Option<&[u8]> {
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
    use caisson_engine::NewKey;

    use super::*;
    use crate::testing::Bench;

    fn request(headers: &[(&str, &str)]) -> Request {
        ask("GET", headers)
    }

    fn ask(method: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/v1/sandboxes");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    async fn app(auth: Auth) -> (Bench, Arc<App>) {
        let bench = Bench::new().await;
        let app = bench.app(auth);
        (bench, app)
    }

    fn keys(keys: &[&str]) -> Auth {
        Auth::Keys(keys.iter().map(|key| hash(key.as_bytes())).collect())
    }

    #[tokio::test]
    async fn r6_1_a_key_is_taken_from_either_header() {
        let (_bench, app) = app(keys(&["first", "second"])).await;
        let status = |headers: &[(&str, &str)]| admit(&app, Access::Key, &request(headers)).map(|_| ()).map_err(|e| e.parts().0);
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

    #[tokio::test]
    async fn r6_1_no_key_at_all_never_matches() {
        let (_bench, app) = app(keys(&[])).await;
        assert!(admit(&app, Access::Key, &request(&[("x-api-key", "")])).is_err());
    }

    #[tokio::test]
    async fn r6_1_a_scope_is_enough_or_not() {
        let (bench, app) = app(keys(&["operator"])).await;
        for (text, scope) in [("reads", Scope::Read), ("runs", Scope::Run), ("administers", Scope::Admin)] {
            let new =
                NewKey { hash: hash(text.as_bytes()), tenant: "other".parse().unwrap(), scope, note: String::new(), expires_at: None };
            bench.engine().add_key(new).await.unwrap();
        }
        let status = |key: &str, access, method: &str, more: &[(&str, &str)]| {
            let headers: Vec<_> = [("x-api-key", key)].iter().chain(more).copied().collect();
            let seen = admit(&app, access, &ask(method, &headers)).map_err(|error| error.parts().0);
            seen.map(|view| view.expect("it needs a key").engine.tenant().to_string())
        };
        let (theirs, forbidden) = (Ok("other".to_owned()), Err(403));
        for (key, get, post, admin) in
            [("reads", &theirs, &forbidden, &forbidden), ("runs", &theirs, &theirs, &forbidden), ("administers", &theirs, &theirs, &theirs)]
        {
            assert_eq!(&status(key, Access::Key, "GET", &[]), get, "{key}");
            assert_eq!(&status(key, Access::Key, "GET", &[("upgrade", "websocket")]), post, "{key}: an upgrade is no mere look");
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                assert_eq!(&status(key, Access::Key, method, &[]), post, "{key} {method}");
            }
            for access in [Access::Admin, Access::AdminUnlessLocal] {
                assert_eq!(&status(key, access, "GET", &[]), admin, "{key} {access:?}");
            }
        }
        assert_eq!(status("operator", Access::Admin, "GET", &[]), Ok("default".to_owned()));
    }

    #[tokio::test]
    async fn r6_1_what_begins_like_a_key_is_none() {
        let (bench, app) = app(keys(&[])).await;
        let mut nearly = hash(b"secret");
        nearly.0[31] ^= 1;
        let new = NewKey { hash: nearly, tenant: Tenant::default(), scope: Scope::Admin, note: String::new(), expires_at: None };
        bench.engine().add_key(new).await.unwrap();
        assert!(bench.engine().credential(&hash(b"secret")).is_some(), "it is found by the begin of its hash");
        assert!(admit(&app, Access::Key, &request(&[("x-api-key", "secret")])).is_err());
    }

    #[tokio::test]
    async fn r6_4_without_keys_web_pages_stay_out() {
        let (_bench, app) = app(Auth::None).await;
        let status = |headers: &[(&str, &str)]| admit(&app, Access::Key, &request(headers)).map(|_| ()).map_err(|e| e.parts().0);
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
        assert!(admit(&app, Access::Key, &elsewhere).is_err(), "the target names another host than the header");
        *elsewhere.uri_mut() = "http://localhost/v1/sandboxes".parse().unwrap();
        assert!(admit(&app, Access::Key, &elsewhere).is_ok());
        elsewhere.headers_mut().insert("host", "example.com".parse().unwrap());
        assert!(admit(&app, Access::Key, &elsewhere).is_err(), "the header names another host than the target");
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

    #[tokio::test]
    async fn r6_7_metrics_are_open_to_this_machine_alone() {
        let (_bench, app) = app(keys(&["key"])).await;
        let ask = |peer: &str, headers: &[(&str, &str)]| {
            let mut request = request(headers);
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
            admit(&app, Access::AdminUnlessLocal, &request).is_ok()
        };
        assert!(ask("127.0.0.1:5", &[("host", "localhost:8080")]));
        assert!(!ask("10.0.0.1:5", &[("host", "localhost:8080")]));
        assert!(!ask("127.0.0.1:5", &[("host", "example.com")]), "a name that was bound to this machine");
        assert!(!ask("127.0.0.1:5", &[("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]));
        assert!(ask("10.0.0.1:5", &[("x-api-key", "key")]));
    }

    #[tokio::test]
    async fn what_is_not_supported_is_not_ignored() {
        let (_bench, app) = app(keys(&["key"])).await;
        let coded = |coding| admit(&app, Access::Key, &request(&[("x-api-key", "key"), ("content-encoding", coding)]));
        assert!(coded("identity").is_ok());
        assert_eq!(coded("gzip").unwrap_err().parts().0, 415);
    }
}
