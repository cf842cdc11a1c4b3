//! What happens to sandboxes and executions.

use caisson_core::{EgressTotals, Happened, LifecycleEvent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;

/// Something that has happened to a sandbox, or to an execution in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody {
    /// Counts what happens to the tenant's things from 1; a `cursor`.
    pub id: String,
    /// `sandbox.created`, `sandbox.updated` (time limits or metadata), `sandbox.stopped`, `sandbox.started` (again), `sandbox.ended`,
    /// `execution.started`, `execution.ended`, `egress.refused`, `egress.summary`.
    pub r#type: String,
    /// When it was recorded.
    pub at: String,
    pub sandbox_id: String,
    /// Of `execution.…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// Of `sandbox.created`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of `sandbox.ended` and `sandbox.stopped`: why, as in its tombstone or `stop`. Of `egress.refused`: the code of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `sandbox.ended` and `egress.refused`: the same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of `execution.ended`: how, as in its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Of `execution.ended`, when it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Of `execution.ended`: the number of the signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Of `egress.refused`: a host, with its port if it was a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Of `egress.summary`: what went out and came in since the sandbox was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressTotalsBody>,
}

/// What a sandbox did with its ways out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EgressTotals)]
pub struct EgressTotalsBody {
    pub allowed: u64,
    pub refused: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

impl From<&LifecycleEvent> for EventBody {
    fn from(event: &LifecycleEvent) -> Self {
        let mut body = Self {
            id: event.number.to_string(),
            r#type: event.what.kind().as_str().to_owned(),
            at: time(event.at),
            sandbox_id: event.sandbox.to_string(),
            execution_id: event.what.execution().map(|id| id.to_string()),
            name: None,
            reason: None,
            message: None,
            status: None,
            exit_code: None,
            signal: None,
            destination: None,
            egress: None,
        };
        match &event.what {
            Happened::Created { name } => body.name.clone_from(name),
            Happened::Updated | Happened::Restarted | Happened::Started { .. } => {}
            Happened::Stopped { reason } => body.reason = Some(reason.as_str().to_owned()),
            Happened::Ended { reason, message } => {
                body.reason = Some(reason.as_str().to_owned());
                body.message = Some(message.clone());
            }
            Happened::Finished { status, exit_code, signal, .. } => {
                body.status = Some(status.as_str().to_owned());
                body.exit_code = *exit_code;
                body.signal = *signal;
            }
            Happened::Refused { destination, reason, message } => {
                body.destination = Some(destination.clone());
                body.reason = Some(reason.clone());
                body.message = Some(message.clone());
            }
            Happened::Summary { egress: EgressTotals { allowed, refused, bytes_out, bytes_in }, .. } => {
                let (allowed, refused, bytes_out, bytes_in) = (*allowed, *refused, *bytes_out, *bytes_in);
                body.egress = Some(EgressTotalsBody { allowed, refused, bytes_out, bytes_in });
            }
        }
        body
    }
}

/// Events that are not kept any more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = LostEvents)]
pub struct LostBody {
    /// The id of the first one.
    pub from: String,
    /// And of the last one.
    pub to: String,
}

/// From here on a stream tells everything.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = EventsReady)]
pub struct ReadyBody {
    /// Where to come back to as long as there was no event.
    pub cursor: String,
}
