//! The agent's stream: a container's standard input and output as the API attaches to them, and its standard error, of which the beginning is kept. Who
//! says which is which is the daemon, in the heads of its frames.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bollard::container::{AttachContainerResults, LogOutput};
use bytes::{Buf, Bytes};
use caisson_launcher::protocol::{self, Failure, Tag};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::daemon::tamed;

/// What is kept of what a container says on standard error.
const MOST_WORDS: usize = 8 << 10;

/// What was heard of a container.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Whether its agent ever said anything.
    pub(crate) agent: bool,
    words: Vec<u8>,
}

impl Heard {
    fn words(&mut self, bytes: &[u8]) {
        let room = MOST_WORDS - self.words.len();
        self.words.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The launcher's own report, or text.
    pub(crate) fn last_words(&self) -> Result<String, Failure> {
        if let Ok((Tag::Failed, _, body)) = protocol::split(&self.words)
            && let Ok(failure) = protocol::decode(body)
        {
            return Err(failure);
        }
        Ok(tamed(&String::from_utf8_lossy(&self.words)))
    }
}

/// Both directions.
pub(crate) struct Attached {
    streams: AttachContainerResults,
    /// What has come and was not read yet.
    rest: Bytes,
    heard: Arc<Mutex<Heard>>,
}

impl Attached {
    pub(crate) fn new(streams: AttachContainerResults, heard: Arc<Mutex<Heard>>) -> Self {
        Self { streams, rest: Bytes::new(), heard }
    }
}

impl AsyncRead for Attached {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let frame = match ready!(self.streams.output.as_mut().poll_next(context)) {
                None => return Poll::Ready(Ok(())),
                Some(frame) => frame.map_err(io::Error::other)?,
            };
            let heard = Arc::clone(&self.heard);
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match frame {
                LogOutput::StdOut { message } => {
                    heard.agent = true;
                    self.rest = message;
                }
                LogOutput::StdErr { message } => heard.words(&message),
                // Only a connection that broke off within a frame has a rest that is none.
                LogOutput::StdIn { .. } | LogOutput::Console { .. } => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let length = buffer.remaining().min(self.rest.len());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Attached {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.streams.input.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.streams.input.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn outputs_are_told_apart_and_only_so_much_is_kept_of_the_second() {
        let out = |text: &'static [u8]| Ok(LogOutput::StdOut { message: Bytes::from_static(text) });
        let err = |size: usize| Ok(LogOutput::StdErr { message: vec![b'e'; size].into() });
        let output = Box::pin(stream::iter([err(3), out(b"ab"), out(b""), err(MOST_WORDS), out(b"cdef"), err(9)]));
        let heard = Arc::<Mutex<Heard>>::default();
        let mut attached = Attached::new(AttachContainerResults { output, input: Box::pin(tokio::io::sink()) }, Arc::clone(&heard));
        let mut read = [0; 3];
        assert_eq!(attached.read(&mut read).await.unwrap(), 2);
        assert!(heard.lock().unwrap().agent);
        let mut rest = Vec::new();
        attached.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"cdef");
        assert_eq!(heard.lock().unwrap().words.len(), MOST_WORDS);
    }
}
