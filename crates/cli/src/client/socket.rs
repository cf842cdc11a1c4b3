//! WebSockets of the server.

use anyhow::{Context, Result, bail};
use http::Method;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, client::IntoClientRequest},
};

use super::{CONNECT_WITHIN, Client};

/// An open WebSocket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

impl Client {
    /// Opens a WebSocket. An error that is no [`super::Refusal`] says that the server cannot be reached, which may change.
    pub(crate) async fn socket(&self, target: &str) -> Result<Socket> {
        let plain = self.target.request(Method::GET, target)?;
        let authority = plain.uri().authority().context("a server has an address")?.clone();
        let path = plain.uri().path_and_query().map_or("/", |path| path.as_str());
        let mut request = format!("ws://{authority}{path}").into_client_request().context("this makes no address")?;
        request.headers_mut().extend(plain.headers().clone());
        let address = (authority.host().trim_start_matches('[').trim_end_matches(']'), authority.port_u16().unwrap_or(80));
        let opening = async {
            let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach the server at {}", self.target.url))?;
            stream.set_nodelay(true)?;
            match client_async(request, stream).await {
                Ok((socket, _)) => Ok(socket),
                Err(Error::Http(answer)) => Err(self.refused(answer.status(), answer.body().as_deref().unwrap_or_default()).into()),
                Err(error) => bail!("the connection to the server at {} failed: {error}", self.target.url),
            }
        };
        match timeout(CONNECT_WITHIN, opening).await {
            Ok(opened) => opened,
            Err(_) => bail!("the server at {} does not answer", self.target.url),
        }
    }
}
