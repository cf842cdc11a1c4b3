//! Passes a request on to its host, and the answer back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{extract::Request, response::Response};
use caisson_core::Peer;
use http::{HeaderValue, StatusCode, Uri, Version, header};
use rustix::net::sockopt;
use tokio::{net::TcpStream, time::timeout};

use super::{AsAsked, HEADER, proof};
use crate::{
    app,
    auth::first_host,
    caller::{View, breaking_off},
    error::{ApiError, ApiResult},
    ports::{exchange, forward},
    request_id,
};

/// When to ask again for what is on a server that does not answer.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a peer may take to take a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);
/// A peer whose machine has gone is noticed after so much silence, so many times.
const SILENT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_secs(5);
const ASK: u32 = 3;

/// The host's answer. Ends when the host is taken for dead.
pub(crate) async fn pass_on(view: &Arc<View>, peer: &Peer, mut request: Request) -> ApiResult<Response> {
    let client = request.extensions().get::<app::Peer>().map_or(SocketAddr::from(([0; 4], 0)), |peer| peer.0);
    let id = request_id::told(request.extensions());
    let target = request.extensions().get::<AsAsked>().map_or_else(|| request.uri().clone(), |asked| asked.0.clone());
    let target = Uri::from(target.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    let proof = proof(view, peer, client, &request, &target).ok_or_else(ApiError::internal)?;
    let upgrade = exchange::Wanted::of(&mut request);
    let (mut head, body) = request.into_parts();
    let host = first_host(&head).and_then(|host| HeaderValue::from_str(&host).ok());
    (head.uri, head.version) = (target, Version::HTTP_11);
    head.extensions.clear();
    let headers = &mut head.headers;
    forward::remove_what_is_of_the_connection(headers);
    // Whoever reads the body here says it.
    headers.remove(header::EXPECT);
    host.map(|host| headers.insert(header::HOST, host));
    headers.insert(request_id::HEADER, id);
    headers.insert(HEADER, proof);
    headers.insert(header::CONNECTION, HeaderValue::from_static(if upgrade.is_some() { "Upgrade" } else { "close" }));
    if upgrade.is_some() {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    forward::announce(&body, headers);
    let stream = connect(peer).await?;
    let answering = exchange::exchange(view, stream, Request::from_parts(head, body), upgrade);
    let mut answer = tokio::select! {
        answer = answering => answer.map_err(|exchange::Failure(what)| broke_off(peer, &what))?,
        // What it was doing has ended with it.
        () = view.engine.dead(peer.id) => return Err(broke_off(peer, "it was taken for dead")),
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer);
    }
    forward::remove_what_is_of_the_connection(answer.headers_mut());
    let (engine, id) = (view.engine.clone(), peer.id);
    Ok(answer.map(|body| breaking_off(body, async move { engine.dead(id).await }, "the server that hosts it was taken for dead")))
}

async fn connect(peer: &Peer) -> ApiResult<TcpStream> {
    let unreachable = |what: &str| {
        let message = format!(
            "this is on server {}, which cannot be reached at {}: {what}; try again: if it has died, what runs there is ended when its lease is over",
            peer.id, peer.url
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_unreachable", message).after(RETRY_AFTER)
    };
    let authority = peer.url.strip_prefix("http://").unwrap_or(&peer.url);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let stream = match timeout(CONNECTED_WITHIN, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(&error.to_string())),
        Err(_) => return Err(unreachable(&format!("no answer within {} s", CONNECTED_WITHIN.as_secs()))),
    };
    let prepared = stream.set_nodelay(true).and_then(|()| Ok(notice_who_vanishes(&stream)?));
    prepared.map_err(|error| unreachable(&error.to_string()))?;
    Ok(stream)
}

fn notice_who_vanishes(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, SILENT)?;
    sockopt::set_tcp_keepintvl(stream, ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, ASK)?;
    sockopt::set_socket_keepalive(stream, true)
}

fn broke_off(peer: &Peer, what: &str) -> ApiError {
    let message = format!(
        "server {} at {} broke off before it had answered: {what}; whether the request was carried out is not known: look at its sandbox before \
         you repeat it",
        peer.id, peer.url
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_unreachable", message).after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let peer = Peer { id: caisson_core::ServerId::random(), url };
        let error = connect(&peer).await.unwrap_err();
        let (status, code, message) = error.parts();
        assert_eq!((status, code), (503, "server_unreachable"));
        assert!(message.contains(&peer.url) && message.contains("try again"), "{message}");
    }
}
