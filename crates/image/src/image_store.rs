//! The store as others see it.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use caisson_core::{Digest, StoredImage, Tenant};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use reqwest::Client;
use tokio::{
    sync::{Mutex as AsyncMutex, OnceCell, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
};

use crate::{
    Changes, Collected, Commit, Error, Lease, Limits, Logins, Reference, Registries, Source, commit, config, export, import,
    progress::Progress,
    pull,
    registry::{Reach, client},
    store::{Budget, Disk, GiveUp, Name, Record},
};

/// Layers that are unpacked at one time: each takes a thread for the compression and one for the files.
const UNPACKED_AT_ONCE: usize = 2;

/// What the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// What an image may hold.
    pub limits: Limits,
    pub registries: Registries,
    /// A file like `~/.docker/config.json`, for what is pulled for everybody.
    pub logins: Option<PathBuf>,
}

/// Images in a directory, as those see them who look after it, or as a tenant does. Several processes may have it open.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
    /// Absent for those who look after it.
    tenant: Option<Tenant>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) disk: Arc<Disk>,
    pub(crate) options: Options,
    pub(crate) reach: Reach,
    client: OnceCell<Client>,
    unpacking: Arc<Semaphore>,
    pub(crate) turns: Turns,
    /// Pulls that are under way.
    flights: Mutex<HashMap<(Name, Logins), Flight>>,
    /// Which registries have given out what, in this run.
    fetched: Mutex<HashSet<(String, Digest)>>,
}

/// What becomes of a pull. All that wait for it hear the same.
type Outcome = Result<Arc<StoredImage>, Arc<Error>>;
type Running = BoxFuture<'static, Outcome>;

#[derive(Debug)]
struct Flight {
    done: WeakShared<Running>,
    progress: watch::Receiver<Progress>,
}

/// A pull that is under way, maybe for others too. It goes on while anybody waits for it.
#[derive(Debug, Clone)]
#[must_use = "nothing is pulled unless somebody waits for it"]
pub struct Pull {
    done: Shared<Running>,
    progress: watch::Receiver<Progress>,
}

impl Pull {
    /// How far it has come, and whenever that changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The image, when all of it is here.
    pub async fn finish(self) -> Result<Arc<StoredImage>, Arc<Error>> {
        self.done.await
    }
}

/// See [`ImageStore::turn`].
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// Whose it is alone: a tenant that has pulled it with logins of its own.
    pub owner: Option<Tenant>,
    pub id: Digest,
    /// Of its manifest.
    pub digest: Digest,
    /// Bytes as it came.
    pub size: u64,
    /// Bytes unpacked. Layers that several images have count for each.
    pub unpacked: u64,
    /// Seconds since 1970.
    pub added: i64,
}

/// All about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub listed: Listed,
    pub image: StoredImage,
    /// When it was made, as it says.
    pub created: Option<String>,
    pub layers: Vec<InspectedLayer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedLayer {
    pub diff_id: Digest,
    pub digest: Digest,
    pub size: u64,
    pub unpacked: u64,
    /// How many entries are not in the sandbox's root because they are devices, fifos or sockets; and the first of them.
    pub left_out: u64,
    pub left_out_named: Vec<String>,
}

impl ImageStore {
    /// Opens or makes the store in a directory that is nobody else's. What a process that was killed had begun is removed.
    pub async fn open(directory: impl Into<PathBuf>, options: Options) -> Result<Self, Error> {
        let directory = directory.into();
        let disk = blocking(move || Disk::open(&directory)).await?;
        let reach = Reach::new(options.registries.clone());
        let inner = Inner {
            disk: Arc::new(disk),
            options,
            reach,
            client: OnceCell::new(),
            unpacking: Arc::new(Semaphore::new(UNPACKED_AT_ONCE)),
            turns: Turns::default(),
            flights: Mutex::default(),
            fetched: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner), tenant: None })
    }

    /// The same images as a tenant sees them: those that are there for everybody, and its own. What is pulled here is its own.
    #[must_use]
    pub fn of(&self, tenant: &Tenant) -> Self {
        Self { inner: Arc::clone(&self.inner), tenant: Some(tenant.clone()) }
    }

    /// Where the unpacked layers of a store in this directory are.
    #[must_use]
    pub fn layers_below(directory: &Path) -> PathBuf {
        Disk::layers_below(directory)
    }

    /// Where unpacked layers are, each by the digits of its diff id: lower directories of overlayfs.
    #[must_use]
    pub fn layers_dir(&self) -> &Path {
        self.inner.disk.layers()
    }

    /// The logins of the configuration, as they stand in its file now.
    pub async fn logins(&self) -> Result<Logins, Error> {
        match self.inner.options.logins.clone() {
            Some(path) => blocking(move || Logins::from_docker_config(&path)).await,
            None => Ok(Logins::none()),
        }
    }

    /// Gets an image from its registry. Whoever asks for the same image with the same logins meanwhile waits for the same pull.
    pub fn pull(&self, reference: Reference, logins: Logins) -> Pull {
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.done.upgrade().is_some_and(|done| done.peek().is_none()));
        let key = (Name { reference, owner: self.tenant.clone() }, logins);
        if let Some((done, progress)) = flights.get(&key).and_then(|flight| Some((flight.done.upgrade()?, flight.progress.clone()))) {
            return Pull { done, progress };
        }
        let (sender, progress) = watch::channel(Progress::default());
        let (store, (name, logins)) = (Arc::clone(&self.inner), key.clone());
        let done = async move {
            let pulled = pull::pull(Arc::clone(&store), name, logins, sender).await;
            if let Err(error @ Error::DiskFull { .. }) = pulled {
                return Err(Arc::new(
                    blocking(move || {
                        give_room_back(&store.disk, &error);
                        error
                    })
                    .await,
                ));
            }
            pulled.map_err(Arc::new)
        };
        let done = done.boxed().shared();
        if let Some(weak) = done.downgrade() {
            flights.insert(key, Flight { done: weak, progress: progress.clone() });
        }
        Pull { done, progress }
    }

    /// An image that is here, and a lease: while that lives, the image stays, whatever becomes of its name.
    pub async fn resolve(&self, name: &Reference) -> Result<(Arc<StoredImage>, Lease), Error> {
        let (name, tenant) = (name.clone(), self.tenant.clone());
        self.with_disk(move |disk| {
            let (record, lease) = disk.lease(&name, tenant.as_ref())?;
            Ok((Arc::new(disk.stored(&name.to_string(), &record)?), lease))
        })
        .await
    }

    /// Whether there is an image of this name.
    pub async fn has(&self, name: &Reference) -> Result<bool, Error> {
        let (name, tenant) = (name.clone(), self.tenant.clone());
        self.with_disk(move |disk| Ok(disk.names()?.find(&name, tenant.as_ref()).is_ok())).await
    }

    /// Takes in what comes as files, for everybody: all images that say their names, or one image under the name that is given.
    pub async fn import(&self, source: Source, name: Option<Reference>) -> Result<Vec<Arc<StoredImage>>, Error> {
        let budget = Budget::new(self.inner.options.limits);
        let _give_up = GiveUp(Arc::clone(&budget));
        self.with_disk(move |disk| {
            let images = import::import(disk, source, name.as_ref(), &budget).inspect_err(|error| give_room_back(disk, error))?;
            images.iter().map(|(name, record)| disk.stored(&name.to_string(), record).map(Arc::new)).collect()
        })
        .await
    }

    /// A turn at unpacking. Whoever makes others stand still for what is then to be unpacked takes it before that.
    pub async fn turn(&self) -> Turn {
        Turn { _permit: self.inner.unpacking().await }
    }

    /// Makes one more image of one that is here and of what was changed over it. It belongs to whom [`Commit`] says.
    pub async fn commit(&self, _turn: Turn, what: Commit, changes: Changes) -> Result<Inspected, Error> {
        let budget = Budget::new(self.inner.options.limits);
        let _give_up = GiveUp(Arc::clone(&budget));
        let (tenant, name) = (self.tenant.clone(), what.name.clone());
        let made = move |disk: &Disk| {
            commit::commit(disk, tenant.as_ref(), &what, changes, &budget).inspect_err(|error| give_room_back(disk, error))
        };
        self.with_disk(made).await?;
        self.inspect(&name).await
    }

    /// Writes an image as a tar archive that is an OCI layout and what `docker load` takes, and gives the writer back. Digests stay.
    pub async fn export<W: Write + Send + 'static>(&self, name: &Reference, mut to: W) -> Result<W, Error> {
        let (name, tenant) = (name.clone(), self.tenant.clone());
        self.with_disk(move |disk| export::export(disk, &name, tenant.as_ref(), &mut to).map(|()| to)).await
    }

    /// All images, in the order of their names.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        let tenant = self.tenant.clone();
        self.with_disk(move |disk| Ok(disk.names()?.of(tenant.as_ref()).map(|(name, record)| listed(disk, name, record)).collect())).await
    }

    pub async fn inspect(&self, name: &Reference) -> Result<Inspected, Error> {
        let (name, tenant) = (name.clone(), self.tenant.clone());
        self.with_disk(move |disk| {
            let (known, record) = disk.record(&name, tenant.as_ref())?;
            let name = name.to_string();
            let created = config::parse(&name, &disk.document(record.id())?, record.layers.len())?.created;
            let layers = record.layers.iter().map(|layer| {
                let facts = disk.layer(layer.diff_id.0);
                InspectedLayer {
                    diff_id: layer.diff_id.0,
                    digest: layer.blob.0,
                    size: layer.size,
                    unpacked: facts.as_ref().map_or(0, |facts| facts.bytes),
                    left_out: facts.as_ref().map_or(0, |facts| facts.left_out),
                    left_out_named: facts.map(|facts| facts.left_out_named).unwrap_or_default(),
                }
            });
            Ok(Inspected { listed: listed(disk, known, &record), layers: layers.collect(), image: disk.stored(&name, &record)?, created })
        })
        .await
    }

    /// Takes a name away, and removes what only that name stood for. What is in use stays until `gc`: by anybody's lease, or by the ids that
    /// the caller says.
    pub async fn remove(&self, name: &Reference, in_use: HashSet<Digest>) -> Result<Collected, Error> {
        self.forget(name, in_use, true).await
    }

    /// The same, unless the image is in use and has no other name: then nothing happens.
    pub async fn remove_unused(&self, name: &Reference, in_use: HashSet<Digest>) -> Result<Collected, Error> {
        self.forget(name, in_use, false).await
    }

    async fn forget(&self, name: &Reference, in_use: HashSet<Digest>, forced: bool) -> Result<Collected, Error> {
        let (name, tenant) = (name.clone(), self.tenant.clone());
        self.with_disk(move |disk| disk.forget(&name, tenant.as_ref(), &in_use, forced)).await
    }

    /// Removes images that have no name and are not in use, and what belongs to no image.
    pub async fn gc(&self, in_use: HashSet<Digest>) -> Result<Collected, Error> {
        self.with_disk(move |disk| disk.collect(&in_use)).await
    }

    async fn with_disk<T: Send + 'static>(&self, work: impl FnOnce(&Disk) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let disk = Arc::clone(&self.inner.disk);
        blocking(move || work(&disk)).await
    }
}

/// What came of an image that does not fit is kept for nobody: it would be in the way of everything else. Otherwise it stays until `gc`, as
/// whoever tries again will need it.
fn give_room_back(disk: &Disk, error: &Error) {
    if matches!(error, Error::DiskFull { .. })
        && let Err(error) = disk.make_room()
    {
        tracing::warn!(error = %error, "What came of an image that did not fit could not be removed");
    }
}

fn listed(disk: &Disk, name: Name, record: &Record) -> Listed {
    let unpacked = record.lower_directories().into_iter().filter_map(|diff_id| disk.layer(diff_id)).map(|facts| facts.bytes).sum();
    let Name { reference, owner } = name;
    let (name, digest) = (reference.to_string(), record.manifest.0);
    Listed { name, owner, id: record.id(), digest, size: record.size, unpacked, added: record.added }
}

impl Inner {
    pub(crate) async fn client(&self) -> &Client {
        self.client.get_or_init(|| client(&self.reach)).await
    }

    pub(crate) async fn unpacking(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.unpacking).acquire_owned().await.expect("it is never closed")
    }

    pub(crate) fn fetched(&self, registry: &str, blob: Digest) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).insert((registry.to_owned(), blob));
    }

    pub(crate) fn has_fetched(&self, registry: &str, blob: Digest) -> bool {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).contains(&(registry.to_owned(), blob))
    }
}

/// One at a time for each layer.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>);

impl Turns {
    pub(crate) async fn take(&self, diff_id: Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&diff_id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(AsyncMutex::new(()));
                turns.insert(diff_id, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// Work that waits for disks and locks, in a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and nobody will ask again.
            Err(_) => std::future::pending().await,
        },
    }
}
