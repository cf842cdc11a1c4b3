//! A `caisson serve` of the benchmark's own, and connections to it that stay open.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tungstenite::{WebSocket, client::IntoClientRequest};

const KEY: &str = "key-of-the-benchmark-0123456789";
/// As `cp` does: a client that reads in small pieces would measure itself.
const READ_AT_ONCE: usize = 256 << 10;

/// The length of what comes in pieces (RFC 9112 §7.1).
const IN_PIECES: u64 = u64::MAX;

/// Ends with the benchmark.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    program: PathBuf,
}

impl Server {
    /// With or without a pool: `auto` or `off`.
    pub(crate) fn start(program: &Path, directory: &Path, pool: &str) -> Result<Self> {
        Self::start_with(program, directory, pool, &[])
    }

    /// With more settings.
    pub(crate) fn start_with(program: &Path, directory: &Path, pool: &str, settings: &[(&str, String)]) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = fs::File::create(directory.join("log"))?;
        let child = Command::new(program)
            .arg("serve")
            .env("CAISSON_LISTEN", address.to_string())
            .env("CAISSON_DATA_DIR", directory.join("data"))
            .env("CAISSON_API_KEY", KEY)
            .env("CAISSON_POOL", pool)
            .envs(settings.iter().cloned())
            .env_remove("CAISSON_BENCH_ENTERED")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        let mut server = Self { child, address, program: program.to_owned() };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended ({status}): {}", fs::read_to_string(directory.join("log"))?);
            }
            if begin.elapsed() > Duration::from_secs(20) {
                bail!("the server does not listen: {}", fs::read_to_string(directory.join("log"))?);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// A command of the program against this server.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CAISSON_SERVER", format!("http://{}", self.address)).env("CAISSON_API_KEY", KEY).stdin(Stdio::null());
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::with_capacity(READ_AT_ONCE, stream), body: Vec::new() })
    }
}

impl Server {
    /// A request whose answer ends with its connection, and comes as it is (HTTP/1.0).
    pub(crate) fn begin(&self, path: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n").as_bytes())?;
        Ok(stream)
    }

    pub(crate) fn socket(&self, path: &str) -> Result<WebSocket<TcpStream>> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse()?);
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        tungstenite::client(request, stream).map(|(socket, _)| socket).map_err(|error| anyhow!("no WebSocket at {path}: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = Command::new("kill").arg(self.child.id().to_string()).status().is_ok_and(|status| status.success());
        let begin = Instant::now();
        while stopped && begin.elapsed() < Duration::from_secs(20) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It does not stop by itself.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Connection {
    /// Sends a request and reads the whole answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        self.reader.get_mut().write_all(&request)?;
        let (status, length) = self.head()?;
        self.read_body(length)?;
        if !status.starts_with('2') {
            bail!("{method} {path} was answered with {status}: {}", String::from_utf8_lossy(&self.body));
        }
        if self.body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&self.body)?) }
    }

    /// Sends bytes to a program's standard input.
    pub(crate) fn send_input(&mut self, execution: &str, bytes: &[u8]) -> Result<()> {
        let head = format!(
            "POST /v1/executions/{execution}/stdin HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        self.reader.get_mut().write_all(&[head.as_bytes(), bytes].concat())?;
        let (status, length) = self.head()?;
        self.body.resize(usize::try_from(length)?, 0);
        self.reader.read_exact(&mut self.body)?;
        if status.starts_with('2') { Ok(()) } else { bail!("input was answered with {status}: {}", String::from_utf8_lossy(&self.body)) }
    }

    /// Sends a file as the one field of a form.
    pub(crate) fn send_form(&mut self, path: &str, field: &str, file: &Path) -> Result<()> {
        let mut file = fs::File::open(file)?;
        let begin = format!("--b\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"file\"\r\n\r\n");
        let end = "\r\n--b--\r\n";
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
            file.metadata()?.len() + (begin.len() + end.len()) as u64
        );
        self.reader.get_mut().write_all(&[head, begin].concat().into_bytes())?;
        std::io::copy(&mut file, self.reader.get_mut())?;
        self.reader.get_mut().write_all(end.as_bytes())?;
        let (status, length) = self.head()?;
        self.body.resize(usize::try_from(length)?, 0);
        self.reader.read_exact(&mut self.body)?;
        if status.starts_with('2') {
            Ok(())
        } else {
            bail!("POST {path} was answered with {status}: {}", String::from_utf8_lossy(&self.body))
        }
    }

    /// Sends a file's content.
    pub(crate) fn upload(&mut self, path: &str, file: &Path) -> Result<()> {
        let mut file = fs::File::open(file)?;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n",
            file.metadata()?.len()
        );
        self.reader.get_mut().write_all(head.as_bytes())?;
        std::io::copy(&mut file, self.reader.get_mut())?;
        let (status, length) = self.head()?;
        self.body.resize(usize::try_from(length)?, 0);
        self.reader.read_exact(&mut self.body)?;
        if status == "200" { Ok(()) } else { bail!("PUT {path} was answered with {status}: {}", String::from_utf8_lossy(&self.body)) }
    }

    /// Writes a content into a file.
    pub(crate) fn download(&mut self, path: &str, file: &Path) -> Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n");
        self.reader.get_mut().write_all(head.as_bytes())?;
        let (status, length) = self.head()?;
        let copied = std::io::copy(&mut self.reader.by_ref().take(length), &mut fs::File::create(file)?)?;
        if status == "200" && copied == length { Ok(()) } else { bail!("GET {path} was answered with {status} and {copied} bytes") }
    }

    /// All of an answer, which may come in pieces.
    fn read_body(&mut self, length: u64) -> Result<()> {
        self.body.clear();
        if length != IN_PIECES {
            self.body.resize(usize::try_from(length)?, 0);
            return Ok(self.reader.read_exact(&mut self.body)?);
        }
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let piece = u64::from_str_radix(line.trim(), 16).context("no length of a piece")?;
            self.reader.by_ref().take(piece).read_to_end(&mut self.body)?;
            self.reader.read_line(&mut line)?;
            if piece == 0 {
                return Ok(());
            }
        }
    }

    /// Status and length of an answer, or [`IN_PIECES`].
    fn head(&mut self) -> Result<(String, u64)> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status")?.to_owned();
        let mut length = 0;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            if line.to_ascii_lowercase().starts_with("transfer-encoding: chunked") {
                length = IN_PIECES;
            }
        }
        Ok((status, length))
    }

    /// A new sandbox's id.
    pub(crate) fn sandbox(&mut self) -> Result<String> {
        let made = self.ask("POST", "/v1/sandboxes", &json!({}))?;
        Ok(made["id"].as_str().context("it has an id")?.to_owned())
    }
}
