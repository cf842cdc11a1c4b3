//! Messages of DNS (RFC 1035), as far as a stub needs them: one question, and addresses as its answer. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};
use caisson_core::{BadHost, HostName};

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
/// What browsers ask beside addresses.
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
/// What fits into a datagram for everybody.
const DATAGRAM: usize = 512;
/// For how long an answer may be kept, in seconds.
const TTL: u32 = 10;

/// How an answer ends (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// What a program asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The first two bytes, and what is to be repeated of the third.
    id: [u8; 2],
    recursion: u8,
    /// As it came.
    section: Bytes,
    pub(super) name: Result<HostName, BadHost>,
    pub(super) kind: Kind,
}

/// What of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    V4,
    V6,
    /// Something that no name here has, and that is asked beside addresses.
    Nothing,
    Other,
}

/// Reads a question. The error is what is to be answered to something else, if anything is.
pub(super) fn read_question(message: &Bytes) -> Result<Question, Option<Bytes>> {
    let Some(head) = message.first_chunk::<HEADER>() else { return Err(None) };
    if head[2] & 0x80 != 0 {
        // An answer to nothing.
        return Err(None);
    }
    let (id, recursion) = ([head[0], head[1]], head[2] & 1);
    let malformed = |code| Some(answer(id, recursion, &[], code, &[]));
    if head[2] & 0x78 != 0 {
        return Err(malformed(Code::NotImplemented));
    }
    // One question, and nothing but additional records behind it.
    if head[4..10] != [0, 1, 0, 0, 0, 0] {
        return Err(malformed(Code::Malformed));
    }
    let (labels, end) = labels(message, HEADER, false).ok_or_else(|| malformed(Code::Malformed))?;
    let Some(&[k1, k2, c1, c2]) = message.get(end..end + 4) else { return Err(malformed(Code::Malformed)) };
    let kind = match (u16::from_be_bytes([k1, k2]), u16::from_be_bytes([c1, c2])) {
        (A, INTERNET) => Kind::V4,
        (AAAA, INTERNET) => Kind::V6,
        (SVCB | HTTPS, INTERNET) => Kind::Nothing,
        _ => Kind::Other,
    };
    let name = String::from_utf8(labels).map_err(|_| BadHost::Character).and_then(|name| name.parse());
    Ok(Question { id, recursion, section: message.slice(HEADER..end + 4), name, kind })
}

impl Question {
    /// The answer, with as many of these addresses as are of the kind that was asked for and fit.
    pub(super) fn reply(&self, code: Code, addresses: &[IpAddr]) -> Bytes {
        let wanted: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| matches!((self.kind, address), (Kind::V4, IpAddr::V4(_)) | (Kind::V6, IpAddr::V6(_))))
            .collect();
        answer(self.id, self.recursion, &self.section, code, &wanted)
    }
}

fn answer(id: [u8; 2], recursion: u8, section: &[u8], code: Code, addresses: &[IpAddr]) -> Bytes {
    let mut records = BytesMut::new();
    let mut count = 0u16;
    for address in addresses {
        let mut record = BytesMut::new();
        // The name is that of the question.
        record.put_u16(0xC000 | HEADER as u16);
        record.put_u16(if address.is_ipv4() { A } else { AAAA });
        record.put_u16(INTERNET);
        record.put_u32(TTL);
        match address {
            IpAddr::V4(address) => {
                record.put_u16(4);
                record.put_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                record.put_u16(16);
                record.put_slice(&address.octets());
            }
        }
        if HEADER + section.len() + records.len() + record.len() > DATAGRAM {
            break;
        }
        records.extend_from_slice(&record);
        count += 1;
    }
    let mut out = BytesMut::new();
    out.put_slice(&id);
    out.put_slice(&[0x80 | recursion, 0x80 | code as u8, 0, u8::from(!section.is_empty())]);
    out.put_u16(count);
    out.put_u32(0);
    out.put_slice(section);
    out.put_slice(&records);
    out.freeze()
}

/// The labels of a name with dots between them, and where it ends. One that leads elsewhere may do so a few times.
fn labels(message: &[u8], start: usize, compressed: bool) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut end, mut jumps, mut name) = (start, None, 0, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + length)?;
                if !name.is_empty() {
                    name.push(b'.');
                }
                // A dot within a label is none between two.
                if label.contains(&b'.') || name.len() + length > 253 {
                    return None;
                }
                name.extend_from_slice(label);
                at += 1 + length;
            }
            0xC0.. if compressed && jumps < 16 => {
                let to = (length & 0x3F) << 8 | usize::from(*message.get(at + 1)?);
                end.get_or_insert(at + 2);
                (at, jumps) = (to, jumps + 1);
            }
            _ => return None,
        }
    }
}

/// A question for a server.
pub(super) fn question(id: u16, host: &HostName, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    // Recursion is wanted; one question.
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.as_str().split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&INTERNET.to_be_bytes());
    out
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// It has more than fits.
    pub(super) truncated: bool,
    pub(super) no_such_name: bool,
    pub(super) failed: bool,
    pub(super) addresses: Vec<IpAddr>,
}

/// Reads an answer to [`question`]; `None` when it is none, or cannot be read. Whose addresses they are is not looked at: all of them are those of the
/// chain that begins with the name, and each is judged.
pub(super) fn read_answer(message: &[u8], asked: &[u8]) -> Option<Said> {
    let head = message.first_chunk::<HEADER>()?;
    if head[..2] != asked[..2] || head[2] & 0xF8 != 0x80 || head[4..6] != [0, 1] {
        return None;
    }
    let repeated = message.get(HEADER..asked.len())?;
    if !repeated.eq_ignore_ascii_case(&asked[HEADER..]) {
        return None;
    }
    let code = head[3] & 0xF;
    let mut said = Said {
        truncated: head[2] & 2 != 0,
        no_such_name: code == Code::NoSuchName as u8,
        failed: !matches!(code, 0 | 3),
        addresses: Vec::new(),
    };
    let mut at = asked.len();
    for _ in 0..u16::from_be_bytes([head[6], head[7]]) {
        let Some((_, end)) = labels(message, at, true) else { return said.truncated.then_some(said) };
        let Some(&[k1, k2, c1, c2, _, _, _, _, l1, l2]) = message.get(end..end + 10) else { return said.truncated.then_some(said) };
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        let Some(data) = message.get(end + 10..end + 10 + length) else { return said.truncated.then_some(said) };
        match (u16::from_be_bytes([k1, k2]), u16::from_be_bytes([c1, c2])) {
            (A, INTERNET) => said.addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            (AAAA, INTERNET) => said.addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        at = end + 10 + length;
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(name: &str, kind: u16) -> Bytes {
        question(7, &name.parse().unwrap(), kind).into()
    }

    #[test]
    fn what_is_asked_is_answered() {
        let question = asked("Example.org", A);
        let read = read_question(&question).unwrap();
        assert_eq!((read.name.clone().unwrap().as_str(), read.kind), ("example.org", Kind::V4));
        let addresses = ["1.2.3.4".parse().unwrap(), "2606::1".parse().unwrap(), "5.6.7.8".parse().unwrap()];
        let said = read_answer(&read.reply(Code::Fine, &addresses), &question).unwrap();
        assert_eq!(said.addresses, [addresses[0], addresses[2]]);
        let question = asked("a.b", AAAA);
        let said = read_answer(&read_question(&question).unwrap().reply(Code::Fine, &addresses), &question).unwrap();
        assert_eq!(said.addresses, [addresses[1]]);
        let said = read_answer(&read_question(&question).unwrap().reply(Code::NoSuchName, &[]), &question).unwrap();
        assert!(said.no_such_name && !said.failed && said.addresses.is_empty());
        let said = read_answer(&read_question(&question).unwrap().reply(Code::Refused, &[]), &question).unwrap();
        assert!(said.failed && !said.no_such_name);
        assert_eq!(read_question(&asked("a.b", HTTPS)).unwrap().kind, Kind::Nothing);
        assert_eq!(read_question(&asked("a.b", 16)).unwrap().kind, Kind::Other);
    }

    #[test]
    fn an_answer_fits_into_a_datagram() {
        let many: Vec<IpAddr> = (0..200).map(|n| Ipv4Addr::new(1, 2, 3, n).into()).collect();
        let question = asked(&["x"; 120].join("."), A);
        let reply = read_question(&question).unwrap().reply(Code::Fine, &many);
        assert!(reply.len() <= DATAGRAM && read_answer(&reply, &question).unwrap().addresses.len() > 10);
    }

    #[test]
    fn nonsense_is_answered_as_such_or_not_at_all() {
        let good = asked("a.b", A);
        assert_eq!(read_question(&good.slice(..11)), Err(None));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            read_question(&bytes.into())
        };
        assert_eq!(changed(2, 0x80), Err(None), "an answer");
        for (at, byte, code) in [
            (2, 0x29, Code::NotImplemented),
            (5, 2, Code::Malformed),
            (7, 1, Code::Malformed),
            (12, 0xC0, Code::Malformed),
            (12, 200, Code::Malformed),
        ] {
            let reply = changed(at, byte).unwrap_err().unwrap();
            assert_eq!(reply[3] & 0xF, code as u8, "{at} {byte}");
        }
        // A name that is none is read, and is for the judge to refuse.
        assert!(changed(13, 0).unwrap().name.is_err());
        // Another question than was asked is no answer.
        let reply = read_question(&good).unwrap().reply(Code::Fine, &[]);
        assert!(read_answer(&reply, &asked("a.c", A)).is_none() && read_answer(&good, &good).is_none());
    }

    proptest! {
        #[test]
        fn r5_4_no_message_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in 0usize..40, to: u8) {
            drop(read_question(&bytes.clone().into()));
            let good = asked("some.example", A);
            drop(read_answer(&bytes, &good));
            let mut reply = read_question(&good).unwrap().reply(Code::Fine, &["1.2.3.4".parse().unwrap()]).to_vec();
            let at = flip % reply.len();
            reply[at] = to;
            drop(read_answer(&reply, &good));
        }
    }
}
