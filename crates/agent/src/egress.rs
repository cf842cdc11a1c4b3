//! Ways out of the sandbox: whoever connects to the proxy, to the name server or, where connections are redirected, to an address of somebody else
//! is announced to the server, which decides. Nothing of what is said is read here.
//!
//! ```text
//! accept ──▶ Announced ──▶ server ──▶ POST /egress/accept ──▶ [`carry`]
//!                            └──────▶ Declined ──▶ reset
//! question ──▶ Question ──▶ server ──▶ Reply ──▶ answer
//! ```
//!
//! Until the server has asked for announcements, connections wait in the kernel. When it hangs up, the sockets are closed, and nobody gets out.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use caisson_sys::kernel::adopt_fd;
use caisson_wire::{
    Refusal, RefusalCode,
    egress::{
        ADDRESS, Announced, DNS_FD, DNS_PORT, DNS_STREAM_FD, MAX_CONNECTIONS, MAX_QUESTION, MAX_QUESTIONS, Message, PROXY_FD, PROXY_PORT,
        REDIRECTED_FD, REDIRECTION_FD, Way, WaysOut, read_declined,
    },
    frame::{Decoder, Frame, FrameError, Kind},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, interval, timeout},
};

use crate::{body::Answer, query::Query, refusal::refuse, setup::Agent, tunnel::carry};

/// Announcements on their way.
const FRAMES: usize = 16;
/// How long the server may take to decide.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to answer a question.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection to the name server may say nothing, and how many there may be.
const DNS_IDLE: Duration = Duration::from_secs(10);
const DNS_CONNECTIONS: usize = 16;
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When there is no descriptor for a connection, others have to go first.
const REST: Duration = Duration::from_millis(50);

/// The ways out of this sandbox, if there are any.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    ways: Mutex<Option<Ways>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Ways {
    proxy: OwnedFd,
    dns: OwnedFd,
    dns_stream: OwnedFd,
    redirected: Option<(OwnedFd, OwnedFd)>,
}

/// A connection that was announced.
#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    since: Instant,
    place: OwnedSemaphorePermit,
}

/// Who asked a question.
#[derive(Debug)]
enum Asker {
    Datagram(SocketAddr),
    Stream(oneshot::Sender<Bytes>),
}

impl Outlet {
    /// Takes over what the launcher has left open, or makes it where the network namespace is somebody else's work.
    pub(crate) fn adopt(ways_out: Option<WaysOut>) -> io::Result<Self> {
        let Some(WaysOut { redirected, own }) = ways_out else { return Ok(Self::default()) };
        let ways = if own {
            Ways {
                proxy: std::net::TcpListener::bind((ADDRESS, PROXY_PORT))?.into(),
                dns: std::net::UdpSocket::bind((ADDRESS, DNS_PORT))?.into(),
                dns_stream: std::net::TcpListener::bind((ADDRESS, DNS_PORT))?.into(),
                redirected: None,
            }
        } else {
            Ways {
                proxy: adopt_fd(PROXY_FD)?,
                dns: adopt_fd(DNS_FD)?,
                dns_stream: adopt_fd(DNS_STREAM_FD)?,
                redirected: if redirected { Some((adopt_fd(REDIRECTED_FD)?, adopt_fd(REDIRECTION_FD)?)) } else { None },
            }
        };
        Ok(Self { ways: Mutex::new(Some(ways)), waiting: Mutex::default() })
    }

    fn take(&self, id: u64) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    fn keep(&self, id: u64, waiting: Waiting) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, waiting);
    }

    /// Resets whatever nobody has decided about.
    fn forget_before(&self, then: Instant) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, waiting| {
            let fresh = waiting.since > then;
            if !fresh {
                will_reset(&waiting.stream);
            }
            fresh
        });
    }
}

/// Begins to announce.
pub(crate) async fn open(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let ways = agent.outlet.ways.lock().unwrap_or_else(PoisonError::into_inner).take();
    let ways = ways.ok_or_else(|| refuse(RefusalCode::NotFound, "this sandbox has no ways out, or somebody has them already"))?;
    let sockets = Sockets::new(ways).map_err(|error| refuse(RefusalCode::Failed, format!("the ways out cannot be used: {error}")))?;
    let (frames, answer) = mpsc::channel(FRAMES);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        if let Err(error) = sockets.announce(&agent.outlet, request.into_body(), &frames).await {
            // Nobody listens any more: then nobody has to be told.
            drop(frames.send(Err(error)).await);
        }
        agent.outlet.forget_before(Instant::now());
    });
    Ok(Response::new(Answer::Breakable(answer)))
}

/// Hands an announced connection over.
pub(crate) async fn accept(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let id = Query::of(request.uri()).number::<u64>("id")?.ok_or_else(|| refuse(RefusalCode::Invalid, "`id` is missing"))?;
    let Waiting { stream, place, .. } =
        agent.outlet.take(id).ok_or_else(|| refuse(RefusalCode::NotFound, "no connection of this number waits"))?;
    let (frames, answer) = mpsc::channel(2);
    tokio::spawn(async move {
        match carry(&stream, request.into_body(), &frames).await {
            Ok(true) => {}
            Ok(false) => will_reset(&stream),
            Err(error) => {
                will_reset(&stream);
                // As above.
                drop(frames.send(Err(error)).await);
            }
        }
        drop((stream, place));
    });
    Ok(Response::new(Answer::Breakable(answer)))
}

/// Its program is to hear that this is no orderly end (`socket(7)`, SO_LINGER). Where that cannot be said, it hears of an end.
fn will_reset(stream: &TcpStream) {
    set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

#[derive(Debug)]
struct Sockets {
    proxy: TcpListener,
    dns: UdpSocket,
    dns_stream: TcpListener,
    redirected: Option<TcpListener>,
    /// Redirects for as long as it is open.
    _redirection: Option<OwnedFd>,
}

impl Sockets {
    fn new(ways: Ways) -> io::Result<Self> {
        let listener = |socket: OwnedFd| {
            rustix::io::ioctl_fionbio(&socket, true)?;
            TcpListener::from_std(socket.into())
        };
        rustix::io::ioctl_fionbio(&ways.dns, true)?;
        let (redirected, redirection) = match ways.redirected {
            None => (None, None),
            Some((listening, redirection)) => (Some(listener(listening)?), Some(redirection)),
        };
        Ok(Self {
            proxy: listener(ways.proxy)?,
            dns: UdpSocket::from_std(ways.dns.into())?,
            dns_stream: listener(ways.dns_stream)?,
            redirected,
            _redirection: redirection,
        })
    }

    /// Until the server hangs up. An error when it broke the protocol.
    async fn announce(self, outlet: &Outlet, mut body: Incoming, frames: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut decoder = Decoder::default();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let dns_places = Arc::new(Semaphore::new(DNS_CONNECTIONS));
        let (ask, mut asked) = mpsc::channel::<(Bytes, oneshot::Sender<Bytes>)>(DNS_CONNECTIONS);
        let mut askers: HashMap<u32, (Asker, Instant)> = HashMap::new();
        let (mut last_id, mut last_number) = (0u64, 0u32);
        let mut datagram = vec![0; MAX_QUESTION];
        let mut look = interval(LOOK_EVERY);
        loop {
            // Nothing is lost by losing: a connection that was not accepted and a datagram that was not read stay where they are, and so do
            // frames and questions.
            let (question, asker) = tokio::select! {
                () = frames.closed() => return Ok(()),
                frame = body.frame() => {
                    let Some(Ok(frame)) = frame else { return Ok(()) };
                    decoder.push(&frame.into_data().unwrap_or_default());
                    while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
                        self.hear(frame, outlet, &mut askers).map_err(io::Error::other)?;
                    }
                    continue;
                }
                (stream, way) = self.next_connection() => {
                    // With too many of them, the latest has to go.
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        will_reset(&stream);
                        continue;
                    };
                    last_id += 1;
                    // Whoever wrote it decided how it is cut. Where that cannot be set, it is only slower.
                    stream.set_nodelay(true).ok();
                    outlet.keep(last_id, Waiting { stream, since: Instant::now(), place });
                    if frames.send(Ok(Announced { id: last_id, way }.encode())).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                received = self.dns.recv_from(&mut datagram) => match received {
                    Ok((count, from)) => (Bytes::copy_from_slice(&datagram[..count]), Asker::Datagram(from)),
                    // Told of an answer that found nobody (udp(7)).
                    Err(_) => continue,
                },
                accepted = self.dns_stream.accept() => {
                    match accepted {
                        Ok((stream, _)) => if let Ok(place) = Arc::clone(&dns_places).try_acquire_owned() {
                            let ask = ask.clone();
                            tokio::spawn(async move {
                                // A client that breaks off, or says nothing, has no more to hear.
                                answer_stream(stream, &ask).await.ok();
                                drop(place);
                            });
                        },
                        Err(_) => tokio::time::sleep(REST).await,
                    }
                    continue;
                }
                Some((question, reply)) = asked.recv() => (question, Asker::Stream(reply)),
                _ = look.tick() => {
                    let now = Instant::now();
                    if let Some(then) = now.checked_sub(DECIDED_WITHIN) {
                        outlet.forget_before(then);
                    }
                    askers.retain(|_, (_, since)| since.elapsed() < ANSWERED_WITHIN);
                    continue;
                }
            };
            // Whoever asks more than can be answered asks again.
            if askers.len() < MAX_QUESTIONS {
                last_number = last_number.wrapping_add(1);
                askers.insert(last_number, (asker, Instant::now()));
                let question = Message { number: last_number, message: question }.encode(Kind::Question);
                if frames.send(Ok(question)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// The next that is to be announced.
    async fn next_connection(&self) -> (TcpStream, Way) {
        loop {
            let accepted = tokio::select! {
                accepted = self.proxy.accept() => accepted.map(|(stream, _)| (stream, Way::Proxy)),
                accepted = accept_if_any(self.redirected.as_ref()) => match accepted {
                    Ok((stream, _)) => match stream.local_addr() {
                        Ok(to) if is_somebody_elses(to.ip()) => Ok((stream, Way::Redirected(SocketAddr::new(to.ip().to_canonical(), to.port())))),
                        // Its program has found the socket itself, or has gone.
                        _ => {
                            will_reset(&stream);
                            continue;
                        }
                    },
                    Err(error) => Err(error),
                },
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(_) => tokio::time::sleep(REST).await,
            }
        }
    }

    /// What the server has decided.
    fn hear(&self, frame: Frame, outlet: &Outlet, askers: &mut HashMap<u32, (Asker, Instant)>) -> Result<(), FrameError> {
        match frame.kind {
            Kind::Declined => {
                // One that was given up in the meantime is gone.
                if let Some(waiting) = outlet.take(read_declined(&frame.payload)?) {
                    will_reset(&waiting.stream);
                }
            }
            Kind::Reply => {
                let Message { number, message } = Message::read(&frame.payload)?;
                match askers.remove(&number) {
                    // A datagram that is lost is asked for again, and a client that has gone needs no answer.
                    Some((Asker::Datagram(to), _)) => drop(self.dns.try_send_to(&message, to)),
                    Some((Asker::Stream(reply), _)) => drop(reply.send(message)),
                    None => {}
                }
            }
            other => return Err(FrameError::UnknownKind(other as u8)),
        }
        Ok(())
    }
}

async fn accept_if_any(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn is_somebody_elses(address: IpAddr) -> bool {
    !address.to_canonical().is_loopback()
}

/// Questions over a connection, one after the other (RFC 1035 §4.2.2).
async fn answer_stream(mut stream: TcpStream, ask: &mpsc::Sender<(Bytes, oneshot::Sender<Bytes>)>) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(DNS_IDLE, stream.read_u16()).await??);
        if length > MAX_QUESTION {
            return Ok(());
        }
        let mut question = vec![0; length];
        timeout(DNS_IDLE, stream.read_exact(&mut question)).await??;
        let (reply, replied) = oneshot::channel();
        ask.send((question.into(), reply)).await.map_err(io::Error::other)?;
        let reply = replied.await.map_err(io::Error::other)?;
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        timeout(DNS_IDLE, stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())).await??;
    }
}
