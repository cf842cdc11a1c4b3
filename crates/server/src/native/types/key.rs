//! Keys.

use caisson_core::{Error, Key, Result, Scope, Tenant};
use caisson_engine::NewKey;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Number, time};

/// A key to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = CreateKey)]
pub struct CreateKeyBody {
    /// Whose key it is: a name of a-z, 0-9, `-`, `_` and `.`. `default` when absent. The tenant comes into being with its first key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `read` (look at everything of the tenant), `run` (when absent: also make, use, change and end it) or `admin` (also the keys and
    /// quotas of all tenants, and what concerns the server as a whole).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Seconds until it expires; absent or null for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub expires_in_s: Option<Number>,
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl CreateKeyBody {
    /// What the engine is to record, for a key of this hash.
    pub(crate) fn into_new(self, hash: caisson_core::KeyHash) -> Result<NewKey> {
        let expires_in = self.expires_in_s.map(|seconds| seconds.seconds("expires_in_s")).transpose()?;
        let expires_at = expires_in.map(|left| Timestamp::now().checked_add(left)).transpose();
        Ok(NewKey {
            hash,
            tenant: self.tenant.map_or(Ok(Tenant::default()), |name| name.parse())?,
            scope: self.scope.map_or(Ok(Scope::Run), |name| scope(&name))?,
            note: self.note.unwrap_or_default(),
            expires_at: expires_at.map_err(|_| Error::invalid("limit_out_of_range", "field `expires_in_s` is beyond all time"))?,
        })
    }
}

fn scope(name: &str) -> Result<Scope> {
    name.parse().map_err(|_| {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        Error::invalid("invalid_scope", format!("field `scope` is `{}`, expected one of {known}", name.escape_debug()))
    })
}

/// A key. The key itself is told once, when it is made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyBody {
    /// For `DELETE`; says nothing about the key itself.
    pub id: String,
    pub tenant: String,
    /// `read`, `run` or `admin`.
    pub scope: String,
    pub note: String,
    /// RFC 3339.
    pub created_at: String,
    /// From then on it lets nobody in; null for never.
    pub expires_at: Option<String>,
    /// The key itself: in the answer to the request that made it, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl From<&Key> for KeyBody {
    fn from(key: &Key) -> Self {
        Self {
            id: key.id.to_string(),
            tenant: key.tenant.to_string(),
            scope: key.scope.as_str().to_owned(),
            note: key.note.clone(),
            created_at: time(key.created_at),
            expires_at: key.expires_at.map(time),
            key: None,
        }
    }
}
