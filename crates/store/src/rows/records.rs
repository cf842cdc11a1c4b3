//! Sandboxes and executions.

use std::{collections::BTreeMap, time::Duration};

use caisson_core::{
    EgressLimits, Execution, ExecutionStatus, Image, Intercept, LeftToImage, Limits, Network, Outcome, Recipe, RequestRule, Rule, Rules,
    Sandbox, SandboxSpec, Secret, SecretValue, Stop, StoreError, StreamTotals, TimeLimits, Tombstone, UserSpec,
};
use serde::{Deserialize, Serialize};

use super::{Columns, clamp, duration_us, json};
use crate::doomed::Mark;

/// A row of `sandboxes`.
#[derive(Debug, Clone)]
pub(crate) struct SandboxRow {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) name: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) spec: String,
    pub(crate) lifetime_us: Option<i64>,
    pub(crate) idle_timeout_us: Option<i64>,
    pub(crate) metadata: String,
    pub(crate) created_at: i64,
    pub(crate) last_active_at: i64,
    pub(crate) starts: i64,
    pub(crate) stop_reason: Option<&'static str>,
    pub(crate) stopped_at: Option<i64>,
    pub(crate) tombstone_reason: Option<&'static str>,
    pub(crate) tombstone_message: Option<String>,
    pub(crate) tombstone_at: Option<i64>,
}

/// A new row of `executions`.
#[derive(Debug, Clone)]
pub(crate) struct ExecutionRow {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) tenant: String,
    pub(crate) argv: String,
    pub(crate) started_at: i64,
}

/// The columns of `executions` that are written when it ends.
#[derive(Debug, Clone)]
pub(crate) struct OutcomeRow {
    pub(crate) status: &'static str,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) message: Option<String>,
    pub(crate) duration_us: i64,
    pub(crate) cpu_us: i64,
    pub(crate) peak_memory_bytes: i64,
    pub(crate) stdout: (i64, i64),
    pub(crate) stderr: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct SpecColumn {
    image: String,
    /// Of records that are older than images, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    /// Of records that are older than other backends, there is none.
    #[serde(default = "native")]
    backend: String,
    storage: String,
    network: NetworkColumn,
    limits: LimitsColumn,
    hostname: String,
    user: UserColumn,
    work_dir: String,
    env: BTreeMap<String, String>,
    /// Of records that are older than sandboxes that are started again, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_to_image: Option<LeftToImageColumn>,
    #[serde(default)]
    weaker_limits: Vec<String>,
    /// What the template had done is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<String>,
}

/// `"none"`, `"public"`, `"packages"`, or the rules.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NetworkColumn {
    Name(String),
    Rules(RulesColumn),
}

/// What is absent is of no use, or older than it.
#[derive(Serialize, Deserialize)]
struct RulesColumn {
    allow: Vec<String>,
    deny: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requests: Vec<RequestColumn>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    intercept_all: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, SecretColumn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct RequestColumn {
    host: String,
    methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SecretColumn {
    header: String,
    sealed: String,
}

#[derive(Serialize, Deserialize)]
struct LimitsColumn {
    memory_bytes: u64,
    cpu_millis: u32,
    pids: u32,
    disk_bytes: u64,
    disk_inodes: u64,
    open_files: u32,
}

#[derive(Serialize, Deserialize)]
struct UserColumn {
    uid: u32,
    gid: u32,
    name: String,
    home: String,
}

#[derive(Serialize, Deserialize)]
struct LeftToImageColumn {
    user: bool,
    work_dir: bool,
}

impl From<&Sandbox> for SandboxRow {
    fn from(sandbox: &Sandbox) -> Self {
        let tombstone = sandbox.tombstone.as_ref();
        Self {
            id: sandbox.id.to_string(),
            tenant: sandbox.tenant.to_string(),
            name: sandbox.name.clone(),
            state: sandbox.state.as_str(),
            spec: json(&SpecColumn::from(&sandbox.spec)),
            lifetime_us: sandbox.time_limits.lifetime.map(duration_us),
            idle_timeout_us: sandbox.time_limits.idle_timeout.map(duration_us),
            metadata: json(&sandbox.metadata),
            created_at: sandbox.created_at.as_microsecond(),
            last_active_at: sandbox.last_active_at.as_microsecond(),
            starts: sandbox.starts.into(),
            stop_reason: sandbox.stop.map(|stop| stop.reason.as_str()),
            stopped_at: sandbox.stop.map(|stop| stop.at.as_microsecond()),
            tombstone_reason: tombstone.map(|t| t.reason.as_str()),
            tombstone_message: tombstone.map(|t| t.message.clone()),
            tombstone_at: tombstone.map(|t| t.at.as_microsecond()),
        }
    }
}

impl From<&Execution> for ExecutionRow {
    fn from(execution: &Execution) -> Self {
        Self {
            id: execution.id.to_string(),
            sandbox: execution.sandbox.to_string(),
            tenant: execution.tenant.to_string(),
            argv: json(&execution.argv),
            started_at: execution.started_at.as_microsecond(),
        }
    }
}

impl From<&Outcome> for OutcomeRow {
    fn from(outcome: &Outcome) -> Self {
        let totals = |t: &StreamTotals| (clamp(t.total_bytes), clamp(t.dropped_bytes));
        Self {
            status: outcome.status.as_str(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            message: outcome.message.clone(),
            duration_us: duration_us(outcome.duration),
            cpu_us: duration_us(outcome.cpu),
            peak_memory_bytes: clamp(outcome.peak_memory_bytes),
            stdout: totals(&outcome.stdout),
            stderr: totals(&outcome.stderr),
        }
    }
}

impl From<&SandboxSpec> for SpecColumn {
    fn from(spec: &SandboxSpec) -> Self {
        let l = &spec.limits;
        Self {
            image: spec.image.to_string(),
            image_id: spec.image.id().map(|id| id.to_string()),
            backend: spec.backend.clone(),
            storage: spec.storage.as_str().to_owned(),
            network: NetworkColumn::from(&spec.network),
            limits: LimitsColumn {
                memory_bytes: l.memory_bytes,
                cpu_millis: l.cpu_millis,
                pids: l.pids,
                disk_bytes: l.disk_bytes,
                disk_inodes: l.disk_inodes,
                open_files: l.open_files,
            },
            hostname: spec.hostname.clone(),
            user: UserColumn { uid: spec.user.uid, gid: spec.user.gid, name: spec.user.name.clone(), home: spec.user.home.clone() },
            work_dir: spec.work_dir.clone(),
            env: spec.env.clone(),
            left_to_image: Some(LeftToImageColumn { user: spec.left_to_image.user, work_dir: spec.left_to_image.work_dir }),
            weaker_limits: spec.weaker_limits.clone(),
            template: spec.recipe.template.clone(),
        }
    }
}

fn native() -> String {
    "native".to_owned()
}

impl From<&Network> for NetworkColumn {
    fn from(network: &Network) -> Self {
        match network {
            Network::None | Network::Public | Network::Packages(_) => Self::Name(network.to_string()),
            Network::Rules(rules) => Self::Rules(RulesColumn::from(&**rules)),
        }
    }
}

impl From<&Rules> for RulesColumn {
    fn from(rules: &Rules) -> Self {
        let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
        let request = |rule: &RequestRule| RequestColumn {
            host: rule.host.to_string(),
            methods: rule.methods.clone(),
            path: rule.path.clone(),
            secret: rule.secret.clone(),
        };
        let secret = |(name, secret): (&String, &Secret)| {
            let sealed = match &secret.value {
                SecretValue::Sealed(sealed) => sealed.clone(),
                // Nothing of it is written. What has no value is opened by nobody.
                SecretValue::Given(_) => String::new(),
            };
            (name.clone(), SecretColumn { header: secret.header.clone(), sealed })
        };
        Self {
            allow: texts(&rules.allow),
            deny: texts(&rules.deny),
            requests: rules.requests.iter().map(request).collect(),
            intercept_all: rules.intercept == Intercept::All,
            max_bytes: rules.limits.max_bytes,
            bytes_per_second: rules.limits.bytes_per_second,
            secrets: rules.secrets.iter().map(secret).collect(),
            refusal: rules.refusal.clone(),
        }
    }
}

impl NetworkColumn {
    fn into_network(self) -> Option<Network> {
        match self {
            Self::Name(name) => name.parse().ok(),
            Self::Rules(column) => column.into_network(),
        }
    }
}

impl RulesColumn {
    fn into_network(self) -> Option<Network> {
        let request = |rule: RequestColumn| RequestRule::read(&rule.host, &rule.methods, rule.path, rule.secret).ok();
        let requests: Vec<RequestRule> = self.requests.into_iter().map(request).collect::<Option<_>>()?;
        let secret = |(name, SecretColumn { header, sealed })| (name, Secret { header, value: SecretValue::Sealed(sealed) });
        let secrets = self.secrets.into_iter().map(secret).collect();
        let network = Network::rules(&self.allow, &self.deny).ok()?;
        network
            .with(|rules| {
                rules.requests = requests;
                rules.intercept = if self.intercept_all { Intercept::All } else { Intercept::Needed };
                rules.limits = EgressLimits { max_bytes: self.max_bytes, bytes_per_second: self.bytes_per_second };
                rules.secrets = secrets;
                rules.refusal = self.refusal;
            })
            .ok()
    }
}

impl SpecColumn {
    fn into_spec(self) -> Option<SandboxSpec> {
        let l = self.limits;
        Some(SandboxSpec {
            image: match self.image.parse().ok()? {
                Image::Named { name, .. } => Image::Named { name, id: self.image_id.map(|id| id.parse()).transpose().ok()? },
                host => host,
            },
            backend: self.backend,
            storage: self.storage.parse().ok()?,
            network: self.network.into_network()?,
            limits: Limits {
                memory_bytes: l.memory_bytes,
                cpu_millis: l.cpu_millis,
                pids: l.pids,
                disk_bytes: l.disk_bytes,
                disk_inodes: l.disk_inodes,
                open_files: l.open_files,
            },
            hostname: self.hostname,
            user: UserSpec { uid: self.user.uid, gid: self.user.gid, name: self.user.name, home: self.user.home },
            work_dir: self.work_dir,
            env: self.env,
            left_to_image: self.left_to_image.map(|left| LeftToImage { user: left.user, work_dir: left.work_dir }).unwrap_or_default(),
            recipe: Recipe { template: self.template, ..Recipe::default() },
            weaker_limits: self.weaker_limits,
            certificate: None,
        })
    }
}

/// The sandbox in a whole row.
pub(crate) fn sandbox(row: &impl Columns) -> Result<Sandbox, StoreError> {
    read_sandbox(row).ok_or_else(|| row.corrupt("id"))
}

/// The execution in a whole row.
pub(crate) fn execution(row: &impl Columns) -> Result<Execution, StoreError> {
    read_execution(row).ok_or_else(|| row.corrupt("id"))
}

/// A mark in a row of those.
pub(crate) fn mark(row: &impl Columns) -> Result<Mark, StoreError> {
    let read = || Some(Mark { tenant: row.text("tenant")??, at: row.integer("tombstone_at")??, id: row.text("id")?? });
    read().ok_or_else(|| row.corrupt("id"))
}

fn read_sandbox(row: &impl Columns) -> Option<Sandbox> {
    let tombstone = match row.text("tombstone_reason")? {
        None => None,
        Some(reason) => {
            Some(Tombstone { reason: reason.parse().ok()?, message: row.text("tombstone_message")??, at: row.moment("tombstone_at")?? })
        }
    };
    let stop = match row.text("stop_reason")? {
        None => None,
        Some(reason) => Some(Stop { reason: reason.parse().ok()?, at: row.moment("stopped_at")?? }),
    };
    Some(Sandbox {
        id: row.parsed("id")?,
        tenant: row.parsed("tenant")?,
        name: row.text("name")?,
        state: row.parsed("state")?,
        spec: serde_json::from_str::<SpecColumn>(&row.text("spec")??).ok()?.into_spec()?,
        time_limits: TimeLimits { lifetime: row.duration("lifetime_us")?, idle_timeout: row.duration("idle_timeout_us")? },
        metadata: serde_json::from_str(&row.text("metadata")??).ok()?,
        created_at: row.moment("created_at")??,
        last_active_at: row.moment("last_active_at")??,
        starts: u32::try_from(row.integer("starts")??).ok()?,
        stop,
        tombstone,
    })
}

fn read_execution(row: &impl Columns) -> Option<Execution> {
    let status: ExecutionStatus = row.parsed("status")?;
    let figure = |column| u64::try_from(row.integer(column)?.unwrap_or(0)).ok();
    let outcome = if status == ExecutionStatus::Running {
        None
    } else {
        Some(Outcome {
            status,
            exit_code: row.small("exit_code")?,
            signal: row.small("signal")?,
            message: row.text("message")?,
            duration: Duration::from_micros(figure("duration_us")?),
            cpu: Duration::from_micros(figure("cpu_us")?),
            peak_memory_bytes: figure("peak_memory_bytes")?,
            stdout: StreamTotals { total_bytes: figure("stdout_total")?, dropped_bytes: figure("stdout_dropped")? },
            stderr: StreamTotals { total_bytes: figure("stderr_total")?, dropped_bytes: figure("stderr_dropped")? },
        })
    };
    Some(Execution {
        id: row.parsed("id")?,
        sandbox: row.parsed("sandbox")?,
        tenant: row.parsed("tenant")?,
        argv: serde_json::from_str(&row.text("argv")??).ok()?,
        started_at: row.moment("started_at")??,
        outcome,
    })
}
