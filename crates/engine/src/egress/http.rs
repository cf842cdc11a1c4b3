//! Requests that go out: those that the proxy is asked for, and those that programs make on connections whose host matters.
//!
//! One plain request goes into a connection and nothing behind it, so that there is nothing that could be smuggled into another one. Those that come
//! through TLS which is taken apart may follow each other: every head is read here, and what goes on is written anew.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use caisson_core::Asked;
use futures::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use super::{
    EgressWay, Grant, No, Server,
    head::{self, Body, Malformed, PutIn, Request, Response},
    mask::{Masked, Needles},
    relay::{self, Count, Flow},
};
use crate::ports::PortStream;

/// How long a program may take over the head of its request.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to hear why it was refused.
const HEARS_WITHIN: Duration = Duration::from_secs(2);
/// The longest line between chunks.
const LINE: usize = 4096;
/// Fields behind a body, in bytes.
const TRAILERS: usize = 64 << 10;
const CHUNK: usize = 32 << 10;

/// A reader, and what was read and not taken.
pub(super) struct Buffered<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Buffered<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    pub(super) fn with(reader: R, already: &[u8]) -> Self {
        Self { reader, buffer: already.into() }
    }

    /// The head that comes next; `None` where nothing does.
    pub(super) async fn head(&mut self) -> Result<Option<Bytes>, No> {
        loop {
            if let Some(end) = head::end(&self.buffer)? {
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(No::Malformed("the head breaks off")) };
            }
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Bytes, No> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                return line
                    .strip_suffix(b"\r\n")
                    .map(|text| line.slice_ref(text))
                    .ok_or(No::Malformed("a line does not end with CR and LF"));
            }
            if self.buffer.len() > LINE || self.fill().await? == 0 {
                return Err(No::Malformed("a line between chunks does not end"));
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, No> {
        self.reader.read_buf(&mut self.buffer).await.map_err(broken)
    }

    /// What comes next of so many bytes at most; nothing at the end.
    async fn some(&mut self, at_most: u64) -> Result<Bytes, No> {
        if self.buffer.is_empty() {
            self.buffer.reserve(CHUNK);
            self.fill().await?;
        }
        let count = self.buffer.len().min(usize::try_from(at_most).unwrap_or(usize::MAX));
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Whether something has come that nobody asked for, or the end.
    pub(super) fn has_ended(&mut self) -> bool {
        !self.buffer.is_empty() || self.fill().now_or_never().is_some()
    }
}

pub(super) fn broken(error: io::Error) -> No {
    No::Unreachable(error.kind().to_string())
}

/// The end of a program's connection.
pub(super) trait Program: AsyncRead + AsyncWrite + Unpin {
    /// Ends it so that the program hears of no break.
    fn end(self);
}

impl Program for PortStream {
    fn end(self) {
        Self::end(self);
    }
}

/// A program that has connected.
pub(super) struct Client<S> {
    pub(super) reader: Buffered<ReadHalf<S>>,
    pub(super) writer: WriteHalf<S>,
}

impl<S: Program> Client<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Buffered::new(reader), writer }
    }

    /// Tells it why.
    pub(super) async fn refuse(mut self, server: &Server, about: &str, no: &No) {
        let status = match no {
            No::Refused(_) | No::Mismatch { .. } => "403 Forbidden",
            No::Host(_) | No::Malformed(_) => "400 Bad Request",
            No::Name(_) | No::Unreachable(_) | No::Untrusted(_) | No::Sealed(_) | No::Echo | No::Illegible => "502 Bad Gateway",
            No::Silent => "504 Gateway Timeout",
        };
        let network = server.outlet.network();
        let own = network.as_rules().and_then(|rules| rules.refusal.clone()).filter(|_| matches!(no, No::Refused(_)));
        let body = own.unwrap_or_else(|| format!("caisson: {about}{no}\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Caisson-Egress: {}\r\nConnection: close\r\n\r\n",
            body.len(),
            no.code()
        );
        if self.writer.write_all((head + &body).as_bytes()).await.is_ok() {
            self.finish().await;
        }
    }

    /// An end that it hears: what it has said behind its request is taken and thrown away. Whoever goes on for longer is cut.
    pub(super) async fn finish(self) {
        let Self { reader: Buffered { mut reader, .. }, mut writer } = self;
        let ended = async {
            writer.shutdown().await?;
            tokio::io::copy(&mut reader, &mut tokio::io::sink()).await
        };
        if timeout(HEARS_WITHIN, ended).await.is_ok_and(|ended| ended.is_ok()) {
            reader.unsplit(writer).end();
        }
    }
}

/// Serves a program that has connected to the proxy, for one request.
pub(super) async fn serve(server: &Server, client: PortStream) {
    let mut client = Client::new(client);
    let wanted = match timeout(HEAD_WITHIN, client.reader.head()).await {
        Ok(Ok(Some(head))) => {
            Request::read(&head).map_err(No::from).and_then(|request| Wanted::of(&request).map(|wanted| (request, wanted)))
        }
        Ok(Err(no)) => Err(no),
        // It had nothing to ask.
        Ok(Ok(None)) | Err(_) => return,
    };
    let (request, Wanted { asked, port, target }) = match wanted {
        Ok(wanted) => wanted,
        Err(no) => {
            server.decided(EgressWay::Proxy, "", None, Some(&no));
            return client.refuse(server, "", &no).await;
        }
    };
    let host = asked.to_string();
    let judged = target.as_ref().map_or(Ok(false), |target| server.judge_plain(&asked, port, &request.method, target));
    let is_judged = judged.as_ref().is_ok_and(|is_judged| *is_judged);
    let reached = match judged {
        Ok(_) => server.reach(&asked, port).await,
        Err(refused) => Err(refused.into()),
    };
    let (upstream, grant) = match reached {
        Ok(reached) => reached,
        Err(no) => {
            server.decided(EgressWay::Proxy, &host, Some(port), Some(&no));
            return client.refuse(server, &format!("{host}:{port}: "), &no).await;
        }
    };
    server.decided(EgressWay::Proxy, &host, Some(port), None);
    let ended = match target {
        None => {
            if client.writer.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
                return;
            }
            let Client { reader: Buffered { reader, buffer }, writer } = client;
            relay::connect(server, reader.unsplit(writer), upstream, &grant, buffer.to_vec()).await
        }
        Some(target) => {
            let flow = Flow::default();
            let host = if port == 80 { host.clone() } else { format!("{host}:{port}") };
            let exchange = Onward { request, target, host, is_judged }.exchange(server, &flow, client, upstream.into_split());
            server.while_it_stands(&grant, &flow, exchange).await.and_then(|done| done)
        }
    };
    if let Err(no) = ended {
        server.decided(EgressWay::Proxy, &host, Some(port), Some(&no));
    }
}

/// A request on a connection that was let out, and that is not one to the proxy: its host has to be the one that the connection is for.
pub(super) async fn relay_request(
    server: &Server,
    flow: &Flow,
    mut client: Client<PortStream>,
    upstream: (OwnedReadHalf, OwnedWriteHalf),
    grant: &Grant,
) -> Result<(), No> {
    let checked = async {
        let head = timeout(HEAD_WITHIN, client.reader.head()).await.map_err(|_| No::Malformed("the head is not whole after 60 s"))?;
        let request = Request::read(&head?.ok_or(No::Malformed("there is no request"))?)?;
        let host = request.host()?.ok_or(No::Malformed("there is no `Host`"))?.to_owned();
        let (asked, port) = authority(&host, Some(grant.to.port()))?;
        if port != grant.to.port() {
            return Err(No::Mismatch { said: format!("{asked}:{port}") });
        }
        server.may_say(grant, &asked)?;
        request.body()?;
        let target = match request.target.as_str() {
            _ if request.method == "CONNECT" => return Err(No::Malformed("this is no proxy")),
            target if target.starts_with('/') || target == "*" => target.to_owned(),
            target => {
                let (there, target) = absolute(target)?;
                if authority(there, Some(grant.to.port()))? != (asked.clone(), port) {
                    return Err(No::Malformed("`Host` is another than that of the target"));
                }
                target
            }
        };
        let is_judged = server.judge_plain(&asked, port, &request.method, &target)?;
        Ok(Onward { request, target, host, is_judged })
    };
    match checked.await {
        Ok(onward) => onward.exchange(server, flow, client, upstream).await,
        Err(no) => {
            client.refuse(server, "", &no).await;
            Err(no)
        }
    }
}

/// What the proxy is asked for.
#[derive(Debug, PartialEq)]
struct Wanted {
    asked: Asked,
    port: u16,
    /// Of a request that is to go on; without one it is `CONNECT`.
    target: Option<String>,
}

impl Wanted {
    fn of(request: &Request) -> Result<Self, No> {
        let (there, default, target) = if request.method == "CONNECT" {
            let has_body = ["content-length", "transfer-encoding"].iter().any(|name| request.fields.all(name).next().is_some());
            if has_body {
                return Err(No::Malformed("`CONNECT` has no body"));
            }
            (request.target.as_str(), None, None)
        } else {
            let (there, target) = absolute(&request.target)?;
            request.body()?;
            (there, Some(80), Some(target))
        };
        let (asked, port) = authority(there, default)?;
        if let Some(host) = request.host()? {
            // Some leave the port out.
            let (host, host_port) = authority(host, Some(port))?;
            if (host, host_port) != (asked.clone(), port) {
                return Err(No::Malformed("`Host` is another than that of the target"));
            }
        }
        Ok(Self { asked, port, target })
    }
}

/// Host and target of `http://host/target`.
fn absolute(target: &str) -> Result<(&str, String), No> {
    let rest = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ if target.len() >= 8 && target.as_bytes()[..8].eq_ignore_ascii_case(b"https://") => {
            return Err(No::Malformed("the proxy speaks no TLS itself; ask for `https:` addresses with CONNECT"));
        }
        _ => {
            return Err(No::Malformed(
                "this is a proxy: it takes CONNECT host:port, and http://host/target as the target of other methods",
            ));
        }
    };
    if rest.contains('#') {
        return Err(No::Malformed("the target has a fragment"));
    }
    let (there, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok((there, if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }))
}

/// A host and a port, which may be left out where there is a default.
pub(super) fn authority(text: &str, default: Option<u16>) -> Result<(Asked, u16), No> {
    if text.contains('@') {
        return Err(No::Malformed("the target has a user's name in it"));
    }
    let end = text.find(']').map_or(0, |end| end + 1);
    let (host, port) = match text[end..].rfind(':') {
        Some(colon) => (&text[..end + colon], Some(&text[end + colon + 1..])),
        None => (text, None),
    };
    let port = match (port, default) {
        (None, Some(port)) => port,
        (None, None) => return Err(No::Malformed("the target has no port")),
        (Some(digits), _) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).ok_or(No::Malformed("the port is none"))?
        }
        (Some(_), _) => return Err(No::Malformed("the port is none")),
    };
    Ok((host.parse()?, port))
}

/// A request that may go on, alone in its connection.
struct Onward {
    request: Request,
    target: String,
    host: String,
    /// Whether there are rules for requests to its host.
    is_judged: bool,
}

impl Onward {
    /// The request there and the answer back. Nothing of the connection is used again.
    async fn exchange(
        self,
        server: &Server,
        flow: &Flow,
        client: Client<PortStream>,
        (upstream_reads, upstream_writes): (OwnedReadHalf, OwnedWriteHalf),
    ) -> Result<(), No> {
        let Client { mut reader, mut writer } = client;
        let mut upstream = (Buffered::new(upstream_reads), upstream_writes);
        let (put_in, needles) = (PutIn { judged: self.is_judged, ..PutIn::default() }, Needles::default());
        let exchange = Exchange { request: &self.request, target: &self.target, host: &self.host, put_in, needles: &needles, keep: false };
        let after = exchange.make(server.counts(flow), (&mut reader, &mut writer), (&mut upstream.0, &mut upstream.1)).await?;
        match after {
            After::Switched => {
                let counts = server.counts(flow);
                if exchange.relay(counts, (&mut reader, &mut writer), (&mut upstream.0, &mut upstream.1)).await.is_ok() {
                    reader.reader.unsplit(writer).end();
                }
            }
            After::Kept | After::Over => Client { reader, writer }.finish().await,
        }
        Ok(())
    }
}

/// What becomes of connections behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may be made on both.
    Kept,
    Over,
    /// They have become something else.
    Switched,
}

/// One request and its answer.
pub(super) struct Exchange<'a> {
    pub(super) request: &'a Request,
    pub(super) target: &'a str,
    pub(super) host: &'a str,
    pub(super) put_in: PutIn<'a>,
    /// What is not to come in.
    pub(super) needles: &'a Needles,
    /// Whether others may come behind it.
    pub(super) keep: bool,
}

type Counts<'a> = (Count<'a>, Count<'a>);

impl Exchange<'_> {
    pub(super) async fn make<R: AsyncRead + Unpin, W: AsyncWrite + Unpin, V: AsyncRead + Unpin, X: AsyncWrite + Unpin>(
        &self,
        (out, into): Counts<'_>,
        (reader, writer): (&mut Buffered<R>, &mut W),
        (upstream_reads, upstream_writes): (&mut Buffered<V>, &mut X),
    ) -> Result<After, No> {
        let body = self.request.body()?;
        let head = self.request.onward(self.target, self.host, body, &self.put_in, self.keep);
        out.passed(head.len()).await;
        let nothing = Needles::default();
        let sent = async {
            upstream_writes.write_all(&head).await.map_err(broken)?;
            pass_body(reader, upstream_writes, Some(body), &nothing, out).await
        };
        let answered = self.answer(upstream_reads, writer, into);
        tokio::pin!(answered, sent);
        tokio::select! {
            // An answer may come before the whole request has gone, and then ends it: nothing can come behind it. Losing is no harm: it is
            // polled again below.
            after = &mut answered => after.map(|after| if after == After::Kept { After::Over } else { after }),
            sent = &mut sent => match sent {
                Ok(()) => answered.await,
                // Whom it was for has heard enough: what it answers comes first.
                Err(No::Unreachable(_)) => answered.await.map(|after| if after == After::Kept { After::Over } else { after }),
                Err(no) => Err(no),
            },
        }
    }

    /// Passes an answer on until its end.
    async fn answer<R: AsyncRead + Unpin>(
        &self,
        reader: &mut Buffered<R>,
        writer: &mut (impl AsyncWrite + Unpin),
        counted: Count<'_>,
    ) -> Result<After, No> {
        loop {
            let head = reader.head().await?.ok_or(No::Unreachable("it answers nothing".to_owned()))?;
            counted.passed(head.len()).await;
            let response = Response::read(&head)?;
            if self.needles.is_in(&head) {
                return Err(No::Echo);
            }
            if response.status == 101 {
                if self.request.upgrade().is_none() {
                    return Err(No::Malformed("the answer is to something that was not asked for"));
                }
                writer.write_all(&response.switched()).await.map_err(broken)?;
                writer.flush().await.map_err(broken)?;
                return Ok(After::Switched);
            }
            let body = response.body(&self.request.method)?;
            if !self.needles.is_empty() && response.is_encoded() && body != Some(Body::Bytes(0)) {
                return Err(No::Illegible);
            }
            let keep = self.keep && response.keeps() && body.is_some();
            writer.write_all(&response.onward(keep)).await.map_err(broken)?;
            if response.is_interim() {
                writer.flush().await.map_err(broken)?;
                continue;
            }
            // Not all of those who are asked to close the connection do.
            pass_body(reader, writer, body, self.needles, counted).await?;
            return Ok(if keep { After::Kept } else { After::Over });
        }
    }

    /// Both ways, once the connection has become something else.
    pub(super) async fn relay<R: AsyncRead + Unpin, W: AsyncWrite + Unpin, V: AsyncRead + Unpin, X: AsyncWrite + Unpin>(
        &self,
        (out, into): Counts<'_>,
        (reader, writer): (&mut Buffered<R>, &mut W),
        (upstream_reads, upstream_writes): (&mut Buffered<V>, &mut X),
    ) -> Result<(), No> {
        let nothing = Needles::default();
        let goes_out = async {
            pass_body(reader, upstream_writes, None, &nothing, out).await?;
            upstream_writes.shutdown().await.map_err(broken)
        };
        let comes_in = async {
            pass_body(upstream_reads, writer, None, self.needles, into).await?;
            writer.shutdown().await.map_err(broken)
        };
        tokio::try_join!(goes_out, comes_in).map(drop)
    }
}

/// Passes on what comes behind a head; without a length it is all there is until the end. Nothing that is looked for comes through.
async fn pass_body<R: AsyncRead + Unpin>(
    reader: &mut Buffered<R>,
    to: &mut (impl AsyncWrite + Unpin),
    body: Option<Body>,
    needles: &Needles,
    counted: Count<'_>,
) -> Result<(), No> {
    let mut masked = Masked::new(needles);
    let chunked = body == Some(Body::Chunked);
    let mut left = match body {
        Some(Body::Bytes(count)) => count,
        Some(Body::Chunked) => 0,
        None => u64::MAX,
    };
    loop {
        if chunked && left == 0 {
            let line = reader.line().await?;
            counted.passed(line.len()).await;
            left = head::chunk_size(&line)?;
            if left == 0 {
                // Fields behind the body are of this connection alone.
                let mut trailers = 0;
                loop {
                    let line = reader.line().await?;
                    counted.passed(line.len()).await;
                    trailers += line.len();
                    if line.is_empty() {
                        break;
                    }
                    if trailers > TRAILERS {
                        return Err(No::Malformed("there are more than 64 KiB of fields behind a body"));
                    }
                }
            }
        }
        let piece = if left == 0 { Bytes::new() } else { reader.some(left).await? };
        let is_end = piece.is_empty();
        if is_end && left > 0 && body.is_some() {
            return Err(No::Malformed("the body breaks off"));
        }
        counted.passed(piece.len()).await;
        if body.is_some() {
            left -= piece.len() as u64;
        }
        if chunked && left == 0 && !is_end && !reader.line().await?.is_empty() {
            return Err(Malformed("a chunk is longer than it says").into());
        }
        let ready = if is_end { masked.end() } else { masked.take(piece) };
        let mut framed = Vec::new();
        if chunked && !ready.is_empty() {
            framed = [format!("{:x}\r\n", ready.len()).as_bytes(), &ready, b"\r\n"].concat();
        }
        if chunked && is_end {
            framed.extend_from_slice(b"0\r\n\r\n");
        }
        to.write_all(if chunked { &framed } else { &ready }).await.map_err(broken)?;
        // Through TLS it may wait for more otherwise.
        to.flush().await.map_err(broken)?;
        // What is there already is taken without waiting, and others want their turn.
        tokio::task::consume_budget().await;
        if is_end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<String, String> {
        let request = Request::read(text.as_bytes()).map_err(|malformed| malformed.to_string())?;
        let Wanted { asked, port, target } = Wanted::of(&request).map_err(|no| no.code().to_owned())?;
        Ok(format!("{asked} {port} {}", target.unwrap_or_default()))
    }

    #[test]
    fn r3_2_what_a_proxy_is_asked_for_has_one_meaning() {
        for (text, expect) in [
            ("CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n", "a.b 443 "),
            ("CONNECT A.b.:443 HTTP/1.1\r\nHost: a.B\r\n\r\n", "a.b 443 "),
            ("CONNECT [2606::1]:443 HTTP/1.1\r\nHost: [2606::1]:443\r\n\r\n", "[2606::1] 443 "),
            ("CONNECT a.b:443 HTTP/1.0\r\n\r\n", "a.b 443 "),
            ("GET http://a.b HTTP/1.1\r\nHost: a.b\r\n\r\n", "a.b 80 /"),
            ("GET HTTP://a.b:8080/c?d HTTP/1.1\r\nHost: a.b:8080\r\n\r\n", "a.b 8080 /c?d"),
            ("GET http://a.b?c HTTP/1.1\r\nHost: a.b\r\n\r\n", "a.b 80 /?c"),
            ("GET http://a.b/x@y HTTP/1.1\r\nHost: a.b\r\n\r\n", "a.b 80 /x@y"),
        ] {
            assert_eq!(wanted(text).as_deref(), Ok(expect), "{text:?}");
        }
        for text in [
            "CONNECT a.b HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:0 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:+443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:65536 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: c.d:443\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:80\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\nContent-Length: 3\r\n\r\n",
            "CONNECT x@a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n",
            "CONNECT 2606::1:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT [::1]x:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT 2130706433:443 HTTP/1.1\r\nHost: 2130706433:443\r\n\r\n",
            "CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: 0x7f.1:443\r\n\r\n",
            "CONNECT a.b:443/ HTTP/1.1\r\nHost: a.b:443\r\n\r\n",
            "CONNECT http://a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET https://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET ftp://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://x@a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b@c.d/ HTTP/1.1\r\nHost: c.d\r\n\r\n",
            "GET http://a.b\\@c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: c.d\r\n\r\n",
            "GET http://a.b/#x HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\nHost: a.b\r\n\r\n",
            "GET http://a%2eb/ HTTP/1.1\r\nHost: a%2eb\r\n\r\n",
            "GET http://[::1%25lo]/ HTTP/1.1\r\nHost: [::1%25lo]\r\n\r\n",
        ] {
            assert!(wanted(text).is_err(), "{text:?}: {:?}", wanted(text));
        }
    }
}
