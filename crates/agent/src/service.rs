//! HTTP/2 on the one stream, and which request goes where.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use caisson_wire::{Bind, Bound, Found, Health, Refusal, RefusalCode, VERSION, Which, egress::MAX_CONNECTIONS};
use http::{HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixStream, unix::pipe},
};

use crate::{
    body::Answer,
    egress, exec, files, lookup,
    refusal::{refuse, status},
    setup::Agent,
    stream::Stream,
    tunnel,
};

/// Requests at once: those that the server makes for its clients, and as many as there are connections out of the sandbox.
const MAX_STREAMS: u32 = 512 + MAX_CONNECTIONS as u32;
/// How much of a request's body waits in the agent before its reader has taken it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
const MAX_FRAME: u32 = 64 << 10;
/// What answers in frames, refusals included.
const EXEC: &str = "/exec";
/// What waits until nothing else is done.
const LAYERS: &str = "/layers";
/// JSON bodies are small.
const MAX_JSON: usize = 64 << 10;

/// Serves until the stream ends. `Ok` when the server closed it in order or by dying.
pub(crate) async fn serve((agent, stream): (Arc<Agent>, Stream)) -> io::Result<()> {
    match stream {
        Stream::Socket(socket) => {
            socket.set_nonblocking(true)?;
            serve_on(agent, UnixStream::from_std(socket)?).await
        }
        Stream::Pipes { reads, writes } => {
            serve_on(agent, tokio::io::join(pipe::Receiver::from_file(reads)?, pipe::Sender::from_file(writes)?)).await
        }
    }
}

async fn serve_on(agent: Arc<Agent>, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let service = {
        let agent = Arc::clone(&agent);
        service_fn(move |request| {
            let agent = Arc::clone(&agent);
            async move { Ok::<_, Infallible>(route(agent, request).await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        // The other side is the server, which gives up what its own clients give up, many at a time. It is trusted, and bounds them itself.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(None)
        .max_send_buf_size(256 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // The end of the stream is the end of the sandbox, whatever else goes on.
        result = connection => {
            if let Err(error) = result { return Err(io::Error::other(error)); }
            Ok(())
        }
        // Without a reaper no execution would ever end.
        result = agent.reaper.run() => result,
    }
}

async fn route(agent: Arc<Agent>, request: Request<Incoming>) -> Response<Answer> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let (Some(unfit), false) = (&agent.unfit, path == EXEC) {
        return refused(unfit);
    }
    if (&method, path.as_str()) == (&Method::POST, LAYERS) {
        return files::layer(&agent, request).await.unwrap_or_else(|refusal| refused(&refusal));
    }
    if (&method, path.as_str()) == (&Method::GET, "/health") {
        return json(&Health { version: VERSION });
    }
    let going_on = Arc::clone(&agent.going_on).read_owned().await;
    let answer = match (method, path.as_str()) {
        (Method::POST, EXEC) => return Response::new(Answer::Channel(exec::begin(agent, request.into_body(), going_on))),
        (Method::GET, "/given") => Ok(json(&agent.given)),
        (Method::POST, "/bind") => bind(&agent, request).await,
        (Method::POST, "/which") => which(&agent, request).await,
        (Method::PUT, "/files") => files::write(&agent, request).await,
        (Method::GET, "/files") => files::read(&agent, &request).await,
        (Method::DELETE, "/files") => files::delete(&agent, &request).await,
        (Method::GET, "/stat") => files::stat(&agent, &request).await,
        (Method::GET, "/list") => files::list(&agent, &request).await,
        (Method::POST, "/mkdir") => files::make_directory(&agent, &request).await,
        (Method::POST, "/move") => files::move_entry(&agent, &request).await,
        (Method::POST, "/copy") => files::copy(&agent, &request).await,
        (Method::GET, "/archive") => files::pack(&agent, &request).await,
        (Method::PUT, "/archive") => files::unpack(&agent, request).await,
        (Method::GET, "/glob") => files::glob(&agent, &request).await,
        (Method::POST, "/grep") => files::grep(&agent, request).await,
        (Method::POST, "/checkpoint") => files::checkpoint(&agent, request).await,
        (Method::GET, "/watch") => files::watch(&agent, &request).await,
        (Method::POST, "/connect") => tunnel::connect(&agent, request).await,
        (Method::POST, "/egress") => egress::open(&agent, request).await,
        (Method::POST, "/egress/accept") => egress::accept(&agent, request).await,
        (_, path) => Err(refuse(RefusalCode::NotFound, format!("the agent has no `{}`", path.escape_default()))),
    };
    drop(going_on);
    answer.unwrap_or_else(|refusal| refused(&refusal))
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    let mut response = json(refusal);
    *response.status_mut() = status(refusal.code);
    response
}

/// What comes late is said once: nobody gets a sandbox that was somebody's.
async fn bind(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let bind: Bind = read_json(request).await?;
    if agent.bind(bind) { Ok(json(&Bound {})) } else { Err(refuse(RefusalCode::AlreadyExists, "this sandbox is somebody's already")) }
}

async fn which(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let Which { names } = read_json(request).await?;
    let work_dir = &agent.config.work_dir;
    let found = names.into_iter().filter(|name| lookup::find(&[name.as_str()], agent.environment(), work_dir, agent.user()).is_some());
    Ok(json(&Found { names: found.collect() }))
}

/// A small request.
pub(crate) async fn read_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let invalid = || refuse(RefusalCode::Invalid, "the body of the request cannot be read");
    let read = tokio::time::timeout(Duration::from_secs(10), Limited::new(request.into_body(), MAX_JSON).collect());
    let body = read.await.map_err(|_| invalid())?.map_err(|_| invalid())?.to_bytes();
    serde_json::from_slice(&body).map_err(|_| invalid())
}

/// A small answer.
pub(crate) fn json(value: &impl Serialize) -> Response<Answer> {
    let text = serde_json::to_vec(value).expect("wire types are plain data");
    let mut response = Response::new(Answer::Whole(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
