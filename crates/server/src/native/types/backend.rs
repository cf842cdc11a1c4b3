//! Backends.

use caisson_core::Feature;
use caisson_engine::{BackendInfo, doctor::Proof};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time;

/// All backends of a server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackendList {
    pub backends: Vec<BackendBody>,
}

/// What sandboxes can be made by.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Backend)]
pub struct BackendBody {
    /// As requests and templates name it.
    pub name: String,
    /// Whether it is taken where nobody names one.
    pub default: bool,
    /// `usable` or `unusable`.
    pub state: String,
    /// Why it is not usable; for keys of administrators alone
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the runtime behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How the runtime runs code, where there is a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What stands between programs and the host, in a sentence.
    pub wall: String,
    /// What it can do beyond running programs: `disk`, `network`, `commit`.
    pub features: Vec<String>,
    /// Limits that it cannot enforce in full.
    pub weaker_limits: Vec<String>,
    /// What the doctor found last, since the server started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doctor: Option<ProofBody>,
}

/// What is kept of a doctor's report.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Proof)]
pub struct ProofBody {
    /// `held`, `not_enforceable`, `unproven` or `broken`.
    pub state: String,
    /// How many guarantees held.
    pub held: usize,
    /// How many there are.
    pub guarantees: usize,
    /// How many attacks were made.
    pub attempts: usize,
    /// RFC 3339.
    pub at: String,
}

impl From<BackendInfo> for BackendBody {
    fn from(info: BackendInfo) -> Self {
        Self {
            name: info.name.to_owned(),
            default: info.is_default,
            state: if info.unusable.is_some() { "unusable" } else { "usable" }.to_owned(),
            reason: info.unusable,
            version: info.about.version,
            platform: info.about.platform,
            wall: info.about.wall.to_owned(),
            features: info.features.into_iter().map(Feature::as_str).map(str::to_owned).collect(),
            weaker_limits: info.weaker_limits.into_iter().map(str::to_owned).collect(),
            doctor: info.proof.map(ProofBody::from),
        }
    }
}

impl From<Proof> for ProofBody {
    fn from(proof: Proof) -> Self {
        let Proof { state, held, all, attempts, at } = proof;
        Self { state: state.as_str().to_owned(), held, guarantees: all, attempts, at: time(at) }
    }
}
