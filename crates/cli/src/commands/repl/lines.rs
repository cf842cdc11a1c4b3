//! Standard input in lines.

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces into lines.
pub(super) struct Lines {
    pieces: mpsc::Receiver<Bytes>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, buffer: Vec::new() }
    }

    /// The next line with its end; `None` when there are no more. Cancel-safe: what was not returned is returned the next time.
    pub(super) async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return text(std::mem::replace(&mut self.buffer, rest)).map(Some);
            }
            match self.pieces.recv().await {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => return text(std::mem::take(&mut self.buffer)).map(|line| Some(line + "\n")),
            }
        }
    }
}

fn text(line: Vec<u8>) -> Result<String> {
    String::from_utf8(line).context("what was typed is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_however_they_come() {
        let (sender, pieces) = mpsc::channel(9);
        for piece in ["a", "b\nc\n", "ä"] {
            sender.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        drop(sender);
        let mut lines = Lines::new(pieces);
        for expect in ["ab\n", "c\n", "ä\n"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(expect));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
