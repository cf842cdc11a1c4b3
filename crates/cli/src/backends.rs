//! From the names of backends to what makes sandboxes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use caisson_core::Backend;
use caisson_docker::{Docker, DockerConfig};
use caisson_engine::Backends;
use caisson_native::Native;
use caisson_oci::{Kind, Oci, OciConfig, sweep};

use crate::config::{Choice, NATIVE};

/// Where backends find what is kept of this server.
#[derive(Debug)]
pub(crate) struct Directories<'a> {
    /// The unpacked layers of images.
    pub(crate) layers: &'a Path,
    /// What there is of the server in Docker daemons is noted there.
    pub(crate) data: PathBuf,
}

/// Starts those of OCI runtimes and of Docker beside the native one, which is there already, because it starts before there are threads. One that cannot be
/// used is refused to whoever asks for it; only the one that is taken where nobody says has to be there.
pub(crate) async fn start(choice: &Choice, native: Option<Native>, directories: Directories<'_>) -> Result<Backends> {
    let mut native = native;
    let mut backends: Option<Backends> = None;
    // One that starts looks by itself.
    let looks = choice.names.iter().any(|name| Kind::of_backend(name).is_some());
    if !looks && rustix::process::geteuid().is_root() {
        // What was left by a server that had others is in nobody's way.
        if let Err(error) = sweep().await {
            tracing::warn!("Containers may be left of an earlier run: {error}");
        }
    }
    for name in &choice.names {
        let started: Result<Arc<dyn Backend>, String> = match Kind::of_backend(name) {
            None if Docker::runtime(name).is_some() => {
                let endpoint = choice.docker.clone().unwrap_or_default();
                let config = DockerConfig { name, endpoint, data_dir: directories.data.clone() };
                Docker::start(config).await.map(|docker| Arc::new(docker) as _).map_err(|error| error.to_string())
            }
            None => native.take().map(|native| Arc::new(native) as _).ok_or_else(|| "it was not started".to_owned()),
            Some(kind) => {
                let config = OciConfig { kind, program: choice.program(kind), layers_dir: directories.layers.to_owned() };
                Oci::start(config).await.map(|oci| Arc::new(oci) as _).map_err(|error| error.to_string())
            }
        };
        backends = Some(match (backends, started) {
            (None, started) => {
                let first = started.map_err(anyhow::Error::msg).with_context(|| format!("backend `{name}` cannot be used"))?;
                tell(&*first);
                Backends::from(first)
            }
            (Some(backends), Ok(backend)) => {
                tell(&*backend);
                backends.and(backend)
            }
            (Some(backends), Err(why)) => {
                tracing::warn!("Backend {name} cannot be used: {why}");
                backends.and_unusable(name, why)
            }
        });
    }
    backends.context("there is no backend")
}

fn tell(backend: &dyn Backend) {
    let about = backend.about();
    if backend.name() != NATIVE {
        let (version, platform) =
            (about.version.unwrap_or_default(), about.platform.map(|name| format!(", platform {name}")).unwrap_or_default());
        tracing::info!("Backend {} is version {version}{platform}", backend.name());
    }
}
