//! The server's configuration: read once, checked as a whole, refused with every problem at once.
//!
//! ```text
//! defaults < caisson.toml < environment < flags  ──▶ [`Layers`]: one text per key ──▶ [`Config`]: typed values
//! ```

mod backends;
mod blobs;
mod boxbox;
mod daiv;
mod images;
mod layers;
mod settings;
mod sources;
mod values;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use caisson_core::{Image, Storage};
use caisson_engine::EgressConfig;

pub(crate) use self::{
    backends::{Choice, NATIVE, name as backend_name},
    blobs::BlobStorage,
    boxbox::Boxbox,
    daiv::Daiv,
    images::Here,
    settings::Setting,
    sources::{Environment, Sources},
};
use self::{layers::Layers, values::Reader};
use caisson_locks::RedisUrl;
use caisson_server::Public;
use caisson_store::{Location, Sharing};

use crate::{data_dir::Surroundings, key, logging};

/// Whom the server lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever shows this key.
    Key(key::Key),
    /// Whoever shows the key that is kept in the data directory.
    StoredKey,
    /// Every program on this machine.
    Everybody,
}

/// A server's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Every address gets a listener of its own.
    pub(crate) listen: Vec<SocketAddr>,
    /// Absolute.
    pub(crate) data_dir: PathBuf,
    pub(crate) access: Access,
    /// Which events are logged, as `tracing` filters are written.
    pub(crate) log: String,
    pub(crate) log_format: logging::Format,
    /// Sandboxes at one time.
    pub(crate) max_sandboxes: usize,
    /// How long a request waits for room where there are as many.
    pub(crate) queue_wait: Duration,
    /// Whether sandboxes are kept warm.
    pub(crate) pool: bool,
    /// How sandboxes get out, if they may.
    pub(crate) egress: Option<EgressConfig>,
    /// Where records are kept; `None` is a file in the data directory.
    pub(crate) database: Option<Location>,
    /// Where locks are that other servers share; `None` is this process alone.
    pub(crate) redis: Option<RedisUrl>,
    /// How other servers share the database; `None` for one that has it alone.
    pub(crate) sharing: Option<Sharing>,
    /// How long ended sandboxes are remembered.
    pub(crate) retention: Duration,
    /// How many of each tenant, if they are counted.
    pub(crate) retention_sandboxes: Option<u64>,
    /// How long stopped sandboxes are kept.
    pub(crate) stopped_grace: Option<Duration>,
    /// How many of them.
    pub(crate) max_stopped: Option<usize>,
    /// Bytes of each output stream that are kept.
    pub(crate) output_log: u64,
    /// Bytes of each output stream that a result carries itself.
    pub(crate) inline_output: usize,
    /// Whether to serve where limits on memory and processor time cannot be enforced in full.
    pub(crate) accept_weaker_limits: bool,
    /// What sandboxes may be made by.
    pub(crate) backends: Choice,
    /// Under which addresses clients know it.
    pub(crate) public: Public,
    /// For clients of the Boxed API alone.
    pub(crate) boxed_key: Option<key::Key>,
    /// Opens the API of every sandbox of Modbox's clients.
    pub(crate) sandbox_key: Option<key::Key>,
    /// For clients of boxbox.
    pub(crate) boxbox: Boxbox,
    /// For clients of daiv-sandbox.
    pub(crate) daiv: Daiv,
    /// Names of images that are others here, over the default ones.
    pub(crate) image_aliases: BTreeMap<String, Image>,
    /// Where images come from, and what they may hold.
    pub(crate) images: caisson_image::Options,
    /// Where files of workspaces are.
    pub(crate) blobs: BlobStorage,
    /// Names of other systems in the environment that had a say.
    pub(crate) aliases: Vec<&'static str>,
}

/// How long a server is believed to be there that its peers hear nothing of.
const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// Everything that is wrong with a configuration, in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => f.write_str(one),
            many => {
                write!(f, "the configuration has {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// The configuration that these sources give.
    pub(crate) fn read(sources: &Sources, surroundings: &Surroundings) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let layers = Layers::collect(sources, &mut problems);
        let mut reader = Reader::new(&layers, &mut problems);
        let listen = reader.get(Setting::Listen, values::listen).unwrap_or_else(values::default_listen);
        let data_dir = reader.get(Setting::DataDir, values::path).or_else(|| surroundings.data_dir());
        let given_key = reader.get(Setting::ApiKey, values::api_key);
        let with_key = reader.get(Setting::Auth, values::auth).unwrap_or(true);
        let log = reader.get(Setting::Log, values::filter);
        let log_format = reader.get(Setting::LogFormat, values::log_format).unwrap_or_default();
        let max_sandboxes = reader.get(Setting::MaxSandboxes, values::max_sandboxes);
        let queue_wait = reader.get(Setting::QueueWait, values::queue_wait);
        let database = reader.get(Setting::DatabaseUrl, values::database);
        let redis = reader.get(Setting::RedisUrl, values::redis);
        let peer_url = reader.get(Setting::PeerUrl, values::peer_url);
        let server_lease = reader.get(Setting::ServerLease, values::server_lease);
        let retention = reader.get(Setting::Retention, values::retention);
        let retention_sandboxes = reader.get(Setting::RetentionSandboxes, values::retention_sandboxes);
        let stopped_grace = reader.get(Setting::StoppedGraceS, values::stopped_grace);
        let max_stopped = reader.get(Setting::MaxStopped, values::max_stopped);
        let output_log = reader.get(Setting::OutputLog, values::output_log);
        let inline_output = reader.get(Setting::InlineOutput, values::inline_output);
        let pool = reader.get(Setting::Pool, values::pool).unwrap_or(true);
        let egress = reader.get(Setting::Egress, values::egress).unwrap_or(false);
        let addresses = reader.get(Setting::EgressAddresses, values::egress_addresses);
        let dns = reader.get(Setting::Dns, values::dns);
        let packages = reader.get(Setting::EgressPackages, values::egress_packages);
        let certificate = reader.get(Setting::EgressCaCertFile, values::path);
        let key = reader.get(Setting::EgressCaKeyFile, values::path);
        if certificate.is_some() != key.is_some() {
            reader.problem("CAISSON_EGRESS_CA_CERT_FILE and CAISSON_EGRESS_CA_KEY_FILE go together; give both, or none".to_owned());
        }
        for (name, given) in [
            ("CAISSON_EGRESS_ADDRESSES", addresses.is_some()),
            ("CAISSON_DNS", dns.is_some()),
            ("CAISSON_EGRESS_PACKAGES", packages.is_some()),
            ("CAISSON_EGRESS_CA_CERT_FILE", certificate.is_some()),
        ] {
            if given && !egress {
                reader.problem(format!(
                    "{name} is about sandboxes with a network, and CAISSON_EGRESS is not `on`; set it, or leave this out"
                ));
            }
        }
        let egress = egress.then(|| EgressConfig {
            addresses: addresses.unwrap_or_default(),
            dns: dns.unwrap_or_default(),
            packages,
            authority: certificate.zip(key),
        });
        let accept_weaker_limits = reader.get(Setting::AcceptWeakerLimits, values::truth).unwrap_or(false);

        let public =
            Public { url: reader.get(Setting::PublicUrl, values::public), domain: reader.get(Setting::PublicDomain, values::public) };
        let boxed_key = reader.get(Setting::BoxedApiKey, values::api_key);
        let sandbox_key = reader.get(Setting::SandboxApiKey, values::api_key);
        let boxbox = boxbox::read(&mut reader, &sources.environment);
        let mut daiv = daiv::read(&mut reader, &sources.environment, data_dir.as_deref(), surroundings.is_root);
        let backends = backends::read(&mut reader, &layers, daiv.runtime);
        if daiv.settings.backend.is_empty() && backends.names.first() != Some(&NATIVE) {
            // No other has a disk.
            daiv.settings.storage = Storage::Memory;
        }
        let image_aliases = reader.get(Setting::ImageAliases, values::image_aliases).unwrap_or_default();
        let images = images::read(&mut reader, surroundings);
        let blobs = blobs::read(&mut reader, data_dir.as_deref());
        let of_use = |name: &str| match name.split('_').next() {
            Some("AWS") => matches!(blobs, Some(BlobStorage::S3(_))),
            Some("DOCKER") => backends.docker.is_some(),
            _ => true,
        };
        let aliases = settings::ALIASES
            .iter()
            .filter(|(name, key)| of_use(name) && layers.get(*key).is_some_and(|given| given.place == *name))
            .map(|(name, _)| *name)
            .collect();

        let everywhere: Vec<String> = listen.iter().filter(|a| !a.ip().to_canonical().is_loopback()).map(ToString::to_string).collect();
        let key_is_named = layers.has(Setting::ApiKey);
        let access = match (with_key, given_key) {
            (false, _) => Access::Everybody,
            (true, Some(key)) => Access::Key(key),
            (true, None) => Access::StoredKey,
        };
        if access == Access::Everybody && key_is_named {
            problems.push("CAISSON_AUTH is `none`, yet there is a key; leave out one of them".to_owned());
        }
        if access == Access::Everybody && layers.has(Setting::BoxedApiKey) {
            problems.push("CAISSON_AUTH is `none`, yet there is a key in BOXED_API_KEY; leave out one of them".to_owned());
        }
        if access == Access::Everybody && layers.has(Setting::BoxboxApiKey) {
            problems.push("CAISSON_AUTH is `none`, yet there is a key for boxbox's clients (API_KEY or CAISSON_BOXBOX_API_KEY); leave out one of them".to_owned());
        }
        if access == Access::Everybody && layers.has(Setting::DaivApiKey) {
            problems.push("CAISSON_AUTH is `none`, yet there is a key for daiv-sandbox's clients (DAIV_SANDBOX_API_KEY or CAISSON_DAIV_API_KEY); leave out one of them".to_owned());
        }
        if daiv.listen.is_some() && daiv.key.is_none() && !key_is_named {
            problems.push("DAIV_SANDBOX_HOST and DAIV_SANDBOX_PORT are an address for daiv-sandbox's clients, and there is no key; set DAIV_SANDBOX_API_KEY, or leave them out".to_owned());
        }
        if !everywhere.is_empty() && access == Access::Everybody {
            problems.push(format!("CAISSON_AUTH is `none`, which is for this machine alone, yet CAISSON_LISTEN has {}; set CAISSON_API_KEY instead, or listen on 127.0.0.1", everywhere.join(", ")));
        } else if !everywhere.is_empty() && !key_is_named {
            problems.push(format!("CAISSON_LISTEN has {}, where others can reach it; set CAISSON_API_KEY (to the output of `openssl rand -hex 32`, for example), or listen on 127.0.0.1", everywhere.join(", ")));
        }
        if layers.has(Setting::PeerUrl) && !matches!(database, Some(Location::Postgres(_))) {
            problems.push("CAISSON_PEER_URL is for servers that share a PostgreSQL database, and there is none; set CAISSON_DATABASE_URL to its postgres:// URL, or leave it out".to_owned());
        }
        if layers.has(Setting::PeerUrl) && access == Access::StoredKey {
            problems.push(
                "CAISSON_PEER_URL is there, yet no key that all servers have in common; set CAISSON_API_KEY to the same for all of them"
                    .to_owned(),
            );
        }
        if layers.has(Setting::ServerLease) && !layers.has(Setting::PeerUrl) {
            problems.push("CAISSON_SERVER_LEASE is for servers that share a database; set CAISSON_PEER_URL to where the others reach this one, or leave it out".to_owned());
        }
        if data_dir.is_none() && !layers.has(Setting::DataDir) {
            problems.push("there is no directory for data, because HOME is not set; set CAISSON_DATA_DIR".to_owned());
        }
        // Only to learn the engine's defaults: where its data goes is said elsewhere.
        let engine = caisson_engine::EngineConfig::new(PathBuf::new());
        let (output_log, inline_output) = (output_log.unwrap_or(engine.log_bytes), inline_output.unwrap_or(engine.inline_output_bytes));
        if inline_output as u64 > output_log {
            problems.push(format!(
                "CAISSON_INLINE_OUTPUT is {inline_output} bytes, more than the {output_log} of CAISSON_OUTPUT_LOG; make it smaller"
            ));
        }
        let for_everybody = access != Access::Everybody && (key_is_named || boxbox.key.is_some());
        match (data_dir, blobs) {
            (Some(data_dir), Some(blobs)) if problems.is_empty() => Ok(Self {
                listen: daiv::with_address(boxbox::with_port(listen, boxbox.port, for_everybody), daiv.listen),
                data_dir,
                access,
                log: log.or_else(|| daiv.log.clone()).unwrap_or_else(|| logging::DEFAULT_FILTER.to_owned()),
                log_format,
                max_sandboxes: max_sandboxes.unwrap_or(engine.max_sandboxes),
                queue_wait: queue_wait.unwrap_or(engine.queue_wait),
                pool,
                egress,
                database,
                redis,
                sharing: peer_url.map(|url| Sharing { url, lease: server_lease.unwrap_or(DEFAULT_LEASE) }),
                retention: retention.unwrap_or(engine.retention),
                retention_sandboxes: retention_sandboxes.or(engine.retention_sandboxes),
                stopped_grace: stopped_grace.unwrap_or_else(|| daiv.stopped.grace(engine.stopped_grace)),
                max_stopped: max_stopped.map_or_else(|| daiv.stopped.max(engine.max_stopped), Some),
                output_log,
                inline_output,
                accept_weaker_limits,
                backends,
                public,
                boxed_key,
                sandbox_key,
                boxbox,
                daiv,
                image_aliases,
                images,
                blobs,
                aliases,
            }),
            _ => Err(Problems(problems)),
        }
    }
}

#[cfg(test)]
mod tests;
