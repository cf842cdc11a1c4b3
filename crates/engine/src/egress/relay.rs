//! Bytes between a program and whom it has reached.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use caisson_core::{Asked, Refused};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval},
};

use super::{
    Grant, No, Server,
    http::{self, Buffered, Client},
    intercept,
    sniff::{self, Speaks},
};
use crate::ports::PortStream;

const CHUNK: usize = 32 << 10;
/// A connection on which nobody says anything is closed after this long.
const IDLE: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long what is said first may take to be whole.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// What has gone which way, for those who wait for the end of silence.
#[derive(Debug, Default)]
pub(super) struct Flow(AtomicU64);

/// Where bytes are counted that go one way on one connection.
#[derive(Clone, Copy)]
pub(super) struct Count<'a> {
    server: &'a Server,
    flow: &'a Flow,
    goes_out: bool,
}

impl Count<'_> {
    /// Counts, and returns when more may go.
    pub(super) async fn passed(&self, count: usize) {
        self.flow.0.fetch_add(count as u64, Ordering::Relaxed);
        for figures in self.server.figures() {
            let counter = if self.goes_out { &figures.bytes_out } else { &figures.bytes_in };
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        let limits = self.server.outlet.network.borrow().limits();
        if let Some(wait) = self.server.outlet.meter.passed(count, limits) {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Server {
    pub(super) fn counts<'a>(&'a self, flow: &'a Flow) -> (Count<'a>, Count<'a>) {
        (Count { server: self, flow, goes_out: true }, Count { server: self, flow, goes_out: false })
    }

    /// Does `work` for as long as the grant stands and something is said.
    pub(super) async fn while_it_stands<T>(&self, grant: &Grant, flow: &Flow, work: impl Future<Output = T>) -> Result<T, No> {
        let mut network = self.outlet.network.subscribe();
        self.outlet.check_spent()?;
        // What was changed before is not told.
        if !self.stands_yet(grant) {
            return Err(Refused::NotAllowed.into());
        }
        let mut look = interval(LOOK_EVERY);
        let (mut said, mut quiet) = (0, Duration::ZERO);
        let spent = self.outlet.meter.when_spent();
        tokio::pin!(work, spent);
        loop {
            tokio::select! {
                // Losing is no harm: it is polled again, or dropped because it is to end.
                done = &mut work => return Ok(done),
                // Those that changed are looked at anew; losing means that they are next time.
                _ = network.changed() => if !self.stands(grant) {
                    return Err(Refused::NotAllowed.into());
                },
                // Losing is no harm: it is polled again.
                () = &mut spent => {
                    self.outlet.check_spent()?;
                    // It was raised just now.
                    spent.set(self.outlet.meter.when_spent());
                }
                _ = look.tick() => {
                    let now = flow.0.load(Ordering::Relaxed);
                    quiet = if now == said { quiet + LOOK_EVERY } else { Duration::ZERO };
                    said = now;
                    if quiet >= IDLE {
                        return Err(No::Silent);
                    }
                }
            }
        }
    }
}

/// Lets a program talk to whom it has reached, after a look at what it says first where that matters. An error is what it said that it may not.
pub(super) async fn connect(server: &Server, client: PortStream, upstream: TcpStream, grant: &Grant, already: Vec<u8>) -> Result<(), No> {
    let flow = Flow::default();
    server.while_it_stands(grant, &flow, talk(server, &flow, client, upstream, grant, already)).await?
}

async fn talk(server: &Server, flow: &Flow, client: PortStream, upstream: TcpStream, grant: &Grant, already: Vec<u8>) -> Result<(), No> {
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let (mut upstream_reads, mut upstream_writes) = upstream.into_split();
    let (out, into) = server.counts(flow);
    let mut first = already;
    if server.looks(grant) {
        // Of a host whose answers are looked into nothing comes that nobody asked for.
        let listening = !grant.is_opaque(&server.outlet.network());
        let program = (&mut client_reads, &mut client_writes);
        let speaks = first_said(into, program, &mut upstream_reads, listening, &mut first).await?;
        if let Speaks::Tls(Some(name)) = &speaks {
            server.may_say(grant, &Asked::Name(name.clone()))?;
        }
        match speaks {
            Speaks::Http => {
                let client = Client { reader: Buffered::with(client_reads, &first), writer: client_writes };
                return http::relay_request(server, flow, client, (upstream_reads, upstream_writes), grant).await;
            }
            speaks if grant.is_opaque(&server.outlet.network()) => {
                let Some(host) = grant.host().cloned().filter(|_| matches!(speaks, Speaks::Tls(_))) else {
                    return Err(Refused::Opaque.into());
                };
                let upstream = upstream_reads.reunite(upstream_writes).map_err(|_| No::Silent)?;
                // It is large, and most connections are none.
                return Box::pin(intercept::serve(server, flow, (client_reads, client_writes), first, upstream, grant, &host)).await;
            }
            _ => {}
        }
    }
    grant.unseen.store(true, Ordering::Relaxed);
    let goes_out = async {
        out.passed(first.len()).await;
        upstream_writes.write_all(&first).await?;
        pass(&mut client_reads, &mut upstream_writes, out).await
    };
    let comes_in = pass(&mut upstream_reads, &mut client_writes, into);
    // Whichever ends lets the other go on; whichever breaks off ends both, and then its program hears that it was no end.
    if tokio::try_join!(goes_out, comes_in).is_ok() {
        client_reads.unsplit(client_writes).end();
    }
    Ok(())
}

/// What the program says first, in `said`. What the other side says meanwhile is passed on if it is listened to: some speak first.
async fn first_said(
    into: Count<'_>,
    (client_reads, client_writes): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    upstream_reads: &mut (impl AsyncRead + Unpin),
    mut listening: bool,
    said: &mut Vec<u8>,
) -> Result<Speaks, No> {
    let mut chunk = vec![0; CHUNK];
    let mut heard = false;
    let mut until = Instant::now() + FIRST_WITHIN;
    loop {
        if let Some(speaks) = sniff::look(said)? {
            if speaks == Speaks::Http && heard {
                return Err(No::Malformed("a request on a connection on which the other side has spoken first"));
            }
            return Ok(speaks);
        }
        if said.len() > sniff::LONGEST {
            return Err(No::Malformed("what is said first is longer than 64 KiB"));
        }
        if said.is_empty() {
            // Who has said nothing yet may wait for as long as it likes.
            until = Instant::now() + FIRST_WITHIN;
        }
        tokio::select! {
            // Losing loses nothing: these read all at once or nothing.
            read = client_reads.read_buf(said) => match read {
                // It only listens.
                Ok(0) if said.is_empty() => return Ok(Speaks::Other),
                Ok(0) | Err(_) => return Err(No::Malformed("what is said first breaks off")),
                Ok(_) => {}
            },
            read = upstream_reads.read(&mut chunk), if listening => match read {
                Ok(0) | Err(_) => listening = false,
                Ok(count) => {
                    heard = true;
                    into.passed(count).await;
                    // Fails when nobody is there any more, which the next read tells.
                    client_writes.write_all(&chunk[..count]).await.ok();
                }
            },
            () = tokio::time::sleep_until(until), if !said.is_empty() => {
                return Err(No::Malformed("what is said first is not whole after 20 s"));
            }
        }
    }
}

/// From one to the other until the end, which is passed on.
pub(super) async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), counted: Count<'_>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        counted.passed(read).await;
        to.write_all(&chunk[..read]).await?;
    }
}
