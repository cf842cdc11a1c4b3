//! The other servers on the same database: whether this one still has its lease, what they have changed, and who hosts what.
//!
//! ```text
//! every 500 ms  look ──▶ peers, who leads, whether keys have changed (then they are read anew)
//! every lease/5 renew ─▶ the lease goes on ──▶ those whose lease is over are declared dead, once this one has had its own for as long
//!                   └──▶ it does not: another has ended in the database what is hosted here. All of it ends; then a new lease
//! ```
//!
//! Between the end of its lease and its next word with the database a server does not know what is true of what it hosts. Until then it answers
//! nothing: see [`Engine::in_touch`].

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use caisson_core::{
    Abandoned, Error, Hosted, Peer, Result, Sandbox, SandboxId, Seen, ServerId, Servers, State as Life, StopReason, Store, Tenant,
    Tombstone, TombstoneReason,
};
use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Engine,
    core::{Core, now, store_error, unavailable},
    figures,
    sandbox::End,
    secret,
};

/// Between two looks: so long may it take until a change by another server holds here.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A lease is renewed so many times before it is over.
const RENEWALS: u32 = 5;
/// Of so many sandboxes and executions it is remembered who hosts them.
const REMEMBERED: usize = 50_000;

/// Who hosts something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// This server, or nobody: there is no such thing.
    Here,
    At(Peer),
    /// A server that is not there.
    Away(ServerId),
}

/// What this server knows of the others.
#[derive(Debug)]
pub(crate) struct Fleet {
    own: ServerId,
    lease: Duration,
    /// What all of them have in common.
    secret: [u8; 32],
    state: Mutex<State>,
    peers: watch::Sender<HashMap<ServerId, String>>,
    /// The changes of keys that are known here.
    changes: watch::Sender<u64>,
    /// Whether keys were changed here since the last look, so that there are more.
    changing: AtomicBool,
    leads: watch::Sender<bool>,
    hosts: Mutex<Remembered>,
}

#[derive(Debug)]
struct State {
    /// When the lease is over, by the clock of this machine: counted from before it was asked for, so never later than the database has it.
    held_until: Instant,
    /// Since when it has been held without a gap.
    steady_since: Instant,
    renewed: Option<Instant>,
}

/// Who hosts what never changes; the oldest go first.
#[derive(Debug, Default)]
struct Remembered {
    hosts: HashMap<Hosted, ServerId>,
    order: VecDeque<Hosted>,
}

impl Fleet {
    /// For an engine whose store shares its database.
    async fn of(candidate: [u8; 32], servers: &dyn Servers) -> Result<Self> {
        let (lease, begun) = (servers.lease(), Instant::now());
        Ok(Self {
            own: servers.own(),
            lease,
            secret: servers.secret(candidate).await.map_err(store_error)?,
            // The first turn renews it: how old it is by now nobody has counted.
            state: Mutex::new(State { held_until: begun, steady_since: begun, renewed: None }),
            peers: watch::Sender::default(),
            changes: watch::Sender::new(0),
            changing: AtomicBool::new(false),
            leads: watch::Sender::new(false),
            hosts: Mutex::default(),
        })
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    fn holds(&self) -> bool {
        Instant::now() < self.lock().held_until
    }

    fn saw(&self, seen: Seen) -> u64 {
        let peers: HashMap<_, _> = seen.peers.into_iter().map(|peer| (peer.id, peer.url)).collect();
        self.peers.send_if_modified(|known| {
            let news = *known != peers;
            if news {
                *known = peers;
            }
            news
        });
        self.lead(seen.leads);
        seen.changes
    }

    fn lead(&self, leads: bool) {
        self.leads.send_if_modified(|known| std::mem::replace(known, leads) != leads);
    }

    fn renewed(&self, asked: Instant) {
        let mut state = self.lock();
        if asked >= state.held_until {
            state.steady_since = asked;
        }
        (state.held_until, state.renewed) = (asked + self.lease, Some(asked));
    }

    /// Whether whoever has lost touch with the database as this one did, such as by its restart, has had the time to come back.
    fn is_steady(&self) -> bool {
        self.lock().steady_since.elapsed() >= self.lease
    }

    fn lose(&self) {
        self.lock().held_until = Instant::now();
        self.lead(false);
    }

    /// Keys were changed here, and nobody knows the number of that yet.
    pub(crate) fn note_change(&self, changed: bool) {
        self.changing.fetch_or(changed, Ordering::AcqRel);
    }

    fn peer(&self, id: ServerId) -> Host {
        if id == self.own {
            return Host::Here;
        }
        self.peers.borrow().get(&id).map_or(Host::Away(id), |url| Host::At(Peer { id, url: url.clone() }))
    }

    fn remembered(&self, what: Hosted) -> Option<ServerId> {
        self.lock_hosts().hosts.get(&what).copied()
    }

    fn remember(&self, what: Hosted, host: ServerId) {
        let mut known = self.lock_hosts();
        if known.hosts.insert(what, host).is_none() {
            known.order.push_back(what);
            if known.order.len() > REMEMBERED
                && let Some(oldest) = known.order.pop_front()
            {
                known.hosts.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_hosts(&self) -> MutexGuard<'_, Remembered> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the lease and looks what the others do, until the engine closes.
pub(crate) async fn keep_in_touch(core: Arc<Core>) {
    let Some(fleet) = &core.fleet else { return };
    let Some(servers) = core.servers() else { return };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // A token stays cancelled.
            () = core.closing.cancelled() => break,
            // No tick is lost that matters: the next one comes soon.
            _ = ticks.tick() => {}
        }
        if let Err(error) = turn(&core, fleet, servers).await {
            tracing::debug!(error = %error, "The other servers are not seen at the moment");
        }
    }
    // What is left to end has the whole of a lease for that.
    if let Err(error) = servers.renew().await {
        tracing::debug!(error = %error, "The lease could not be renewed for the end");
    }
}

async fn turn(core: &Core, fleet: &Fleet, servers: &dyn Servers) -> Result<()> {
    let asked = Instant::now();
    let due = fleet.lock().renewed.is_none_or(|renewed| renewed + fleet.lease / RENEWALS <= asked);
    if due && !servers.renew().await.map_err(store_error)? {
        return lost(core, fleet, servers).await;
    }
    if due {
        fleet.renewed(asked);
        if fleet.is_steady() {
            bury(fleet, servers).await?;
        }
    }
    // What is changed from here on is seen now or told again.
    let changing = fleet.changing.swap(false, Ordering::AcqRel);
    let seen = servers.look().await.inspect_err(|_| fleet.note_change(changing)).map_err(store_error)?;
    let Some(seen) = seen else { return lost(core, fleet, servers).await };
    let changes = fleet.saw(seen);
    if changes != *fleet.changes.borrow() {
        core.keys.reload(&*core.store).await?;
        fleet.changes.send_replace(changes);
    }
    Ok(())
}

async fn bury(fleet: &Fleet, servers: &dyn Servers) -> Result<()> {
    let message = format!("the server that ran it has not been heard of for {} s", fleet.lease.as_secs());
    let tombstone = Tombstone { reason: TombstoneReason::ServerLost, message, at: now() };
    for buried in servers.bury_the_dead(&tombstone).await.map_err(store_error)? {
        let (server, sandboxes, executions) = (buried.server, buried.sandboxes, buried.executions);
        tracing::warn!(%server, sandboxes, executions, "Server {server} died with {sandboxes} sandboxes and {executions} executions");
    }
    Ok(())
}

/// Another server has declared this one dead: in the database, what is hosted here has ended, or is stopped where its files are kept.
async fn lost(core: &Core, fleet: &Fleet, servers: &dyn Servers) -> Result<()> {
    fleet.lose();
    let hosted = core.registry.sandboxes().len();
    if hosted > 0 {
        tracing::error!(
            sandboxes = hosted,
            "Other servers have not heard of this one for its whole lease, and ended its {hosted} sandboxes"
        );
    }
    let end = End::new(TombstoneReason::ServerLost, "its server had not been heard of for its whole lease");
    loop {
        let living = core.registry.sandboxes();
        if living.is_empty() {
            break;
        }
        join_all(living.iter().map(|sandbox| async {
            if sandbox.is_kept() {
                sandbox.stop(StopReason::ServerLost).await;
            } else {
                sandbox.end(end.clone()).await;
            }
            sandbox.over().await;
        }))
        .await;
    }
    let asked = Instant::now();
    servers.rejoin().await.map_err(store_error)?;
    fleet.renewed(asked);
    tracing::info!("This server takes part again");
    Ok(())
}

impl Core {
    /// Those that share the database, where it is shared.
    pub(crate) fn servers(&self) -> Option<&dyn Servers> {
        self.store.ledger()?.servers()
    }

    /// Something of keys or quotas may have been changed here.
    pub(crate) fn keys_changed(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.note_change(true);
        }
    }

    /// See [`Engine::in_touch`].
    pub(crate) fn in_touch(&self) -> Result<()> {
        match &self.fleet {
            Some(fleet) if !fleet.holds() => Err(unavailable(
                "this server has not reached the database for its whole lease, and does not know what has become of its sandboxes; ask another, \
                 or see that the database is there",
            )),
            _ => Ok(()),
        }
    }

    /// Who hosts it.
    pub(crate) async fn host(&self, what: Hosted) -> Result<Host> {
        let Some(fleet) = &self.fleet else { return Ok(Host::Here) };
        if self.registry.has(what) {
            return Ok(Host::Here);
        }
        let Some(servers) = self.servers() else { return Ok(Host::Here) };
        let host = match fleet.remembered(what) {
            Some(host) => host,
            None => {
                let Some(host) = servers.host(what).await.map_err(store_error)? else { return Ok(Host::Here) };
                fleet.remember(what, host);
                host
            }
        };
        // It may have come a moment ago.
        if matches!(fleet.peer(host), Host::Away(_))
            && let Some(seen) = servers.look().await.map_err(store_error)?
        {
            fleet.saw(seen);
        }
        Ok(fleet.peer(host))
    }

    /// Ends one that is stopped on a server that is not there. Its files stay there.
    pub(crate) async fn abandon(&self, tenant: &Tenant, id: SandboxId) -> Result<Option<Sandbox>> {
        if !matches!(self.host(Hosted::Sandbox(id)).await?, Host::Away(_)) {
            return Ok(None);
        }
        // Whose it is, no other look tells.
        let found = self.store.sandbox(tenant, id).await.map_err(store_error)?;
        if found.is_none_or(|sandbox| sandbox.state != Life::Stopped) {
            return Ok(None);
        }
        let Some(servers) = self.servers() else { return Ok(None) };
        let message = "deleted on request; its server was not there".to_owned();
        let tombstone = Tombstone { reason: TombstoneReason::Deleted, message, at: now() };
        servers.end_abandoned(Abandoned::One(id), &tombstone).await.map_err(store_error)?;
        let ended = self.store.sandbox(tenant, id).await.map_err(store_error)?;
        Ok(ended.filter(|sandbox| sandbox.tombstone.is_some()))
    }

    /// Ends those that have been stopped for longer than `grace` on servers that are not there, if that is this server's to do.
    pub(crate) async fn end_abandoned(&self, grace: Duration) {
        let Some(servers) = self.servers() else { return };
        if !self.fleet.as_ref().is_some_and(|fleet| *fleet.leads.borrow() && fleet.is_steady()) {
            return;
        }
        let message = format!("it was stopped, and its server was not there within {}", figures::seconds(grace));
        let tombstone = Tombstone { reason: TombstoneReason::StoppedTooLong, message, at: now() };
        let Ok(before) = tombstone.at.checked_sub(grace) else { return };
        match servers.end_abandoned(Abandoned::Before(before), &tombstone).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(sandboxes = count, "{count} sandboxes were stopped for too long on servers that are not there"),
            Err(error) => tracing::debug!(error = %error, "Whether sandboxes are stopped on servers that are not there is not known"),
        }
    }

    /// Why a sandbox that lives is not here.
    pub(crate) async fn not_here(&self, id: SandboxId) -> Error {
        match self.host(Hosted::Sandbox(id)).await {
            Ok(Host::At(peer)) => unavailable(format!("sandbox `{id}` is on another server, at {}; ask that one", peer.url)),
            Ok(Host::Away(server)) => unavailable(format!(
                "sandbox `{id}` is on server {server}, which is not there; start it again, or wait until it is taken for dead"
            )),
            // It ended between the two looks.
            Ok(Host::Here) => unavailable(format!("sandbox `{id}` is just ending")),
            Err(error) => error,
        }
    }
}

impl Engine {
    /// Who hosts it. Asks the database only where several servers share it, and only once.
    pub async fn host(&self, what: Hosted) -> Result<Host> {
        self.core.host(what).await
    }

    /// Where a server is.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Host {
        self.core.fleet.as_ref().map_or(Host::Here, |fleet| fleet.peer(id))
    }

    /// Refuses where this server does not know whether others have declared it dead.
    pub fn in_touch(&self) -> Result<()> {
        self.core.in_touch()
    }

    /// This server's name among those that share its database; absent where it has it alone.
    #[must_use]
    pub fn own_server(&self) -> Option<ServerId> {
        Some(self.core.fleet.as_ref()?.own)
    }

    /// The secret that all servers on the database have in common.
    #[must_use]
    pub fn common_secret(&self) -> Option<&[u8; 32]> {
        Some(&self.core.fleet.as_ref()?.secret)
    }

    /// Grows with every change of keys, quotas and webhooks that is known here. Never where this server has its database alone.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.core.fleet.as_ref().map_or_else(|| watch::Sender::default().subscribe(), |fleet| fleet.changes.subscribe())
    }

    /// The changes that whoever is asked by this server has to know as well.
    #[must_use]
    pub fn changes_to_know(&self) -> u64 {
        let of = |fleet: &Fleet| if fleet.changing.load(Ordering::Acquire) { u64::MAX } else { *fleet.changes.borrow() };
        self.core.fleet.as_ref().map_or(0, of)
    }

    /// Sees to it that the changes are known here that another server knows.
    pub async fn catch_up(&self, changes: u64) -> Result<()> {
        let Some(fleet) = &self.core.fleet else { return Ok(()) };
        if *fleet.changes.borrow() < changes {
            self.core.keys.reload(&*self.core.store).await?;
        }
        Ok(())
    }

    /// Whether what one server does for all is this one's to do.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.core.fleet.as_ref().is_none_or(|fleet| *fleet.leads.borrow() && fleet.holds())
    }

    /// Changes with that.
    #[must_use]
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.core.fleet.as_ref().map_or_else(|| watch::Sender::new(true).subscribe(), |fleet| fleet.leads.subscribe())
    }

    /// Returns when this server is taken for dead.
    pub async fn dead(&self, server: ServerId) {
        match &self.core.fleet {
            // An error means that the engine has gone.
            Some(fleet) => drop(fleet.peers.subscribe().wait_for(|peers| !peers.contains_key(&server)).await),
            None => std::future::pending().await,
        }
    }

    /// Whether no other server has a request with this key under way.
    pub async fn claim_answer(&self, key: &str) -> Result<bool> {
        match self.core.ledger()?.servers() {
            Some(servers) => servers.claim_answer(&self.tenant, key).await.map_err(store_error),
            None => Ok(true),
        }
    }

    /// It is over. What cannot be written now ends with this server's run.
    pub async fn release_answer(&self, key: &str) {
        if let Ok(ledger) = self.core.ledger()
            && let Some(servers) = ledger.servers()
            && let Err(error) = servers.release_answer(&self.tenant, key).await
        {
            tracing::warn!(error = %error, "Other servers take a request for being under way that is over");
        }
    }
}

/// What the engine needs to know of the others, where there can be any.
pub(crate) async fn fleet(data_dir: &Path, store: &dyn Store) -> Result<Option<Fleet>> {
    let Some(servers) = store.ledger().and_then(|ledger| ledger.servers()) else { return Ok(None) };
    let candidate = secret::of_data_dir(data_dir).await?;
    Ok(Some(Fleet::of(candidate, servers).await?))
}
