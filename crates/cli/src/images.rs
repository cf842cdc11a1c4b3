//! Images of this machine, for commands that need no server.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use caisson_core::StoredImage;
use caisson_image::{ImageStore, Logins, Phase, Reference};

use crate::{config::Here, waiting::Pulling};

/// Opens the store, also while a server or others have it open.
pub(crate) async fn open(here: Here) -> Result<ImageStore> {
    let shown = here.path().display().to_string();
    let opened = ImageStore::open(here.directory, here.options).await;
    opened.with_context(|| format!("cannot use the images in {shown}; CAISSON_DATA_DIR names another place, and --server a server's"))
}

/// Gets an image from its registry; at a terminal a bar shows how far it has come.
pub(crate) async fn pull(store: &ImageStore, name: Reference, logins: Logins) -> Result<Arc<StoredImage>> {
    let bar = Pulling::begin(&name.to_string());
    let pull = store.pull(name, logins);
    let mut progress = pull.progress();
    let mut done = std::pin::pin!(pull.finish());
    loop {
        tokio::select! {
            outcome = &mut done => return outcome.map_err(|error| anyhow!(error)),
            // What has changed is seen the next time as well.
            Ok(()) = progress.changed() => {
                let now = progress.borrow_and_update();
                let unpacked = now.layers.iter().filter(|layer| layer.phase == Phase::Done).count();
                bar.at(now.bytes(), (unpacked, now.layers.len()));
            }
        }
    }
}
