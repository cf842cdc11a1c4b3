//! A server inside this program, for commands that are clients of one and work without: no database, no configuration, nobody else let in.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, anyhow};
use caisson_native::NativeConfig;
use caisson_server::{Auth, Config, Server};

use super::{Output, config, open, start};
use crate::{
    client::{Client, Target},
    config::{Choice, Here, NATIVE},
    images,
    key::Key,
};

/// Does `work` with a server that has the images of this machine and, where its sandboxes are to have that, its network; nothing else of it.
/// Whatever sandboxes are left end with it.
pub(crate) fn serving<T>(here: Here, host_network: bool, work: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let (backend, scratch) = start(Choice::only(NATIVE), NativeConfig { host_network, ..config(Some(here.path())) })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let images = images::open(here).await?;
        let engine = open(backend, &scratch, Output::Collected, Some(images.clone())).await?;
        let key = Key::random()?;
        let auth = Auth::Keys(vec![caisson_server::hash(key.reveal().as_bytes())]);
        let config = Config { images: Some(images), ..Config::new(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], auth) };
        let server = match Server::bind(config, engine.clone()).await {
            Ok(server) => server,
            Err(error) => {
                engine.shutdown().await;
                return Err(anyhow!(error).context("cannot listen on this machine"));
            }
        };
        let address = server.addresses().into_iter().next().context("the server has no address")?;
        let client = Client::new(Target::with_key(&format!("http://{address}"), key)?);
        let (asked, mut was_asked) = tokio::sync::watch::channel(false);
        let stop = async move {
            // An error means that nobody can ask any more.
            was_asked.wait_for(|asked| *asked).await.ok();
        };
        let working = async {
            let result = work(client).await;
            asked.send_replace(true);
            result
        };
        tokio::join!(working, server.serve(stop)).0
    });
    // A write to a pipe that nobody empties may go on for ever.
    runtime.shutdown_background();
    result
}
