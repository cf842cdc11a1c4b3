//! What is said over the WebSocket of an execution, beside bytes.

use caisson_core::{Result, Stream};
use caisson_engine::{OutputChunk, WindowSize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ExecutionBody, SignalName, Whole};
use crate::error::ErrorDetail;

/// The size of a terminal in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Terminal)]
pub struct TerminalBody {
    /// 1 to 4096, 80 when absent.
    #[schema(value_type = u16)]
    pub cols: Whole,
    /// 1 to 4096, 24 when absent.
    #[schema(value_type = u16)]
    pub rows: Whole,
}

impl Default for TerminalBody {
    fn default() -> Self {
        Self { cols: 80.into(), rows: 24.into() }
    }
}

impl TerminalBody {
    /// The size.
    pub fn size(&self) -> Result<WindowSize> {
        let (low, high) = WindowSize::RANGE;
        Ok(WindowSize { cols: self.cols.within("cols", low, high)?, rows: self.rows.within("rows", low, high)? })
    }
}

/// A text message of the server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = StreamServerMessage)]
pub enum ServerMessage {
    /// The first message: what is followed, and how far it has come.
    Start {
        /// The execution.
        id: String,
        sandbox_id: String,
        /// Whether it is on a terminal; false when it had ended before this client asked for it.
        terminal: bool,
        /// What it has written so far.
        stdout_bytes: u64,
        stderr_bytes: u64,
        /// How much of its standard input was accepted so far; null when it has ended.
        stdin_bytes: Option<u64>,
    },
    /// The last message before the server closes with 1000: how it ended.
    End(Box<ExecutionBody>),
    /// A message of the client that was not carried out, or, before the server closes with another code, a failure of its own.
    Error { error: ErrorDetail },
}

/// A text message of the client.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = StreamClientMessage)]
pub enum ClientMessage {
    /// The terminal has another size.
    Resize {
        #[schema(value_type = u16)]
        cols: Whole,
        #[schema(value_type = u16)]
        rows: Whole,
    },
    /// A signal for the program's process group.
    Signal {
        #[schema(value_type = String, example = "SIGTERM")]
        signal: SignalName,
    },
    /// The end of standard input.
    CloseStdin {},
}

/// How much of standard input was accepted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = StdinAccepted)]
pub struct StdinBody {
    /// In all, since the program was started. What is sent next begins at this offset.
    pub stdin_bytes: u64,
}

/// Bytes before the output in a binary message.
const HEADER: usize = 9;

/// A piece of output as a binary message: the stream (1 standard output, 2 standard error), the offset of the first byte (8 bytes,
/// big-endian), the bytes.
#[must_use]
pub fn encode_output(stream: Stream, chunk: &OutputChunk) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + chunk.data.len());
    message.push(match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    });
    message.extend_from_slice(&chunk.offset.to_be_bytes());
    message.extend_from_slice(&chunk.data);
    message
}

/// A binary message back into a piece of output; `None` when it is none.
#[must_use]
pub fn decode_output(message: &bytes::Bytes) -> Option<(Stream, OutputChunk)> {
    let (stream, rest) = message.split_first()?;
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return None,
    };
    let offset = u64::from_be_bytes(*rest.first_chunk()?);
    Some((stream, OutputChunk { offset, data: message.slice(HEADER..) }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn output_survives_the_way() {
        for (stream, offset, data) in [(Stream::Stdout, 0, &b"x"[..]), (Stream::Stderr, u64::MAX - 7, b"\0\xff"), (Stream::Stdout, 1, b"")]
        {
            let chunk = OutputChunk { offset, data: Bytes::from_static(data) };
            assert_eq!(decode_output(&encode_output(stream, &chunk).into()), Some((stream, chunk)));
        }
        for bad in [&b""[..], b"\x01", b"\x01\0\0\0\0\0\0\0", b"\x03\0\0\0\0\0\0\0\0x", b"\0\0\0\0\0\0\0\0\0x"] {
            assert_eq!(decode_output(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn messages_are_read_strictly() {
        let read = |value| serde_json::from_value::<ClientMessage>(value);
        assert!(matches!(read(json!({"type": "resize", "cols": 1, "rows": 2})), Ok(ClientMessage::Resize { .. })));
        assert!(matches!(read(json!({"type": "signal", "signal": 9})), Ok(ClientMessage::Signal { .. })));
        assert!(matches!(read(json!({"type": "close_stdin"})), Ok(ClientMessage::CloseStdin {})));
        for bad in [
            json!({}),
            json!([]),
            json!("resize"),
            json!({"type": "explode"}),
            json!({"type": "resize", "cols": 1}),
            json!({"type": "resize", "cols": 1, "rows": "2"}),
            json!({"type": "resize", "cols": 1, "rows": 2, "depth": 3}),
            json!({"type": "close_stdin", "now": true}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn terminals_have_a_size() {
        assert_eq!(TerminalBody::default().size().unwrap(), WindowSize { cols: 80, rows: 24 });
        for bad in [json!({"cols": 0}), json!({"rows": 4097}), json!({"cols": -1}), json!({"rows": 1e9})] {
            let body: TerminalBody = serde_json::from_value(bad.clone()).unwrap();
            assert_eq!(body.size().unwrap_err().code(), "limit_out_of_range", "{bad}");
        }
    }
}
