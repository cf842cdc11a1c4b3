//! What a program says first on a connection, as far as it names a host: the server name of TLS (RFC 6066), or the head of a request. No I/O.

use caisson_core::{Asked, HostName};

use super::head::Malformed;

/// So much is looked at.
pub(super) const LONGEST: usize = 64 << 10;
/// The longest first line of text.
const LINE: usize = 16 << 10;
const TLS_1_2: u16 = 0x0303;

/// What it turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Speaks {
    /// TLS with a host of this name, if it says one.
    Tls(Option<HostName>),
    Http,
    Other,
}

/// `None` where more has to come first.
pub(super) fn look(bytes: &[u8]) -> Result<Option<Speaks>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(0x16) => hello(bytes),
        Some(_) => text(bytes),
    }
}

/// Whether it is the first line of a request, or something that cannot be taken for one. What lenient servers might take for one counts as one,
/// and is then read as strictly as any.
fn text(bytes: &[u8]) -> Result<Option<Speaks>, Malformed> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let method = &line[..line.iter().take_while(|byte| is_of_token(**byte)).count()];
    match line.get(method.len()) {
        Some(b' ' | b'\t' | b'\r' | 0x0B | 0x0C) if method.is_empty() => return Err(Malformed("the first line begins with a blank")),
        Some(b' ' | b'\t' | b'\r' | 0x0B | 0x0C) => {}
        // Behind a method stands a blank.
        Some(_) => return Ok(Some(Speaks::Other)),
        None if end.is_some() && method.is_empty() => return Err(Malformed("the first line is empty")),
        None => {}
    }
    if end.is_none() {
        return if bytes.len() > LINE { Err(Malformed("the first line is longer than 16 KiB")) } else { Ok(None) };
    }
    if line.windows(5).any(|part| part.eq_ignore_ascii_case(b"HTTP/")) {
        return if method == b"PRI" { Err(Malformed("HTTP/2 without TLS cannot be looked into")) } else { Ok(Some(Speaks::Http)) };
    }
    let of_http = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
    if of_http.iter().any(|name| method.eq_ignore_ascii_case(name.as_bytes())) {
        return Err(Malformed("a request has no version"));
    }
    Ok(Some(Speaks::Other))
}

/// RFC 9110 §5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The greeting of a client (RFC 8446 §4.1.2), which may be cut into several records.
fn hello(bytes: &[u8]) -> Result<Option<Speaks>, Malformed> {
    const BROKEN: Malformed = Malformed("the greeting of TLS cannot be read");
    let mut message = Vec::new();
    let mut rest = bytes;
    let length = loop {
        if let Some(&[kind, a, b, c]) = message.first_chunk::<4>() {
            let length = 4 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
            if kind != 1 || length > LONGEST {
                return Err(BROKEN);
            }
            if message.len() >= length {
                break length;
            }
        }
        let Some((&[kind, major, _, l1, l2], behind)) = rest.split_first_chunk::<5>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        if kind != 0x16 || major != 3 || length == 0 || length > 17 << 10 {
            return Err(BROKEN);
        }
        let Some(fragment) = behind.get(..length) else { return Ok(None) };
        message.extend_from_slice(fragment);
        rest = &behind[length..];
    };
    let mut at = Cursor(&message[4..length]);
    let version = at.number(2).ok_or(BROKEN)?;
    if version < usize::from(TLS_1_2) {
        return Err(Malformed("TLS is older than 1.2"));
    }
    at.take(32).ok_or(BROKEN)?;
    for width in [1, 2, 1] {
        // Session, ciphers, compression.
        let length = at.number(width).ok_or(BROKEN)?;
        at.take(length).ok_or(BROKEN)?;
    }
    if at.0.is_empty() {
        return Ok(Some(Speaks::Tls(None)));
    }
    let length = at.number(2).ok_or(BROKEN)?;
    let mut extensions = Cursor(at.take(length).ok_or(BROKEN)?);
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2).ok_or(BROKEN)?;
        let length = extensions.number(2).ok_or(BROKEN)?;
        let mut data = Cursor(extensions.take(length).ok_or(BROKEN)?);
        if kind != 0 {
            continue;
        }
        let length = data.number(2).ok_or(BROKEN)?;
        let mut list = Cursor(data.take(length).ok_or(BROKEN)?);
        // One name, of the one kind there is.
        let (kind, length) = (list.number(1).ok_or(BROKEN)?, list.number(2).ok_or(BROKEN)?);
        let text = std::str::from_utf8(list.take(length).ok_or(BROKEN)?).map_err(|_| BROKEN)?;
        if kind != 0 || !list.0.is_empty() || name.is_some() {
            return Err(BROKEN);
        }
        match text.parse() {
            Ok(Asked::Name(host)) => name = Some(host),
            // Some clients say an address, which names no host.
            Ok(Asked::Address(_)) => {}
            Err(_) => return Err(Malformed("the server name of TLS is none")),
        }
    }
    Ok(Some(Speaks::Tls(name)))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A greeting for these names, in records of this length.
    fn greeting(names: &[&str], version: u16, record: usize) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0];
        for name in names {
            let length = name.len() as u16;
            extensions.extend([0, 0]);
            extensions.extend((length + 5).to_be_bytes());
            extensions.extend((length + 3).to_be_bytes());
            extensions.push(0);
            extensions.extend(length.to_be_bytes());
            extensions.extend(name.as_bytes());
        }
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        message.chunks(record).flat_map(|part| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat()).collect()
    }

    #[test]
    fn the_name_in_a_greeting_is_found_however_it_is_cut() {
        for record in [1, 7, 1000] {
            let bytes = greeting(&["Example.org"], 0x0303, record);
            assert_eq!(look(&bytes), Ok(Some(Speaks::Tls(Some("example.org".parse().unwrap())))));
            assert!((1..bytes.len()).all(|end| look(&bytes[..end]) == Ok(None)), "it waits for the rest");
        }
        assert_eq!(look(&greeting(&[], 0x0303, 1000)), Ok(Some(Speaks::Tls(None))));
        assert_eq!(look(&greeting(&["1.2.3.4"], 0x0303, 1000)), Ok(Some(Speaks::Tls(None))));
        for (names, version) in
            [(&["a.b", "c.d"][..], 0x0303), (&["a b"], 0x0303), (&["2130706433"], 0x0303), (&["a.b\0"], 0x0303), (&["a.b"], 0x0302)]
        {
            assert!(look(&greeting(names, version, 1000)).is_err(), "{names:?} {version:x}");
        }
    }

    #[test]
    fn r3_2_requests_are_known_also_where_a_server_would_be_lenient() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "get / http/1.0\n",
            "G /\tHTTP/1.1 \r\n",
            "GET / HTTP/9\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
            "GET /\x01 HTTP/1.1\r\n",
            "GET\x0b/\x0cHTTP/1.1\n",
            "FOO / HTTP/1.1 x\r\n",
        ] {
            assert_eq!(look(text.as_bytes()), Ok(Some(Speaks::Http)), "{text:?}");
        }
        for text in ["\r\nGET / HTTP/1.1\r\n", "\nGET / HTTP/1.1\r\n", " GET / HTTP/1.1\r\n", "GET /\r\n", "post x\n", "PRI * HTTP/2.0\r\n"]
        {
            assert!(look(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in ["SSH-2.0-x\r\n", "EHLO a\r\n", "*1\r\n", "\0\0\0\x08", "abc\0"] {
            assert_eq!(look(text.as_bytes()), Ok(Some(Speaks::Other)), "{text:?}");
        }
        for text in ["", "G", "GET / HTTP/1.1"] {
            assert_eq!(look(text.as_bytes()), Ok(None), "{text:?}");
        }
        assert!(look(&vec![b'a'; LINE + 1]).is_err());
    }

    proptest! {
        #[test]
        fn r5_4_no_greeting_is_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..300), tls: bool, at in 0usize..200, to: u8) {
            if tls && !bytes.is_empty() {
                bytes[0] = 0x16;
            }
            drop(look(&bytes));
            let mut good = greeting(&["example.org"], 0x0303, 50);
            let at = at % good.len();
            good[at] = to;
            drop(look(&good));
        }
    }
}
