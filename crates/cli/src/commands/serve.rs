//! `caisson serve`: the service.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use caisson_core::Blobs;
use caisson_engine::{Engine, EngineConfig};
use caisson_image::ImageStore;
use caisson_locks::Locks;
use caisson_native::{Native, NativeConfig};
use caisson_server::{Auth, BindError, BoxboxSettings, Server, templates::TemplateFolder};
use caisson_store::{LocalBlobs, S3Blobs};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    backends::{self, Directories},
    boxbox,
    config::{Access, BlobStorage, Config, Environment, Setting, Sources},
    data_dir::{DataDir, Surroundings},
    database::Database,
    key::{self, Stored},
    logging, reports,
    signals::Signals,
    status,
};

/// The phases of an orderly end have their own limits (30 s for requests, 10 s for sandboxes, 2 s for last words, 5 s for locks); whatever goes beyond
/// all of them is stuck in the kernel, and is left to the launcher.
const STOP_WITHIN: Duration = Duration::from_secs(60);

const AFTER_HELP: &str = "\
Every option can also be set in a file (by its name with underscores) and in the environment (CAISSON_LISTEN, CAISSON_DATA_DIR, …). \
Options win over the environment, the environment wins over the file. The file may be named with --config; ./caisson.toml is read \
when it is there. Names that are not known are refused.

The key is CAISSON_API_KEY (or `api_key` in a file that nobody else can read). A server on 127.0.0.1 without one makes a random key, \
shows it once, and keeps it in the data directory, where the other commands find it.

Records are in a file of the data directory; CAISSON_DATABASE_URL (or `database_url`) names a PostgreSQL database or another file instead. DATABASE_URL \
means the same. CAISSON_REDIS_URL (or `redis_url`) names a Redis for locks that several servers share. Several servers may share a PostgreSQL \
database when each has CAISSON_PEER_URL (or `peer_url`), where the others reach it.

SIGTERM and Ctrl-C stop the server in order: requests in flight may finish, then every sandbox ends. A second signal stops it at once.

Examples:
  caisson serve
  caisson serve --listen 127.0.0.1:9000 --data-dir /srv/caisson
  CAISSON_API_KEY=$(openssl rand -hex 32) caisson serve --listen 0.0.0.0:8080";

/// Run the service
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeArgs {
    /// Read this configuration file instead of ./caisson.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on; several are separated by commas [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where everything is kept [default: /var/lib/caisson as root, else ~/.local/share/caisson]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// `key`, or `none` to let every program on this machine in [default: key]
    #[arg(long, value_name = "HOW")]
    auth: Option<String>,
    /// What to log, such as `info` or `warn,caisson_engine=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log: `text` or `json` [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Sandboxes at one time [default: 2000]
    #[arg(long, value_name = "N")]
    max_sandboxes: Option<String>,
    /// How long a request waits for room where there are as many, 0 to refuse at once [default: 30s]
    #[arg(long, value_name = "TIME")]
    queue_wait: Option<String>,
    /// Whether sandboxes are kept warm for whoever asks next: `auto` or `off` [default: auto]
    #[arg(long, value_name = "HOW")]
    pool: Option<String>,
    /// Whether sandboxes may have a network that they are asked to have: `on` or `off` [default: off]
    #[arg(long, value_name = "HOW")]
    egress: Option<String>,
    /// Addresses that sandboxes with a network may reach although they are not public, such as 10.0.0.5,10.1.0.0/16
    #[arg(long, value_name = "ADDRESSES")]
    egress_addresses: Option<String>,
    /// Hosts that network `packages` reaches, such as pypi.org,*.example.org:8443 [default: those of pip, npm, cargo, Go, Debian and Ubuntu]
    #[arg(long, value_name = "HOSTS")]
    egress_packages: Option<String>,
    /// Certificate of the authority that vouches for hosts whose TLS is looked into [default: one of the data directory]
    #[arg(long, value_name = "FILE")]
    egress_ca_cert_file: Option<String>,
    /// The key of --egress-ca-cert-file
    #[arg(long, value_name = "FILE")]
    egress_ca_key_file: Option<String>,
    /// Name servers that are asked for what sandboxes look up [default: those of this machine]
    #[arg(long, value_name = "ADDRESSES")]
    dns: Option<String>,
    /// How long ended sandboxes and their output are kept [default: 7d]
    #[arg(long, value_name = "TIME")]
    retention: Option<String>,
    /// How many ended sandboxes of each tenant are kept, the latest [default: all, as long as --retention says]
    #[arg(long, value_name = "N")]
    retention_sandboxes: Option<String>,
    /// Seconds for which stopped sandboxes are kept when nobody uses them; 0: as long as their own time limits say [default: 43200]
    #[arg(long, value_name = "SECONDS")]
    stopped_grace_s: Option<String>,
    /// How many stopped sandboxes are kept, those that were stopped last [default: 50]
    #[arg(long, value_name = "N")]
    max_stopped: Option<String>,
    /// Bytes of each output stream of an execution that are kept, head and tail [default: 64M]
    #[arg(long, value_name = "SIZE")]
    output_log: Option<String>,
    /// Bytes of each output stream that an answer carries itself, head and tail [default: 1M]
    #[arg(long, value_name = "SIZE")]
    inline_output: Option<String>,
    /// Serve even where limits on memory and processor time cannot be enforced in full (an ordinary user without a cgroup of its own)
    #[arg(long)]
    accept_weaker_limits: bool,
    /// What sandboxes are made by where nobody says: `native`, `oci:runsc`, `oci:runc`, `oci:crun`, `oci:youki`, `docker` or `docker:RUNTIME` [default: native]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// What requests and templates may have sandboxes made by, with commas between them [default: --backend alone]
    #[arg(long, value_name = "NAMES")]
    backends: Option<String>,
    /// Where OCI runtimes are, such as runsc=/opt/gvisor/runsc [default: where programs are]
    #[arg(long, value_name = "NAME=PATH")]
    oci_runtimes: Option<String>,
    /// The address by which clients know this server, such as https://caisson.example.com; links to ports begin with it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// A domain below which every port of a sandbox has a name of its own, PORT-ID.DOMAIN; all of them have to lead here
    #[arg(long, value_name = "DOMAIN")]
    public_domain: Option<String>,
}

impl ServeArgs {
    fn sources(self) -> Sources {
        let flags = [
            (Setting::Listen, "--listen", self.listen),
            (Setting::DataDir, "--data-dir", self.data_dir),
            (Setting::Auth, "--auth", self.auth),
            (Setting::Log, "--log", self.log),
            (Setting::LogFormat, "--log-format", self.log_format),
            (Setting::MaxSandboxes, "--max-sandboxes", self.max_sandboxes),
            (Setting::QueueWait, "--queue-wait", self.queue_wait),
            (Setting::Pool, "--pool", self.pool),
            (Setting::Egress, "--egress", self.egress),
            (Setting::EgressAddresses, "--egress-addresses", self.egress_addresses),
            (Setting::EgressPackages, "--egress-packages", self.egress_packages),
            (Setting::EgressCaCertFile, "--egress-ca-cert-file", self.egress_ca_cert_file),
            (Setting::EgressCaKeyFile, "--egress-ca-key-file", self.egress_ca_key_file),
            (Setting::Dns, "--dns", self.dns),
            (Setting::Retention, "--retention", self.retention),
            (Setting::RetentionSandboxes, "--retention-sandboxes", self.retention_sandboxes),
            (Setting::StoppedGraceS, "--stopped-grace-s", self.stopped_grace_s),
            (Setting::MaxStopped, "--max-stopped", self.max_stopped),
            (Setting::OutputLog, "--output-log", self.output_log),
            (Setting::InlineOutput, "--inline-output", self.inline_output),
            (Setting::Backend, "--backend", self.backend),
            (Setting::Backends, "--backends", self.backends),
            (Setting::OciRuntimes, "--oci-runtimes", self.oci_runtimes),
            (Setting::PublicUrl, "--public-url", self.public_url),
            (Setting::PublicDomain, "--public-domain", self.public_domain),
            (Setting::AcceptWeakerLimits, "--accept-weaker-limits", self.accept_weaker_limits.then(|| "true".to_owned())),
        ];
        Sources {
            file: Sources::file(self.config.as_deref()),
            environment: Environment::now(),
            flags: flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?))).collect(),
        }
    }
}

pub(crate) fn run(args: ServeArgs) -> Result<ExitCode> {
    with(&args.sources(), &[])
}

/// Serves as these sources say; the notes are for the log.
pub(crate) fn with(sources: &Sources, notes: &[String]) -> Result<ExitCode> {
    let config = Config::read(sources, &Surroundings::now())?;
    let data_dir = DataDir::take(&config.data_dir)?;
    raise_open_files().context("cannot raise the limit on open files")?;
    // Before there are threads and secrets. It inherits neither the environment nor a descriptor of ours.
    let native = NativeConfig { accept_weaker_limits: config.accept_weaker_limits, ..NativeConfig::new(config.data_dir.clone()) };
    let layers_dir = native.layers_dir.clone();
    let native = config.backends.has_native().then(|| Native::start(native)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    // Ends behind everything that has something to tell.
    let _telling = config.daiv.sentry.clone().map(|settings| runtime.block_on(reports::begin(settings))).transpose()?;
    logging::begin(&config.log, config.log_format, config.daiv.sentry.as_ref())?;
    for alias in &config.aliases {
        tracing::info!("{alias} of the environment is used");
    }
    for note in config.boxbox.notes.iter().chain(&config.daiv.notes).chain(notes) {
        tracing::info!("{note}");
    }
    let left_behind = native.as_ref().map_or(0, Native::left_behind);
    if left_behind > 0 {
        tracing::info!("Removing {left_behind} control groups that an earlier run has left");
    }
    let auth = auth(&config, &data_dir)?;
    let code = runtime.block_on(serve(&config, &data_dir, (native, &layers_dir), auth));
    // Everything has been waited for that could be.
    runtime.shutdown_background();
    code
}

/// Threads that serve: half of the processors, because the rest has sandboxes to run.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// Each sandbox takes a few descriptors, of this program and of the launcher, which inherits the limit (`RLIMIT_NOFILE`).
fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// Whom to let in. Tells the key that it has made.
fn auth(config: &Config, data_dir: &DataDir) -> Result<Auth> {
    let keys = |key: &key::Key| Auth::Keys(vec![caisson_server::hash(key.reveal().as_bytes())]);
    Ok(match &config.access {
        Access::Everybody => {
            status::complain("WARNING: CAISSON_AUTH=none: EVERY program and every user of this machine can run code here without a key");
            tracing::warn!("There is no authentication: every program on this machine can use this server");
            Auth::None
        }
        Access::Key(key) => keys(key),
        Access::StoredKey => {
            let path = key::path(data_dir.path());
            match key::find_or_make(data_dir.path())? {
                Stored::Found(key) => {
                    status::complain(&format!("the API key is in {}", path.display()));
                    keys(&key)
                }
                Stored::Made(key) => {
                    status::complain(&format!(
                        "no API key was set, so there is a new one, shown this once and kept in {}:",
                        path.display()
                    ));
                    status::complain(&format!("API key: {}", key.reveal()));
                    keys(&key)
                }
            }
        }
    })
}

async fn serve(config: &Config, data_dir: &DataDir, (native, layers_dir): (Option<Native>, &Path), auth: Auth) -> Result<ExitCode> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let database = Database::open(config, data_dir).await?;
    let locks = locks(config).await?;
    let mut engine_config = EngineConfig::new(data_dir.path().to_owned());
    engine_config.inline_output_bytes = config.inline_output;
    engine_config.log_bytes = config.output_log;
    engine_config.max_sandboxes = config.max_sandboxes;
    engine_config.queue_wait = config.queue_wait;
    engine_config.pool = config.pool;
    engine_config.egress.clone_from(&config.egress);
    engine_config.retention = config.retention;
    engine_config.retention_sandboxes = config.retention_sandboxes;
    engine_config.keeps_disks = true;
    engine_config.stopped_grace = config.stopped_grace;
    engine_config.max_stopped = config.max_stopped;
    engine_config.reap_every = config.daiv.stopped.every.unwrap_or(engine_config.reap_every);
    let backends = backends::start(&config.backends, native, Directories { layers: layers_dir, data: data_dir.path().to_owned() }).await?;
    let images = ImageStore::open(data_dir.images(), config.images.clone()).await?;
    let engine = Engine::open_with_images(engine_config, backends, Arc::clone(&database.store), Some(Arc::new(images.clone()))).await?;
    engine.open_egress().await?;
    let blobs = blobs(&config.blobs).await?;
    tracing::info!("Workspaces are in {}", blobs.place());
    engine.use_blobs(blobs).await?;
    let mut server_config =
        caisson_server::Config { public: config.public.clone(), ..caisson_server::Config::new(config.listen.clone(), auth) };
    server_config.dialect_keys.extend(config.boxed_key.iter().map(|key| ("boxed", caisson_server::hash(key.reveal().as_bytes()))));
    server_config.dialect_keys.extend(config.boxbox.key.iter().map(|key| ("boxbox", caisson_server::hash(key.reveal().as_bytes()))));
    server_config.dialect_keys.extend(config.daiv.key.iter().map(|key| ("daiv", caisson_server::hash(key.reveal().as_bytes()))));
    server_config.daiv = config.daiv.settings.clone();
    server_config.boxbox = BoxboxSettings { image: boxbox::image(config, &images).await, ..config.boxbox.settings.clone() };
    server_config.sandbox_key = config.sandbox_key.as_ref().map(|key| caisson_server::hash(key.reveal().as_bytes()));
    server_config.locks = locks;
    server_config.images = Some(images);
    server_config.templates = Some(templates(data_dir).await?);
    server_config.image_aliases.extend(config.image_aliases.clone());
    let server = match Server::bind(server_config, engine.clone()).await {
        Ok(server) => server,
        Err(error) => {
            engine.shutdown().await;
            return Err(cannot_listen(error));
        }
    };
    for address in server.addresses() {
        tracing::info!("Listening on http://{address}");
    }
    let (asked, mut was_asked) = tokio::sync::watch::channel(false);
    let stop = async move {
        // An error means that nobody can ask any more.
        was_asked.wait_for(|asked| *asked).await.ok();
    };
    let mut serving = std::pin::pin!(server.serve(stop));
    tokio::select! {
        // It ends by itself only when it was asked to.
        () = &mut serving => return Ok(ExitCode::SUCCESS),
        // Nothing is lost: the signal is all there is.
        signal = signals.next() => tracing::info!(signal, "Signal {signal} asks the server to stop"),
    }
    asked.send_replace(true);
    tokio::select! {
        () = &mut serving => Ok(ExitCode::SUCCESS),
        // The launcher ends everything when it sees that we are gone.
        signal = signals.next() => {
            tracing::warn!(signal, "Stopping at once");
            Ok(status::of_signal(signal))
        }
        () = tokio::time::sleep(STOP_WITHIN) => Err(anyhow!("the server did not stop within {} s; the kernel holds some of it", STOP_WITHIN.as_secs())),
    }
}

/// What keeps requests apart: of this process, or of all servers with the same Redis, which has to be there at the start.
async fn locks(config: &Config) -> Result<Locks> {
    let Some(url) = &config.redis else { return Ok(Locks::in_process()) };
    let locks = Locks::redis(url, config.daiv.locks.clone())?;
    locks.check().await?;
    tracing::info!("Locks are in {url}");
    Ok(locks)
}

/// Where files of workspaces are.
async fn blobs(storage: &BlobStorage) -> Result<Arc<dyn Blobs>> {
    Ok(match storage {
        BlobStorage::Directory(directory) => {
            let opened = LocalBlobs::open(directory).await;
            Arc::new(opened.with_context(|| format!("cannot keep files of workspaces in {}", directory.display()))?)
        }
        BlobStorage::S3(config) => Arc::new(S3Blobs::open(config.clone()).await?),
    })
}

/// The operator's templates. Those that cannot be used are told in the log, now and whenever they change.
async fn templates(data_dir: &DataDir) -> Result<TemplateFolder> {
    let folder = TemplateFolder::new(data_dir.templates());
    let looked_at = folder.clone();
    tokio::task::spawn_blocking(move || drop(looked_at.all())).await.context("cannot read the templates")?;
    Ok(folder)
}

/// Why it cannot listen, and what to do about it.
fn cannot_listen(error: BindError) -> anyhow::Error {
    let BindError::Listen { address, cause } = error else { return error.into() };
    let port = address.port();
    let remedy = match cause.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program listens there (`ss -ltnp 'sport = :{port}'` shows it); stop it, or choose another address with --listen or \
             CAISSON_LISTEN"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose another with --listen or CAISSON_LISTEN".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges; choose a higher one with --listen or CAISSON_LISTEN".to_owned()
        }
        _ => format!("{cause}; choose another address with --listen or CAISSON_LISTEN"),
    };
    anyhow!("cannot listen on {address}: {remedy}")
}
