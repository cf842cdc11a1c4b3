//! Ways out of a sandbox. Its agent announces who wants out; everything is judged, looked up and dialled here.
//!
//! ```text
//! agent ── Announced(proxy) ────▶ accept ─▶ request ─▶ judge ─▶ look up ─▶ judge again ─▶ dial ─▶ 200 and bytes, or 403
//!       ── Announced(address) ──▶ judge ─▶ dial ─▶ accept ─▶ what is said first is judged ─▶ bytes, or a reset
//!       ── Question ────────────▶ judge ─▶ look up ─▶ judge ─▶ Reply, or REFUSED
//! ```
//!
//! The address that is judged is the one that is dialled. Connections that a changed policy refuses are cut. Where a policy is about requests, what is
//! said first decides how they are judged: plain ones one to a connection, those in TLS one after the other ([`intercept`]).

mod authority;
mod dns;
mod head;
mod http;
mod intercept;
mod mask;
mod meter;
mod relay;
mod resolver;
mod secrets;
mod sniff;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{
    AddressRange, Asked, BadHost, EgressTotals, Error, Happened, HostName, Network, Refused, Result, Rule, Rules, SandboxId, Secret,
    canonical,
};
use caisson_wire::{
    egress::{Announced, MAX_CONNECTIONS, MAX_QUESTIONS, Message, Way, declined},
    frame::Kind,
};
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{authority::Authority, resolver::Resolver};
use self::{
    dns::{Code, Kind as Wanted},
    mask::Needles,
    meter::Meter,
    resolver::NotFound,
};
use crate::{
    Engine,
    agent_client::{AgentClient, AgentError},
    core::{Core, now},
    ports::{self, PortStream},
    sandbox::Living,
};

/// For all addresses of a host together, and for each.
const DIAL_WITHIN: Duration = Duration::from_secs(15);
const DIAL_ONE_WITHIN: Duration = Duration::from_secs(5);
/// Decisions that are remembered for whoever asks.
const REMEMBERED: usize = 200;
/// Destinations whose first refusal is an event.
const TOLD: usize = 100;
/// Addresses whose names are remembered, and names of one.
const ANSWERED: usize = 4096;
const NAMES: usize = 16;
/// Names that one sandbox may have looked up at one time: a few slow ones are not to hold up those of all others.
const LOOKUPS: usize = 8;
/// Sets of secrets of one policy for which it is known what to look for.
const KNOWN: usize = 8;
/// What waits for the agent.
const FRAMES: usize = 64;

/// How sandboxes get out, where they may at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressConfig {
    /// Addresses that are like public ones although they are not: the operator's mirrors, for example.
    pub addresses: Vec<AddressRange>,
    /// Who is asked for names; the host's own resolver when empty.
    pub dns: Vec<SocketAddr>,
    /// Where packages come from, in place of the usual hosts.
    pub packages: Option<Vec<Rule>>,
    /// Files with the certificate and the key of who vouches for hosts whose TLS is looked into; one of the data directory's own where absent.
    pub authority: Option<(PathBuf, PathBuf)>,
}

/// By which way something wanted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressWay {
    /// A connection through the proxy.
    Proxy,
    /// A connection that was redirected.
    Connection,
    /// A name that was looked up.
    Lookup,
}

impl EgressWay {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Connection => "connection",
            Self::Lookup => "lookup",
        }
    }
}

/// What became of something that wanted out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressDecision {
    pub at: Timestamp,
    pub way: EgressWay,
    pub host: String,
    /// Of connections.
    pub port: Option<u16>,
    /// Why it was refused, or did not come about: a code and a sentence.
    pub refused: Option<(&'static str, String)>,
}

/// What a sandbox did with its ways out, since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressReport {
    pub network: Network,
    /// Whether programs get out without knowing of the proxy.
    pub redirects: bool,
    /// Connections that are open.
    pub open: u64,
    pub allowed: u64,
    pub refused: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// The latest ones, the latest first.
    pub decisions: Vec<EgressDecision>,
}

/// The same figures of all sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressSnapshot {
    pub open: u64,
    pub allowed: u64,
    pub refused: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Figures {
    open: AtomicU64,
    allowed: AtomicU64,
    refused: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl Figures {
    pub(crate) fn snapshot(&self) -> EgressSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EgressSnapshot {
            open: load(&self.open),
            allowed: load(&self.allowed),
            refused: load(&self.refused),
            bytes_out: load(&self.bytes_out),
            bytes_in: load(&self.bytes_in),
        }
    }
}

/// Why something did not get out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum No {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Host(#[from] BadHost),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("`{said}` is said on a connection that was allowed for another host")]
    Mismatch { said: String },
    #[error(transparent)]
    Name(#[from] NotFound),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it does not answer: no connection within {} s", DIAL_WITHIN.as_secs())]
    Silent,
    #[error("TLS with it did not come about: {0}")]
    Untrusted(String),
    #[error("secret `{0}` cannot be read here: it was sealed by another server; set the network of the sandbox again")]
    Sealed(String),
    #[error("the answer has the secret in its head")]
    Echo,
    #[error("the answer is encoded although it was not to be, so that a secret in it could not be seen")]
    Illegible,
}

impl From<head::Malformed> for No {
    fn from(malformed: head::Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl No {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Host(_) | Self::Malformed(_) => "malformed",
            Self::Mismatch { .. } => "mismatch",
            Self::Name(NotFound::NoSuchName) => "no_such_name",
            Self::Name(NotFound::Failed) => "lookup_failed",
            Self::Unreachable(_) => "unreachable",
            Self::Silent => "silent",
            Self::Untrusted(_) => "untrusted",
            Self::Sealed(_) => "secret",
            Self::Echo => "secret_echoed",
            Self::Illegible => "illegible",
        }
    }
}

/// Names by the addresses that a sandbox was told they have.
#[derive(Debug, Default)]
struct Answered {
    names: HashMap<IpAddr, VecDeque<HostName>>,
    /// In the order in which they came.
    order: VecDeque<IpAddr>,
}

impl Answered {
    fn add(&mut self, address: IpAddr, name: &HostName) {
        let names = self.names.entry(canonical(address)).or_insert_with(|| {
            self.order.push_back(canonical(address));
            VecDeque::new()
        });
        if !names.contains(name) {
            names.push_back(name.clone());
            if names.len() > NAMES {
                names.pop_front();
            }
        }
        if self.order.len() > ANSWERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    fn names(&self, address: IpAddr) -> Vec<HostName> {
        self.names.get(&canonical(address)).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

/// What a sandbox may reach now, and what it has reached.
#[derive(Debug)]
pub(crate) struct Outlet {
    network: watch::Sender<Network>,
    /// Cancelled when its sandbox has ended: what is still open is closed.
    over: CancellationToken,
    /// Names that it may have looked up at one time.
    lookups: Semaphore,
    meter: Meter,
    answered: Mutex<Answered>,
    figures: Figures,
    decisions: Mutex<VecDeque<EgressDecision>>,
    /// Destinations whose refusal was told.
    told: Mutex<HashSet<String>>,
    needles: Mutex<KnownNeedles>,
}

/// What is looked for in answers, by the secrets that it is of.
#[derive(Debug, Default)]
struct KnownNeedles(VecDeque<(Vec<Secret>, Arc<Needles>)>);

impl KnownNeedles {
    fn get(&self, secrets: &BTreeMap<&str, &Secret>) -> Option<Arc<Needles>> {
        let is_of = |known: &[Secret]| known.iter().eq(secrets.values().copied());
        self.0.iter().find(|(known, _)| is_of(known)).map(|(_, needles)| Arc::clone(needles))
    }

    fn add(&mut self, secrets: &BTreeMap<&str, &Secret>, needles: &Arc<Needles>) {
        self.0.push_back((secrets.values().map(|secret| (*secret).clone()).collect(), Arc::clone(needles)));
        if self.0.len() > KNOWN {
            self.0.pop_front();
        }
    }
}

impl Outlet {
    pub(crate) fn new(network: Network) -> Self {
        Self {
            network: watch::Sender::new(network),
            over: CancellationToken::new(),
            lookups: Semaphore::new(LOOKUPS),
            meter: Meter::default(),
            answered: Mutex::default(),
            figures: Figures::default(),
            decisions: Mutex::default(),
            told: Mutex::default(),
            needles: Mutex::default(),
        }
    }

    /// Whether a refusal is the first that is told of its destination.
    fn is_news(&self, destination: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD && told.insert(destination.to_owned())
    }

    /// From now on; connections that this refuses are cut.
    pub(crate) fn set(&self, network: Network) {
        self.meter.hold(network.limits());
        self.network.send_replace(network);
    }

    /// Whether anything more may go either way.
    fn check_spent(&self) -> Result<(), Refused> {
        let max = self.network.borrow().limits().max_bytes;
        max.filter(|_| self.meter.is_spent()).map_or(Ok(()), |max| Err(Refused::Spent(max)))
    }

    fn network(&self) -> Network {
        self.network.borrow().clone()
    }

    fn report(&self, redirects: bool) -> EgressReport {
        let EgressSnapshot { open, allowed, refused, bytes_out, bytes_in } = self.figures.snapshot();
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect();
        EgressReport { network: self.network(), redirects, open, allowed, refused, bytes_out, bytes_in, decisions }
    }
}

impl Core {
    /// Whether sandboxes may have this network on this server.
    pub(crate) fn check_network(&self, network: &Network) -> Result<()> {
        match (&self.config.egress, network) {
            (_, Network::None) => Ok(()),
            (None, _) => Err(Error::unsupported(
                "sandboxes of this server have no network: its operator has not opened it (CAISSON_EGRESS=on); use network `none`",
            )),
            (Some(egress), network) => network.check(&egress.addresses),
        }
    }

    /// The same, and makes of it what is kept: with the operator's hosts for packages, and secrets sealed.
    pub(crate) async fn prepare_network(&self, network: &mut Network) -> Result<()> {
        self.check_network(network)?;
        if network.is_none() {
            return Ok(());
        }
        self.authority().await?;
        if let (Network::Packages(rules), Some(allow)) =
            (&mut *network, self.config.egress.as_ref().and_then(|egress| egress.packages.as_ref()))
        {
            *rules = Arc::new(Rules { allow: allow.clone(), ..Rules::default() });
        }
        self.seal_secrets(network).await
    }

    /// Who vouches for hosts whose TLS is looked into.
    pub(crate) async fn authority(&self) -> Result<&Authority> {
        let given = self.config.egress.as_ref().and_then(|egress| egress.authority.as_ref());
        self.authority.get_or_try_init(|| Authority::open(&self.config.data_dir, given)).await
    }
}

impl Engine {
    /// Whether sandboxes may be asked for that have a network.
    #[must_use]
    pub fn has_egress(&self) -> bool {
        self.core.config.egress.is_some()
    }

    /// Makes ready what is needed where sandboxes get out, if they do, so that what is wrong with it is told at the start.
    pub async fn open_egress(&self) -> Result<()> {
        if self.has_egress() { self.core.authority().await.map(drop) } else { Ok(()) }
    }

    /// What a living sandbox may reach, and what it has reached. One that was made without a network has reached nothing.
    pub async fn egress(&self, id: SandboxId) -> Result<EgressReport> {
        let living = self.living(id).await?;
        Ok(match &living.outlet {
            Some(outlet) => outlet.report(self.core.backend.redirects(&living.now().spec)),
            None => Outlet::new(Network::None).report(false),
        })
    }
}

/// On what grounds a connection is let out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ground {
    /// Its address may be reached as such.
    Address,
    /// One of these names may be, and has it.
    Names(Vec<HostName>),
}

/// A connection that is let out.
#[derive(Debug, Clone)]
struct Grant {
    to: SocketAddr,
    ground: Ground,
    /// Whom the program has named on it.
    said: Arc<OnceLock<HostName>>,
    /// Whether nobody looks at what is said on it any more.
    unseen: Arc<AtomicBool>,
}

impl Grant {
    fn new(to: SocketAddr, ground: Ground) -> Self {
        Self { to, ground, said: Arc::default(), unseen: Arc::default() }
    }

    /// The one host that it is for, as far as that is known.
    fn host(&self) -> Option<&HostName> {
        match (&self.ground, self.said.get()) {
            (_, Some(said)) => Some(said),
            (Ground::Names(names), None) if names.len() == 1 => names.first(),
            _ => None,
        }
    }

    /// Whether something on it has to be looked into that cannot be told apart any more.
    fn is_opaque(&self, network: &Network) -> bool {
        let port = self.to.port();
        match (self.host(), &self.ground) {
            (Some(host), _) => network.inspects(host, port),
            (None, Ground::Names(names)) => names.iter().any(|name| network.inspects(name, port)),
            // It may be that of a host whose requests are judged.
            (None, Ground::Address) => network.inspects_some(),
        }
    }
}

/// Everything that whoever serves a sandbox needs.
#[derive(Clone)]
struct Server {
    core: Arc<Core>,
    living: Arc<Living>,
    outlet: Arc<Outlet>,
    agent: AgentClient,
    say: mpsc::Sender<Bytes>,
}

/// Serves the ways out of a sandbox until it ends.
pub(crate) async fn serve(core: Arc<Core>, living: Arc<Living>, outlet: Arc<Outlet>) {
    // Whoever made it hears why there is none.
    let Ok(agent) = living.agent().await else { return };
    let id = living.id;
    let over = outlet.over.clone().drop_guard();
    let listened = listen(&core, &living, &outlet, agent).await;
    drop(over);
    let EgressSnapshot { allowed, refused, bytes_out, bytes_in, .. } = outlet.figures.snapshot();
    if allowed + refused > 0 {
        tell(
            &core,
            &living,
            Happened::Summary { start: living.now().starts, egress: EgressTotals { allowed, refused, bytes_out, bytes_in } },
        )
        .await;
    }
    match listened {
        // Ends the sandbox, whose tombstone says why.
        Err(error @ AgentError::Nonsense(_)) => drop(living.failed(error).await),
        Err(error) => tracing::debug!(sandbox.id = %id, %error, "Sandbox {id} has no ways out any more"),
        Ok(()) => {}
    }
}

/// Tells those who follow events, where there are any.
async fn tell(core: &Core, living: &Living, what: Happened) {
    let (Some(ledger), id) = (core.store.ledger(), living.id) else { return };
    if let Err(error) = ledger.tell(&living.tenant, id, &what).await {
        tracing::warn!(sandbox.id = %id, %error, "What sandbox {id} did with its ways out is no event");
    }
}

async fn listen(core: &Arc<Core>, living: &Arc<Living>, outlet: &Arc<Outlet>, agent: AgentClient) -> Result<(), AgentError> {
    let (say, waiting) = mpsc::channel(FRAMES);
    let mut announcements = agent.announcements(waiting).await?;
    let (places, questions) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Semaphore::new(2 * MAX_QUESTIONS)));
    let server = Server { core: Arc::clone(core), living: Arc::clone(living), outlet: Arc::clone(outlet), agent, say };
    let mut last = 0;
    let nonsense = |error: caisson_wire::frame::FrameError| AgentError::Nonsense(error.to_string());
    while let Some(frame) = announcements.next().await? {
        match frame.kind {
            Kind::Announced => {
                let announced = Announced::read(&frame.payload).map_err(nonsense)?;
                if announced.id <= last {
                    return Err(AgentError::Nonsense("a connection was announced twice".to_owned()));
                }
                last = announced.id;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    // Its agent has given a place back before we have.
                    if server.say.try_send(declined(announced.id)).is_err() {
                        return Err(AgentError::Nonsense("more connections than there may be".to_owned()));
                    }
                    continue;
                };
                let server = server.clone();
                core.tasks.spawn(async move { server.connection(announced, place).await });
            }
            Kind::Question => {
                let question = Message::read(&frame.payload).map_err(nonsense)?;
                let Ok(place) = Arc::clone(&questions).try_acquire_owned() else {
                    return Err(AgentError::Nonsense("more questions than there may be".to_owned()));
                };
                let server = server.clone();
                core.tasks.spawn(async move {
                    server.question(question).await;
                    drop(place);
                });
            }
            other => return Err(AgentError::Nonsense(format!("a frame of kind {other:?} among announcements"))),
        }
    }
    Ok(())
}

impl Server {
    fn opened(&self) -> &[AddressRange] {
        self.core.config.egress.as_ref().map_or(&[], |egress| &egress.addresses)
    }

    fn figures(&self) -> [&Figures; 2] {
        [&self.outlet.figures, &self.core.egress]
    }

    /// Notes what became of it.
    fn decided(&self, way: EgressWay, host: &str, port: Option<u16>, refused: Option<&No>) {
        for figures in self.figures() {
            let counter = if refused.is_some() { &figures.refused } else { &figures.allowed };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let host = crate::figures::tamed(host, 300);
        if let Some(no) = refused {
            let (id, code) = (self.living.id, no.code());
            tracing::debug!(sandbox.id = %id, way = way.as_str(), %host, port, code, "Sandbox {id} was refused a way out: {no}");
        }
        let refused = refused.map(|no| (no.code(), crate::figures::tamed(&no.to_string(), 500)));
        if let Some((code, reason)) = &refused {
            let destination = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
            if self.outlet.is_news(&destination) {
                let (core, living) = (Arc::clone(&self.core), Arc::clone(&self.living));
                let what = Happened::Refused { destination, reason: (*code).to_owned(), message: reason.clone() };
                self.core.tasks.spawn(async move { tell(&core, &living, what).await });
            }
        }
        let decision = EgressDecision { at: now(), way, host, port, refused };
        let mut decisions = self.outlet.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() == REMEMBERED {
            decisions.pop_front();
        }
        decisions.push_back(decision);
    }

    async fn connection(self, Announced { id, way }: Announced, place: OwnedSemaphorePermit) {
        for figures in self.figures() {
            figures.open.fetch_add(1, Ordering::Relaxed);
        }
        let served = async {
            match way {
                Way::Proxy => {
                    // An error means that the program or the sandbox has gone.
                    if let Ok(client) = self.take_over(id).await {
                        http::serve(&self, client).await;
                    }
                }
                Way::Redirected(to) => self.redirected(id, to).await,
            }
        };
        tokio::select! {
            // Losing is no harm: nobody is there any more who could hear of it.
            () = self.outlet.over.cancelled() => {}
            // Losing closes everything that it has open.
            () = served => {}
        }
        for figures in self.figures() {
            figures.open.fetch_sub(1, Ordering::Relaxed);
        }
        drop(place);
    }

    async fn take_over(&self, id: u64) -> Result<PortStream, AgentError> {
        Ok(ports::carried(&self.core, &self.living, self.agent.take_over(id).await?, None))
    }

    async fn redirected(&self, id: u64, to: SocketAddr) {
        let dialled = async {
            let grant = self.judge_address(to)?;
            Ok::<_, No>((dial(to).await?, grant))
        };
        let host = Asked::Address(canonical(to.ip())).to_string();
        match dialled.await {
            Err(no) => {
                self.decided(EgressWay::Connection, &host, Some(to.port()), Some(&no));
                // The sandbox ends where this is not heard.
                self.say.send(declined(id)).await.ok();
            }
            Ok((upstream, grant)) => {
                let host = match &grant.ground {
                    Ground::Names(names) => names.last().map_or(host, ToString::to_string),
                    Ground::Address => host,
                };
                let Ok(client) = self.take_over(id).await else { return };
                self.decided(EgressWay::Connection, &host, Some(to.port()), None);
                if let Err(no) = relay::connect(self, client, upstream, &grant, Vec::new()).await {
                    let host = grant.host().map_or(host, ToString::to_string);
                    self.decided(EgressWay::Connection, &host, Some(to.port()), Some(&no));
                }
            }
        }
    }

    /// Whether a program may connect to an address that it does not say the name of.
    fn judge_address(&self, to: SocketAddr) -> Result<Grant, Refused> {
        self.outlet.check_spent()?;
        let (network, address, port) = (self.outlet.network(), canonical(to.ip()), to.port());
        let to = SocketAddr::new(address, port);
        let refused = match network.address(address, port, self.opened()) {
            Ok(()) => {
                self.not_own(to)?;
                return Ok(Grant::new(to, Ground::Address));
            }
            Err(refused) => refused,
        };
        // What is denied, or never public, has no name that would help.
        if !matches!(refused, Refused::NotAllowed | Refused::Port) {
            return Err(refused);
        }
        let mut names = self.outlet.answered.lock().unwrap_or_else(PoisonError::into_inner).names(address);
        names.retain(|name| network.name(name, port).is_ok());
        if names.is_empty() {
            return Err(refused);
        }
        self.not_own(to)?;
        Ok(Grant::new(to, Ground::Names(names)))
    }

    /// Whether a grant stands before anything is said.
    fn stands_yet(&self, grant: &Grant) -> bool {
        let network = self.outlet.network();
        let (address, port) = (grant.to.ip(), grant.to.port());
        match &grant.ground {
            Ground::Address => network.address(address, port, self.opened()).is_ok(),
            Ground::Names(names) => {
                network.found(address, port, self.opened()).is_ok() && names.iter().any(|name| network.name(name, port).is_ok())
            }
        }
    }

    /// Whether a grant still stands.
    fn stands(&self, grant: &Grant) -> bool {
        let (network, port) = (self.outlet.network(), grant.to.port());
        let is_sayable = match (&grant.ground, grant.said.get()) {
            // Where nobody was named, it may be one that is denied.
            (Ground::Address, said) => said.map_or(!network.denies_names(), |name| network.denies_name(name, port).is_ok()),
            (Ground::Names(_), said) => said.is_none_or(|name| network.name(name, port).is_ok()),
        };
        let is_opaque = grant.unseen.load(Ordering::Relaxed) && grant.is_opaque(&network);
        is_sayable && !is_opaque && self.stands_yet(grant)
    }

    /// Whether what a program says on a connection may be said there.
    fn may_say(&self, grant: &Grant, said: &Asked) -> Result<(), No> {
        match (&grant.ground, said) {
            (Ground::Names(names), Asked::Name(name)) if names.contains(name) => {}
            (Ground::Names(_), said) => return Err(No::Mismatch { said: said.to_string() }),
            (Ground::Address, Asked::Name(name)) => self.outlet.network().denies_name(name, grant.to.port())?,
            (Ground::Address, Asked::Address(_)) => return Ok(()),
        }
        if let Asked::Name(name) = said {
            grant.said.get_or_init(|| name.clone());
        }
        Ok(())
    }

    /// Whether what is said has to be looked at.
    fn looks(&self, grant: &Grant) -> bool {
        let network = self.outlet.network();
        matches!(grant.ground, Ground::Names(_)) || network.denies_names() || network.inspects_some()
    }

    /// Whether a plain request may be made, and then whether there are rules for it.
    fn judge_plain(&self, host: &Asked, port: u16, method: &str, target: &str) -> Result<bool, Refused> {
        let network = self.outlet.network();
        let host = match host {
            Asked::Name(host) => host,
            Asked::Address(address) => {
                let names = self.outlet.answered.lock().unwrap_or_else(PoisonError::into_inner).names(*address);
                return if names.iter().any(|name| network.inspects(name, port)) { Err(Refused::Opaque) } else { Ok(false) };
            }
        };
        network.request(host, port, method, path_of(target))?;
        // What one request has put in, another one could bring back.
        if network.secrets_of(host, port).next().is_some() { Err(Refused::NotTls) } else { Ok(network.inspects(host, port)) }
    }

    /// The server's own addresses are nobody's but the operator's to open.
    fn not_own(&self, to: SocketAddr) -> Result<(), Refused> {
        // By its own address, as a range that is opened for somebody else may well have it.
        let opened = self.opened().contains(&AddressRange::from(canonical(to.ip())));
        if !opened && is_own(to) { Err(Refused::Own(to.ip())) } else { Ok(()) }
    }

    async fn look_up(&self, name: &HostName) -> Result<Vec<IpAddr>, NotFound> {
        // It is never closed.
        let _turn = self.outlet.lookups.acquire().await.map_err(|_| NotFound::Failed)?;
        self.core.resolver.look_up(name).await
    }

    /// Connects to what a program asks for by name or address.
    async fn reach(&self, asked: &Asked, port: u16) -> Result<(TcpStream, Grant), No> {
        let name = match asked {
            Asked::Address(address) => {
                let grant = self.judge_address(SocketAddr::new(*address, port))?;
                return Ok((dial(grant.to).await?, grant));
            }
            Asked::Name(name) => name,
        };
        self.outlet.check_spent()?;
        self.outlet.network().name(name, port)?;
        let found = self.look_up(name).await?;
        let network = self.outlet.network();
        // It may have changed while the name was looked up.
        network.name(name, port)?;
        let mut no = No::Name(NotFound::NoSuchName);
        let until = Instant::now() + DIAL_WITHIN;
        for address in found {
            let to = SocketAddr::new(canonical(address), port);
            if let Err(refused) = network.found(address, port, self.opened()).and_then(|()| self.not_own(to)) {
                no = refused.into();
                continue;
            }
            match timeout_at(until, dial(to)).await.unwrap_or(Err(No::Silent)) {
                Ok(stream) => return Ok((stream, Grant::new(to, Ground::Names(vec![name.clone()])))),
                Err(failed) => no = failed,
            }
        }
        Err(no)
    }

    async fn question(&self, Message { number, message }: Message) {
        let reply = match dns::read_question(&message) {
            Ok(question) => self.answer(&question).await,
            Err(Some(reply)) => reply,
            // Whoever says nothing that could be answered hears nothing.
            Err(None) => return,
        };
        // The sandbox ends where this is not heard.
        self.say.send(Message { number, message: reply }.encode(Kind::Reply)).await.ok();
    }

    async fn answer(&self, question: &dns::Question) -> Bytes {
        if let Err(refused) = self.outlet.check_spent() {
            let name = question.name.as_ref().map_or("", HostName::as_str);
            self.decided(EgressWay::Lookup, name, None, Some(&refused.into()));
            return question.reply(Code::Refused, &[]);
        }
        let name = match &question.name {
            Ok(name) => name,
            Err(bad) => {
                self.decided(EgressWay::Lookup, "", None, Some(&No::Host(*bad)));
                return question.reply(Code::Refused, &[]);
            }
        };
        let network = self.outlet.network();
        if let Err(refused) = network.looks_up(name) {
            self.decided(EgressWay::Lookup, name.as_str(), None, Some(&refused.into()));
            return question.reply(Code::Refused, &[]);
        }
        match question.kind {
            Wanted::V4 | Wanted::V6 => {}
            Wanted::Nothing => return question.reply(Code::Fine, &[]),
            Wanted::Other => return question.reply(Code::NotImplemented, &[]),
        }
        let found = match self.look_up(name).await {
            Ok(found) => found,
            Err(error) => {
                self.decided(EgressWay::Lookup, name.as_str(), None, Some(&error.into()));
                let code = if error == NotFound::NoSuchName { Code::NoSuchName } else { Code::Failed };
                return question.reply(code, &[]);
            }
        };
        let (mut usable, mut refused) = (Vec::new(), None);
        for address in found {
            // By which port it will be asked for is not known. What is refused for one port is refused when it is.
            match network.found(address, 0, self.opened()).and_then(|()| self.not_own(SocketAddr::new(canonical(address), 53))) {
                Ok(()) => usable.push(canonical(address)),
                Err(no) => refused = Some(no),
            }
        }
        if let (true, Some(refused)) = (usable.is_empty(), refused) {
            self.decided(EgressWay::Lookup, name.as_str(), None, Some(&refused.into()));
            return question.reply(Code::Refused, &[]);
        }
        let mut answered = self.outlet.answered.lock().unwrap_or_else(PoisonError::into_inner);
        usable.iter().for_each(|address| answered.add(*address, name));
        drop(answered);
        self.decided(EgressWay::Lookup, name.as_str(), None, None);
        question.reply(Code::Fine, &usable)
    }
}

/// The target of a request without its query.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

async fn dial(to: SocketAddr) -> Result<TcpStream, No> {
    match timeout(DIAL_ONE_WITHIN, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => {
            // Whoever wrote it decided how it is cut. Where that cannot be set, it is only slower.
            stream.set_nodelay(true).ok();
            Ok(stream)
        }
        Ok(Err(error)) => Err(No::Unreachable(error.kind().to_string())),
        Err(_) => Err(No::Silent),
    }
}

/// Whether an address is one of this machine, which alone lets a socket have it. Where the kernel lets sockets have any (`ip_nonlocal_bind`,
/// ip-sysctl), all are taken for its own, and nothing gets out.
fn is_own(to: SocketAddr) -> bool {
    match UdpSocket::bind((to.ip(), 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn r3_2_addresses_of_this_machine_are_known() {
        assert!(is_own("127.0.0.1:80".parse().unwrap()) && is_own("127.9.9.9:80".parse().unwrap()) && is_own("[::1]:80".parse().unwrap()));
        assert!(!is_own("8.8.8.8:80".parse().unwrap()));
    }

    #[test]
    fn names_are_remembered_by_their_addresses_and_not_without_end() {
        let mut answered = Answered::default();
        let name = |n: usize| format!("h{n}.example").parse::<HostName>().unwrap();
        let address: IpAddr = "1.2.3.4".parse().unwrap();
        (0..NAMES + 3).for_each(|n| answered.add(address, &name(n)));
        answered.add("::ffff:1.2.3.4".parse().unwrap(), &name(9999));
        let names = answered.names(address);
        assert_eq!((names.len(), names.first(), names.last()), (NAMES, Some(&name(4)), Some(&name(9999))));
        for n in 0..ANSWERED as u32 {
            answered.add(Ipv4Addr::from_bits(0x0800_0000 + n).into(), &name(0));
        }
        assert!(answered.names(address).is_empty() && answered.names.len() == ANSWERED && answered.order.len() == ANSWERED);
    }
}
