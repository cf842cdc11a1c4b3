//! Requests for what another server on the same database hosts.
//!
//! ```text
//! client ─▶ who asks? ─▶ what is it about? ─▶ who hosts that? ─┬─ this one ─▶ handler
//!                                                              └─ a peer ──▶ the same request, with a proof where it comes from
//! ```
//!
//! The host asks once more who asks, by the client's own key. Bodies, event streams and WebSockets go through as they come, in both directions;
//! a client that goes takes the request at the host with it. What was passed on is passed on no further.

mod about;
mod pass;
mod proof;

use std::{net::SocketAddr, sync::Arc};

use axum::extract::Request;
use caisson_core::{Error, Hosted, Peer, ServerId, State};
use caisson_engine::{Engine, Host};
use http::{HeaderValue, Method, StatusCode, Uri};

use self::proof::{Claims, Signer};
pub(crate) use self::{
    about::{About, Whose, in_path},
    pass::pass_on,
    proof::{HEADER, derived},
};
use crate::{
    app::App,
    caller::View,
    error::{ApiError, ApiResult},
};

/// On a request that another server has passed on: it is answered here, whatever it is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedOn;

/// What a request was for before anything here has read it.
#[derive(Debug, Clone)]
pub(crate) struct AsAsked(pub(crate) Uri);

/// What this server needs to have peers.
#[derive(Debug)]
pub(crate) struct Peers {
    own: ServerId,
    signer: Signer,
}

impl Peers {
    /// Where the engine has any.
    pub(crate) fn of(engine: &Engine) -> Option<Self> {
        Some(Self { own: engine.own_server()?, signer: Signer::new(engine.common_secret()?) })
    }
}

/// Whether a request was passed on, and for whom then. One that says so without a proof is refused.
pub(crate) async fn received(app: &App, request: &mut Request) -> ApiResult<Option<SocketAddr>> {
    let Some(peers) = &app.peers else { return Ok(None) };
    let Some(shown) = request.headers_mut().remove(HEADER) else { return Ok(None) };
    let claims = peers.signer.check(&shown, request, peers.own).map_err(|why| {
        let message = format!("the header `{HEADER}` is for the servers on one database among each other, and {why}; leave it out");
        ApiError::new(StatusCode::FORBIDDEN, "invalid_peer", message)
    })?;
    // Whoever passes it on may have let it in by a key that is not known here yet.
    app.operator.catch_up(claims.changes).await?;
    request.extensions_mut().insert(PassedOn);
    Ok(Some(claims.client))
}

/// The server that is to answer, where it is not this one.
pub(crate) async fn host(view: &Arc<View>, request: &mut Request) -> ApiResult<Option<Peer>> {
    if request.extensions().get::<PassedOn>().is_some() {
        return Ok(None);
    }
    let Some(whose) = about::about(view, request).await? else { return Ok(None) };
    find(view, whose, request.method(), request.uri().path()).await
}

/// The same for one thing.
pub(crate) async fn find(view: &View, whose: Whose, method: &Method, path: &str) -> ApiResult<Option<Peer>> {
    let host = match whose {
        Whose::Hosted(what) => view.engine.host(what).await?,
        Whose::Server(id) => view.engine.server(id),
    };
    let server = match host {
        Host::Here => return Ok(None),
        Host::At(peer) => return Ok(Some(peer)),
        Host::Away(server) => server,
    };
    let told_here = match whose {
        // What has ended is known here as well, and what was never there to whoever asks.
        Whose::Hosted(Hosted::Sandbox(id)) => match view.engine.sandbox(id).await {
            // One that is stopped there can be looked at and ended here, so that its name is free.
            Ok(sandbox) => {
                let is_its_own = path.trim_end_matches('/').ends_with(id.as_str()) && [Method::GET, Method::DELETE].contains(method);
                sandbox.tombstone.is_some() || (is_its_own && sandbox.state == State::Stopped)
            }
            Err(Error::NotFound { .. }) => true,
            Err(error) => return Err(error.into()),
        },
        // Its output is on the disk of its server.
        Whose::Hosted(Hosted::Execution(id)) => match view.engine.execution(id).await {
            Ok(execution) => {
                let is_lost = execution.outcome.is_some_and(|outcome| outcome.status == caisson_core::ExecutionStatus::Lost);
                path.strip_prefix("/v1/executions/").map_or(is_lost, |rest| !rest.contains('/'))
            }
            Err(Error::NotFound { .. }) => true,
            Err(error) => return Err(error.into()),
        },
        Whose::Server(_) => true,
    };
    if told_here { Ok(None) } else { Err(away(server)) }
}

fn away(server: ServerId) -> ApiError {
    let message = format!(
        "this is on server {server}, which is not there: what runs there ends when its lease is over; what is on its disk is there when it is \
         started again"
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_away", message).after(pass::RETRY_AFTER)
}

/// The header that proves where a request comes from.
fn proof(view: &View, peer: &Peer, client: SocketAddr, request: &Request, target: &Uri) -> Option<HeaderValue> {
    let peers = view.peers.as_ref()?;
    let claims = Claims { client, changes: view.operator.changes_to_know() };
    Some(peers.signer.sign(&claims, request.method(), target, peers.own, peer.id))
}
