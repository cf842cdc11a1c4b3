//! An engine inside this program, for one one-shot: no server, no configuration, nothing on disk.

mod records;
mod scratch;
mod service;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use caisson_core::{Backend, Images, SandboxSpec};
use caisson_engine::{EgressConfig, Engine, EngineConfig};
use caisson_image::ImageStore;
use caisson_native::{Native, NativeConfig};
pub(crate) use scratch::Scratch;
pub(crate) use service::serving;

use self::records::Records;
use crate::{
    backends::{self, Directories},
    config::{Choice, NATIVE, backend_name},
    printable,
};

/// How much of each output stream waits for a reader that is slower than the program, before the program waits as well.
const OUTPUT_WAITS: u64 = 8 << 20;

/// What becomes of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// All of it is read as it comes: a program that is faster than its reader waits.
    Streamed,
    /// It is in the result: of very long output head and tail.
    Collected,
}

/// Where roots on disk are kept, nameless: what is in `/tmp` is often in memory (hier(7)).
fn disk_directory() -> std::path::PathBuf {
    let large = Path::new("/var/tmp");
    if large.is_dir() { large.to_owned() } else { std::env::temp_dir() }
}

/// Where is noted what is to be found if this is killed: with what else is the machine's until it is switched off, if there is such a place.
fn runtime_directory() -> Option<PathBuf> {
    let directory = if rustix::process::geteuid().is_root() { Some("/run".into()) } else { std::env::var_os("XDG_RUNTIME_DIR") };
    directory.map(|directory| Path::new(&directory).join("caisson")).filter(|path| path.is_absolute())
}

/// A backend for one sandbox at a time. Images, if there are any, are in the directory `images`.
pub(crate) fn config(images: Option<&Path>) -> NativeConfig {
    let mut config = NativeConfig { parked: 1, ..NativeConfig::new(disk_directory()) };
    if let Some(images) = images {
        config.layers_dir = ImageStore::layers_below(images);
    }
    config
}

/// What sandboxes are made by, as far as it is started before there are threads.
#[derive(Debug)]
pub(crate) struct Walls {
    choice: Choice,
    native: Option<Native>,
    layers_dir: PathBuf,
}

impl Walls {
    /// The limits that this host cannot enforce in full.
    pub(crate) fn weaker_limits(&self) -> &'static [&'static str] {
        self.native.as_ref().map_or(&[], Backend::weaker_limits)
    }
}

/// The one backend that a sandbox asks for.
pub(crate) fn choice(spec: &SandboxSpec) -> Result<Choice> {
    if spec.backend.is_empty() {
        return Ok(Choice::only(NATIVE));
    }
    let name = backend_name(&spec.backend).map_err(|what| anyhow!("backend `{}`: {what}", printable::text(&spec.backend)))?;
    Ok(Choice::with_environment(name)?)
}

/// The backend, and room for what its engine writes. To be called before there are threads.
pub(crate) fn start(choice: Choice, config: NativeConfig) -> Result<(Walls, Scratch)> {
    let layers_dir = config.layers_dir.clone();
    if !choice.has_native() {
        return Ok((Walls { choice, native: None, layers_dir }, Scratch::new()?));
    }
    // A child makes it for an ordinary user, and the backend has threads. For root the backend's errors say more, so they come first.
    let early = if rustix::process::geteuid().is_root() { None } else { Some(Scratch::new()?) };
    let native = Some(Native::start(config)?);
    Ok((Walls { choice, native, layers_dir }, early.map_or_else(Scratch::new, Ok)?))
}

/// An engine that forgets everything at its end.
pub(crate) async fn open(walls: Walls, scratch: &Scratch, output: Output, images: Option<ImageStore>) -> Result<Engine> {
    let mut config = EngineConfig::new(scratch.path());
    config.output_lead_bytes = match output {
        Output::Streamed => Some(OUTPUT_WAITS),
        Output::Collected => None,
    };
    // Whoever runs this is the operator.
    config.egress = Some(EgressConfig::default());
    let images = images.map(|store| Arc::new(store) as Arc<dyn Images>);
    let directories = Directories { layers: &walls.layers_dir, data: runtime_directory().unwrap_or_else(|| scratch.path()) };
    let backends = backends::start(&walls.choice, walls.native, directories).await?;
    Engine::open_with_images(config, backends, Arc::new(Records::default()), images).await.context("cannot start the engine")
}
