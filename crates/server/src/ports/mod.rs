//! The reverse proxy to what listens inside sandboxes.
//!
//! ```text
//!  /v1/sandboxes/{id}/ports/{port}/…  ┐
//!  …/ports/{port}/~{token}/…          ├▶ Asked ─▶ admit ─▶ Place ─▶ forward ─▶ exchange ─▶ answer
//!  https://{port}-{id}.{domain}/…     ┘           (key, token)      what goes in, one connection each, what comes out
//! ```
//!
//! What comes out is hostile, and under a path it comes from the API's own origin. So pages there are given an origin of their own that is
//! no one's (`Content-Security-Policy: sandbox`), no cookie reaches another place, and nothing that is for a whole origin passes.
//! Such pages carry their token in their path: to a browser each of their requests is one of another site, which takes no cookies along,
//! and relative links keep what is in the path.

mod admit;
mod answer;
mod asked;
mod cookies;
pub(crate) mod exchange;
pub(crate) mod forward;
mod leads;
mod links;
mod page;
mod public;
mod token;

pub use public::{Public, PublicDomain, PublicUrl};

pub(crate) use self::{
    asked::{Asked, hide_token},
    links::Links,
};

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Hosted, SandboxId};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};

use self::{
    admit::Admission,
    asked::{Form, Place},
    exchange::Failure,
};
use crate::{
    app::{Admitted, App, Peer},
    auth::first_host,
    caller::View,
    error::{ApiError, ApiResult},
    peers::{self, PassedOn, Whose},
};

/// How long a link lasts that a browser is sent to which needed none.
const VISIT: Duration = Duration::from_secs(3600);

/// A request that may go on, with what it is about.
#[derive(Clone)]
pub(crate) struct Visit {
    place: Place,
    admission: Admission,
    caller: Arc<View>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("place", &self.place).field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts.extensions.remove().ok_or_else(|| {
            tracing::error!("A request for a port was not asked who makes it");
            ApiError::internal()
        })
    }
}

/// Stands before the route of ports under a path: lets a request in, or says why not.
pub(crate) async fn guard(app: &Arc<App>, mut request: Request, next: Next) -> Response {
    let in_touch = app.operator.in_touch().map_err(ApiError::from);
    match in_touch.and_then(|()| admit::admit(app, &Asked::in_path(request.uri()), &request)) {
        Ok(visit) => {
            request.extensions_mut().insert(visit);
            next.run(request).await
        }
        Err(refusal) => page::refusal(refusal, request.headers()),
    }
}

/// Answers a request for a port under a name of its own.
pub(crate) async fn answer_host(app: Arc<App>, asked: ApiResult<Asked>, request: Request) -> Response {
    let start = std::time::Instant::now();
    let admitted = app.operator.in_touch().map_err(ApiError::from).and(asked).and_then(|asked| admit::admit(&app, &asked, &request));
    let response = match admitted {
        Ok(visit) => answer(visit, request).await,
        Err(refusal) => page::refusal(refusal, request.headers()),
    };
    app.metrics.answered("{port}-{id}", response.status(), start.elapsed());
    response
}

/// Answers a request that was let in.
pub(crate) async fn answer(visit: Visit, request: Request) -> Response {
    let headers = request.headers().clone();
    let caller = Arc::clone(&visit.caller);
    let by_key = matches!(visit.admission, Admission::Key);
    let admitted = Admitted(caller.engine.tenant().clone());
    let answering = async { pass(visit, request).await.unwrap_or_else(|refusal| page::refusal(refusal, &headers)) };
    let mut response = caller.while_valid(answering).await;
    if by_key {
        response.extensions_mut().insert(admitted);
    }
    response
}

async fn pass(visit: Visit, mut request: Request) -> ApiResult<Response> {
    let Visit { place, admission, caller: app } = visit;
    if app.peers.is_some() && request.extensions().get::<PassedOn>().is_none() {
        let whose = Whose::Hosted(Hosted::Sandbox(place.id));
        if let Some(peer) = Box::pin(peers::find(&app, whose, request.method(), request.uri().path())).await? {
            return Box::pin(peers::pass_on(&app, &peer, request)).await;
        }
    }
    if request.method() == Method::CONNECT {
        return Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "a port of a sandbox is no proxy; ask without CONNECT",
        ));
    }
    if request.headers().contains_key("service-worker") {
        let message = "a page of a sandbox gets no service worker, which would outlive the sandbox; serve it without one";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "service_worker", message));
    }
    if let Some(elsewhere) = elsewhere(&app, &place, &admission, &request) {
        return Ok(elsewhere);
    }
    if place.is_link() && answer::is_preflight(&request) {
        return Ok(answer::preflight(request.headers()));
    }
    let peer = request.extensions().get::<Peer>().map_or(SocketAddr::from(([0; 4], 0)), |peer| peer.0);
    let opaque = answer::is_from_opaque(request.headers());
    let upgrade = exchange::Wanted::of(&mut request);
    let (mut head, body) = request.into_parts();
    let asked = first_host(&head).unwrap_or_default();
    forward::prepare(&app, &place, &asked, peer, upgrade.is_some(), &mut head)?;
    forward::announce(&body, &mut head.headers);
    let stream = app.engine.connect_port(place.id, place.port).await.map_err(refused)?;
    let mut response = match exchange::exchange(&app, stream, Request::from_parts(head, body), upgrade).await {
        Ok(response) => response,
        Err(failure) => return Err(failed(&app, &place, failure).await),
    };
    answer::clean(response.headers_mut(), &place, &app.links, &asked, opaque);
    Ok(response)
}

/// Where a browser is sent first: to the address under which a page's relative links work, and with its token where it stays.
fn elsewhere(app: &App, place: &Place, admission: &Admission, request: &Request) -> Option<Response> {
    if !is_visit(request) {
        return None;
    }
    let to = |status: StatusCode, location: String| {
        let location = HeaderValue::from_str(&location).ok()?;
        let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        Some((status, headers).into_response())
    };
    match (&place.form, admission) {
        (Form::Path { in_path: false }, Admission::Token(token)) => {
            to(StatusCode::SEE_OTHER, format!("{}{}", app.links.prefix(place.id, place.port, Some(token)), place.target()))
        }
        // Its scripts and images would come from another site, as all requests of a page without an origin do.
        (Form::Path { in_path: false }, Admission::Open) if request.headers().contains_key("sec-fetch-mode") => {
            let (token, _) = app.links.sign(place.id, place.port, VISIT);
            to(StatusCode::SEE_OTHER, format!("{}{}", app.links.prefix(place.id, place.port, Some(&token)), place.target()))
        }
        (Form::Path { in_path }, _) if place.bare => {
            let token = place.token.as_deref().filter(|_| *in_path);
            to(StatusCode::TEMPORARY_REDIRECT, format!("{}{}", app.links.prefix(place.id, place.port, token), place.target()))
        }
        (Form::Host, Admission::Token(token)) => {
            // Two slashes at the beginning would lead to another host.
            let target = place.target();
            let location = if target.starts_with("//") { format!("/.{target}") } else { target };
            let mut response = to(StatusCode::SEE_OTHER, location)?;
            let cookie = HeaderValue::from_str(&cookies::own(token, app.links.is_https())).ok()?;
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            Some(response)
        }
        _ => None,
    }
}

/// Whether somebody follows a link, or types an address.
fn is_visit(request: &Request) -> bool {
    let headers = request.headers();
    let navigates = match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => page::wanted(headers),
    };
    request.method() == Method::GET && navigates
}

/// Why there is no connection.
fn refused(error: Error) -> ApiError {
    if error.code() == page::NOT_LISTENING {
        return ApiError::new(StatusCode::BAD_GATEWAY, page::NOT_LISTENING, error.to_string()).after(Duration::from_secs(1));
    }
    error.into()
}

/// Why there is no answer. A sandbox that has ended says so itself.
async fn failed(app: &View, place: &Place, failure: Failure) -> ApiError {
    match ended(app, place.id).await {
        Some(error) => error.into(),
        None => {
            let Failure(what) = failure;
            let message = format!("what listens on port {} of sandbox `{}` did not answer in HTTP: {what}", place.port, place.id);
            ApiError::new(StatusCode::BAD_GATEWAY, "bad_answer", message)
        }
    }
}

async fn ended(app: &View, id: SandboxId) -> Option<Error> {
    let tombstone = app.engine.sandbox(id).await.ok()?.tombstone?;
    Some(Error::Gone { id: id.to_string(), tombstone })
}
