//! To a file.

use std::io::{self, Write};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::header;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{named, own, refusal::refused};
use crate::{caller::Caller, error::ApiResult, openapi::Octets, params::Params};

/// Pieces that wait for a slow client; the store waits after that.
const QUEUE: usize = 4;
const PIECE: usize = 128 << 10;

/// An image as one archive that is an OCI layout and what `docker load` takes. Every digest in it is the one that it came with.
///
/// An archive that does not end with two blocks of zeros broke off.
#[utoipa::path(get, path = "/v1/images/export", operation_id = "export_image", tag = "images",
    params(("name" = String, Query, description = "Such as `alpine:3.20`")),
    responses((status = 200, description = "The archive", content((inline(Octets) = "application/x-tar")))))]
pub(crate) async fn export(Caller(app): Caller, mut params: Params) -> ApiResult<Response> {
    let name = named(&mut params)?;
    params.finish()?;
    let store = own(&app)?;
    // Before anything is answered; from here to the end nothing of it is removed.
    let (_, lease) = store.resolve(&name).await.map_err(|error| refused(&error))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    app.tasks.spawn(async move {
        let to = io::BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        if let Err(error) = store.export(&name, to).await {
            // Whoever has hung up hears of nothing, and nobody else has to.
            tracing::debug!(error = %error, "An export broke off");
            sender.send(Err(io::Error::other("the archive cannot be finished"))).await.ok();
        }
        drop(lease);
    });
    let headers = [(header::CONTENT_TYPE, "application/x-tar"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// The body's other end, for a thread that may wait.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
