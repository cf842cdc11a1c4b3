//! What the columns hold, and how domain types become columns and come back.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use caisson_core::{
    Execution, ExecutionStatus, Image, LeftToImage, Limits, Outcome, Recipe, Sandbox, SandboxSpec, StoreError, StreamTotals, TimeLimits,
    Tombstone, UserSpec,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row, sqlite::SqliteRow};

/// A row of `sandboxes`.
#[derive(Debug, Clone)]
pub(super) struct SandboxRow {
    pub(super) id: String,
    pub(super) tenant: String,
    pub(super) name: Option<String>,
    pub(super) state: &'static str,
    pub(super) spec: String,
    pub(super) lifetime_us: Option<i64>,
    pub(super) idle_timeout_us: Option<i64>,
    pub(super) metadata: String,
    pub(super) created_at: i64,
    pub(super) last_active_at: i64,
    pub(super) tombstone_reason: Option<&'static str>,
    pub(super) tombstone_message: Option<String>,
    pub(super) tombstone_at: Option<i64>,
}

/// A new row of `executions`.
#[derive(Debug, Clone)]
pub(super) struct ExecutionRow {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) tenant: String,
    pub(super) argv: String,
    pub(super) started_at: i64,
}

/// The columns of `executions` that are written when it ends.
#[derive(Debug, Clone)]
pub(super) struct OutcomeRow {
    pub(super) status: &'static str,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) message: Option<String>,
    pub(super) duration_us: i64,
    pub(super) cpu_us: i64,
    pub(super) peak_memory_bytes: i64,
    pub(super) stdout: (i64, i64),
    pub(super) stderr: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct SpecColumn {
    image: String,
    /// Of records that are older than images, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    storage: String,
    network: String,
    limits: LimitsColumn,
    hostname: String,
    user: UserColumn,
    work_dir: String,
    env: BTreeMap<String, String>,
    #[serde(default)]
    weaker_limits: Vec<String>,
    /// What the template had done is of no use any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<String>,
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
            storage: spec.storage.as_str().to_owned(),
            network: spec.network.as_str().to_owned(),
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
            weaker_limits: spec.weaker_limits.clone(),
            template: spec.recipe.template.clone(),
        }
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
            storage: self.storage.parse().ok()?,
            network: self.network.parse().ok()?,
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
            left_to_image: LeftToImage::default(),
            recipe: Recipe { template: self.template, ..Recipe::default() },
            weaker_limits: self.weaker_limits,
        })
    }
}

/// The sandbox in a whole row.
pub(super) fn sandbox(row: &SqliteRow) -> Result<Sandbox, StoreError> {
    let id: String = row.try_get("id").map_err(super::unavailable)?;
    read_sandbox(row).ok_or(StoreError::Corrupt(id))
}

/// The execution in a whole row.
pub(super) fn execution(row: &SqliteRow) -> Result<Execution, StoreError> {
    let id: String = row.try_get("id").map_err(super::unavailable)?;
    read_execution(row).ok_or(StoreError::Corrupt(id))
}

fn read_sandbox(row: &SqliteRow) -> Option<Sandbox> {
    let tombstone = match text(row, "tombstone_reason")? {
        None => None,
        Some(reason) => Some(Tombstone {
            reason: reason.parse().ok()?,
            message: text(row, "tombstone_message")??,
            at: timestamp(integer(row, "tombstone_at")??)?,
        }),
    };
    Some(Sandbox {
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        name: text(row, "name")?,
        state: parsed(row, "state")?,
        spec: serde_json::from_str::<SpecColumn>(&text(row, "spec")??).ok()?.into_spec()?,
        time_limits: TimeLimits {
            lifetime: optional_duration(row, "lifetime_us")?,
            idle_timeout: optional_duration(row, "idle_timeout_us")?,
        },
        metadata: serde_json::from_str(&text(row, "metadata")??).ok()?,
        created_at: timestamp(integer(row, "created_at")??)?,
        last_active_at: timestamp(integer(row, "last_active_at")??)?,
        tombstone,
    })
}

fn read_execution(row: &SqliteRow) -> Option<Execution> {
    let status: ExecutionStatus = parsed(row, "status")?;
    let figure = |column| u64::try_from(integer(row, column)?.unwrap_or(0)).ok();
    let small = |column| integer(row, column)?.map(i32::try_from).transpose().ok();
    let outcome = if status == ExecutionStatus::Running {
        None
    } else {
        Some(Outcome {
            status,
            exit_code: small("exit_code")?,
            signal: small("signal")?,
            message: text(row, "message")?,
            duration: Duration::from_micros(figure("duration_us")?),
            cpu: Duration::from_micros(figure("cpu_us")?),
            peak_memory_bytes: figure("peak_memory_bytes")?,
            stdout: StreamTotals { total_bytes: figure("stdout_total")?, dropped_bytes: figure("stdout_dropped")? },
            stderr: StreamTotals { total_bytes: figure("stderr_total")?, dropped_bytes: figure("stderr_dropped")? },
        })
    };
    Some(Execution {
        id: parsed(row, "id")?,
        sandbox: parsed(row, "sandbox")?,
        tenant: parsed(row, "tenant")?,
        argv: serde_json::from_str(&text(row, "argv")??).ok()?,
        started_at: timestamp(integer(row, "started_at")??)?,
        outcome,
    })
}

pub(super) fn text(row: &SqliteRow, column: &str) -> Option<Option<String>> {
    row.try_get(column).ok()
}

pub(super) fn integer(row: &SqliteRow, column: &str) -> Option<Option<i64>> {
    row.try_get(column).ok()
}

pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Option<T> {
    text(row, column)??.parse().ok()
}

fn optional_duration(row: &SqliteRow, column: &str) -> Option<Option<Duration>> {
    match integer(row, column)? {
        None => Some(None),
        Some(us) => Some(Some(Duration::from_micros(u64::try_from(us).ok()?))),
    }
}

pub(super) fn timestamp(us: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(us).ok()
}

fn duration_us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// SQLite has no unsigned 64 bits; nothing real is larger than what it has.
pub(super) fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("columns are plain data with text keys")
}
