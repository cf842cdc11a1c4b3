//! What every handler can reach, and the way from a request to its answer.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use caisson_core::Tenant;
use caisson_engine::Engine;
use futures::FutureExt;
use http::HeaderValue;
use tokio::{sync::Semaphore, task::JoinError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::Instrument;

use crate::{
    config::Config,
    dialects,
    error::{ApiError, ApiResult},
    idempotency::UnderWay,
    metrics::Metrics,
    peers::{self, AsAsked, Peers},
    ports::{self, Asked, Links},
    request_id, routes,
    sse::{self, Events, HungUp},
    webhooks::Webhooks,
};

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Characters of a path in the log.
const SHOWN: usize = 300;

/// On the answer to a request for which a key was needed and shown: whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Admitted(pub(crate) Tenant);

/// What handlers share.
#[derive(Debug)]
pub(crate) struct App {
    /// For what concerns the server as a whole. Handlers get their caller's from [`crate::caller::Caller`].
    pub(crate) operator: Engine,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Everything that goes on after its client has hung up.
    pub(crate) tasks: TaskTracker,
    /// What is waited for longer than for other requests when the server is asked to stop.
    pub(crate) last_to_end: TaskTracker,
    /// Cancelled when the server is asked to stop.
    pub(crate) stopping: CancellationToken,
    pub(crate) boxbox: dialects::boxbox::State,
    pub(crate) under_way: UnderWay,
    pub(crate) webhooks: Webhooks,
    /// One examination at a time.
    pub(crate) doctor: Arc<Semaphore>,
    /// Addresses of ports.
    pub(crate) links: Links,
    /// Where other servers share the database.
    pub(crate) peers: Option<Peers>,
}

impl App {
    pub(crate) fn new(engine: Engine, config: Config) -> Self {
        let metrics = Metrics::new(engine.clone());
        let links = Links::new(config.public.clone(), config.listen.first().copied(), engine.common_secret());
        Self {
            peers: Peers::of(&engine),
            operator: engine,
            boxbox: dialects::boxbox::State::new(&config.boxbox),
            config,
            metrics,
            tasks: TaskTracker::new(),
            last_to_end: TaskTracker::new(),
            stopping: CancellationToken::new(),
            under_way: UnderWay::default(),
            webhooks: Webhooks::default(),
            doctor: Arc::new(Semaphore::new(1)),
            links,
        }
    }

    /// Runs work that must not stop half-way when the client hangs up. Boxed, here and below: what runs tasks is made anew for each kind of future,
    /// and most of a build went into that.
    pub(crate) async fn owned<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> ApiResult<T> {
        let gone = CancellationToken::new();
        // Whoever hangs up while the work waits for room has left the line.
        let _here = gone.clone().drop_guard();
        done(self.tasks.spawn(caisson_engine::asked_for(gone, work.boxed()).in_current_span()).await)
    }

    /// The same for work that is waited for, within [`crate::server::PATIENCE`], before sandboxes end because the server stops.
    pub(crate) async fn patiently<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> ApiResult<T> {
        done(self.last_to_end.spawn(work.boxed().in_current_span()).await)
    }

    /// An answer of events, which `tell` puts in for as long as anybody reads. Whoever hangs up has seen enough; what they were told of goes on.
    pub(crate) fn events<T>(&self, tell: impl FnOnce(Events) -> T) -> Response
    where
        T: Future<Output = Result<(), HungUp>> + Send + 'static,
    {
        let (events, answer) = sse::channel();
        let telling = tell(events).boxed();
        self.tasks.spawn(async move { drop(telling.await) }.in_current_span());
        answer
    }
}

/// What a request's task has come to.
fn done<T>(task: Result<T, JoinError>) -> ApiResult<T> {
    task.map_err(|error| {
        tracing::error!("A request's task failed: {error}");
        ApiError::internal()
    })
}

/// All routes with what they need; cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    app: Arc<App>,
    router: Router,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Service {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { router: routes::router(&app), app }
    }

    /// Answers one request, whatever happens inside.
    pub(crate) async fn answer(self, peer: SocketAddr, mut request: Request) -> Response {
        let start = Instant::now();
        let (peer, refused) = match peers::received(&self.app, &mut request).await {
            Ok(client) => (client.unwrap_or(peer), None),
            Err(refusal) => (peer, Some(refusal)),
        };
        let id = request_id::of(request.headers(), dialects::names_by_uuid(request.uri().path()));
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(request_id::RequestId(id.clone()));
        let dialect = dialects::of(request.uri().path());
        let asked = request.uri().path().to_owned();
        let (method, path) = (shown(request.method().as_str()), shown(&ports::hide_token(&asked)));
        let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
        let target = request.uri().clone();
        request.extensions_mut().insert(AsAsked(target));
        let answer = match refused {
            Some(refusal) => Ok(dialects::in_its_words(dialect, refusal.into_response(), &id)),
            None => AssertUnwindSafe(self.clone().route(request)).catch_unwind().instrument(span.clone()).await,
        };
        let _entered = span.enter();
        let mut response = match answer {
            Ok(response) => response,
            Err(_) => {
                tracing::error!("Answering {method} {path} panicked");
                dialects::in_its_words(dialect, ApiError::internal().into_response(), &id)
            }
        };
        dialects::tell_origins(&self.app, &asked, response.headers_mut());
        response.headers_mut().insert(request_id::HEADER, id);
        response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let (status, duration_ms) = (response.status().as_u16(), start.elapsed().as_secs_f64() * 1e3);
        // Whoever has no key must not be able to fill the log.
        if let Some(Admitted(tenant)) = response.extensions().get::<Admitted>() {
            tracing::info!(%peer, %tenant, status, duration_ms, "{method} {path} was answered with {status}");
        } else {
            tracing::debug!(%peer, status, duration_ms, "{method} {path} was answered with {status}");
        }
        response
    }

    /// Names of ports and of sandboxes come before all paths: nothing else of the API is to be had under them.
    async fn route(self, mut request: Request) -> Response {
        if let Some(domain) = self.app.links.domain()
            && !dialects::by_host(domain, &mut request)
            && let Some(asked) = Asked::by_host(domain, &request)
        {
            return ports::answer_host(self.app, asked, request).await;
        }
        if let Some(answer) = dialects::preflight(&self.app, &request) {
            return answer;
        }
        dialects::without_prefix(&self.app.config, &mut request);
        dialects::without_slash(&mut request);
        match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Methods and paths as they may stand in a log: short, printable, one line.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_5_logs_are_not_for_clients_to_write() {
        assert_eq!(shown("/v1/run"), "/v1/run");
        assert_eq!(shown("/\u{9b}31m\u{202e}\n\u{1b}[2J"), "/\\u{9b}31m\\u{202e}\\n\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(10_000)).len(), SHOWN + 3);
    }
}
