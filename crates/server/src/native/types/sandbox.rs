//! Sandboxes that stay.

use std::{collections::BTreeMap, time::Duration};

use caisson_core::{Result, Sandbox, Stop, TimeLimits, Tombstone, Usage};
use caisson_engine::{CreateRequest, SandboxUpdate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    LimitsBody, NetworkBody, Number,
    field::{given, object, unique, unique_if_given},
    milliseconds,
    program::{spec, without_template},
    time,
};

/// A sandbox to be made. With a `name`, a living sandbox of that name is returned instead.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = CreateSandbox)]
pub struct CreateBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A template by its name: what it says holds where the request says nothing; of `env` and `metadata` both are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// `host`, or an image by its name, such as `alpine:3.20`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether the image is got from its registry first: `never`, when absent; `missing`, where it is not here; or `always`. Anything but
    /// `never` needs an admin's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<String>,
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsBody>,
    /// Variables for every program in it.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it may reach; nothing but itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkBody>,
    /// What makes it: `native`, or another that `GET /v1/backends` names; the server's choice when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `memory`, counted as memory and fast; or `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Who programs are: `user`, an ordinary one, when absent; or `root`, root of the sandbox alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Seconds from its creation until it ends; 24 hours when absent, null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub lifetime_s: Option<Option<Number>>,
    /// Seconds without a request and without a running execution until it ends; 15 minutes when absent, null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub idle_timeout_s: Option<Option<Number>>,
    /// Labels of the client's own.
    #[serde(deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl CreateBody {
    /// What the engine is to make. A template is looked up before.
    pub fn into_request(self) -> Result<CreateRequest> {
        without_template(self.template.as_deref())?;
        let mut spec = spec(self.backend, self.image, self.limits, self.network, self.storage, self.user)?;
        spec.env = self.env;
        if let Some(hostname) = self.hostname {
            spec.hostname = hostname;
        }
        let default = TimeLimits::default();
        let time_limits = TimeLimits {
            lifetime: time_limit("lifetime_s", self.lifetime_s)?.unwrap_or(default.lifetime),
            idle_timeout: time_limit("idle_timeout_s", self.idle_timeout_s)?.unwrap_or(default.idle_timeout),
        };
        Ok(CreateRequest { name: self.name, spec, time_limits, metadata: self.metadata })
    }
}

/// Changes to a living sandbox. What is absent stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = UpdateSandbox)]
pub struct UpdateBody {
    /// Seconds from its creation until it ends; null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub lifetime_s: Option<Option<Number>>,
    /// Seconds without a request and without a running execution until it ends; null for no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub idle_timeout_s: Option<Option<Number>>,
    /// Replaces all labels.
    #[serde(deserialize_with = "unique_if_given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// What it may reach from now on; connections that it may not have any more are cut. One that was made without a network stays without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkBody>,
}

impl UpdateBody {
    /// What the engine is to change.
    pub fn into_update(self) -> Result<SandboxUpdate> {
        Ok(SandboxUpdate {
            lifetime: time_limit("lifetime_s", self.lifetime_s)?,
            idle_timeout: time_limit("idle_timeout_s", self.idle_timeout_s)?,
            metadata: self.metadata,
            network: self.network.map(|network| network.to_core()).transpose()?,
        })
    }
}

fn time_limit(name: &str, given: Option<Option<Number>>) -> Result<Option<Option<Duration>>> {
    given.map(|limit| limit.map(|seconds| seconds.seconds(name)).transpose()).transpose()
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Sandbox)]
pub struct SandboxBody {
    pub id: String,
    pub name: Option<String>,
    /// `creating`, `running`, `stopping`, `stopped` or `ended`.
    pub state: String,
    pub image: String,
    /// The template that it is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What it is made by.
    #[serde(default)]
    pub backend: String,
    pub storage: String,
    pub network: NetworkBody,
    /// Who programs are: `user` or `root`.
    pub user: String,
    pub limits: LimitsBody,
    /// Limits that this server's host cannot enforce in full, which its operator has accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weaker_limits: Vec<String>,
    pub hostname: String,
    /// Where programs start when the request names no directory.
    pub work_dir: String,
    /// Seconds; null for no limit.
    #[schema(value_type = Option<f64>)]
    pub lifetime_s: Option<Number>,
    /// Seconds; null for no limit.
    #[schema(value_type = Option<f64>)]
    pub idle_timeout_s: Option<Number>,
    pub metadata: BTreeMap<String, String>,
    /// RFC 3339.
    pub created_at: String,
    pub last_active_at: String,
    /// When its lifetime is over, if it has one.
    pub expires_at: Option<String>,
    /// How often it was started: once, and once more whenever it was used after it had been stopped.
    #[serde(default = "once")]
    pub starts: u32,
    /// Why it is stopped, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopBody>,
    /// Why it ended, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<TombstoneBody>,
    /// What it has used so far; only of a running one that is asked for by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
}

impl From<&Sandbox> for SandboxBody {
    fn from(sandbox: &Sandbox) -> Self {
        let spec = &sandbox.spec;
        Self {
            id: sandbox.id.to_string(),
            name: sandbox.name.clone(),
            state: sandbox.state.as_str().to_owned(),
            image: spec.image.to_string(),
            template: spec.recipe.template.clone(),
            backend: spec.backend.clone(),
            storage: spec.storage.as_str().to_owned(),
            network: NetworkBody::from(&spec.network),
            user: spec.user.name.clone(),
            limits: LimitsBody::from(&spec.limits),
            weaker_limits: spec.weaker_limits.clone(),
            hostname: spec.hostname.clone(),
            work_dir: spec.work_dir.clone(),
            lifetime_s: sandbox.time_limits.lifetime.map(Number::from),
            idle_timeout_s: sandbox.time_limits.idle_timeout.map(Number::from),
            metadata: sandbox.metadata.clone(),
            created_at: time(sandbox.created_at),
            last_active_at: time(sandbox.last_active_at),
            expires_at: sandbox.expires_at().map(time),
            starts: sandbox.starts,
            stop: sandbox.stop.as_ref().map(StopBody::from),
            tombstone: sandbox.tombstone.as_ref().map(TombstoneBody::from),
            usage: None,
        }
    }
}

/// Of servers that stop nothing.
fn once() -> u32 {
    1
}

/// Why a sandbox is stopped, and since when. Nothing of it runs, and its files are kept: whatever needs it starts it again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Stop)]
pub struct StopBody {
    /// `requested`, `idle`, `server_stopped` or `server_lost`.
    pub reason: String,
    /// RFC 3339.
    pub at: String,
}

impl From<&Stop> for StopBody {
    fn from(stop: &Stop) -> Self {
        Self { reason: stop.reason.as_str().to_owned(), at: time(stop.at) }
    }
}

/// Why a sandbox ended, and when.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Tombstone)]
pub struct TombstoneBody {
    /// `deleted`, `finished`, `lifetime`, `idle_timeout`, `oom`, `crashed`, `launch_failed`, `setup_failed`, `server_stopped`, `server_lost`,
    /// `stopped_too_long` or `files_lost`.
    pub reason: String,
    /// A sentence with the figure that matters.
    pub message: String,
    /// RFC 3339.
    pub at: String,
}

impl From<&Tombstone> for TombstoneBody {
    fn from(tombstone: &Tombstone) -> Self {
        Self { reason: tombstone.reason.as_str().to_owned(), message: tombstone.message.clone(), at: time(tombstone.at) }
    }
}

/// What a sandbox has used so far.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageBody {
    pub cpu_ms: f64,
    pub memory_bytes: u64,
    pub peak_memory_bytes: u64,
    /// Processes that the kernel killed at the memory limit.
    pub oom_kills: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes and threads that were not started because of the limit on them.
    #[serde(default)]
    pub refused_starts: u64,
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        Self {
            cpu_ms: milliseconds(usage.cpu),
            memory_bytes: usage.memory_bytes,
            peak_memory_bytes: usage.peak_memory_bytes,
            oom_kills: usage.oom_kills,
            pids: usage.pids,
            refused_starts: usage.refused_starts,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_null_and_given_time_limits_differ() {
        let create = |body| serde_json::from_value::<CreateBody>(body).unwrap().into_request().map(|r| r.time_limits);
        assert_eq!(create(json!({})).unwrap(), TimeLimits::default());
        assert_eq!(create(json!({"lifetime_s": null, "idle_timeout_s": null})).unwrap(), TimeLimits { lifetime: None, idle_timeout: None });
        assert_eq!(create(json!({"lifetime_s": 1.5})).unwrap().lifetime, Some(Duration::from_millis(1500)));
        assert!(create(json!({"idle_timeout_s": 0})).unwrap_err().to_string().contains("idle_timeout_s"));

        let update = |body| serde_json::from_value::<UpdateBody>(body).unwrap().into_update().unwrap();
        assert_eq!(update(json!({})).lifetime, None);
        assert_eq!(update(json!({"lifetime_s": null})).lifetime, Some(None));
        assert_eq!(update(json!({"lifetime_s": 2})).lifetime, Some(Some(Duration::from_secs(2))));
        assert_eq!(update(json!({"metadata": {}})).metadata, Some(BTreeMap::new()));
    }
}
