//! The `oci` backends: the same sandboxes in containers of an OCI runtime (gVisor's `runsc`, `runc`, `crun`, `youki`), driven by its command line.
//!
//! ```text
//! server ── spawner, one thread ──▶ launcher: control group, mounts, root, config.json ── exec ──▶ runtime ──▶ agent, PID 1 of the container
//!    └════════════════ the agent's stream, on descriptor 3 from the launcher on ═══════════════════════════════════┘
//! ```
//! A runtime stays as long as its container. It ends with the server's spawner thread (`PR_SET_PDEATHSIG`), and its container with it; whatever
//! it leaves when that happens is found in [`places`] by the next server that starts.

mod backend;
mod command;
mod config;
mod container;
mod places;
mod runtime;
mod spawner;

pub use backend::{Oci, OciConfig, sweep};
pub use runtime::Kind;
