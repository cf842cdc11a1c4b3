//! Servers that speak S3, by others, and a line to them that goes wrong as it is told.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;

use crate::{clock::eventually, docker_registry::Ended, server::Setup};

const BUCKET: &str = "files";
const ACCESS_KEY: &str = "access-key-of-the-tests";
const SECRET_KEY: &str = "secret-key-of-the-tests";
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Kind {
    /// `s3s-fs`: keeps objects as files.
    Files,
    /// `moto`: keeps them in memory.
    Moto,
}

/// A server with an empty bucket.
#[derive(Debug)]
pub struct S3Server {
    _process: Ended,
    _directory: TempDir,
    pub address: SocketAddr,
}

impl S3Server {
    #[track_caller]
    #[must_use]
    pub fn start(kind: S3Kind) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
            listener.local_addr().expect("a listener has an address")
        };
        let port = address.port().to_string();
        let mut command = match kind {
            S3Kind::Files => {
                fs::create_dir(directory.path().join(BUCKET)).expect("a bucket is a directory there");
                let mut command = Command::new(installed("s3s-fs/bin/s3s-fs"));
                command.args(["--host", "127.0.0.1", "--port", &port, "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
                command.arg(directory.path());
                command
            }
            S3Kind::Moto => {
                let mut command = Command::new(installed("moto/bin/moto_server"));
                command.args(["-H", "127.0.0.1", "-p", &port]);
                command
            }
        };
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        let server = Self { _process: Ended(process), _directory: directory, address };
        eventually("the S3 server listens", UP_WITHIN, || TcpStream::connect(address).ok());
        if kind == S3Kind::Moto {
            server.make_bucket();
        }
        server
    }

    /// Moto asks nobody who they are, but for which service.
    fn make_bucket(&self) {
        let scope = format!("Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request");
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nAuthorization: AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        let answer = String::from_utf8_lossy(&crate::raw(self.address, request.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A server of ours whose workspaces are there, asked at this address.
#[must_use]
pub fn with_s3(setup: Setup, address: SocketAddr) -> Setup {
    setup
        .env("CAISSON_BLOB_URL", format!("s3://{BUCKET}/some/prefix"))
        .env("CAISSON_S3_ENDPOINT", format!("http://{address}"))
        .env("CAISSON_S3_ACCESS_KEY_ID", ACCESS_KEY)
        .env("CAISSON_S3_SECRET_ACCESS_KEY", SECRET_KEY)
}

#[track_caller]
fn installed(path: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/s3").join(path);
    assert!(program.exists(), "there is no {}; run `tools/s3-servers`", program.display());
    program
}

/// What a line does with the next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every answer has this status.
    Status(u16),
    /// Requests are taken and never answered.
    Silent,
    /// Connections end after so many bytes of requests.
    CutAfter(usize),
    /// Nobody listens, as far as anybody can tell.
    Refused,
}

/// A line to an S3 server.
#[derive(Debug)]
pub struct FaultyLine {
    pub address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    asked: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl FaultyLine {
    #[must_use]
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let fault = Arc::new(Mutex::new(Fault::None));
        let (asked, closing): (Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (line, count, closed) = (Arc::clone(&fault), Arc::clone(&asked), Arc::clone(&closing));
        let accepting = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if closed.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                let (line, closed) = (Arc::clone(&line), Arc::clone(&closed));
                thread::spawn(move || serve(client, server, &line, &closed));
            }
        });
        Self { address, fault, asked, closing, accepting: Some(accepting) }
    }

    /// From now on, also on connections that are open.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Connections so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

impl Drop for FaultyLine {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// One connection: looks at the fault before everything that is passed on.
fn serve(mut client: TcpStream, server: SocketAddr, fault: &Mutex<Fault>, closing: &AtomicBool) {
    let now = || *fault.lock().unwrap_or_else(PoisonError::into_inner);
    if now() == Fault::Refused {
        return;
    }
    let Ok(mut upstream) = TcpStream::connect(server) else { return };
    let (Ok(mut answers), Ok(mut back)) = (upstream.try_clone(), client.try_clone()) else { return };
    thread::spawn(move || {
        drop(std::io::copy(&mut answers, &mut back));
        drop(back.shutdown(std::net::Shutdown::Both));
    });
    let mut passed = 0;
    let mut piece = [0; 16 << 10];
    while let Ok(count @ 1..) = client.read(&mut piece) {
        match now() {
            Fault::None => {}
            Fault::Status(status) => {
                let body = "<Error><Code>Fault</Code><Message>of the test</Message></Error>";
                let answer = format!("HTTP/1.1 {status} Fault\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                drop(client.write_all(answer.as_bytes()));
                break;
            }
            Fault::Silent => {
                while now() == Fault::Silent && !closing.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(20));
                }
                break;
            }
            Fault::CutAfter(bytes) if passed + count > bytes => break,
            Fault::CutAfter(_) => {}
            Fault::Refused => break,
        }
        passed += count;
        if upstream.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    drop(client.shutdown(std::net::Shutdown::Both));
    drop(upstream.shutdown(std::net::Shutdown::Both));
}
