//! Bodies that are made as they are sent.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::Body;

/// Bytes read in one go.
const PIECE: usize = 256 << 10;

/// A body that is made piece by piece, in tasks that may block.
pub(crate) fn pieces<T: Send + 'static>(from: T, next: impl Fn(T) -> io::Result<Option<(Bytes, T)>> + Clone + Send + 'static) -> Body {
    let frames = stream::unfold(Some(from), move |from| {
        let next = next.clone();
        async move {
            let from = from?;
            match tokio::task::spawn_blocking(move || next(from)).await {
                Ok(Ok(Some((piece, from)))) => Some((Ok(Frame::data(piece)), Some(from))),
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some((Err(error), None)),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// What is read in one go; empty at the end.
pub(crate) fn read_piece(content: &mut impl Read) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(PIECE);
    loop {
        match content.read(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
