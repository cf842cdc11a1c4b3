//! Frames inside the two bodies of `POST /exec`; those of `POST /connect` are told in [`crate::tunnel`], those of `POST /egress` in
//! [`crate::egress`].
//!
//! ```text
//! +--------+----------------+-----------------+
//! | kind 1 | length 4, BE   | payload         |
//! +--------+----------------+-----------------+
//! server → agent:  Start (Stdin* StdinEof?) with Signal and Resize anywhere after Start, Go behind Held where the start says `hold`
//! agent → server:  Held? Started (Stdout | Stderr | Channel)* Exit with InputTaken and InputClosed anywhere between      or      Refused
//! ```
//!
//! No more than [`STDIN_WINDOW`] bytes of standard input are under way at a time: sent by the server and not yet called taken by the
//! agent. So they never hold up the signals and sizes behind them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    egress::{ANNOUNCED, MAX_QUESTION},
    tunnel::WINDOW,
};

/// The largest payload of a frame that carries program bytes.
pub const MAX_DATA: usize = 1 << 20;
/// Standard input that the agent has room for until the program reads it. The agent calls bytes taken that have left it, when a quarter of
/// this has come together.
pub const STDIN_WINDOW: usize = 256 << 10;
/// The largest payload of any frame; only [`Kind::Start`] and [`Kind::Go`] may be this long.
pub const MAX_START: usize = 64 << 20;
/// The largest payload of an [`Kind::Exit`] frame.
pub const MAX_EXIT: usize = 8 << 20;
const HEADER: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON [`crate::ExecStart`].
    Start = 1,
    /// Bytes for standard input.
    Stdin = 2,
    /// Standard input ends here.
    StdinEof = 3,
    /// A signal number (4 bytes, BE) for the program's process group.
    Signal = 4,
    /// A terminal's new size ([`crate::WindowSize::to_bytes`]).
    Resize = 5,
    /// JSON [`crate::Go`].
    Go = 6,
    /// JSON [`crate::Started`].
    Started = 16,
    Stdout = 17,
    Stderr = 18,
    /// JSON [`crate::ExecExit`].
    Exit = 19,
    /// JSON [`crate::Refusal`].
    Refused = 20,
    /// So many more bytes of standard input (4 bytes, BE) have left the agent.
    InputTaken = 21,
    /// The program does not read its standard input any more.
    InputClosed = 22,
    /// Bytes of a connection.
    Data = 32,
    /// Nothing more comes from this side of a connection: it was closed.
    End = 33,
    /// So many more bytes of the other side (4 bytes, BE) have gone on.
    Taken = 34,
    /// The same as [`Kind::End`] for a connection that was broken off.
    Broken = 35,
    /// What the program wrote to its channel ([`crate::ExecStart::channel`]). An empty one says that nothing more will come.
    Channel = 23,
    /// The program waits for [`Kind::Go`].
    Held = 24,
    /// A program wants out: [`crate::egress::Announced`].
    Announced = 48,
    /// A name is to be looked up: [`crate::egress::Message`].
    Question = 49,
    /// What was announced is refused, by its number (8 bytes, BE).
    Declined = 50,
    /// The answer to a question: [`crate::egress::Message`].
    Reply = 51,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Start,
            2 => Self::Stdin,
            3 => Self::StdinEof,
            4 => Self::Signal,
            5 => Self::Resize,
            6 => Self::Go,
            16 => Self::Started,
            17 => Self::Stdout,
            18 => Self::Stderr,
            19 => Self::Exit,
            20 => Self::Refused,
            21 => Self::InputTaken,
            22 => Self::InputClosed,
            32 => Self::Data,
            33 => Self::End,
            34 => Self::Taken,
            35 => Self::Broken,
            23 => Self::Channel,
            24 => Self::Held,
            48 => Self::Announced,
            49 => Self::Question,
            50 => Self::Declined,
            51 => Self::Reply,
            _ => return None,
        })
    }

    fn max_payload(self) -> usize {
        match self {
            Self::Start | Self::Go => MAX_START,
            Self::Stdin | Self::Stdout | Self::Stderr | Self::Channel => MAX_DATA,
            Self::Exit => MAX_EXIT,
            Self::Data => WINDOW,
            Self::StdinEof | Self::InputClosed | Self::Held | Self::End | Self::Broken => 0,
            Self::Signal | Self::Resize | Self::InputTaken | Self::Taken => 4,
            Self::Started | Self::Refused => 64 << 10,
            Self::Announced => ANNOUNCED,
            Self::Question | Self::Reply => 4 + MAX_QUESTION,
            Self::Declined => 8,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub payload: Bytes,
}

impl Frame {
    /// A frame of `kind` around `payload`, which must not be longer than the kind allows.
    #[must_use]
    pub fn new(kind: Kind, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        debug_assert!(payload.len() <= kind.max_payload());
        Self { kind, payload }
    }

    /// A frame of `kind` around `value` as JSON.
    #[must_use]
    pub fn json(kind: Kind, value: &impl serde::Serialize) -> Self {
        Self::new(kind, serde_json::to_vec(value).expect("wire types are plain data"))
    }

    /// The frame as it travels.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + self.payload.len());
        self.encode_into(&mut out);
        out.freeze()
    }

    /// Appends the frame as it travels.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_u8(self.kind as u8);
        out.put_u32(u32::try_from(self.payload.len()).expect("payloads are bounded"));
        out.put_slice(&self.payload);
    }
}

/// The other side broke the framing; nothing after this can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("a frame of kind {kind:?} with {length} bytes is over its limit")]
    TooLong { kind: Kind, length: usize },
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// Cuts a byte stream into frames. Holds at most one incomplete frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` when more bytes are needed. Sizes are checked before anything is allocated for them.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(&first) = self.buffer.first() else { return Ok(None) };
        let kind = Kind::from_byte(first).ok_or(FrameError::UnknownKind(first))?;
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if length > kind.max_payload() {
            return Err(FrameError::TooLong { kind, length });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Frame { kind, payload: self.buffer.split_to(length).freeze() }))
    }

    /// Says whether the stream may end here.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let frames = [
            Frame::new(Kind::Stdout, &b"hello"[..]),
            Frame::new(Kind::StdinEof, Bytes::new()),
            Frame::new(Kind::Signal, 15u32.to_be_bytes().to_vec()),
        ];
        let mut bytes = BytesMut::new();
        for frame in &frames {
            frame.encode_into(&mut bytes);
        }
        for cut in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(cut) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn r5_4_hostile_frames_are_refused_before_they_cost_memory() {
        let mut decoder = Decoder::default();
        decoder.push(&[Kind::Stdout as u8, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong { kind: Kind::Stdout, length: 0xffff_ffff }));
        let mut decoder = Decoder::default();
        decoder.push(&[99]);
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind(99)));
        let mut decoder = Decoder::default();
        decoder.push(&[Kind::Exit as u8, 0]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.finish(), Err(FrameError::Truncated));
    }
}
