//! Ways out of a sandbox. The agent announces who wants out, in the two bodies of `POST /egress`; the server judges, and what it lets out it
//! takes over with `POST /egress/accept`. Nothing that leaves is decided or read by the agent.
//!
//! ```text
//! agent → server:  (Announced | Question)*
//! server → agent:  (Declined | Reply)*
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::frame::{Frame, FrameError, Kind};

/// Where the agent listens, on the sandbox's loopback interface.
pub const ADDRESS: &str = "127.0.0.53";
/// A proxy of HTTP.
pub const PROXY_PORT: u16 = 3128;
/// A name server.
pub const DNS_PORT: u16 = 53;

/// The descriptors on which the agent finds its sockets: listening for the proxy, of the name server (datagrams, and listening), and, where
/// connections are redirected, listening for those, and what redirects them, which is to stay open.
pub const PROXY_FD: i32 = 4;
pub const DNS_FD: i32 = 5;
pub const DNS_STREAM_FD: i32 = 6;
pub const REDIRECTED_FD: i32 = 7;
pub const REDIRECTION_FD: i32 = 8;

/// Connections out of one sandbox at one time.
pub const MAX_CONNECTIONS: usize = 1000;
/// Questions of one sandbox that wait for an answer.
pub const MAX_QUESTIONS: usize = 256;
/// Bytes of a question, and of an answer.
pub const MAX_QUESTION: usize = 4096;
/// Bytes of an announcement.
pub const ANNOUNCED: usize = 27;

/// Which ways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaysOut {
    /// Whether connections are redirected that programs make to addresses of others.
    pub redirected: bool,
    /// Whether nobody has made them before, so that the agent does.
    pub own: bool,
}

/// Where to take over a connection.
#[must_use]
pub fn uri(id: u64) -> String {
    format!("/egress/accept?id={id}")
}

/// A program has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Ascending.
    pub id: u64,
    pub way: Way,
}

/// What a program has connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The proxy.
    Proxy,
    /// This address, which is somebody else's.
    Redirected(SocketAddr),
}

/// A message of DNS and the number by which question and answer belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub number: u32,
    pub message: Bytes,
}

impl Announced {
    /// As it travels.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(ANNOUNCED);
        out.put_u64(self.id);
        if let Way::Redirected(to) = self.way {
            out.put_u8(1);
            let address = match to.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            out.put_slice(&address.octets());
            out.put_u16(to.port());
        } else {
            out.put_u8(0);
        }
        Frame::new(Kind::Announced, out.freeze()).encode()
    }

    /// From the payload of a frame.
    pub fn read(payload: &[u8]) -> Result<Self, FrameError> {
        let (id, rest) = payload.split_first_chunk::<8>().ok_or(FrameError::Truncated)?;
        let way = match rest {
            [0] => Way::Proxy,
            [1, rest @ ..] => {
                let (address, port) = rest.split_first_chunk::<16>().ok_or(FrameError::Truncated)?;
                let port: [u8; 2] = port.try_into().map_err(|_| FrameError::Truncated)?;
                // Of an address in both forms there is only one way to say it.
                Way::Redirected(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(), u16::from_be_bytes(port)))
            }
            _ => return Err(FrameError::Truncated),
        };
        Ok(Self { id: u64::from_be_bytes(*id), way })
    }
}

impl Message {
    /// As it travels: [`Kind::Question`] or [`Kind::Reply`].
    #[must_use]
    pub fn encode(&self, kind: Kind) -> Bytes {
        let mut out = BytesMut::with_capacity(4 + self.message.len());
        out.put_u32(self.number);
        out.put_slice(&self.message);
        Frame::new(kind, out.freeze()).encode()
    }

    /// From the payload of a frame.
    pub fn read(payload: &Bytes) -> Result<Self, FrameError> {
        let number = payload.first_chunk::<4>().ok_or(FrameError::Truncated)?;
        Ok(Self { number: u32::from_be_bytes(*number), message: payload.slice(4..) })
    }
}

/// A refusal as it travels.
#[must_use]
pub fn declined(id: u64) -> Bytes {
    Frame::new(Kind::Declined, id.to_be_bytes().to_vec()).encode()
}

/// What a refusal is about.
pub fn read_declined(payload: &[u8]) -> Result<u64, FrameError> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| FrameError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;

    fn payload(frame: &[u8], kind: Kind) -> Bytes {
        let mut decoder = Decoder::default();
        decoder.push(frame);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.kind, kind);
        frame.payload
    }

    #[test]
    fn what_is_said_is_heard() {
        for way in [Way::Proxy, Way::Redirected("1.2.3.4:443".parse().unwrap()), Way::Redirected("[2606::1]:80".parse().unwrap())] {
            let said = Announced { id: u64::MAX - 1, way };
            assert_eq!(Announced::read(&payload(&said.encode(), Kind::Announced)), Ok(said));
        }
        let message = Message { number: 7, message: Bytes::from_static(b"question") };
        assert_eq!(Message::read(&payload(&message.encode(Kind::Question), Kind::Question)), Ok(message));
        assert_eq!(read_declined(&payload(&declined(9), Kind::Declined)), Ok(9));
    }

    #[test]
    fn r5_4_nonsense_is_found_out() {
        for bad in [&b""[..], b"1234567", b"12345678", b"12345678\x02", b"12345678\x00x", b"12345678\x01abc", &[1; 28]] {
            assert!(Announced::read(bad).is_err(), "{bad:?}");
        }
        assert!(Message::read(&Bytes::from_static(b"123")).is_err() && read_declined(b"1234567").is_err());
        let mapped = [&[0; 8][..], &[1], &"::ffff:1.2.3.4".parse::<Ipv6Addr>().unwrap().octets(), &[1, 187]].concat();
        assert_eq!(Announced::read(&mapped).unwrap().way, Way::Redirected("1.2.3.4:443".parse().unwrap()));
    }
}
