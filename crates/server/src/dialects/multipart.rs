//! `multipart/form-data` (RFC 7578), part by part. No more than a piece of the body is in memory, however long its parts and their heads.

use std::io;

use bytes::Bytes;
use caisson_engine::ByteStream;
use futures::StreamExt;
use http::{HeaderMap, header};
use memchr::memmem;

/// The longest boundary (RFC 2046 §5.1.1), and the longest head of a part.
const MAX_BOUNDARY: usize = 70;
const MAX_HEAD: usize = 16 << 10;

/// A body that is taken apart.
pub(super) struct Multipart {
    content: ByteStream,
    /// What has come and was not taken.
    buffer: Bytes,
    /// With the line break and the dashes in front of it.
    delimiter: Vec<u8>,
    /// Whether the delimiter of the present part is still to come.
    inside: bool,
}

/// What a part says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) name: String,
    /// Present for files.
    pub(super) file_name: Option<String>,
}

impl Multipart {
    /// The body of a request that says that it has parts.
    pub(super) fn new(headers: &HeaderMap, content: ByteStream) -> Option<Self> {
        let boundary = boundary(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)?;
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter stands at the begin of the body or of a line of what may come before it, which is a part for nobody.
        Some(Self { content, buffer: Bytes::from_static(b"\r\n"), delimiter, inside: true })
    }

    /// The next part, `None` behind the last. What is left of the one before is passed over.
    pub(super) async fn next(&mut self) -> io::Result<Option<Head>> {
        while self.data().await?.is_some() {}
        loop {
            if self.buffer.starts_with(b"--") {
                return Ok(None);
            }
            if let Some(end) = memmem::find(&self.buffer, b"\r\n") {
                // Blanks may stand behind a delimiter, and nothing else.
                if !self.buffer[..end].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                    return Err(malformed("something stands behind a boundary"));
                }
                // Its line break is that of a head without lines, too.
                let head = &self.buffer[end..];
                if let Some(length) = memmem::find(head, b"\r\n\r\n") {
                    let head = head_of(&head[..length])?;
                    let _passed = self.buffer.split_to(end + length + 4);
                    self.inside = true;
                    return Ok(Some(head));
                }
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(malformed("the head of a part is too long"));
            }
            self.more().await?;
        }
    }

    /// The next piece of the present part, `None` at its end.
    pub(super) async fn data(&mut self) -> io::Result<Option<Bytes>> {
        while self.inside {
            if let Some(at) = memmem::find(&self.buffer, &self.delimiter) {
                let rest = self.buffer.split_to(at);
                let _delimiter = self.buffer.split_to(self.delimiter.len());
                self.inside = false;
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            let safe = self.buffer.len() - self.begun();
            if safe > 0 {
                return Ok(Some(self.buffer.split_to(safe)));
            }
            self.more().await?;
        }
        Ok(None)
    }

    /// Passes over what may stand behind the last part, so that a body that was cut is not taken for a whole one.
    pub(super) async fn rest(&mut self) -> io::Result<()> {
        self.buffer.clear();
        while let Some(piece) = self.content.next().await {
            piece?;
        }
        Ok(())
    }

    /// How much of a delimiter stands at the end of what has come.
    fn begun(&self) -> usize {
        let longest = self.buffer.len().min(self.delimiter.len() - 1);
        let tail = &self.buffer[self.buffer.len() - longest..];
        memchr::memchr_iter(b'\r', tail).map(|at| &tail[at..]).find(|end| self.delimiter.starts_with(end)).map_or(0, <[u8]>::len)
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.content.next().await {
            Some(piece) => {
                let piece = piece?;
                self.buffer = if self.buffer.is_empty() { piece } else { [&self.buffer[..], &piece].concat().into() };
                Ok(())
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended within a part")),
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn boundary(kind: &str) -> Option<String> {
    let (name, rest) = kind.split_once(';')?;
    if !name.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let (_, boundary) = parameters(rest).into_iter().find(|(name, _)| name == "boundary")?;
    let fine = (1..=MAX_BOUNDARY).contains(&boundary.len()) && boundary.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    fine.then_some(boundary)
}

fn head_of(lines: &[u8]) -> io::Result<Head> {
    let text = String::from_utf8_lossy(lines);
    let disposition = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.trim())
    });
    let Some(disposition) = disposition else { return Err(malformed("a part has no Content-Disposition")) };
    let mut head = Head::default();
    let mut encoded = None;
    for (name, value) in parameters(disposition.split_once(';').map_or("", |(_, rest)| rest)) {
        match name.as_str() {
            "name" => head.name = value,
            "filename" => head.file_name = Some(value),
            // RFC 5987, from clients that are older than RFC 7578.
            "filename*" => encoded = value.splitn(3, '\'').nth(2).map(percent_decoded),
            _ => {}
        }
    }
    head.file_name = encoded.or(head.file_name);
    Ok(head)
}

/// `a=b; c="d; \"e\""`, names in lower case.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([';', ' ', '\t']);
    while let Some((name, behind)) = rest.split_once('=') {
        let name = name.trim().to_ascii_lowercase();
        let (value, left) = match behind.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                (behind[..end].trim().to_owned(), &behind[end..])
            }
        };
        found.push((name, value));
        rest = left.trim_start_matches([';', ' ', '\t']);
    }
    found
}

/// Up to the closing quotation mark. A backslash stands for itself but before a quotation mark or another one.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match (c, characters.peek()) {
            ('"', _) => return (value, &text[at + 1..]),
            ('\\', Some((_, next @ ('"' | '\\')))) => {
                value.push(*next);
                characters.next();
            }
            (c, _) => value.push(c),
        }
    }
    (value, "")
}

pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::HeaderValue;

    use super::*;

    fn of(pieces: Vec<Vec<u8>>) -> Multipart {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=\"b\""))]);
        Multipart::new(&headers, Box::pin(stream::iter(pieces.into_iter().map(|piece| Ok(piece.into()))))).unwrap()
    }

    async fn parts(mut body: Multipart) -> io::Result<Vec<(Head, Vec<u8>)>> {
        let mut parts = Vec::new();
        while let Some(head) = body.next().await? {
            let mut content = Vec::new();
            while let Some(piece) = body.data().await? {
                content.extend_from_slice(&piece);
            }
            parts.push((head, content));
        }
        body.rest().await?;
        Ok(parts)
    }

    const BODY: &[u8] = b"preamble\r\n--b \t\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;\\\"b\\\".txt\"\r\nContent-Type: text/plain\r\n\r\n\
        one\r\n--\r\n-b\r\n--c\r\n\r\n--b\r\ncontent-disposition: form-data; name=path\r\n\r\n\r\n--b--\r\nepilogue";

    #[tokio::test]
    async fn a_body_is_the_same_however_it_is_cut_into_pieces() {
        let whole = parts(of(vec![BODY.to_vec()])).await.unwrap();
        assert_eq!(whole[0].0, Head { name: "file".into(), file_name: Some("a;\"b\".txt".into()) });
        assert_eq!(whole[0].1, b"one\r\n--\r\n-b\r\n--c\r\n");
        assert_eq!((whole[1].0.name.as_str(), &whole[1].1[..], whole.len()), ("path", &b""[..], 2));
        for at in 0..BODY.len() {
            assert_eq!(parts(of(vec![BODY[..at].to_vec(), BODY[at..].to_vec()])).await.unwrap(), whole, "{at}");
        }
        assert_eq!(parts(of(BODY.iter().map(|byte| vec![*byte]).collect())).await.unwrap(), whole);
    }

    #[tokio::test]
    async fn what_is_cut_short_is_an_error() {
        let end = BODY.windows(5).position(|window| window == b"--b--").unwrap() + 5;
        for at in 0..end {
            assert!(parts(of(vec![BODY[..at].to_vec()])).await.is_err(), "{at}");
        }
        assert!(parts(of(vec![BODY[..end].to_vec()])).await.is_ok());
    }

    #[tokio::test]
    async fn heads_and_boundaries_have_an_end() {
        let endless = [b"--b\r\nContent-Disposition: form-data; name=\"".to_vec(), vec![b'x'; 20 << 10], vec![b'x'; 20 << 10]];
        assert!(parts(of(endless.into())).await.unwrap_err().to_string().contains("too long"));
        assert!(parts(of(vec![b"--bx\r\n\r\n\r\n--b--".to_vec()])).await.is_err());
        assert!(parts(of(vec![b"--b\r\nX: y\r\n\r\n\r\n--b--".to_vec()])).await.is_err());
    }

    #[test]
    fn boundaries_are_found_or_not() {
        for (kind, expect) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/mixed; boundary=a", None),
            ("application/json", None),
        ] {
            assert_eq!(boundary(kind).as_deref(), expect, "{kind}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    #[test]
    fn names_of_files_come_in_many_ways() {
        for (disposition, name) in [
            ("form-data; name=\"file\"; filename=\"\u{e4}.txt\"", "\u{e4}.txt"),
            ("form-data; name=\"file\"; filename*=utf-8''%C3%A4.txt", "\u{e4}.txt"),
            ("form-data; name=\"file\"; filename=\"a.txt\"; filename*=UTF-8''b%20c.txt", "b c.txt"),
            ("form-data; name=\"file\"; filename=plain", "plain"),
            ("form-data; name=\"file\"; filename=\"C:\\dir\\x\"", "C:\\dir\\x"),
            ("form-data; name=\"file\"; filename=\"open", "open"),
        ] {
            let head = head_of(format!("\r\nContent-Disposition: {disposition}").as_bytes()).unwrap();
            assert_eq!(head, Head { name: "file".into(), file_name: Some(name.into()) });
        }
    }
}
