//! The `docker` backends: the same sandboxes in containers of a Docker daemon, driven by its API, wherever the daemon is.
//!
//! ```text
//! server ── API ──▶ daemon ──▶ runtime ──▶ launcher, PID 1 of the container: mounts, root, ids, capabilities ── exec ──▶ agent
//!    └═══════════ the agent's stream: the container's standard input and output, by the API's attach ═══════════════════════┘
//! ```
//! Nothing is taken from the host that the server runs on: launcher and agent come in a volume ([`programs`]), and what the daemon's host lends to
//! sandboxes of image `host` a first container says. What a server leaves that was killed the next one finds by its labels ([`places`]).

mod backend;
mod container;
mod daemon;
mod endpoint;
mod events;
mod places;
mod programs;
mod stream;

pub use backend::{Docker, DockerConfig};
pub use endpoint::Endpoint;
