//! TLS that is taken apart: the program speaks with somebody who poses as its host, the host with somebody whom it knows nothing about. Each request in
//! between is judged, and gets the secret of its rule; no answer brings one back.
//!
//! ```text
//! program ══ TLS ══▶ head ─▶ judge ─▶ put in ══ TLS, the host verified ══▶ host
//!         ◀═════════ mask ◀─ head without secrets ◀══════════════════════
//! ```

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{Arc, PoisonError},
    time::Duration,
};

use caisson_core::{Asked, HostName, Secret};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, Chain, Join, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{
    Grant, No, Server, dial,
    head::{PutIn, Request},
    http::{After, Buffered, Client, Exchange, HEAD_WITHIN, Program, authority},
    mask::Needles,
    path_of,
    relay::Flow,
};
use crate::ports::PortStream;

/// For TLS to come about, with either side.
const TLS_WITHIN: Duration = Duration::from_secs(15);

/// The program's connection, with what it has said already.
type Replayed = Join<Chain<Cursor<Vec<u8>>, ReadHalf<PortStream>>, WriteHalf<PortStream>>;
type Taken = server::TlsStream<Replayed>;
type Upstream = (Buffered<ReadHalf<client::TlsStream<TcpStream>>>, WriteHalf<client::TlsStream<TcpStream>>);

impl Program for Taken {
    fn end(self) {
        let (reader, writer) = self.into_inner().0.into_inner();
        PortStream::end(reader.into_inner().1.unsplit(writer));
    }
}

/// Serves a program that has begun to speak TLS with a host. An error is what was refused, which it has been told where it could be.
pub(super) async fn serve(
    server: &Server,
    flow: &Flow,
    (reads, writes): (ReadHalf<PortStream>, WriteHalf<PortStream>),
    first: Vec<u8>,
    upstream: TcpStream,
    grant: &Grant,
    host: &HostName,
) -> Result<(), No> {
    // Who has a network has had one opened.
    let Some(vouches) = server.core.authority.get() else { return Err(No::Untrusted("there is nobody to vouch for it".to_owned())) };
    let pose = vouches.pose(host).map_err(No::Untrusted)?;
    let accepted = timeout(TLS_WITHIN, TlsAcceptor::from(pose).accept(tokio::io::join(Cursor::new(first).chain(reads), writes)));
    let (accepted, connected) = tokio::join!(accepted, connect(server, upstream, host));
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => {
            return Err(No::Malformed("TLS with the program did not come about: it may not trust the certificates in SSL_CERT_FILE"));
        }
        Err(_) => return Err(No::Malformed("TLS with the program did not come about within 15 s")),
    };
    let mut client = Client::new(stream);
    let mut upstream = match connected {
        Ok(upstream) => Some(upstream),
        Err(no) => return told(server, client, no).await,
    };
    loop {
        let request = match timeout(HEAD_WITHIN, client.reader.head()).await {
            Ok(Ok(Some(head))) => Request::read(&head).map_err(No::from),
            // It has no more to ask.
            Ok(Ok(None)) | Err(_) => {
                client.finish().await;
                return Ok(());
            }
            // It has gone.
            Ok(Err(No::Unreachable(_))) => return Ok(()),
            Ok(Err(no)) => Err(no),
        };
        let judged = match request {
            Ok(request) => Judged::of(server, grant, host, request).await,
            Err(no) => Err(no),
        };
        let judged = match judged {
            Ok(judged) => judged,
            Err(no) => return told(server, client, no).await,
        };
        // One that has ended meanwhile is of no use any more.
        let mut held = match upstream.take().and_then(|mut held| (!held.0.has_ended()).then_some(held)) {
            Some(held) => held,
            None => {
                let again = async { connect(server, dial(grant.to).await?, host).await };
                match again.await {
                    Ok(again) => again,
                    Err(no) => return told(server, client, no).await,
                }
            }
        };
        let exchange = judged.exchange();
        let made = exchange.make(server.counts(flow), (&mut client.reader, &mut client.writer), (&mut held.0, &mut held.1)).await;
        match made {
            Ok(After::Kept) => upstream = Some(held),
            Ok(After::Over) => {
                client.finish().await;
                return Ok(());
            }
            Ok(After::Switched) => {
                let counts = server.counts(flow);
                if exchange.relay(counts, (&mut client.reader, &mut client.writer), (&mut held.0, &mut held.1)).await.is_ok() {
                    client.finish().await;
                }
                return Ok(());
            }
            // Of these nothing has been passed on yet.
            Err(no @ (No::Echo | No::Illegible)) => return told(server, client, no).await,
            Err(no) => return Err(no),
        }
    }
}

async fn told(server: &Server, client: Client<Taken>, no: No) -> Result<(), No> {
    client.refuse(server, "", &no).await;
    Err(no)
}

/// TLS with the host itself, whose certificate is verified.
async fn connect(server: &Server, upstream: TcpStream, host: &HostName) -> Result<Upstream, No> {
    let Some(vouches) = server.core.authority.get() else { return Err(No::Untrusted("nobody is trusted".to_owned())) };
    let name = ServerName::try_from(host.as_str().to_owned()).map_err(|_| No::Untrusted("its name is none of TLS".to_owned()))?;
    let connected = timeout(TLS_WITHIN, TlsConnector::from(Arc::clone(&vouches.outward)).connect(name, upstream)).await;
    let stream = connected.map_err(|_| No::Silent)?.map_err(|error| No::Untrusted(error.to_string()))?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Buffered::new(reader), writer))
}

/// A request that may be made.
struct Judged {
    request: Request,
    /// `Host`, as it came.
    said: String,
    /// The field that is put in.
    field: Option<(String, String)>,
    needles: Arc<Needles>,
}

impl Judged {
    async fn of(server: &Server, grant: &Grant, host: &HostName, request: Request) -> Result<Self, No> {
        let port = grant.to.port();
        let said = request.host()?.ok_or(No::Malformed("there is no `Host`"))?.to_owned();
        if authority(&said, Some(port))? != (Asked::Name(host.clone()), port) {
            return Err(No::Mismatch { said });
        }
        request.body()?;
        if request.method == "CONNECT" || !(request.target.starts_with('/') || request.target == "*") {
            return Err(No::Malformed("the target is no path: this is no proxy"));
        }
        if request.fields.all("upgrade").next().is_some() && request.upgrade().is_none() {
            return Err(No::Malformed("only a WebSocket may come of this connection"));
        }
        let network = server.outlet.network();
        let put_in = network.request(host, port, &request.method, path_of(&request.target))?;
        let secrets: BTreeMap<&str, &Secret> = network.secrets_of(host, port).collect();
        let open = async |name: &str, secret| server.core.open_secret(name, secret).await.ok_or_else(|| No::Sealed(name.to_owned()));
        let field = match put_in.and_then(|name| Some((name, *secrets.get(name)?))) {
            Some((name, secret)) => Some((secret.header.clone(), open(name, secret).await?)),
            None => None,
        };
        let known = server.outlet.needles.lock().unwrap_or_else(PoisonError::into_inner).get(&secrets);
        let needles = match known {
            Some(known) => known,
            None => {
                let mut values = Vec::new();
                for (name, secret) in &secrets {
                    values.push(open(name, secret).await?);
                }
                let needles = Arc::new(Needles::of(values.iter().map(String::as_str)));
                server.outlet.needles.lock().unwrap_or_else(PoisonError::into_inner).add(&secrets, &needles);
                needles
            }
        };
        Ok(Self { request, said, field, needles })
    }

    fn exchange(&self) -> Exchange<'_> {
        let field = self.field.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
        Exchange {
            request: &self.request,
            target: &self.request.target,
            host: &self.said,
            put_in: PutIn { field, legible: !self.needles.is_empty(), judged: true },
            needles: &self.needles,
            keep: self.request.keeps(),
        }
    }
}
