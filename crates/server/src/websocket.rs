//! WebSockets: the way in, and what every one of them keeps to.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{
    extract::{
        FromRequestParts,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::request::Parts,
    response::Response,
};
use futures::{Sink, SinkExt, Stream, StreamExt, future::BoxFuture};
use http::StatusCode;

use crate::{
    app::App,
    auth::refuse_other_sites,
    caller::View,
    error::{ApiError, ApiResult},
    socket::{Connection, Held},
};

/// The longest message that is taken.
pub(crate) const MAX_MESSAGE: usize = 256 << 10;
/// A message up to this length is read to its end, so that its refusal can be read too. What announces more is cut.
pub(crate) const MAX_READ: usize = 1 << 20;
/// How long a client may take to answer a close.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Reasons have at most 123 bytes (RFC 6455 §5.5).
const MAX_REASON: usize = 123;

/// Why a connection is closed (RFC 6455 §7.4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Closing {
    /// Everything has been said.
    pub(crate) fn done() -> Self {
        Self { code: 1000, reason: String::new() }
    }

    /// The client broke the framing.
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self { code: 1002, reason: reason.into() }
    }

    /// A message has more than so many bytes.
    pub(crate) fn too_long(most: usize) -> Self {
        Self { code: 1009, reason: format!("a message may have {most} bytes; send several") }
    }

    /// The client has no right to it any more.
    fn shut_out() -> Self {
        Self { code: 1008, reason: "the key is not valid any more".to_owned() }
    }

    /// What it was about is no more.
    pub(crate) fn going_away(reason: impl Into<String>) -> Self {
        Self { code: 1001, reason: reason.into() }
    }

    /// We failed; the message before says how.
    pub(crate) fn failed() -> Self {
        Self { code: 1011, reason: "the server failed".to_owned() }
    }
}

impl From<Closing> for Message {
    fn from(Closing { code, mut reason }: Closing) -> Self {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self::Close(Some(CloseFrame { code, reason: reason.into() }))
    }
}

/// What a request says of a WebSocket. Whatever else is wrong with it is told first.
pub(crate) struct Wanted(ApiResult<Upgrade>);

/// A request that asks for a WebSocket and gets one, unless its handler refuses.
pub(crate) struct Upgrade {
    upgrade: WebSocketUpgrade,
    held: Option<Held>,
}

impl FromRequestParts<Arc<App>> for Wanted {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        if let Err(refusal) = refuse_other_sites(parts) {
            return Ok(Self(Err(refusal)));
        }
        Ok(Self(Upgrade::asked_for(parts, app).await))
    }
}

impl Wanted {
    /// The upgrade, if it is one.
    pub(crate) fn upgrade(self) -> ApiResult<Upgrade> {
        self.0
    }
}

fn refusal(rejection: &WebSocketUpgradeRejection) -> ApiError {
    let what = match rejection {
        WebSocketUpgradeRejection::InvalidWebSocketVersionHeader(_) => "`Sec-WebSocket-Version` must be 13",
        WebSocketUpgradeRejection::WebSocketKeyHeaderMissing(_) => "`Sec-WebSocket-Key` is missing",
        WebSocketUpgradeRejection::ConnectionNotUpgradable(_) => "this connection cannot be upgraded; use HTTP/1.1",
        _ => "send `Connection: Upgrade` and `Upgrade: websocket` over HTTP/1.1",
    };
    let message = format!("this is a WebSocket, and the request does not ask for one (RFC 6455): {what}");
    ApiError::new(StatusCode::BAD_REQUEST, "websocket_required", message)
}

impl Upgrade {
    /// The upgrade that a request asks for, wherever it comes from: whoever calls this has looked at its origin.
    pub(crate) async fn asked_for(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        // The connection is one of those there may be for as long as the WebSocket goes on.
        let held = parts.extensions.get::<Connection>().map(Connection::hold);
        match WebSocketUpgrade::from_request_parts(parts, app).await {
            Ok(upgrade) => {
                let upgrade = upgrade.max_message_size(MAX_READ).max_frame_size(MAX_READ).write_buffer_size(0);
                Ok(Self { upgrade, held })
            }
            Err(rejection) => Err(refusal(&rejection)),
        }
    }

    /// Answers with the upgrade. Afterwards `work` goes on over it, however long it takes, and then it is closed for the reason that `work`
    /// gives; none when there is nobody to be told. What `work` gets beside the connection becomes ready when the caller's key is not valid
    /// any more, and says how to close then.
    pub(crate) fn serve<F>(
        self,
        caller: &Arc<View>,
        work: impl FnOnce(WebSocket, BoxFuture<'static, Closing>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = Option<(WebSocket, Closing)>> + Send + 'static,
    {
        let Self { upgrade, held } = self;
        let running = caller.tasks.token();
        let caller = Arc::clone(caller);
        let shut_out = Box::pin(async move {
            caller.shut_out().await;
            Closing::shut_out()
        });
        upgrade.on_upgrade(async move |socket| {
            if let Some((mut socket, closing)) = work(socket, shut_out).await {
                close(&mut socket, closing).await;
            }
            drop((held, running));
        })
    }
}

/// Says why, and waits a moment for the client to have read it: what it has sent meanwhile must not turn the end into a reset.
async fn close<S>(socket: &mut S, closing: Closing)
where
    S: Sink<Message> + Stream + Unpin,
{
    let closed = async {
        if socket.send(closing.into()).await.is_ok() {
            while socket.next().await.is_some() {}
        }
    };
    // Whoever does not answer is cut.
    tokio::time::timeout(CLOSE_WITHIN, closed).await.ok();
}
