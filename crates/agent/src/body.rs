//! The bodies of answers: nothing, something small, or a channel that is filled as it is read.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Whole(Bytes),
    Channel(mpsc::Receiver<Bytes>),
    /// One that may break off: the error tells the server that it is not whole.
    Breakable(mpsc::Receiver<io::Result<Bytes>>),
    /// The same for whoever waits for other things than room in the channel: the descriptor is closed when nobody reads any more.
    Watched(mpsc::Receiver<io::Result<Bytes>>, #[expect(dead_code, reason = "it is there to be dropped")] OwnedFd),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this {
            Self::Done => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Done;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Breakable(receiver) | Self::Watched(receiver, _) => {
                receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
            Self::Channel(receiver) => receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Done)
    }
}
