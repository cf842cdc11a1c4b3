//! Whose images: a server's, or those of this machine.

use anyhow::{Context, Result};
use caisson_image::ImageStore;
use caisson_server::native::types::{ImageBody, PageBody};
use futures::FutureExt;
use http::Method;

use crate::{
    client::{self, Client, ServerArgs, percent},
    config::Here,
    images,
};

/// Where the images are that a command is about.
#[derive(Debug)]
pub(super) enum Place {
    Server(Box<Client>),
    Here(ImageStore),
}

impl Place {
    /// All images.
    pub(super) async fn list(&self) -> Result<PageBody<ImageBody>> {
        match self {
            Self::Server(client) => client.json(Method::GET, "/v1/images", None::<&()>).await,
            Self::Here(store) => Ok(PageBody { data: store.list().await?.iter().map(ImageBody::from).collect(), next_cursor: None }),
        }
    }

    /// What they are called.
    pub(super) async fn names(&self) -> Result<Vec<String>> {
        Ok(self.list().await?.data.into_iter().map(|image| image.name).collect())
    }
}

/// Does `work` with the images of the server that is named, or with those of this machine where none is.
pub(super) fn with<T, F: Future<Output = Result<T>>>(args: &ServerArgs, work: impl FnOnce(Place) -> F) -> Result<T> {
    if args.is_named() {
        return client::talk(args, |client| work(Place::Server(Box::new(client))));
    }
    let here = Here::find()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(async { work(Place::Here(images::open(here).await?)).await }.boxed_local());
    // A read or write that waits for somebody may go on for ever.
    runtime.shutdown_background();
    result
}

/// The parameter that names an image to a server.
pub(super) fn query(name: &str) -> String {
    format!("name={}", percent(name.as_bytes()))
}
