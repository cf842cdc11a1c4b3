//! Listeners, connections, and an orderly end.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use caisson_engine::Engine;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use crate::{
    app::{App, Service},
    auth::Auth,
    config::Config,
    dialects,
    present::Present,
    socket::{Connection, Socket, Traffic},
    templates,
};

/// How long what is waited for longest may take when the server is asked to stop: executions whose clients were promised it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long answers may take that the end of all sandboxes has released.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Pause after a failure to accept, which mostly means that descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After this much silence the kernel asks a client whether it is there, again after so long, and so many times.
const SILENT: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(15);
const ASK: u32 = 4;
/// Requests that one HTTP/2 connection may have open.
const STREAMS_PER_CONNECTION: u32 = 256;
/// The largest head of a request, and what is read ahead of a body.
const HEAD_BYTES: usize = 128 << 10;
const HEADER_LIST_BYTES: u32 = 64 << 10;
/// An HTTP/2 client that does not answer a ping within this time is gone.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Anybody on the network could run code.
    #[error("cannot listen on {0} without a key: set CAISSON_API_KEY, or listen on 127.0.0.1")]
    Open(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
}

/// A server whose addresses are its own already.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    app: Arc<App>,
}

impl Server {
    /// Takes the addresses. Connections wait until [`Server::serve`].
    pub async fn bind(config: Config, engine: Engine) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            if matches!(config.auth, Auth::None) && !is_loopback(address.ip()) {
                return Err(BindError::Open(*address));
            }
            let listener = TcpListener::bind(address).await.map_err(|cause| BindError::Listen { address: *address, cause })?;
            listeners.push(listener);
        }
        // Links say where it really listens.
        let listen = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        Ok(Self { listeners, app: Arc::new(App::new(engine, Config { listen, ..config })) })
    }

    /// Where it listens, with the port that the kernel chose where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop`, then ends in order: no new connections, requests in flight finish (for as long as the configuration
    /// allows), all sandboxes end, the requests that waited for them are answered.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listeners, app } = self;
        app.webhooks.start(&app.tasks, &app.operator).await;
        let follower = Arc::clone(&app);
        app.tasks.spawn(async move { follower.webhooks.follow(&follower.tasks, &follower.operator).await });
        let connections = Connections {
            service: Service::new(Arc::clone(&app)),
            builder: Arc::new(builder(&app.config)),
            open: Arc::new(Semaphore::new(app.config.connections)),
            present: Arc::default(),
            tasks: TaskTracker::new(),
            head_within: app.config.head_within,
            stall: app.config.body_stall,
        };
        let graceful = Arc::new(GracefulShutdown::new());
        let mut until_stopped = JoinSet::new();
        for listener in listeners {
            until_stopped.spawn(connections.clone().accept_all(listener, Arc::clone(&graceful)));
        }
        until_stopped.spawn(templates::keep_warm(Arc::clone(&app)));
        until_stopped.spawn(dialects::daiv::let_rest(Arc::clone(&app)));
        stop.await;
        tracing::info!("Stopping: no new connections are accepted");
        let patience = Instant::now() + PATIENCE;
        app.stopping.cancel();
        until_stopped.shutdown().await;
        // Nobody accepts any more, so this is the last one who holds it.
        let drained = async {
            if let Some(graceful) = Arc::into_inner(graceful) {
                graceful.shutdown().await;
            }
        };
        if timeout(app.config.drain, drained).await.is_err() {
            tracing::info!("Ending requests that still run after {} s", app.config.drain.as_secs());
        }
        app.last_to_end.close();
        if timeout_at(patience, app.last_to_end.wait()).await.is_err() {
            tracing::info!("Ending {} executions that still run after {} s", app.last_to_end.len(), PATIENCE.as_secs());
        }
        // What ends from here on is told after the next start.
        app.webhooks.stop();
        app.operator.shutdown().await;
        connections.tasks.close();
        app.tasks.close();
        let rest = async { tokio::join!(connections.tasks.wait(), app.tasks.wait(), app.last_to_end.wait()) };
        if timeout(LAST_WORDS, rest).await.is_err() {
            tracing::warn!("{} connections were cut", connections.tasks.len());
        }
        // Nobody holds any more.
        app.config.locks.settled().await;
        tracing::info!("Stopped");
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn builder(config: &Config) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Without `pipeline_flush`: it takes the bound off what waits for a client that does not read.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.head_within).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_LIST_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    builder
}

/// What all connections share.
#[derive(Clone)]
struct Connections {
    service: Service,
    builder: Arc<Builder<TokioExecutor>>,
    open: Arc<Semaphore>,
    present: Arc<Present>,
    tasks: TaskTracker,
    head_within: Duration,
    stall: Duration,
}

impl Connections {
    /// Accepts until it is dropped.
    async fn accept_all(self, listener: TcpListener, graceful: Arc<GracefulShutdown>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(permit) = self.room().await else { return };
                    let (connections, watcher) = (self.clone(), graceful.watcher());
                    self.tasks.spawn(connections.serve(stream, peer, watcher, Arc::new(permit)));
                }
                Err(error) => {
                    tracing::warn!("Cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The right to one more connection, once there is room.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.open).try_acquire_owned() {
            return Some(permit);
        }
        self.present.make_room();
        // Where nobody was idle it is the next to end that makes room.
        Arc::clone(&self.open).acquire_owned().await.ok()
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, watcher: Watcher, permit: Arc<OwnedSemaphorePermit>) {
        // Answers are written whole; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, "Cannot set TCP_NODELAY: {error}");
        }
        if let Err(error) = notice_who_vanishes(&stream) {
            tracing::debug!(%peer, "Cannot have the kernel look after a connection: {error}");
        }
        let traffic = Traffic::new();
        let place = self.present.enter(Arc::clone(&traffic));
        let service = {
            let connection = Connection { traffic: Arc::clone(&traffic), permit };
            service_fn(move |mut request: hyper::Request<Incoming>| {
                let (service, answering) = (self.service.clone(), connection.traffic.begin());
                request.extensions_mut().insert(connection.clone());
                async move {
                    let answer = service.answer(peer, request.map(Body::new)).await;
                    Ok::<_, Infallible>(answer.map(|body| answering.until_the_end_of(body)))
                }
            })
        };
        let socket = Socket::new(stream, Arc::clone(&traffic), self.stall);
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(socket), service).into_owned();
        let mut connection = Box::pin(watcher.watch(connection));
        // Hyper looks at the clock while it reads the head of HTTP/1 and while it waits for one, but not while it finds out which
        // HTTP it is, and not for idle HTTP/2.
        let outcome = loop {
            tokio::select! {
                // Polled by reference: nothing is lost when another arm wins.
                outcome = &mut connection => break outcome,
                // Somebody else needs the room, and nothing goes on here.
                () = place.cut.cancelled() => return,
                () = sleep(self.head_within) => {
                    if traffic.idle() >= self.head_within {
                        return;
                    }
                }
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, "A connection ended early: {error}");
        }
    }
}

/// A client whose machine or network is gone says nothing of it. Where nothing is sent to it either, the kernel has to ask whether it is
/// still there, or what it had open stays open.
fn notice_who_vanishes(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, SILENT)?;
    sockopt::set_tcp_keepintvl(stream, ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, ASK)?;
    sockopt::set_socket_keepalive(stream, true)
}

#[cfg(test)]
mod tests;
