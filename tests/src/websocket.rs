//! A WebSocket of the server, with one message after the other.

use std::{
    io,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;
use tungstenite::{
    Error, Message, WebSocket,
    client::IntoClientRequest,
    handshake::HandshakeError,
    http::{HeaderName, HeaderValue},
    protocol::CloseFrame,
};

use crate::{
    clock::{allowed, eventually},
    server::{Server, database_connections},
};

/// How long the suites wait for a message.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Socket {
    inner: WebSocket<TcpStream>,
}

/// A message of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The stream, the offset and the bytes.
    Output(u8, u64, Vec<u8>),
    Control(Value),
    /// The code and the reason.
    Closed(u16, String),
}

/// An upgrade that was refused: the status and the body.
#[derive(Debug)]
pub struct NoUpgrade {
    pub status: u16,
    pub body: Vec<u8>,
}

impl NoUpgrade {
    /// The code of the error.
    #[must_use]
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Server {
    /// Opens a WebSocket there.
    #[track_caller]
    #[must_use]
    pub fn socket(&self, target: &str) -> Socket {
        self.try_socket(target, &[]).unwrap_or_else(|refused| panic!("no WebSocket at {target}: {refused:?}"))
    }

    /// The same with other headers, which may be refused.
    #[track_caller]
    pub fn try_socket(&self, target: &str, headers: &[(&str, &str)]) -> Result<Socket, NoUpgrade> {
        let mut request = format!("ws://{}{target}", self.client.address).into_client_request().expect("it is an address");
        if let Some(key) = &self.client.key {
            let value = HeaderValue::from_str(&format!("Bearer {key}")).expect("a key fits into a header");
            request.headers_mut().insert("authorization", value);
        }
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("it is a header");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("it is a header's value"));
        }
        let stream = TcpStream::connect(self.client.address).expect("the server takes connections");
        stream.set_read_timeout(Some(allowed(PATIENCE))).expect("a time-out can be set");
        stream.set_write_timeout(Some(allowed(PATIENCE))).expect("a time-out can be set");
        stream.set_nodelay(true).expect("it is a TCP socket");
        match tungstenite::client::client(request, stream) {
            Ok((inner, _)) => Ok(Socket { inner }),
            Err(HandshakeError::Failure(Error::Http(answer))) => {
                Err(NoUpgrade { status: answer.status().as_u16(), body: answer.body().clone().unwrap_or_default() })
            }
            Err(other) => panic!("no answer at {target}: {other}"),
        }
    }
}

impl Socket {
    /// The next message that is not about the connection being alive.
    #[track_caller]
    #[must_use]
    pub fn hear(&mut self) -> Heard {
        self.try_hear().unwrap_or_else(|error| panic!("the WebSocket broke: {error}"))
    }

    /// The same where it may break.
    pub fn try_hear(&mut self) -> Result<Heard, Error> {
        // The server says again and again that it is there, which no time-out of the connection outlasts.
        let deadline = Instant::now() + allowed(PATIENCE);
        loop {
            match self.inner.read()? {
                Message::Binary(bytes) => {
                    let (stream, rest) = bytes.split_first().expect("output has a stream");
                    let offset = u64::from_be_bytes(*rest.first_chunk().expect("output has an offset"));
                    return Ok(Heard::Output(*stream, offset, rest[8..].to_vec()));
                }
                Message::Text(text) => return Ok(Heard::Control(serde_json::from_str(&text).expect("control messages are JSON"))),
                Message::Close(frame) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    // The answer to the close goes out with the next look.
                    drop(self.inner.flush());
                    return Ok(Heard::Closed(code, reason));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) if Instant::now() < deadline => {}
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Err(Error::Io(io::ErrorKind::TimedOut.into())),
            }
        }
    }

    /// The next text message, which must be of this type; output before it is dropped.
    #[track_caller]
    #[must_use]
    pub fn control(&mut self, kind: &str) -> Value {
        loop {
            match self.hear() {
                Heard::Output(..) => {}
                Heard::Control(message) => {
                    assert_eq!(message["type"], kind, "{message:#}");
                    return message;
                }
                Heard::Closed(code, reason) => panic!("closed with {code} ({reason}) instead of `{kind}`"),
            }
        }
    }

    /// What it says until it closes: both outputs, the last text message, the code of the close.
    #[track_caller]
    #[must_use]
    pub fn to_the_end(&mut self) -> (Vec<u8>, Vec<u8>, Value, u16) {
        let (mut stdout, mut stderr, mut last) = (Vec::new(), Vec::new(), Value::Null);
        loop {
            match self.hear() {
                Heard::Output(1, offset, bytes) => {
                    assert_eq!(offset, stdout.len() as u64);
                    stdout.extend(bytes);
                }
                Heard::Output(_, offset, bytes) => {
                    assert_eq!(offset, stderr.len() as u64);
                    stderr.extend(bytes);
                }
                Heard::Control(message) => last = message,
                Heard::Closed(code, _) => return (stdout, stderr, last, code),
            }
        }
    }

    /// Types this.
    #[track_caller]
    pub fn send(&mut self, bytes: impl Into<Vec<u8>>) {
        self.inner.send(Message::Binary(bytes.into().into())).expect("it can be sent");
    }

    /// Sends a text message as it is.
    #[track_caller]
    pub fn say(&mut self, text: impl Into<String>) {
        self.inner.send(Message::Text(text.into().into())).expect("it can be sent");
    }

    /// Says goodbye with this code and reason.
    #[track_caller]
    pub fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.inner.close(Some(frame)).expect("it can be sent");
    }

    /// The connection below, for those who do not keep to the rules.
    pub fn raw(&mut self) -> &mut TcpStream {
        self.inner.get_mut()
    }
}

/// Somebody at a terminal: what was typed and what has shown.
#[derive(Debug)]
pub struct Typist {
    pub socket: Socket,
    /// The execution.
    pub id: String,
    /// Everything that has shown, and up to where it was looked at.
    pub shown: Vec<u8>,
    looked_at: usize,
}

impl Typist {
    /// Begins at what the server says first.
    #[track_caller]
    #[must_use]
    pub fn new(mut socket: Socket) -> Self {
        let start = socket.control("start");
        assert_eq!(start["terminal"], true, "{start:#}");
        Self { id: start["id"].as_str().expect("it has an id").to_owned(), socket, shown: Vec::new(), looked_at: 0 }
    }

    #[track_caller]
    pub fn types(&mut self, keys: &str) {
        self.socket.send(keys);
    }

    /// Reads on until this shows, behind what was seen before.
    #[track_caller]
    pub fn sees(&mut self, what: &str) {
        loop {
            if let Some(at) = find(&self.shown[self.looked_at..], what.as_bytes()) {
                self.looked_at += at + what.len();
                return;
            }
            match self.socket.try_hear() {
                Ok(Heard::Output(1, offset, bytes)) => {
                    assert_eq!(offset, self.shown.len() as u64, "output is contiguous");
                    self.shown.extend(bytes);
                }
                Err(Error::Io(error)) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("`{what}` does not show in:\n{}", String::from_utf8_lossy(&self.shown))
                }
                other => panic!("{other:?} instead of `{what}` behind:\n{}", String::from_utf8_lossy(&self.shown)),
            }
        }
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resizes(&mut self, cols: u16, rows: u16) {
        self.socket.say(serde_json::json!({"type": "resize", "cols": cols, "rows": rows}).to_string());
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Waits until a process of the server has no more descriptors than before, those aside that a database of its own takes when it has to.
#[track_caller]
pub fn descriptors_come_back(server: &Server, before: usize) {
    let most = before + database_connections();
    eventually(&format!("no more than {most} descriptors"), Duration::from_secs(15), || (descriptors(server) <= most).then_some(()));
}

/// How many descriptors the server has open.
#[must_use]
pub fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count)
}
