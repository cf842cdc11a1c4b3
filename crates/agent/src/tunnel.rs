//! Connections to what listens on the sandbox's own loopback interface, carried over the stream to the server.
//!
//! ```text
//! request frames ──▶ [ arrived ] ──▶ socket          the end of either direction is passed on;
//! answer frames  ◀── what may be sent ◀── socket     when the server hangs up, the socket is closed
//! ```

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use caisson_sys::process::waiting_bytes;
use caisson_wire::{
    Refusal, RefusalCode,
    tunnel::{MAX_TUNNELS, Tunnel},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{body::Answer, query::Query, refusal::refuse, setup::Agent};

/// Answer frames on their way; the program waits in its socket when the server does not read.
const FRAMES: usize = 2;
const READ_CHUNK: usize = 32 << 10;
/// How long a program may take to have a place in its queue of connections.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Those that there may be: each takes a descriptor of the agent, which is needed for other things as well.
#[derive(Debug)]
pub(crate) struct Tunnels(Arc<Semaphore>);

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TUNNELS)))
    }
}

pub(crate) async fn connect(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let port = Query::of(request.uri()).number::<NonZeroU16>("port")?;
    let port = port.ok_or_else(|| refuse(RefusalCode::Invalid, "`port` is missing"))?;
    let place = Arc::clone(&agent.tunnels.0).try_acquire_owned().map_err(|_| {
        refuse(RefusalCode::Exhausted, format!("{MAX_TUNNELS} connections to its ports are open already; close one of them"))
    })?;
    let stream = dial(port.get()).await?;
    let (frames, answer) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        if let Err(error) = carry(&stream, request.into_body(), &frames).await {
            // Nobody listens any more: then nobody has to be told.
            drop(frames.send(Err(error)).await);
        }
        drop(place);
    });
    Ok(Response::new(Answer::Breakable(answer)))
}

async fn dial(port: u16) -> Result<TcpStream, Refusal> {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let error = match timeout(CONNECT_WITHIN, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) if is_to_itself(&stream) => continue,
            Ok(Ok(stream)) => {
                // Whoever wrote it decided how it is cut. Where that cannot be set, it is only slower.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let message = format!("what listens on port {port} takes no connections: none within {} s", CONNECT_WITHIN.as_secs());
                return Err(refuse(RefusalCode::Failed, message));
            }
        };
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NETUNREACH) => {}
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                return Err(refuse(RefusalCode::Exhausted, format!("no room for a connection to port {port}")));
            }
            _ => return Err(refuse(RefusalCode::Failed, format!("cannot connect to port {port}: {error}"))),
        }
    }
    Err(refuse(RefusalCode::NotListening, format!("nothing listens on port {port}")))
}

/// Where nobody listens, the kernel may choose the very port for the near end of the connection, which then meets itself.
fn is_to_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(near), Ok(far)) if near == far)
}

/// Until both directions have ended, or the server has hung up, which is `false`: then something is missing. An error when it broke the protocol.
pub(crate) async fn carry(stream: &TcpStream, mut body: Incoming, frames: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<bool> {
    let mut tunnel = Tunnel::default();
    let mut outgoing = VecDeque::new();
    let (mut reading, mut writing, mut listening) = (true, true, true);
    loop {
        outgoing.extend(tunnel.news());
        if writing && tunnel.is_drained() {
            writing = false;
            // It has closed its side already: then it knows.
            shutdown(stream, Shutdown::Write).ok();
        }
        if !reading && !writing && outgoing.is_empty() {
            return Ok(true);
        }
        tokio::select! {
            // Nothing is lost by losing: readiness stays, frames stay where they are, and there is nothing behind the end of a channel.
            // Who has heard all and said all may go before the program has taken it.
            () = frames.closed(), if reading || !tunnel.has_ended() => return Ok(false),
            frame = body.frame(), if listening => match frame {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    tunnel.push(&data).map_err(io::Error::other)?;
                    if !writing {
                        // The program takes no more; whoever sends it is not to wait for that.
                        tunnel.pass(tunnel.arrived().len());
                    }
                }
                _ if tunnel.has_ended() => listening = false,
                // The server says when it has nothing more for the program. This is its hanging up.
                _ => return Ok(false),
            },
            room = frames.reserve(), if !outgoing.is_empty() => match room {
                Ok(room) => if let Some(frame) = outgoing.pop_front() {
                    room.send(Ok(frame));
                },
                // Nobody is left to be told.
                Err(_) => outgoing.clear(),
            },
            ready = stream.readable(), if reading && outgoing.is_empty() && tunnel.room() > 0 => {
                ready?;
                // No larger than what waits, so that many idle connections do not cost much memory.
                let mut chunk = vec![0; waiting_bytes(stream.as_fd()).clamp(1, tunnel.room().min(READ_CHUNK))];
                match stream.try_read(&mut chunk) {
                    Ok(0) => {
                        reading = false;
                        outgoing.push_back(Tunnel::end());
                    }
                    Ok(count) => {
                        chunk.truncate(count);
                        outgoing.push_back(tunnel.data(chunk));
                    }
                    Err(error) if is_passing(&error) => {}
                    // Told in its place, behind what came before: a stream that is reset may lose that.
                    Err(_) => {
                        (reading, writing) = (false, false);
                        tunnel.pass(tunnel.arrived().len());
                        outgoing.push_back(Tunnel::broken());
                    }
                }
            }
            ready = stream.writable(), if writing && !tunnel.arrived().is_empty() => {
                ready?;
                match stream.try_write(tunnel.arrived()) {
                    Ok(count) => tunnel.pass(count),
                    Err(error) if is_passing(&error) => {}
                    // What it has said before is still to be read.
                    Err(_) => {
                        writing = false;
                        tunnel.pass(tunnel.arrived().len());
                    }
                }
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
