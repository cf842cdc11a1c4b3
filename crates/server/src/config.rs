//! What a server is told before it starts.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use caisson_core::{Image, KeyHash};
use caisson_image::ImageStore;
use caisson_locks::Locks;

use crate::{
    Auth, Public,
    dialects::{boxbox::BoxboxSettings, daiv::DaivSettings},
    templates::TemplateFolder,
};

/// What clients of other systems ask for when they ask for nothing.
const ALIASES: [&str; 4] = ["python:3.10-slim", "boxed-python:3.9", "modbox/code-exec", "modbox/ubuntu"];

/// Where to listen, whom to let in, and how much at once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every address gets a listener of its own.
    pub listen: Vec<SocketAddr>,
    pub auth: Auth,
    /// Under which addresses clients know it.
    pub public: Public,
    /// Further keys, each for one dialect alone, by the dialect's name. They can do for the dialect's tenant, which mostly is the default one,
    /// what a key of scope `run` can.
    pub dialect_keys: BTreeMap<&'static str, KeyHash>,
    /// Opens the API of every sandbox of a dialect whose sandboxes have one.
    pub sandbox_key: Option<KeyHash>,
    /// Names of images that are others here: what is asked for by such a name gets the image.
    pub image_aliases: BTreeMap<String, Image>,
    /// How executions of boxbox's clients are run.
    pub boxbox: BoxboxSettings,
    /// How sessions of daiv-sandbox's clients are.
    pub daiv: DaivSettings,
    /// Where images beside `host` are. Absent where there are none.
    pub images: Option<ImageStore>,
    /// Where the operator's templates are. Absent where there are none.
    pub templates: Option<TemplateFolder>,
    /// What keeps requests apart that must not run beside each other.
    pub locks: Locks,
    /// Largest JSON body in bytes. Files are streamed and have no limit but the sandbox's disk.
    pub body_limit: usize,
    /// A connection must deliver the head of each request within this time.
    pub head_within: Duration,
    /// A body must deliver something within this time, again and again.
    pub body_stall: Duration,
    /// Connections at one time. For more, those that have been idle for longest give way; while none is idle, more wait.
    pub connections: usize,
    /// How long requests in flight may take to finish when the server is asked to stop.
    pub drain: Duration,
}

impl Config {
    /// The defaults for these addresses.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, auth: Auth) -> Self {
        Self {
            listen,
            auth,
            public: Public::default(),
            dialect_keys: BTreeMap::new(),
            sandbox_key: None,
            image_aliases: ALIASES.map(|name| (name.to_owned(), Image::Host)).into(),
            boxbox: BoxboxSettings::default(),
            daiv: DaivSettings::default(),
            images: None,
            templates: None,
            locks: Locks::in_process(),
            body_limit: 32 << 20,
            head_within: Duration::from_secs(30),
            body_stall: Duration::from_secs(60),
            connections: 8192,
            drain: Duration::from_secs(5),
        }
    }
}
