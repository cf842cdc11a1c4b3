//! Workspaces: durable file trees, and what executions do with them.

use std::time::Duration;

use caisson_core::{Error, Result, Tenant};
use caisson_engine::{
    Missing, NotSynced, Outputs, Pulled, PulledFile, Pushed, SyncRequest, SyncedIn, SyncedOut, Tree, WorkspaceFile, WorkspaceReport,
    WorkspaceUse,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Number, link, time};

/// How an execution uses a workspace.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkspaceUse)]
pub struct WorkspaceUseBody {
    /// Its name. A workspace is there as soon as it has a file.
    pub name: String,
    /// Names of files that are put in before the program starts. When one is not there, nothing runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Where the files are inside, and are brought out from: absolute, or relative to the work dir; the work dir itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Whether new and changed files of the directory are written into the workspace when the program has ended; when absent, they are.
    #[serde(default = "yes")]
    pub sync_out: bool,
}

fn yes() -> bool {
    true
}

impl WorkspaceUseBody {
    /// What the engine is to do, for this tenant.
    pub fn into_use(self, tenant: &Tenant) -> Result<WorkspaceUse> {
        Ok(WorkspaceUse {
            at_once: None,
            tree: Tree::named(tenant, &self.name)?,
            files: self.files,
            missing: Missing::Refuse,
            directory: self.directory,
            outputs: self.sync_out.then(Outputs::default),
        })
    }
}

/// What became of the files of an execution. Lists are in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkspaceReport)]
pub struct WorkspaceReportBody {
    /// `synced`: everything is where it belongs; `pending`: some files are safe on the server's disk, which goes on trying to write them into the
    /// workspace; `incomplete`: some files are not in the workspace and will not be.
    pub state: String,
    pub synced_in: Vec<SyncedInBody>,
    pub synced_out: Vec<SyncedOutBody>,
    pub pending: Vec<NotSyncedBody>,
    pub failed: Vec<NotSyncedBody>,
}

/// A file that was put into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = SyncedIn)]
pub struct SyncedInBody {
    pub path: String,
    pub size: u64,
    pub etag: String,
}

/// A file that was written into the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = SyncedOut)]
pub struct SyncedOutBody {
    pub path: String,
    pub size: u64,
    pub media_type: String,
    pub etag: String,
    /// The `etag` of what was there before, where that is not what was put in: somebody else had written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrote: Option<String>,
}

/// A file that the workspace does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NotSynced)]
pub struct NotSyncedBody {
    /// Empty where it is not known which files these are.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    pub error: String,
}

impl From<&WorkspaceReport> for WorkspaceReportBody {
    fn from(report: &WorkspaceReport) -> Self {
        let state = match (report.pending.is_empty(), report.failed.is_empty()) {
            (false, _) => "pending",
            (true, false) => "incomplete",
            (true, true) => "synced",
        };
        let not = |files: &[NotSynced]| files.iter().map(NotSyncedBody::from).collect();
        Self {
            state: state.to_owned(),
            synced_in: report.synced_in.iter().map(SyncedInBody::from).collect(),
            synced_out: report.synced_out.iter().map(SyncedOutBody::from).collect(),
            pending: not(&report.pending),
            failed: not(&report.failed),
        }
    }
}

impl From<&NotSynced> for NotSyncedBody {
    fn from(file: &NotSynced) -> Self {
        Self { path: file.path.clone(), size: file.size, error: file.error.clone() }
    }
}

impl From<&SyncedIn> for SyncedInBody {
    fn from(file: &SyncedIn) -> Self {
        Self { path: file.path.clone(), size: file.size, etag: file.etag.clone() }
    }
}

impl From<&SyncedOut> for SyncedOutBody {
    fn from(file: &SyncedOut) -> Self {
        let SyncedOut { path, size, media_type, etag, overwrote } = file.clone();
        Self { path, size, media_type, etag, overwrote }
    }
}

/// Files that are to be put into a living sandbox, or written out of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SyncRequest)]
pub struct SyncRequestBody {
    /// The workspace.
    pub name: String,
    /// Names of files in the workspace; 1 to 10,000.
    pub files: Vec<String>,
    /// Where the files are inside: absolute, or relative to the work dir; the work dir itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

impl SyncRequestBody {
    /// What the engine is to do, for this tenant.
    pub fn into_request(self, tenant: &Tenant) -> Result<SyncRequest> {
        Ok(SyncRequest { tree: Tree::named(tenant, &self.name)?, files: self.files, directory: self.directory })
    }
}

/// What was put into a sandbox. Lists are in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pulled)]
pub struct PulledBody {
    pub written: Vec<PulledFileBody>,
    /// What was not, and why. What was in its place is still there.
    pub failed: Vec<NotSyncedBody>,
}

/// A file that was put into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PulledFile)]
pub struct PulledFileBody {
    pub path: String,
    pub size: u64,
    pub etag: String,
    /// Whether there was something in its place.
    pub overwrote: bool,
}

/// What was written into a workspace. Lists are in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pushed)]
pub struct PushedBody {
    /// `overwrote` is there wherever something was replaced.
    pub written: Vec<SyncedOutBody>,
    /// Names of files that the workspace had already, with this content and these permission bits.
    pub unchanged: Vec<String>,
    /// What is not in the workspace, and why. It is in the sandbox alone, and is not tried again.
    pub failed: Vec<NotSyncedBody>,
}

impl From<&Pulled> for PulledBody {
    fn from(pulled: &Pulled) -> Self {
        let file = |file: &PulledFile| {
            let PulledFile { path, size, etag, overwrote } = file.clone();
            PulledFileBody { path, size, etag, overwrote }
        };
        Self { written: pulled.written.iter().map(file).collect(), failed: pulled.failed.iter().map(NotSyncedBody::from).collect() }
    }
}

impl From<&Pushed> for PushedBody {
    fn from(pushed: &Pushed) -> Self {
        Self {
            written: pushed.written.iter().map(SyncedOutBody::from).collect(),
            unchanged: pushed.unchanged.clone(),
            failed: pushed.failed.iter().map(NotSyncedBody::from).collect(),
        }
    }
}

/// A workspace in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Workspace)]
pub struct WorkspaceBody {
    pub name: String,
}

/// How many files went with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeletedWorkspace)]
pub struct DeletedWorkspaceBody {
    pub files: u64,
}

/// A file of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkspaceFile)]
pub struct WorkspaceFileBody {
    pub path: String,
    pub size: u64,
    /// Another one for every content; `If-Match` and `If-None-Match` take it in quotes.
    pub etag: String,
    /// RFC 3339.
    pub modified_at: String,
    pub media_type: String,
    /// Permission bits as a number. Lists do not have it for stores of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// SHA-256, where it is noted beside the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl From<&WorkspaceFile> for WorkspaceFileBody {
    fn from(file: &WorkspaceFile) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size,
            etag: file.etag.clone(),
            modified_at: time(file.modified_at),
            media_type: file.media_type.clone(),
            mode: file.mode,
            digest: file.digest.map(|digest| digest.to_string()),
        }
    }
}

/// A link to a file to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkspaceLinkRequest)]
pub struct WorkspaceLinkRequestBody {
    /// The name of the file, which has to be there.
    pub path: String,
    /// Seconds until it expires, at most 7 days; one hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub expires_in_s: Option<Number>,
}

impl WorkspaceLinkRequestBody {
    /// How long the link is to last.
    pub fn lasts(&self) -> Result<Duration> {
        link::lasts(self.expires_in_s)
    }
}

/// A link to a file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkspaceLink)]
pub struct WorkspaceLinkBody {
    pub path: String,
    /// Whoever has it can read the file, without a key.
    pub url: String,
    /// RFC 3339.
    pub expires_at: String,
}

/// What a workspace in a request says that could not be taken along.
pub(super) fn without_workspace(given: Option<&WorkspaceUseBody>) -> Result<()> {
    match given {
        None => Ok(()),
        Some(_) => Err(Error::invalid("unsupported", "a workspace cannot be used here")),
    }
}
