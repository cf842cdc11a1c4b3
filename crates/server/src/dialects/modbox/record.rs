//! A sandbox as this API sees it. All that is beyond other sandboxes stands in its metadata.

use std::collections::BTreeMap;

use caisson_core::{Sandbox, State};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::NAME;
use crate::{app::App, native::types::time};

/// In the metadata of every sandbox that is made here.
pub(super) const MARK: (&str, &str) = ("caisson.dialect", NAME);
pub(super) const TASK: &str = "modbox.task_id";
pub(super) const CREATED_BY: &str = "modbox.created_by";
pub(super) const IMAGE: &str = "modbox.image";
pub(super) const IMAGE_ID: &str = "modbox.image_id";
pub(super) const READINESS_PORT: &str = "modbox.readiness_port";
pub(super) const CLIENT_REFERENCE: &str = "modbox.client_reference";
/// Present once it takes traffic.
pub(super) const READY: &str = "modbox.ready";
/// The variable of a sandbox that is a key of its API.
pub(super) const KEY_VARIABLE: &str = "SANDBOX_API_KEY";

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ModboxStatus)]
pub(crate) enum Status {
    Provisioning,
    Running,
    Destroyed,
}

impl Status {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "provisioning" => Some(Self::Provisioning),
            "running" => Some(Self::Running),
            "destroyed" => Some(Self::Destroyed),
            _ => None,
        }
    }

    /// The states in which a sandbox may be of this status.
    pub(super) fn states(self) -> Vec<State> {
        match self {
            Self::Provisioning => vec![State::Creating, State::Running, State::Stopped],
            Self::Running => vec![State::Running, State::Stopped],
            Self::Destroyed => vec![State::Stopping, State::Ended],
        }
    }
}

/// Whether it was made here.
pub(super) fn is_ours(sandbox: &Sandbox) -> bool {
    sandbox.metadata.get(MARK.0).is_some_and(|mark| mark == MARK.1)
}

pub(super) fn status(sandbox: &Sandbox) -> Status {
    match sandbox.state {
        State::Stopping | State::Ended => Status::Destroyed,
        State::Running | State::Stopped if sandbox.metadata.contains_key(READY) => Status::Running,
        State::Creating | State::Running | State::Stopped => Status::Provisioning,
    }
}

/// What its client calls it.
pub(super) fn task_id(sandbox: &Sandbox) -> String {
    sandbox.metadata.get(TASK).cloned().unwrap_or_default()
}

/// The name by which the engine keeps two of one `task_id` apart, which may have characters that no name has.
pub(super) fn name_of(task_id: &str) -> String {
    let hash = Sha256::digest(task_id.as_bytes());
    hash.iter().take(24).fold("modbox-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// Where its own API is, whether there is one yet or not.
pub(super) fn address(app: &App, sandbox: &Sandbox) -> String {
    let id = sandbox.id.uuid();
    app.links.place(&format!("modbox-{id}"), &format!("/modbox/{id}"))
}

/// What can be done there.
pub(super) fn capabilities(address: &str) -> BTreeMap<&'static str, String> {
    [("exec", format!("{address}/modbox/api/exec")), ("files", format!("{address}/modbox/api/files"))].into()
}

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxSandbox {
    id: String,
    /// The `task_id`
    name: String,
    /// `provisioning`, `running` or `destroyed`
    status: Status,
    created_by: String,
    created_at: String,
    updated_at: String,
    destroyed_at: Option<String>,
    expires_at: Option<String>,
    image: Option<String>,
    /// Where its own API is, while it runs
    sandbox_url: Option<String>,
    /// What can be done there
    #[schema(value_type = Option<Object>)]
    capabilities: Option<BTreeMap<&'static str, String>>,
}

/// A sandbox among others.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxSandboxItem {
    id: String,
    name: String,
    status: Status,
    image: Option<String>,
    sandbox_url: Option<String>,
    created_at: String,
    destroyed_at: Option<String>,
}

impl ModboxSandbox {
    pub(super) fn new(app: &App, sandbox: &Sandbox) -> Self {
        let ModboxSandboxItem { id, name, status, image, sandbox_url, created_at, destroyed_at } = ModboxSandboxItem::new(app, sandbox);
        Self {
            id,
            name,
            status,
            created_by: sandbox.metadata.get(CREATED_BY).cloned().unwrap_or_default(),
            created_at,
            updated_at: destroyed_at.clone().unwrap_or_else(|| time(sandbox.last_active_at)),
            destroyed_at,
            expires_at: sandbox.expires_at().map(time),
            image,
            capabilities: sandbox_url.as_deref().map(capabilities),
            sandbox_url,
        }
    }
}

impl ModboxSandboxItem {
    pub(super) fn new(app: &App, sandbox: &Sandbox) -> Self {
        let status = status(sandbox);
        Self {
            id: sandbox.id.uuid().to_string(),
            name: task_id(sandbox),
            status,
            image: sandbox.metadata.get(IMAGE).cloned(),
            sandbox_url: (status == Status::Running).then(|| address(app, sandbox)),
            created_at: time(sandbox.created_at),
            destroyed_at: sandbox.tombstone.as_ref().filter(|_| status == Status::Destroyed).map(|tombstone| time(tombstone.at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tasks_are_names_and_differ() {
        let name = name_of("a/b ä\u{1f980}");
        assert!(name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{name}");
        assert_ne!(name_of("a"), name_of("A"));
    }
}
