//! A connection to a port inside, in the two bodies of `POST /connect`: the same frames in both directions.
//!
//! ```text
//! Data* (End | Broken)?  with Taken anywhere between
//! ```
//!
//! No more than [`WINDOW`] bytes are under way in one direction: sent and not yet called taken by the other side. So each side can take what
//! comes at once, and a reader that stands still costs its own connection alone. HTTP/2's own windows would not do: there is one over all
//! streams, which a few that nobody reads would fill.

use std::num::NonZeroU16;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{Decoder, Frame, FrameError, Kind};

/// Bytes that either side has room for.
pub const WINDOW: usize = 64 << 10;
/// Connections to ports of one sandbox at one time.
pub const MAX_TUNNELS: usize = 256;

/// Where to connect.
#[must_use]
pub fn uri(port: NonZeroU16) -> String {
    format!("/connect?port={port}")
}

/// One side of a connection, without its input and output.
#[derive(Debug)]
pub struct Tunnel {
    decoder: Decoder,
    /// What may be sent before the other side has taken something.
    room: usize,
    /// What has come and has not gone on.
    arrived: BytesMut,
    /// What has gone on without the other side having been told.
    untold: usize,
    /// Nothing more will come.
    ended: bool,
    /// And what has come is not all there was to be.
    broken: bool,
}

/// The other side broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame of kind {0:?} in a connection")]
    Kind(Kind),
    #[error("more bytes than there is room for")]
    Overrun,
    #[error("more bytes were called taken than were sent")]
    Overtaken,
    #[error("bytes behind their end")]
    AfterEnd,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { decoder: Decoder::default(), room: WINDOW, arrived: BytesMut::new(), untold: 0, ended: false, broken: false }
    }
}

impl Tunnel {
    /// Takes what the other side has sent.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TunnelError> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame()? {
            match frame.kind {
                Kind::Data | Kind::End | Kind::Broken if self.ended => return Err(TunnelError::AfterEnd),
                Kind::Data => {
                    // What has gone on and was not told is still under way for the other side.
                    if self.arrived.len() + self.untold + frame.payload.len() > WINDOW {
                        return Err(TunnelError::Overrun);
                    }
                    self.arrived.extend_from_slice(&frame.payload);
                }
                Kind::End => self.ended = true,
                Kind::Broken => (self.ended, self.broken) = (true, true),
                Kind::Taken => {
                    let count: [u8; 4] = frame.payload.as_ref().try_into().map_err(|_| FrameError::Truncated)?;
                    let room = self.room.saturating_add(u32::from_be_bytes(count) as usize);
                    if room > WINDOW {
                        return Err(TunnelError::Overtaken);
                    }
                    self.room = room;
                }
                other => return Err(TunnelError::Kind(other)),
            }
        }
        Ok(())
    }

    /// What has come and is to go on.
    #[must_use]
    pub fn arrived(&self) -> &[u8] {
        &self.arrived
    }

    /// So many of these bytes have gone on.
    pub fn pass(&mut self, count: usize) {
        self.arrived.advance(count);
        self.untold += count;
        if self.arrived.is_empty() {
            // Most connections are idle most of the time.
            self.arrived = BytesMut::new();
        }
    }

    /// Whether everything has come and gone on.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ended && self.arrived.is_empty()
    }

    /// Whether the other side has said that nothing more comes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether what has come is not all there was to be.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// How many bytes may be sent now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Bytes for the other side, no more than there is room for.
    pub fn data(&mut self, bytes: impl Into<Bytes>) -> Bytes {
        let bytes = bytes.into();
        self.room = self.room.saturating_sub(bytes.len());
        Frame::new(Kind::Data, bytes).encode()
    }

    /// Behind the last bytes for the other side.
    #[must_use]
    pub fn end() -> Bytes {
        Frame::new(Kind::End, Bytes::new()).encode()
    }

    /// The same where there was to be more.
    #[must_use]
    pub fn broken() -> Bytes {
        Frame::new(Kind::Broken, Bytes::new()).encode()
    }

    /// What the other side is to be told about what it has sent; nothing until a quarter of the room has come together.
    pub fn news(&mut self) -> Option<Bytes> {
        if self.ended || self.untold < WINDOW / 4 {
            return None;
        }
        let count = u32::try_from(std::mem::take(&mut self.untold)).expect("no more than the window");
        Some(Frame::new(Kind::Taken, count.to_be_bytes().to_vec()).encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_sends_the_other_passes_on() {
        let (mut near, mut far) = (Tunnel::default(), Tunnel::default());
        let all: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut sent, mut passed) = (0, Vec::new());
        while passed.len() < all.len() {
            let count = near.room().min(all.len() - sent).min(10_007);
            if count > 0 {
                let frame = near.data(all[sent..sent + count].to_vec());
                sent += count;
                // However it is cut on its way.
                frame.chunks(4099).for_each(|piece| far.push(piece).unwrap());
            }
            let count = far.arrived().len().min(3001);
            passed.extend_from_slice(&far.arrived()[..count]);
            far.pass(count);
            if let Some(news) = far.news() {
                near.push(&news).unwrap();
            }
        }
        assert!(passed == all && !far.is_drained());
        far.push(&Tunnel::end()).unwrap();
        assert!(far.is_drained());
    }

    #[test]
    fn the_end_waits_for_what_came_before_it() {
        let (mut near, mut far) = (Tunnel::default(), Tunnel::default());
        far.push(&near.data(&b"last"[..])).unwrap();
        far.push(&Tunnel::end()).unwrap();
        assert!(!far.is_drained());
        far.pass(4);
        assert!(far.is_drained() && far.news().is_none() && !far.is_broken());
        let mut cut = Tunnel::default();
        cut.push(&[near.data(&b"x"[..]), Tunnel::broken()].concat()).unwrap();
        assert!(cut.is_broken() && cut.arrived() == b"x");
    }

    #[test]
    fn r5_4_a_side_that_breaks_the_protocol_is_found_out() {
        let data = |count: usize| Frame::new(Kind::Data, vec![0; count]).encode();
        let taken = |count: u32| Frame::new(Kind::Taken, count.to_be_bytes().to_vec()).encode();
        let mut full = Tunnel::default();
        full.push(&data(WINDOW)).unwrap();
        assert_eq!(full.push(&data(1)), Err(TunnelError::Overrun));
        let mut untold = Tunnel::default();
        untold.push(&data(WINDOW)).unwrap();
        untold.pass(WINDOW);
        assert_eq!(untold.push(&data(1)), Err(TunnelError::Overrun), "it was not told that there is room");
        assert_eq!(Tunnel::default().push(&taken(1)), Err(TunnelError::Overtaken));
        let mut much = Tunnel::default();
        much.data(&b"123"[..]);
        assert_eq!(much.push(&taken(u32::MAX)), Err(TunnelError::Overtaken));
        let mut ended = Tunnel::default();
        ended.push(&Tunnel::end()).unwrap();
        assert_eq!(ended.push(&data(1)), Err(TunnelError::AfterEnd));
        assert_eq!(Tunnel::default().push(&Frame::new(Kind::StdinEof, Bytes::new()).encode()), Err(TunnelError::Kind(Kind::StdinEof)));
        assert!(matches!(Tunnel::default().push(&[0xff]), Err(TunnelError::Frame(FrameError::UnknownKind(0xff)))));
        assert!(matches!(Tunnel::default().push(&[Kind::Taken as u8, 0, 0, 0, 2, 0, 0]), Err(TunnelError::Frame(FrameError::Truncated))));
    }
}
