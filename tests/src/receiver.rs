//! A receiver of webhooks that answers as it is told, well or badly.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value;

/// A request that has come.
#[derive(Debug, Clone)]
pub struct Message {
    /// Method and target.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    #[track_caller]
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(have, _)| have == name);
        &found.unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers)).1
    }

    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    /// With more headers, each with its line break.
    With(u16, String),
    /// These bytes, and then the end.
    Raw(Vec<u8>),
    /// A status, and a body without end.
    Endless(u16),
    /// Nothing, ever.
    Silence,
}

type Answering = dyn Fn(usize, &Message) -> Reply + Send + Sync;

#[derive(Debug, Default)]
struct State {
    messages: Mutex<Vec<Message>>,
    /// Connections that are open.
    streams: Mutex<Vec<(usize, TcpStream)>>,
    over: AtomicBool,
}

/// See the module. Nobody listens any more when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

impl Receiver {
    /// `answer` is given how many requests came before, and the request.
    #[must_use]
    pub fn start(answer: impl Fn(usize, &Message) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("it is an address"), answer)
    }

    /// The same where there was one before.
    #[track_caller]
    #[must_use]
    pub fn start_at(address: SocketAddr, answer: impl Fn(usize, &Message) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State::default());
        let accepting = thread::spawn({
            let (state, answer): (_, Arc<Answering>) = (Arc::clone(&state), Arc::new(answer));
            move || accept(&listener, &state, &answer)
        });
        Self { address, state, accepting: Some(accepting) }
    }

    /// One that says yes to everything.
    #[must_use]
    pub fn fine() -> Self {
        Self::start(|_, _| Reply::Status(200))
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What has come so far.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.state.messages).clone()
    }

    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.state.messages).len()
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        lock(&self.state.streams).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<State>, answer: &Arc<Answering>) {
    thread::scope(|scope| {
        for (number, stream) in listener.incoming().enumerate() {
            if state.over.load(Ordering::SeqCst) {
                break;
            }
            let stream = stream.expect("connections can be accepted");
            lock(&state.streams).push((number, stream.try_clone().expect("a socket can be shared")));
            scope.spawn(move || {
                serve(stream, state, answer);
                lock(&state.streams).retain(|(open, _)| *open != number);
            });
        }
        lock(&state.streams).iter().for_each(|(_, stream)| drop(stream.shutdown(Shutdown::Both)));
    });
}

/// Requests on one connection, until either side has had enough.
fn serve(mut stream: TcpStream, state: &State, answer: &Arc<Answering>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    while let Some(message) = read(&mut reader) {
        let before = {
            let mut messages = lock(&state.messages);
            messages.push(message.clone());
            messages.len() - 1
        };
        let go_on = match answer(before, &message) {
            Reply::Status(status) => stream.write_all(head(status, "content-length: 0\r\n").as_bytes()),
            Reply::With(status, headers) => stream
                .write_all(head(status, &format!("content-length: 9\r\n{headers}")).as_bytes())
                .and_then(|()| stream.write_all(b"SECRETIVE")),
            Reply::Raw(bytes) => return drop(stream.write_all(&bytes)),
            Reply::Endless(status) => {
                let mut sent = stream.write_all(head(status, "").as_bytes());
                while sent.is_ok() {
                    sent = stream.write_all(&[b'x'; 4096]);
                }
                return;
            }
            // The other side hangs up, or this one is dropped.
            Reply::Silence => return drop(reader.read(&mut [0])),
        };
        if go_on.is_err() {
            return;
        }
    }
}

fn head(status: u16, headers: &str) -> String {
    format!("HTTP/1.1 {status} Whatever\r\n{headers}\r\n")
}

fn read(reader: &mut impl BufRead) -> Option<Message> {
    let mut line = || {
        let mut text = String::new();
        let count = reader.read_line(&mut text).ok()?;
        (count > 0).then(|| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let next = line()?;
        if next.is_empty() {
            break;
        }
        let (name, value) = next.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Message { line: first, headers, body })
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        // Wakes whoever accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            // Whatever became of it, nobody listens any more.
            drop(accepting.join());
        }
    }
}
