//! Names are looked up by the host: by its own resolver, or at the servers that its operator names.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use caisson_core::HostName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};

use super::dns::{self, Said};

/// Names that are looked up at one time: each takes a thread of the host's resolver.
const AT_ONE_TIME: usize = 32;
/// For one name, whatever is tried.
const WITHIN: Duration = Duration::from_secs(10);
/// For one server to answer.
const SERVER_WITHIN: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Addresses of one name that are looked at.
const MOST_ADDRESSES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Resolver {
    /// None: the host's own resolver is asked.
    servers: Vec<SocketAddr>,
    turns: Arc<Semaphore>,
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("there is no such name")]
    NoSuchName,
    #[error("the name could not be looked up")]
    Failed,
}

impl Resolver {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, turns: Arc::new(Semaphore::new(AT_ONE_TIME)) }
    }

    /// The addresses of a name, some of which may be forbidden. None is no error: it may have something else.
    pub(crate) async fn look_up(&self, host: &HostName) -> Result<Vec<IpAddr>, NotFound> {
        let look_up = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| NotFound::Failed)?;
            if self.servers.is_empty() {
                let host = host.as_str().to_owned();
                // Whoever waits may give up; the thread has its turn for as long as it takes.
                let found = spawn_blocking(move || {
                    let found: io::Result<Vec<_>> = (host, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
                    drop(turn);
                    found
                });
                // Whether there is no such name is not told apart from a resolver that does not work (getaddrinfo(3)).
                return found.await.map_err(|_| NotFound::Failed)?.map_err(|_| NotFound::Failed);
            }
            let (v4, v6) = tokio::join!(self.ask(host, dns::A), self.ask(host, dns::AAAA));
            match (v4, v6) {
                (Ok(v4), Ok(v6)) => Ok([v4, v6].concat()),
                // Half of an answer is one.
                (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        };
        let mut found = timeout(WITHIN, look_up).await.unwrap_or(Err(NotFound::Failed))?;
        found.truncate(MOST_ADDRESSES);
        Ok(found)
    }

    async fn ask(&self, host: &HostName, kind: u16) -> Result<Vec<IpAddr>, NotFound> {
        for server in self.servers.iter().cycle().take(self.servers.len() * ATTEMPTS) {
            match timeout(SERVER_WITHIN, ask_one(*server, host, kind)).await {
                Ok(Ok(said)) if said.no_such_name => return Err(NotFound::NoSuchName),
                Ok(Ok(said)) if !said.failed => return Ok(said.addresses),
                // The next one may do better.
                _ => {}
            }
        }
        Err(NotFound::Failed)
    }
}

async fn ask_one(server: SocketAddr, host: &HostName, kind: u16) -> io::Result<Said> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let question = dns::question(u16::from_be_bytes(id), host, kind);
    let unspecified: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port that nobody knows, and nobody but the server is heard.
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = vec![0; 4096];
    let said = loop {
        let count = socket.recv(&mut answer).await?;
        if let Some(said) = dns::read_answer(&answer[..count], &question) {
            break said;
        }
    };
    if said.truncated { ask_over_tcp(server, &question).await } else { Ok(said) }
}

async fn ask_over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Said> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    dns::read_answer(&answer, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
