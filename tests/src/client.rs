//! A small blocking HTTP/1.1 client that hides nothing: one connection for each request, bodies as they come, early answers read.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::{clock::allowed, events::Events};

/// Nothing in the suites is silent for longer than this.
const SILENCE: Duration = Duration::from_secs(60);
const MAX_HEAD_LINES: usize = 200;

/// Where to ask, and with which key.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub key: Option<String>,
}

/// A request that is being put together.
#[derive(Debug)]
pub struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Streaming {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How the end of a body is found.
#[derive(Debug)]
enum Rest {
    Length(u64),
    /// What is left of the present chunk; `None` after the last.
    Chunk(Option<u64>),
    UntilClosed,
}

/// The bytes of an answer. Ends with an error when the server breaks it off.
#[derive(Debug)]
pub struct Body {
    stream: BufReader<TcpStream>,
    rest: Rest,
}

/// Whether a path is of a dialect, which takes keys and refuses in its own way, and asks for a key before it says what it has not got.
#[must_use]
pub fn is_foreign(path: &str) -> bool {
    foreign_key(path).is_some()
}

/// Whether a path is of the API of boxbox, which tells everybody what there is not, and lets pages of all origins ask.
#[must_use]
pub fn is_of_boxbox(path: &str) -> bool {
    path == "/execute" || path.starts_with("/executions/")
}

/// Whether a path is of the API of daiv-sandbox, which answers 403 to whoever has no key.
#[must_use]
pub fn is_of_daiv(path: &str) -> bool {
    ["/session", "/-"].into_iter().any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The header in which a dialect's path takes a key, and what stands in front of the key there.
#[must_use]
pub fn foreign_key(path: &str) -> Option<(&'static str, &'static str)> {
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let modbox = ["/sandboxes", "/sandbox/monitoring", "/sandbox-images", "/registries", "/workspaces", "/api-tokens", "/modbox"];
    match () {
        () if is_of_boxbox(path) || is_of_daiv(path) => Some(("x-api-key", "")),
        () if below("/v1/sandbox") => Some(("x-boxed-api-key", "")),
        () if modbox.into_iter().any(below) => Some(("authorization", "Bearer ")),
        () => None,
    }
}

impl Client {
    /// Begins a request.
    #[must_use]
    pub fn request(&self, method: &str, target: &str) -> Request {
        let headers = self.key.iter().map(|key| ("authorization".to_owned(), format!("Bearer {key}"))).collect();
        Request { address: self.address, method: method.to_owned(), target: target.to_owned(), headers, body: None }
    }
}

impl Request {
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").bytes(body.to_string())
    }

    #[must_use]
    pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends it and waits for the whole answer.
    #[track_caller]
    pub fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.target);
        self.try_send().unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The same for when the server may not be there.
    pub fn try_send(self) -> io::Result<Answer> {
        let mut streaming = self.try_open()?;
        let mut body = Vec::new();
        streaming.body.read_to_end(&mut body)?;
        Ok(Answer { status: streaming.status, headers: streaming.headers, body })
    }

    /// Sends it and returns with the head of the answer.
    #[track_caller]
    pub fn open(self) -> Streaming {
        let what = format!("{} {}", self.method, self.target);
        self.try_open().unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Asks for an event stream.
    #[track_caller]
    pub fn events(self) -> Events {
        let streaming = self.header("accept", "text/event-stream").open();
        if streaming.status != 200 {
            let (status, answer) = (streaming.status, streaming.whole());
            panic!("an event stream was refused with {status}: {}", answer.text());
        }
        Events::new(streaming.body)
    }

    /// Sends the body in chunks as it is made.
    #[track_caller]
    pub fn send_chunks(self, chunks: impl Iterator<Item = Vec<u8>>) -> Answer {
        let request = self.header("transfer-encoding", "chunked");
        let mut stream = request.connect().expect("the server takes connections");
        let sent = (|| {
            stream.write_all(request.head().as_bytes())?;
            for chunk in chunks {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(&chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")
        })();
        answer(stream, sent, &request.method).expect("the server answers").whole()
    }

    /// Sends the head and `part` of the body it announces. Dropping what is returned hangs up.
    #[track_caller]
    #[must_use]
    pub fn begin(self, announced: usize, part: &[u8]) -> TcpStream {
        let request = self.header("content-length", &announced.to_string());
        let mut stream = request.connect().expect("the server takes connections");
        stream.write_all(request.head().as_bytes()).expect("the head can be sent");
        stream.write_all(part).expect("a part of the body can be sent");
        stream
    }

    fn try_open(self) -> io::Result<Streaming> {
        let request = match &self.body {
            Some(body) => {
                let length = body.len().to_string();
                self.header("content-length", &length)
            }
            None if matches!(self.method.as_str(), "POST" | "PUT") && find(&self.headers, "content-length").is_none() => {
                self.header("content-length", "0")
            }
            None => self,
        };
        let mut stream = request.connect()?;
        let sent = stream.write_all(request.head().as_bytes()).and_then(|()| stream.write_all(request.body.as_deref().unwrap_or_default()));
        answer(stream, sent, &request.method)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, allowed(Duration::from_secs(10)))?;
        stream.set_read_timeout(Some(allowed(SILENCE)))?;
        stream.set_write_timeout(Some(allowed(SILENCE)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.target);
        if find(&self.headers, "host").is_none() {
            write!(head, "host: {}\r\n", self.address).expect("a string takes everything");
        }
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes everything");
        }
        head + "\r\n"
    }
}

/// Reads an answer, also one that came before the whole request was sent.
fn answer(stream: TcpStream, sent: io::Result<()>, method: &str) -> io::Result<Streaming> {
    let mut stream = BufReader::new(stream);
    match read_head(&mut stream) {
        Ok((status, headers)) => {
            let rest = rest_of(method, status, &headers)?;
            Ok(Streaming { status, headers, body: Body { stream, rest } })
        }
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not HTTP: {what}"))
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.take(64 << 10).read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = read_line(stream)?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).ok_or_else(|| malformed(&first))?;
    let mut headers = Vec::new();
    for _ in 0..MAX_HEAD_LINES {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Err(malformed("the head does not end"))
}

fn rest_of(method: &str, status: u16, headers: &[(String, String)]) -> io::Result<Rest> {
    if status == 204 || method == "HEAD" {
        return Ok(Rest::Length(0));
    }
    if find(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(Rest::Chunk(Some(0)));
    }
    match find(headers, "content-length") {
        Some(length) => Ok(Rest::Length(length.parse().map_err(|_| malformed(length))?)),
        None => Ok(Rest::UntilClosed),
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Rest::Chunk(Some(0)) = self.rest {
            let mut line = read_line(&mut self.stream)?;
            // The line break behind the chunk before.
            if line.is_empty() {
                line = read_line(&mut self.stream)?;
            }
            let size = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| malformed(&line))?;
            self.rest = Rest::Chunk((size > 0).then_some(size));
        }
        let left = match self.rest {
            Rest::Length(left) | Rest::Chunk(Some(left)) => left,
            Rest::Chunk(None) => 0,
            Rest::UntilClosed => u64::MAX,
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.stream.read(&mut buffer[..most])?;
        match &mut self.rest {
            Rest::UntilClosed => {}
            Rest::Length(left) | Rest::Chunk(Some(left)) => {
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server broke the answer off"));
                }
                *left -= count as u64;
            }
            Rest::Chunk(None) => {}
        }
        Ok(count)
    }
}

impl Streaming {
    /// Waits for the rest.
    #[track_caller]
    pub fn whole(mut self) -> Answer {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body).expect("the answer is complete");
        Answer { status: self.status, headers: self.headers, body }
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

impl Answer {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// A header that is a figure.
    #[track_caller]
    pub fn figure(&self, name: &str) -> u64 {
        let value = self.header(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers));
        value.parse().unwrap_or_else(|_| panic!("header {name} is {value}"))
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {}: {}", self.status, self.text()))
    }

    /// The same answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the answer is {:.2000}", self.text());
        self
    }

    /// The message of an error, which must have this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        let body = self.json();
        let error = &body["error"];
        assert_eq!((self.status, error["code"].as_str()), (status, Some(code)), "the answer is {:.2000}", self.text());
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty(), "an error says what to do");
        message
    }
}

/// Sends bytes as they are, and then the end of them, and returns what comes back until the server closes, at most 64 KiB. A server may take
/// whoever has no more to say for one that has gone, and not answer.
#[track_caller]
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    exchange(address, bytes, true)
}

/// The same for a whole request, which says itself that the connection ends with its answer.
#[track_caller]
pub fn raw_request(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    exchange(address, request, false)
}

#[track_caller]
fn exchange(address: SocketAddr, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, allowed(Duration::from_secs(10))).expect("the server takes connections");
    stream.set_read_timeout(Some(allowed(SILENCE))).expect("a time-out can be set");
    // A server that has seen enough may close before everything is sent.
    drop(stream.write_all(bytes));
    if ends {
        drop(stream.shutdown(std::net::Shutdown::Write));
    }
    let mut back = Vec::new();
    let mut buffer = [0; 4096];
    while back.len() < 64 << 10 {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => back.extend_from_slice(&buffer[..count]),
        }
    }
    back
}

/// The content type of [`multipart_form`].
pub const MULTIPART_FORM: &str = "multipart/form-data; boundary=b0undary";

/// A form (RFC 7578) of parts with name, file name and content.
#[must_use]
pub fn multipart_form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend_from_slice(format!("--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b0undary--\r\n");
    body
}

/// A path as a query value, byte for byte.
#[must_use]
pub fn encode_path(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            other => write!(text, "%{other:02X}").expect("a string takes everything"),
        }
    }
    text
}
