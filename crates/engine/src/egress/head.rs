//! Heads of HTTP/1.1 messages (RFC 9112), read strictly: what two readers could understand differently is refused. No I/O.

/// The longest head.
pub(super) const LONGEST: usize = 64 << 10;
const MOST_FIELDS: usize = 200;

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// The second figure of the version.
    pub(super) minor: u8,
    pub(super) fields: Fields,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// The first line, as it came.
    line: Vec<u8>,
    pub(super) fields: Fields,
}

/// Names and values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fields(Vec<(String, Vec<u8>)>);

/// What is changed of a request on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct PutIn<'a> {
    /// Goes in place of every other of its name.
    pub(super) field: Option<(&'a str, &'a str)>,
    /// Whether its answer has to be one that can be read.
    pub(super) legible: bool,
    /// Whether its method and its path were judged: then no field says otherwise.
    pub(super) judged: bool,
}

/// By these some hosts take another method or path than that of the request.
const OTHERWISE: [&str; 5] = ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// How long what comes behind a head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Bytes(u64),
    Chunked,
}

/// A message that is none, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Where a head ends that begins here; `None` while it does not.
pub(super) fn end(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    while let Some(line) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        if line == 0 || bytes[at + line - 1] != b'\r' {
            return Err(Malformed("a line does not end with CR and LF"));
        }
        if line == 1 {
            return Ok(Some(at + 2));
        }
        at += line + 1;
    }
    if bytes.len() > LONGEST { Err(Malformed("the head is longer than 64 KiB")) } else { Ok(None) }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The lines of a whole head, without the empty one at its end.
fn lines(head: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Malformed("the head does not end"))?;
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F) {
            return Err(Malformed("the head has characters that no head has"));
        }
        lines.push(line);
    }
    Ok(lines)
}

fn fields(lines: &[&[u8]]) -> Result<Fields, Malformed> {
    if lines.len() > MOST_FIELDS {
        return Err(Malformed("the head has more than 200 fields"));
    }
    let field = |line: &&[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed("a field has no colon"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // A name with blanks around it, and a line that goes on with the one before, are of those that readers understand differently.
        if !is_token(name) {
            return Err(Malformed("a field has a name that is none"));
        }
        Ok((String::from_utf8_lossy(name).into_owned(), value.trim_ascii().to_vec()))
    };
    lines.iter().map(field).collect::<Result<_, _>>().map(Fields)
}

impl Request {
    pub(super) fn read(head: &[u8]) -> Result<Self, Malformed> {
        let lines = lines(head)?;
        let (first, rest) = lines.split_first().ok_or(Malformed("there is no request"))?;
        let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
        let &[method, target, version] = &words[..] else {
            return Err(Malformed("the first line is not a method, a target and a version with one blank between them"));
        };
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => return Err(Malformed("the version is not HTTP/1.1")),
        };
        if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed("the method or the target has characters that none has"));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self { method: text(method), target: text(target), minor, fields: fields(rest)? })
    }

    /// The one host that it names.
    pub(super) fn host(&self) -> Result<Option<&str>, Malformed> {
        let mut hosts = self.fields.all("host");
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Malformed("there is more than one `Host`"));
        }
        match host {
            None if self.minor == 1 => Err(Malformed("there is no `Host`")),
            None => Ok(None),
            Some(host) => std::str::from_utf8(host).map(Some).map_err(|_| Malformed("`Host` is no host")),
        }
    }

    /// What comes behind it.
    pub(super) fn body(&self) -> Result<Body, Malformed> {
        let mut codings = self.fields.all("transfer-encoding");
        let mut lengths = self.fields.all("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Body::Bytes(0)),
            (Some(_), Some(_)) => Err(Malformed("there are both `Transfer-Encoding` and `Content-Length`")),
            (Some(coding), None) if codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") && self.minor == 1 => {
                Ok(Body::Chunked)
            }
            (Some(_), None) => Err(Malformed("`Transfer-Encoding` is not `chunked` alone, in HTTP/1.1")),
            (None, Some(length)) if lengths.next().is_none() => {
                number(length, 10).map(Body::Bytes).ok_or(Malformed("`Content-Length` is no number"))
            }
            (None, Some(_)) => Err(Malformed("there is more than one `Content-Length`")),
        }
    }

    /// What the connection is to become, if it is to become something else: a WebSocket (RFC 6455), which stays with its host. In all other
    /// protocols hosts may be named that nobody would hear.
    pub(super) fn upgrade(&self) -> Option<&[u8]> {
        let wanted = self.fields.names_of_connection().any(|name| name == "upgrade");
        let mut protocols = self.fields.all("upgrade");
        protocols.next().filter(|protocol| wanted && protocol.eq_ignore_ascii_case(b"websocket") && protocols.next().is_none())
    }

    /// Whether another one may come behind it.
    pub(super) fn keeps(&self) -> bool {
        self.minor == 1 && !self.fields.names_of_connection().any(|name| name == "close")
    }

    /// As it goes on: to `target` of `host`, with what is put in, and others behind it if they are to be.
    pub(super) fn onward(&self, target: &str, host: &str, body: Body, put_in: &PutIn<'_>, keep: bool) -> Vec<u8> {
        let mut out = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", self.method).into_bytes();
        let mut without = vec!["host", "content-length", "http2-settings"];
        let name = put_in.field.map(|(name, _)| name.to_ascii_lowercase());
        without.extend(name.as_deref());
        if put_in.legible {
            // Of an answer that comes in parts, each would have only a part of a secret.
            without.extend(["accept-encoding", "range", "if-range", "sec-websocket-extensions"]);
        }
        if put_in.judged {
            without.extend(OTHERWISE);
        }
        self.fields.pass_on(&without, &mut out);
        if put_in.legible {
            out.extend_from_slice(b"Accept-Encoding: identity\r\n");
        }
        if let Some((name, value)) = put_in.field {
            out.extend_from_slice(&[name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        match body {
            Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Body::Bytes(_) if self.fields.all("content-length").next().is_none() => {}
            Body::Bytes(length) => out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
        }
        match self.upgrade() {
            Some(protocol) => {
                out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
                out.extend_from_slice(protocol);
                out.extend_from_slice(b"\r\n\r\n");
            }
            None if keep => out.extend_from_slice(b"\r\n"),
            None => out.extend_from_slice(b"Connection: close\r\n\r\n"),
        }
        out
    }
}

impl Response {
    pub(super) fn read(head: &[u8]) -> Result<Self, Malformed> {
        let lines = lines(head)?;
        let (first, rest) = lines.split_first().ok_or(Malformed("there is no answer"))?;
        let status = first
            .strip_prefix(b"HTTP/1.")
            .filter(|rest| matches!(rest.first(), Some(b'0' | b'1')) && rest.get(1) == Some(&b' '))
            .and_then(|rest| number(rest.get(2..5)?, 10))
            .and_then(|status| u16::try_from(status).ok());
        let status = status.filter(|status| *status >= 100).ok_or(Malformed("the answer has no status"))?;
        Ok(Self { status, line: first.to_vec(), fields: fields(rest)? })
    }

    /// Whether another head comes behind it.
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// What comes behind it, to a request of this method; `None` is all there is until the end.
    pub(super) fn body(&self, method: &str) -> Result<Option<Body>, Malformed> {
        if method == "HEAD" || matches!(self.status, 204 | 304) {
            return Ok(Some(Body::Bytes(0)));
        }
        let mut codings = self.fields.all("transfer-encoding");
        let mut lengths = self.fields.all("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Malformed("the answer has both `Transfer-Encoding` and `Content-Length`")),
            (Some(coding), None) if codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Body::Chunked)),
            (Some(_), None) => Ok(None),
            (None, Some(length)) if lengths.all(|other| other == length) => {
                number(length, 10).map(|length| Some(Body::Bytes(length))).ok_or(Malformed("`Content-Length` of the answer is no number"))
            }
            (None, Some(_)) => Err(Malformed("the answer has two lengths")),
        }
    }

    /// Whether another request may be made behind it.
    pub(super) fn keeps(&self) -> bool {
        self.line.starts_with(b"HTTP/1.1") && !self.fields.names_of_connection().any(|name| name == "close")
    }

    /// Whether what comes behind it cannot be read as it is.
    pub(super) fn is_encoded(&self) -> bool {
        let is_other =
            |name: &str, plain: &[u8]| self.fields.all(name).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(plain));
        is_other("content-encoding", b"identity")
            || is_other("transfer-encoding", b"chunked")
            || self.fields.all("transfer-encoding").count() > 1
    }

    /// As it goes on; unless it is kept, nothing comes behind what it brings.
    pub(super) fn onward(&self, keep: bool) -> Vec<u8> {
        let mut out = [&self.line[..], b"\r\n"].concat();
        self.fields.pass_on(&[], &mut out);
        for coding in self.fields.all("transfer-encoding") {
            out.extend_from_slice(&[b"Transfer-Encoding: ", coding, b"\r\n"].concat());
        }
        if !self.is_interim() && !keep {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// The same of one that makes the connection something else.
    pub(super) fn switched(&self) -> Vec<u8> {
        let mut out = [&self.line[..], b"\r\n"].concat();
        for (name, value) in &self.fields.0 {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

impl Fields {
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// What `Connection` names, in small letters.
    fn names_of_connection(&self) -> impl Iterator<Item = String> {
        self.all("connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
    }

    /// All that is not about one connection alone, nor among these.
    fn pass_on(&self, without: &[&str], out: &mut Vec<u8>) {
        const OF_ONE_CONNECTION: [&str; 9] = [
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let named: Vec<String> = self.names_of_connection().collect();
        for (name, value) in &self.0 {
            let small = name.to_ascii_lowercase();
            if !OF_ONE_CONNECTION.contains(&small.as_str()) && !without.contains(&small.as_str()) && !named.contains(&small) {
                out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
        }
    }
}

/// The size at the beginning of a chunk, whose line is whole.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    number(digits, 16).ok_or(Malformed("a chunk has no size"))
}

/// Digits and nothing else.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let fine = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(|byte| char::from(*byte).is_digit(radix));
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| fine)?, radix).ok().filter(|number| *number < 1 << 62)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Request, Malformed> {
        assert_eq!(end(text.as_bytes()).map(|end| end == Some(text.len())), Ok(true), "{text:?}");
        Request::read(text.as_bytes())
    }

    #[test]
    fn a_request_goes_on_without_what_is_of_one_connection() {
        let text = "POST http://a.b/c HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nProxy-Authorization: x\r\nAccept:  */*\r\n\r\n";
        let request = request(text).unwrap();
        assert_eq!((request.body(), request.host()), (Ok(Body::Bytes(5)), Ok(Some("a.b"))));
        let onward = String::from_utf8(request.onward("/c", "a.b", Body::Bytes(5), &PutIn::default(), false)).unwrap();
        assert_eq!(onward, "POST /c HTTP/1.1\r\nHost: a.b\r\nAccept: */*\r\nContent-Length: 5\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn r3_2_what_could_be_smuggled_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(request(text).unwrap().body().is_err(), "{text:?}");
        }
        for text in
            ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"]
        {
            assert!(request(text).unwrap().host().is_err(), "{text:?}");
        }
        for text in [
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\tb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "G:T / HTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(request(text).is_err(), "{text:?}");
        }
        for text in ["GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\n\r\n", "\nGET / HTTP/1.1\r\n\r\n"] {
            assert!(end(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(end(&vec![b'a'; LONGEST + 1]).is_err());
        for (line, expect) in [("5", Some(5)), ("fF;x=y", Some(255)), ("", None), ("+5", None), ("0x5", None), ("5 5", None), ("-1", None)]
        {
            assert_eq!(chunk_size(line.as_bytes()).ok(), expect, "{line}");
        }
    }

    #[test]
    fn an_answer_goes_on_and_says_that_it_is_the_last() {
        let head = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n";
        let onward = String::from_utf8(Response::read(head).unwrap().onward(false)).unwrap();
        assert_eq!(onward, "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let body = |fields: &str, method| Response::read(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).unwrap().body(method);
        assert_eq!((body("", "GET"), body("", "HEAD")), (Ok(None), Ok(Some(Body::Bytes(0)))));
        assert_eq!(body("Content-Length: 5\r\nContent-Length: 5\r\n", "GET"), Ok(Some(Body::Bytes(5))));
        assert_eq!(
            (body("Transfer-Encoding: chunked\r\n", "GET"), body("Transfer-Encoding: gzip, chunked\r\n", "GET")),
            (Ok(Some(Body::Chunked)), Ok(None))
        );
        assert!(
            body("Content-Length: 5\r\nContent-Length: 6\r\n", "GET").is_err()
                && body("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "GET").is_err()
        );
        assert!(Response::read(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap().is_interim());
        for bad in ["HTTP/2 200\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "HTTP/1.1 99\r\n\r\n"] {
            assert!(Response::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
