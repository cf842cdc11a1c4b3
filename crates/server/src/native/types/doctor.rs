//! What the doctor says.

use caisson_engine::doctor::{Report, Success, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was found out by attacking sandboxes of this server from inside.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Doctor)]
pub struct DoctorBody {
    /// The worst of the guarantees: `held`, `not_enforceable`, `unproven` or `broken`.
    pub state: String,
    /// What makes the sandboxes.
    pub backend: String,
    /// The kernel's release.
    pub kernel: String,
    pub guarantees: Vec<GuaranteeBody>,
    /// What cannot be proven here and should be looked at.
    pub warnings: Vec<String>,
}

/// One guarantee.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Guarantee)]
pub struct GuaranteeBody {
    pub number: String,
    pub promise: String,
    /// `held`, `not_enforceable`, `unproven` or `broken`.
    pub state: String,
    /// How many attacks were made.
    pub attempts: usize,
    /// The attacks that succeeded.
    pub successes: Vec<AttackBody>,
    /// What to do, unless it held.
    pub remedy: Option<String>,
}

/// An attack that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Attack)]
pub struct AttackBody {
    pub attempt: String,
    pub seen: String,
}

impl From<Report> for DoctorBody {
    fn from(report: Report) -> Self {
        Self {
            state: report.state.as_str().to_owned(),
            backend: report.backend.to_owned(),
            kernel: report.kernel,
            guarantees: report.verdicts.into_iter().map(GuaranteeBody::from).collect(),
            warnings: report.warnings,
        }
    }
}

impl From<Verdict> for GuaranteeBody {
    fn from(verdict: Verdict) -> Self {
        Self {
            number: verdict.number.to_owned(),
            promise: verdict.promise.to_owned(),
            state: verdict.state.as_str().to_owned(),
            attempts: verdict.attempts,
            successes: verdict.successes.into_iter().map(AttackBody::from).collect(),
            remedy: verdict.remedy,
        }
    }
}

impl From<Success> for AttackBody {
    fn from(success: Success) -> Self {
        Self { attempt: success.attempt, seen: success.seen }
    }
}
