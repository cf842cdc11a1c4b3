//! Workspaces: file trees in blob storage, brought into sandboxes and out of them.
//!
//! ```text
//! storage ──▶ incoming ──▶ sandbox ── its program ── outgoing ──▶ spool, on disk ──▶ upload ──▶ storage
//!                                                                    │ flushed: the execution is recorded as finished
//! ```
//!
//! Nothing of an execution's outcome depends on storage: what it leaves is on the server's own disk before anybody hears of its end.

mod directory;
mod files;
mod incoming;
mod living;
mod media;
mod outgoing;
mod quota;
mod request;
mod spool;
mod upload;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_core::{BlobError, Blobs, Document, Error, ExecutionId, Holdings, Result, Tenant};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use self::{
    files::{NewWorkspaceFile, WorkspaceFile},
    living::{Pulled, PulledFile, Pushed, SyncRequest},
    media::{media_type, media_type_of_extension},
    request::{Missing, NotSynced, OutputFilter, Outputs, SyncedIn, SyncedOut, Tree, WorkspaceReport, WorkspaceUse},
};
pub(crate) use self::{
    incoming::{InUse, bring_in, find},
    outgoing::{Changed, keep},
    upload::settled,
};
use self::{
    quota::{Allowance, Meter},
    spool::Spool,
    upload::{Job, begin},
};
use crate::{
    Engine,
    core::{Core, store_error},
};

/// Files that are written at one time, for everybody.
const WRITES: usize = 16;
/// Files that one request names.
const MAX_FILES: usize = 10_000;
/// When to come back after storage has failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Reports are kept under this name, and no owner's: they go with their executions.
const KIND: &str = "workspace-report";

/// What the engine has for workspaces.
pub(crate) struct Workspaces {
    blobs: Arc<dyn Blobs>,
    spool: Spool,
    /// By execution: what is not done yet.
    jobs: Mutex<HashMap<ExecutionId, Arc<Job>>>,
    writes: Semaphore,
    meter: Meter,
}

/// A report as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    report: WorkspaceReport,
}

impl Core {
    /// What a tenant may have in its workspaces.
    fn allowance(&self, tenant: &Tenant) -> Allowance {
        Allowance { tenant: tenant.clone(), limit: self.keys.quotas(tenant).workspace_bytes }
    }

    /// What a tenant has.
    pub(crate) fn holdings(&self, tenant: &Tenant) -> Holdings {
        let workspace_bytes = self.workspaces.get().and_then(|workspaces| workspaces.meter.known(tenant));
        Holdings { workspace_bytes, ..self.registry.holdings(tenant) }
    }
}

impl Workspaces {
    fn jobs(&self) -> MutexGuard<'_, HashMap<ExecutionId, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a report that will not change any more beside the record of its execution.
    async fn remember(&self, core: &Core, job: &Job) {
        let (Some(ledger), Some(id)) = (core.store.ledger(), job.execution()) else { return };
        let body = serde_json::to_string(&Kept { tenant: job.tenant().to_owned(), report: job.report() }).expect("reports are plain data");
        let document = Document { kind: KIND.to_owned(), owner: String::new(), id: id.to_string(), body, ..Document::default() };
        let kept = match ledger.insert_document(&document).await {
            Ok(false) => ledger.replace_document(&document).await.map(drop),
            other => other.map(drop),
        };
        if let Err(error) = kept {
            tracing::error!(execution.id = %id, error = %error, "What became of the files of execution {id} cannot be recorded");
        }
    }
}

impl Engine {
    /// Has workspaces in this storage from now on, and goes on with what the last server left to be written there. Once at most.
    pub async fn use_blobs(&self, blobs: Arc<dyn Blobs>) -> Result<()> {
        let directory = self.core.config.data_dir.join("spool");
        let opened = Spool::open(directory.clone()).await;
        let (spool, left) =
            opened.map_err(|error| Error::internal(format!("cannot use the directory `{}`", directory.display()), error))?;
        let workspaces =
            Arc::new(Workspaces { blobs, spool, jobs: Mutex::default(), writes: Semaphore::new(WRITES), meter: Meter::default() });
        if self.core.workspaces.set(Arc::clone(&workspaces)).is_err() {
            return Err(Error::conflict("workspaces_exist", "there is a storage for workspaces already"));
        }
        if !left.is_empty() {
            tracing::info!("Writing the outputs of {} executions into their workspaces, which the last server has left", left.len());
        }
        for manifest in left {
            begin(&self.core, &workspaces, &Arc::new(Job::new(manifest)));
        }
        Ok(())
    }

    /// What became of the files of an execution, as it is now. `None` for one that used no workspace, or is not there.
    pub async fn workspace_report(&self, id: ExecutionId) -> Result<Option<WorkspaceReport>> {
        let Some(workspaces) = self.core.workspaces.get() else { return Ok(None) };
        let job = workspaces.jobs().get(&id).cloned();
        if let Some(job) = job {
            return Ok(job.belongs_to(&self.tenant).then(|| job.report()));
        }
        let Some(ledger) = self.core.store.ledger() else { return Ok(None) };
        let Some(document) = ledger.document(KIND, "", id.as_str()).await.map_err(store_error)? else { return Ok(None) };
        let kept: Kept = serde_json::from_str(&document.body).map_err(|error| Error::internal("a record cannot be read", error))?;
        Ok((kept.tenant == self.tenant.as_str()).then_some(kept.report))
    }

    pub(crate) fn workspaces_of(core: &Core) -> Result<Arc<Workspaces>> {
        core.workspaces
            .get()
            .cloned()
            .ok_or_else(|| Error::unsupported("workspaces are kept by a server alone; start one with `caisson serve`"))
    }
}

/// Removes the reports of executions that are remembered no more.
pub(crate) async fn forget(core: &Core, executions: &[ExecutionId]) -> Result<()> {
    let (Some(ledger), Some(_)) = (core.store.ledger(), core.workspaces.get()) else { return Ok(()) };
    for id in executions {
        ledger.remove_document(KIND, "", id.as_str()).await.map_err(store_error)?;
    }
    Ok(())
}

/// Whether a workspace can be used like this.
pub(crate) fn check(wanted: &WorkspaceUse) -> Result<()> {
    few("workspace.files", &wanted.files)?;
    if wanted.missing == Missing::Refuse {
        wanted.files.iter().try_for_each(|name| wanted.tree.key(name).map(drop))?;
    }
    wanted.directory.as_ref().map_or(Ok(()), |given| directory::check("workspace.directory", given))?;
    let mut also = wanted.outputs.iter().flat_map(|outputs| &outputs.also);
    also.try_for_each(|given| directory::check("workspace.also", given))
}

fn few(field: &str, files: &[String]) -> Result<()> {
    if files.len() > MAX_FILES {
        let message = format!("field `{field}` has {} names, allowed are {MAX_FILES}", files.len());
        return Err(Error::invalid("limit_out_of_range", message));
    }
    Ok(())
}

/// A storage's failure as a caller sees it.
fn blob_error(error: BlobError) -> Error {
    let unavailable =
        |message: &str, cause| Error::BlobUnavailable { message: message.to_owned(), retry_after: RETRY_AFTER, cause: Some(cause) };
    match error {
        BlobError::NotFound => Error::not_found("file", "of the workspace"),
        BlobError::Changed => {
            Error::PreconditionFailed { message: "the file is not what the request is for any more; look at it again".to_owned() }
        }
        BlobError::Refused(why) => Error::invalid("invalid_file_name", why),
        BlobError::Content(error) => Error::invalid("upload_failed", format!("the upload broke off: {error}")),
        BlobError::Denied(cause) => {
            unavailable("the storage of workspaces refuses this server's credentials; its operator has to correct them", cause)
        }
        BlobError::Unavailable(cause) => unavailable("the storage of workspaces does not answer as it should; try again later", cause),
    }
}

fn out_of_time(within: Duration) -> Error {
    let message = format!("the storage of workspaces did not give the files within {} minutes", within.as_secs() / 60);
    Error::BlobUnavailable { message, retry_after: RETRY_AFTER, cause: None }
}
