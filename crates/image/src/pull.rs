//! From a registry into the store.
//!
//! ```text
//! manifest (of an index: that for this machine) → configuration → layers, four at a time: down, verified, unpacked, verified → name
//! ```
//!
//! A layer that is here is not fetched again if whoever asks may have it: the registry has just given out a manifest of the same repository, or
//! says that it would give the layer out too. That it is known by its digest is not enough: a digest is no secret, and layers may be.

use std::{collections::HashSet, sync::Arc};

use caisson_core::{Digest, StoredImage};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    Error, Logins, Reference,
    config::{self, Config},
    image_store::{Inner, blocking},
    import,
    manifest::{self, Descriptor, Document, MAX_LAYERS, Manifest, Text},
    progress::{LayerProgress, Phase, Progress, Teller},
    reference::Version,
    registry::{Fetched, Session},
    store::{Budget, GiveUp, Held, LayerRecord, Name, verify},
};

/// Layers of one image that are fetched at one time.
const AT_ONCE: usize = 4;
/// Indexes within indexes.
const MAX_DEPTH: usize = 3;

/// An image as a registry describes it.
struct Described {
    manifest_bytes: Vec<u8>,
    manifest: Manifest,
    config_bytes: Vec<u8>,
    config: Config,
}

/// What all layers of a pull need.
struct Work<'a> {
    store: &'a Arc<Inner>,
    session: &'a Session<'a>,
    name: &'a Name,
    /// Blobs of the same repository that are here.
    known: &'a HashSet<Digest>,
    budget: &'a Arc<Budget>,
    pulling: &'a Arc<Held>,
    /// Taken by threads that are at work, which go on for a moment when nobody waits for them any more.
    threads: Arc<Semaphore>,
}

/// What a thread holds for as long as it works for a pull.
struct AtWork {
    _pulling: Arc<Held>,
    _thread: OwnedSemaphorePermit,
}

pub(crate) async fn pull(
    store: Arc<Inner>,
    name: Name,
    logins: Logins,
    progress: watch::Sender<Progress>,
) -> Result<Arc<StoredImage>, Error> {
    let disk = Arc::clone(&store.disk);
    let Name { reference, owner } = name.clone();
    let place = reference.place();
    let (pulling, known) = blocking(move || {
        disk.check()?;
        // Until it has its name, nobody may take away what it counts on.
        let pulling = disk.pulling()?;
        Ok::<_, Error>((pulling, disk.blobs_of(|name| name.reference.place() == place && name.is_for(owner.as_ref()))?))
    })
    .await?;
    let (client, shown) = (store.client().await, reference.to_string());
    let asked = store.reach.registries().asked(reference.registry());
    for (index, host) in asked.iter().enumerate() {
        let session = Session::new(client, &store.reach, host, reference.repository(), &shown, logins.at(host)?)?;
        let described = match describe(&store, &session, &reference, &known).await {
            Ok(described) => described,
            Err(error) if index + 1 < asked.len() && is_of_the_registry(&error) => {
                tracing::warn!(registry = %host, error = %error, "A mirror has not given an image out; asking the next");
                continue;
            }
            Err(error) => return Err(error),
        };
        let budget = Budget::new(store.options.limits);
        let work = Work {
            store: &store,
            session: &session,
            name: &name,
            known: &known,
            budget: &budget,
            pulling: &Arc::new(pulling),
            threads: Arc::new(Semaphore::new(MAX_LAYERS)),
        };
        let done = work.all(described, &progress).boxed().await;
        if done.is_err() {
            // What they have begun goes with them, so that nothing is left when the error is known.
            budget.give_up();
            let _all = work.threads.acquire_many(MAX_LAYERS as u32).await;
        }
        return done.map(Arc::new);
    }
    unreachable!("the registry itself is asked last")
}

/// Whether another registry may do better.
fn is_of_the_registry(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. } | Error::Denied { .. } | Error::RateLimited { .. } | Error::Unreachable { .. } | Error::Registry { .. }
    )
}

async fn describe(store: &Inner, session: &Session<'_>, reference: &Reference, known: &HashSet<Digest>) -> Result<Described, Error> {
    let name = reference.to_string();
    let mut fetched = session.manifest(&reference.version().to_string()).await?;
    if let Version::Digest(digest) = reference.version() {
        verify(&format!("the manifest of `{name}`"), &fetched.bytes, *digest)?;
    }
    let mut depth = 0;
    let manifest = loop {
        match manifest::parse(&format!("`{name}`"), &fetched.bytes, fetched.media_type.as_deref())? {
            Document::Manifest(manifest) => break *manifest,
            Document::Index(_) if depth == MAX_DEPTH => {
                return Err(Error::Manifest { what: format!("`{name}`"), why: "it is an index of indexes of indexes".to_owned() });
            }
            Document::Index(index) => {
                let entry = index.ours()?;
                let inner = session.manifest(&entry.digest().to_string()).await?;
                exact(&format!("manifest {}", entry.digest()), &inner.bytes, entry)?;
                // The index says what it is, whatever the answer says.
                let media_type = Some(entry.media_type.clone()).filter(|said| !said.is_empty()).or(inner.media_type);
                fetched = Fetched { bytes: inner.bytes, media_type };
                depth += 1;
            }
        }
    };
    let (digest, size) = (manifest.config.digest(), manifest.config.size);
    let here = known.contains(&digest) && store.disk.has_blob(digest, size);
    let disk = Arc::clone(&store.disk);
    let config_bytes = if here { blocking(move || disk.document(digest)).await? } else { session.document(digest).await? };
    exact(&format!("configuration {digest}"), &config_bytes, &manifest.config)?;
    let config = config::parse(&format!("`{name}`"), &config_bytes, manifest.layers.len())?;
    Ok(Described { manifest_bytes: fetched.bytes, manifest, config_bytes, config })
}

fn exact(what: &str, bytes: &[u8], expected: &Descriptor) -> Result<(), Error> {
    if bytes.len() as u64 != expected.size {
        return Err(Error::Size { what: what.to_owned(), expected: expected.size, found: bytes.len().to_string() });
    }
    verify(what, bytes, expected.digest())
}

impl Work<'_> {
    async fn all(&self, described: Described, progress: &watch::Sender<Progress>) -> Result<StoredImage, Error> {
        let Described { manifest_bytes, manifest, config_bytes, config } = described;
        let announced = manifest.layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
        let most = self.budget.limits().bytes;
        if announced.is_none_or(|announced| announced > most) {
            return Err(Error::TooBig { what: "bytes", most });
        }
        let layer = |layer: &Descriptor| LayerProgress { digest: layer.digest(), size: layer.size, phase: Phase::Waiting };
        progress.send_replace(Progress { layers: manifest.layers.iter().map(layer).collect() });
        let _give_up = GiveUp(Arc::clone(self.budget));
        let mut jobs: Vec<BoxFuture<'_, _>> = Vec::new();
        for (index, (layer, diff_id)) in manifest.layers.iter().zip(&config.diff_ids).enumerate() {
            jobs.push(self.layer(layer, *diff_id, Teller { progress: progress.clone(), layer: index }).boxed());
        }
        let layers: Vec<LayerRecord> = stream::iter(jobs).buffered(AT_ONCE).try_collect().await?;
        let (disk, pulling, name) = (Arc::clone(&self.store.disk), Arc::clone(self.pulling), self.name.clone());
        blocking(move || {
            let record = import::record(&disk, &manifest_bytes, &config_bytes, layers)?;
            disk.name(&name, record.clone())?;
            drop(pulling);
            disk.stored(&name.reference.to_string(), &record)
        })
        .await
    }

    async fn layer(&self, layer: &Descriptor, diff_id: Digest, teller: Teller) -> Result<LayerRecord, Error> {
        let (blob, size) = (layer.digest(), layer.size);
        // Whoever else wants the same layer waits, and finds it here.
        let _turn = self.store.turns.take(diff_id).await;
        if !self.may_have(blob, size).await? {
            teller.tell(Phase::Downloading(0));
            self.fetch(blob, size, &teller).await?;
        }
        let (disk, budget, tell) = (Arc::clone(&self.store.disk), Arc::clone(self.budget), teller.clone());
        let until_it_ends = (self.store.unpacking().await, self.at_work().await);
        blocking(move || {
            let _until_it_ends = until_it_ends;
            disk.unpack_blob(blob, diff_id, &budget, &|bytes| tell.tell(Phase::Unpacking(bytes)))
        })
        .await?;
        teller.tell(Phase::Done);
        Ok(LayerRecord { diff_id: Text(diff_id), blob: Text(blob), size })
    }

    async fn at_work(&self) -> AtWork {
        let thread = Arc::clone(&self.threads).acquire_owned().await.expect("it is never closed");
        AtWork { _pulling: Arc::clone(self.pulling), _thread: thread }
    }

    /// Whether a blob is here that whoever asks may have.
    async fn may_have(&self, blob: Digest, size: u64) -> Result<bool, Error> {
        if !self.store.disk.has_blob(blob, size) {
            return Ok(false);
        }
        if self.known.contains(&blob) {
            return Ok(true);
        }
        // The registry that it came from decides. Another one may say what it likes, without having it.
        let (disk, registry) = (Arc::clone(&self.store.disk), self.name.reference.registry().to_owned());
        let from_there = self.store.has_fetched(&registry, blob)
            || blocking(move || disk.blobs_of(|name| name.reference.registry() == registry)).await?.contains(&blob);
        if from_there { self.session.has(blob).await } else { Ok(false) }
    }

    async fn fetch(&self, blob: Digest, size: u64, teller: &Teller) -> Result<(), Error> {
        let disk = Arc::clone(&self.store.disk);
        let (temporary, file) = blocking(move || disk.temporary_file()).await?;
        let (disk, path) = (&self.store.disk, temporary.path().to_owned());
        let progress = |came| teller.tell(Phase::Downloading(came));
        let full = |cause| disk.failure("write", &path, cause);
        let file = self.session.blob(blob, size, file, &progress, &full).await?;
        let (disk, until_it_ends) = (Arc::clone(disk), self.at_work().await);
        blocking(move || {
            let _until_it_ends = until_it_ends;
            disk.keep_blob(temporary, &file, blob)
        })
        .await?;
        self.store.fetched(self.name.reference.registry(), blob);
        Ok(())
    }
}
