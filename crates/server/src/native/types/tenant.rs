//! Tenants and their quotas.

use caisson_core::{Holdings, Quotas, Result};
use caisson_engine::TenantUse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Whole, field::given};

/// What a tenant may have; null is no limit of its own.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = Quotas)]
pub struct QuotasBody {
    /// Sandboxes that have not ended.
    pub sandboxes: Option<u64>,
    /// Executions started within one minute, one-shots included.
    pub executions_per_minute: Option<u64>,
    /// The memory limits of its living sandboxes together.
    pub memory_bytes: Option<u64>,
    /// The disk limits of its living sandboxes with storage `disk` together; files of the others are in memory and count there.
    pub disk_bytes: Option<u64>,
    /// All files of its workspaces together.
    pub workspace_bytes: Option<u64>,
}

impl From<&Quotas> for QuotasBody {
    fn from(quotas: &Quotas) -> Self {
        let Quotas { sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes } = *quotas;
        Self { sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes }
    }
}

/// Changes to what a tenant may have. What is absent stays as it is; null takes the limit away.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = UpdateQuotas)]
pub struct UpdateQuotasBody {
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub sandboxes: Option<Option<Whole>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub executions_per_minute: Option<Option<Whole>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory_bytes: Option<Option<Whole>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_bytes: Option<Option<Whole>>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub workspace_bytes: Option<Option<Whole>>,
}

impl UpdateQuotasBody {
    /// The quotas with these changes.
    pub(crate) fn change(self, now: Quotas) -> Result<Quotas> {
        let changed = |name, change: Option<Option<Whole>>, now| match change {
            None => Ok(now),
            Some(None) => Ok(None),
            Some(Some(figure)) => figure.within(name, 0, Quotas::MAX).map(Some),
        };
        Ok(Quotas {
            sandboxes: changed("sandboxes", self.sandboxes, now.sandboxes)?,
            executions_per_minute: changed("executions_per_minute", self.executions_per_minute, now.executions_per_minute)?,
            memory_bytes: changed("memory_bytes", self.memory_bytes, now.memory_bytes)?,
            disk_bytes: changed("disk_bytes", self.disk_bytes, now.disk_bytes)?,
            workspace_bytes: changed("workspace_bytes", self.workspace_bytes, now.workspace_bytes)?,
        })
    }
}

/// What a tenant has at the moment, in the figures of its quotas.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = Holdings)]
pub struct HoldingsBody {
    pub sandboxes: u64,
    pub executions_per_minute: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// As last counted; null where that was not done, as for a tenant that has no quota of this.
    pub workspace_bytes: Option<u64>,
}

impl From<&Holdings> for HoldingsBody {
    fn from(holdings: &Holdings) -> Self {
        let Holdings { sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes } = *holdings;
        Self { sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes }
    }
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantBody {
    pub name: String,
    pub quotas: QuotasBody,
    #[serde(rename = "use")]
    pub holdings: HoldingsBody,
}

impl From<&TenantUse> for TenantBody {
    fn from(tenant: &TenantUse) -> Self {
        Self { name: tenant.tenant.to_string(), quotas: QuotasBody::from(&tenant.quotas), holdings: HoldingsBody::from(&tenant.holdings) }
    }
}

/// Who asks.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Caller)]
pub struct CallerBody {
    pub tenant: TenantBody,
    /// `read`, `run` or `admin`.
    pub scope: String,
    /// The id of the key that was shown; null for the configured one, and where none is needed.
    pub key_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_null_and_given_quotas_differ() {
        let now = Quotas { sandboxes: Some(1), memory_bytes: Some(2), ..Quotas::default() };
        let change = |body| serde_json::from_value::<UpdateQuotasBody>(body).unwrap().change(now);
        assert_eq!(change(json!({})).unwrap(), now);
        let changed = change(json!({"sandboxes": null, "disk_bytes": 0})).unwrap();
        assert_eq!(changed, Quotas { sandboxes: None, disk_bytes: Some(0), ..now });
        for bad in [json!({"sandboxes": -1}), json!({"memory_bytes": 1e30})] {
            assert_eq!(change(bad).unwrap_err().code(), "limit_out_of_range");
        }
    }
}
