//! Whether something inside a sandbox says that it is ready: `GET /` on its port, answered with 2xx.

use std::{num::NonZeroU16, time::Duration};

use axum::body::Body;
use caisson_core::{Error, SandboxId};
use caisson_engine::{Engine, PortStream};
use http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

/// What does not answer within this time is not ready.
const WITHIN: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 << 10;

/// Asks once. An error means that nobody will ever be ready there.
pub(super) async fn answers(engine: &Engine, id: SandboxId, port: NonZeroU16) -> Result<bool, Error> {
    match engine.connect_port(id, port).await {
        Ok(stream) => Ok(matches!(tokio::time::timeout(WITHIN, ask(stream, port)).await, Ok(Ok(true)))),
        // Nothing listens, or there is no room for the moment.
        Err(Error::Conflict { .. } | Error::QuotaExceeded { .. } | Error::Unavailable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn ask(stream: PortStream, port: NonZeroU16) -> Result<bool, hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    let (mut sender, connection) = builder.handshake::<_, Body>(TokioIo::new(stream)).await?;
    let request = Request::builder().uri("/").header(header::HOST, format!("localhost:{port}")).header(header::CONNECTION, "close");
    let request = request.body(Body::empty()).expect("it is a request");
    let (mut sending, mut connection) = (std::pin::pin!(sender.send_request(request)), std::pin::pin!(connection));
    let mut ended = false;
    loop {
        tokio::select! {
            biased;
            // The body of the answer is nobody's business: it goes with the connection.
            answer = &mut sending => return Ok(answer?.status().is_success()),
            // What it has brought last is found by the other arm. How it ended as well.
            _ = &mut connection, if !ended => ended = true,
        }
    }
}
