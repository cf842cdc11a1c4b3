//! Who may reach a port: whoever has a key, or a token for it. Without keys, programs of this machine.

use axum::extract::Request;
use caisson_core::{SandboxId, Scope};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;

use std::{num::NonZeroU16, sync::Arc};

use super::{Asked, Links, PublicDomain, Visit, cookies, token::NoToken};
use crate::{
    app::App,
    auth::{self, Auth, hosts},
    caller::View,
    error::{ApiError, ApiResult},
    routes::Access,
};

/// By what a request was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// A key.
    Key,
    /// A token in the address.
    Token(String),
    /// A token in a cookie.
    Cookie,
    /// There are no keys.
    Open,
}

/// Lets a request in, or says why not. What it asks for is looked at afterwards: strangers learn nothing.
pub(super) fn admit(app: &Arc<App>, asked: &Asked, request: &Request) -> ApiResult<Visit> {
    let headers = request.headers();
    // Whoever was let in without a key sees what the sandbox's own tenant sees of it.
    let of_owner = |id, expiry| {
        let engine = app.operator.of_owner(id).unwrap_or_else(|| app.operator.clone());
        Arc::new(View::new(app, engine, Scope::Run, None).until(time(expiry)))
    };
    if matches!(app.config.auth, Auth::None) && !asked.is_by_host() {
        auth::refuse_other_hosts(request)?;
    }
    // Before any key: a good link opens its port also to those whose key is another tenant's.
    let by_token = asked.token.as_ref().map(|token| -> ApiResult<Visit> {
        let place = asked.place().map_err(|_| invalid())?;
        let expiry = app.links.check(token, place.id, place.port).map_err(no_token)?;
        Ok(Visit { caller: of_owner(place.id, expiry), place, admission: Admission::Token(token.clone()) })
    });
    let no_token_opens = match by_token {
        Some(Ok(visit)) => return Ok(visit),
        Some(Err(why)) => Some(why),
        None => None,
    };
    let refusal = match &app.config.auth {
        Auth::Keys(keys) => match auth::by_key(app, keys, Access::Port, request) {
            Ok(caller) => return Ok(Visit { place: asked.place()?, admission: Admission::Key, caller: Arc::new(caller) }),
            Err(refusal) => Some(refusal),
        },
        // Names of this machine are asked for by this machine alone. All others are there for somebody elsewhere, whom nothing keeps out.
        Auth::None if asked.is_by_host() && !app.links.domain().is_some_and(PublicDomain::is_local) => Some(private()),
        Auth::None => None,
    };
    if let Some(why) = no_token_opens {
        return Err(why);
    }
    if asked.is_by_host()
        && let Ok(place) = asked.place()
    {
        match by_cookie(&app.links, headers, place.id, place.port) {
            Some(Ok(expiry)) => {
                refuse_other_origins(request)?;
                return Ok(Visit { caller: of_owner(place.id, expiry), place, admission: Admission::Cookie });
            }
            Some(Err(why)) if refusal.is_some() => return Err(no_token(why)),
            _ => {}
        }
    }
    match refusal {
        Some(_) if !headers.contains_key(header::AUTHORIZATION) && !headers.contains_key("x-api-key") => Err(private()),
        Some(refusal) => Err(refusal),
        None => {
            if asked.is_by_host() {
                refuse_other_origins(request)?
            } else {
                auth::refuse_web_pages(request)?
            }
            Ok(Visit { place: asked.place()?, admission: Admission::Open, caller: Arc::new(auth::everything(app)) })
        }
    }
}

fn private() -> ApiError {
    let message = "a port is private: send a key (`Authorization: Bearer KEY` or `X-API-Key: KEY`) where the server has keys, or make a link \
                   with `POST /v1/sandboxes/{id}/links` or `caisson port`";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// What the cookies of ours say. Pages of other ports can set some for this one, so that any that is right will do.
fn by_cookie(links: &Links, headers: &HeaderMap, id: SandboxId, port: NonZeroU16) -> Option<Result<u64, NoToken>> {
    let mut last = None;
    for token in cookies::tokens(headers) {
        match links.check(&token, id, port) {
            Ok(expiry) => return Some(Ok(expiry)),
            Err(why) => last = Some(Err(why)),
        }
    }
    last
}

/// Browsers send a cookie along with what other pages of the same site ask for, and other sandboxes' pages are of the same site. So nothing
/// but a visit may come from elsewhere.
fn refuse_other_origins(request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_own =
        |origin: &str| origin.split_once("://").is_some_and(|(_, page)| hosts(request).all(|host| page.eq_ignore_ascii_case(host)));
    if let Some(other) =
        headers.get_all(header::ORIGIN).iter().map(|value| value.to_str().unwrap_or_default()).find(|origin| !is_own(origin))
    {
        return Err(forbidden(other));
    }
    let is_visit = header("sec-fetch-mode") == Some("navigate")
        && header("sec-fetch-dest").is_none_or(|dest| dest == "document")
        && [Method::GET, Method::HEAD].contains(request.method());
    match header("sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if is_visit => Ok(()),
        Some(site) => Err(forbidden(site)),
    }
}

fn forbidden(origin: &str) -> ApiError {
    let message = format!("a page from elsewhere (`{origin}`) may lead here and nothing more; open the address itself");
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
}

fn no_token(why: NoToken) -> ApiError {
    match why {
        NoToken::Expired(at) => {
            let message = format!("the link expired at {}; ask whoever gave it to you for a new one", time(at));
            ApiError::new(StatusCode::UNAUTHORIZED, "token_expired", message)
        }
        NoToken::Invalid => invalid(),
    }
}

/// Seconds since 1970 as a time.
fn time(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

fn invalid() -> ApiError {
    let message = "the link does not open this port; links are for one port of one sandbox, and end with the server that made them";
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_token", message)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn r3_5_pages_of_other_sandboxes_may_lead_here_and_nothing_more() {
        let host = "80-a.box.example:8443";
        let allowed = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri("/").header("host", host);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            refuse_other_origins(&request.body(Body::empty()).unwrap()).is_ok()
        };
        let visit = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        let frame = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        for (method, headers, expect) in [
            ("GET", &[][..], true),
            ("POST", &[("origin", "https://80-a.box.example:8443")], true),
            ("POST", &[("origin", "https://81-a.box.example:8443")], false),
            ("GET", &[("origin", "null")], false),
            ("GET", &[("origin", "https://80-a.box.example")], false),
            ("GET", &[("sec-fetch-site", "same-origin")], true),
            ("GET", &[("sec-fetch-site", "none")], true),
            ("GET", &[("sec-fetch-site", "same-site")], false),
            ("GET", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            ("GET", &visit, true),
            ("POST", &visit, false),
            ("GET", &frame, false),
        ] {
            assert_eq!(allowed(method, headers), expect, "{method} {headers:?}");
        }
    }
}
