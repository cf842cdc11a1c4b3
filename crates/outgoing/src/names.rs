use std::{
    error::Error,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Names that are looked up at one time. Each takes a thread for as long as the resolver of the machine takes, and others need threads too.
const LOOKED_UP: usize = 16;

/// The machine's own resolver, asked for a few names at a time.
#[derive(Debug, Clone)]
pub struct Names(Arc<Semaphore>);

impl Default for Names {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKED_UP)))
    }
}

impl Names {
    /// All addresses of a name, with port 0. Fails as `getaddrinfo(3)` does.
    pub async fn look_up(self, name: String) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let permit = self.0.acquire_owned().await?;
        let look_up = move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // Whoever asked may have gone: the thread is taken all the same.
            drop(permit);
            found
        };
        Ok(spawn_blocking(look_up).await??.collect())
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let looked_up = self.clone().look_up(name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(looked_up.await?.into_iter()) as Addrs) })
    }
}
