//! Requests that go out: those that the proxy is asked for, and those that programs make on connections whose host matters.
//!
//! One request goes into a connection and nothing behind it, so that there is nothing that could be smuggled into another one.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use caisson_core::Asked;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use super::{
    EgressWay, Grant, No, Server,
    head::{self, Body, Malformed, Request, Response},
    relay::{self, Flow, pass},
};
use crate::ports::PortStream;

/// How long a program may take over the head of its request.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to hear why it was refused.
const HEARS_WITHIN: Duration = Duration::from_secs(2);
/// The longest line between chunks.
const LINE: usize = 4096;
const CHUNK: usize = 32 << 10;

/// A reader, and what was read and not taken.
pub(super) struct Buffered<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Buffered<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    pub(super) fn with(reader: R, already: &[u8]) -> Self {
        Self { reader, buffer: already.into() }
    }

    /// The head that comes next; `None` where nothing does.
    async fn head(&mut self) -> Result<Option<Bytes>, No> {
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

    /// Exactly so many bytes.
    async fn pass(&mut self, count: u64, to: &mut (impl AsyncWrite + Unpin), counted: &impl Fn(usize)) -> Result<(), No> {
        let mut left = count;
        while left > 0 {
            if self.buffer.is_empty() {
                self.buffer.reserve(CHUNK);
                if self.fill().await? == 0 {
                    return Err(No::Malformed("the body breaks off"));
                }
            }
            let piece = self.buffer.split_to(self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            counted(piece.len());
            to.write_all(&piece).await.map_err(broken)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

fn broken(error: io::Error) -> No {
    No::Unreachable(error.kind().to_string())
}

/// A program that has connected.
pub(super) struct Client {
    pub(super) reader: Buffered<ReadHalf<PortStream>>,
    pub(super) writer: WriteHalf<PortStream>,
}

impl Client {
    /// Tells it why.
    async fn refuse(mut self, about: &str, no: &No) {
        let status = match no {
            No::Refused(_) | No::Mismatch { .. } => "403 Forbidden",
            No::Host(_) | No::Malformed(_) => "400 Bad Request",
            No::Name(_) | No::Unreachable(_) => "502 Bad Gateway",
            No::Silent => "504 Gateway Timeout",
        };
        let body = format!("caisson: {about}{no}\n");
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
    async fn finish(self) {
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
    let (reader, writer) = tokio::io::split(client);
    let mut client = Client { reader: Buffered::new(reader), writer };
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
            return client.refuse("", &no).await;
        }
    };
    let host = asked.to_string();
    let (upstream, grant) = match server.reach(&asked, port).await {
        Ok(reached) => reached,
        Err(no) => {
            server.decided(EgressWay::Proxy, &host, Some(port), Some(&no));
            return client.refuse(&format!("{host}:{port}: "), &no).await;
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
            let exchange = Onward { request, target, host }.exchange(server, &flow, client, upstream.into_split());
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
    mut client: Client,
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
                if authority(there, Some(grant.to.port()))? != (asked, port) {
                    return Err(No::Malformed("`Host` is another than that of the target"));
                }
                target
            }
        };
        Ok(Onward { request, target, host })
    };
    match checked.await {
        Ok(onward) => onward.exchange(server, flow, client, upstream).await,
        Err(no) => {
            client.refuse("", &no).await;
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
fn authority(text: &str, default: Option<u16>) -> Result<(Asked, u16), No> {
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

/// A request that may go on.
struct Onward {
    request: Request,
    target: String,
    host: String,
}

impl Onward {
    /// The request there and the answer back. Nothing of the connection is used again.
    async fn exchange(
        self,
        server: &Server,
        flow: &Flow,
        client: Client,
        (upstream_reads, mut upstream_writes): (OwnedReadHalf, OwnedWriteHalf),
    ) -> Result<(), No> {
        let Client { mut reader, mut writer } = client;
        let Self { request, target, host } = self;
        let (out, into) = (|count| server.went_out(flow, count), |count| server.came_in(flow, count));
        let body = request.body()?;
        let mut upstream_reads = Buffered::new(upstream_reads);
        let head = request.onward(&target, &host, body);
        out(head.len());
        let sent = async {
            upstream_writes.write_all(&head).await.map_err(broken)?;
            send_body(&mut reader, &mut upstream_writes, body, &out).await
        };
        let answered = answer(&mut upstream_reads, &mut writer, &request, &into);
        let switched = {
            tokio::pin!(answered);
            tokio::pin!(sent);
            tokio::select! {
                // An answer may come before the whole request has gone, and then ends it. Losing is no harm: it is polled again below.
                switched = &mut answered => switched,
                sent = &mut sent => match sent {
                    Ok(()) => answered.await,
                    // Whom it was for has heard enough: what it answers comes first.
                    Err(No::Unreachable(_)) => answered.await,
                    Err(no) => Err(no),
                },
            }
        };
        match switched {
            Ok(true) => {
                let Buffered { reader: mut from_upstream, buffer: came } = upstream_reads;
                let Buffered { reader: mut from_client, buffer: said } = reader;
                let goes_out = async {
                    out(said.len());
                    upstream_writes.write_all(&said).await?;
                    pass(&mut from_client, &mut upstream_writes, out).await
                };
                let comes_in = async {
                    into(came.len());
                    writer.write_all(&came).await?;
                    pass(&mut from_upstream, &mut writer, into).await
                };
                if tokio::try_join!(goes_out, comes_in).is_ok() {
                    from_client.unsplit(writer).end();
                }
                Ok(())
            }
            Ok(false) => {
                Client { reader, writer }.finish().await;
                Ok(())
            }
            Err(no) => Err(no),
        }
    }
}

async fn send_body<R: AsyncRead + Unpin>(
    reader: &mut Buffered<R>,
    to: &mut (impl AsyncWrite + Unpin),
    body: Body,
    counted: &impl Fn(usize),
) -> Result<(), No> {
    match body {
        Body::Bytes(count) => reader.pass(count, to, counted).await,
        Body::Chunked => loop {
            let size = head::chunk_size(&reader.line().await?)?;
            to.write_all(format!("{size:x}\r\n").as_bytes()).await.map_err(broken)?;
            if size == 0 {
                // Fields behind the body are of this connection alone.
                while !reader.line().await?.is_empty() {}
                return to.write_all(b"\r\n").await.map_err(broken);
            }
            reader.pass(size, to, counted).await?;
            if !reader.line().await?.is_empty() {
                return Err(Malformed("a chunk is longer than it says").into());
            }
            to.write_all(b"\r\n").await.map_err(broken)?;
        },
    }
}

/// Passes an answer on until its end. Whether the connection has become something else.
async fn answer<R: AsyncRead + Unpin>(
    reader: &mut Buffered<R>,
    writer: &mut (impl AsyncWrite + Unpin),
    request: &Request,
    counted: &impl Fn(usize),
) -> Result<bool, No> {
    loop {
        let head = reader.head().await?.ok_or(No::Unreachable("it answers nothing".to_owned()))?;
        counted(head.len());
        let response = Response::read(&head)?;
        if response.status == 101 {
            if request.upgrade().is_none() {
                return Err(No::Malformed("the answer is to something that was not asked for"));
            }
            writer.write_all(&response.switched()).await.map_err(broken)?;
            return Ok(true);
        }
        let body = response.body(&request.method)?;
        writer.write_all(&response.onward()).await.map_err(broken)?;
        match body {
            _ if response.is_interim() => {}
            // Not all of those who are asked to close the connection do.
            Some(body) => return send_body(reader, writer, body, counted).await.map(|()| false),
            None => break,
        }
    }
    loop {
        if reader.buffer.is_empty() {
            reader.buffer.reserve(CHUNK);
            if reader.fill().await? == 0 {
                return Ok(false);
            }
        }
        let piece = reader.buffer.split();
        counted(piece.len());
        writer.write_all(&piece).await.map_err(broken)?;
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
