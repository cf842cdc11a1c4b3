//! Who asks, and what they may do in the workspace that they ask about.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use caisson_engine::Engine;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    answer::{invalid_field, refusal},
    user,
    workspaces::{self, Workspace},
};
use crate::{
    app::App,
    caller::{Caller, View},
    error::{ApiError, ApiResult},
};

/// The header that names a workspace.
const HEADER: &str = "x-workspace-id";

/// What somebody may do in a workspace. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Looks at sandboxes.
    Viewer,
    /// Has sandboxes.
    Member,
    /// Also images, registries, and who is in.
    Admin,
    /// Also its end.
    Owner,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// Too little for what is asked.
pub(super) fn lacks(has: Role, needs: Role) -> ApiError {
    let message = format!("you are `{}` in this workspace, and this needs `{}`", has.as_str(), needs.as_str());
    refusal(StatusCode::FORBIDDEN, "insufficient_role", message)
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(super) view: Arc<View>,
    pub(super) who: String,
}

impl FromRequestParts<Arc<App>> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let Caller(view) = Caller::from_request_parts(parts, app).await?;
        Ok(Self { who: user::of(&view), view })
    }
}

/// Who asks, about which workspace. This is where a handler of sandboxes, images and registries gets its engine from.
#[derive(Debug)]
pub(crate) struct Member {
    pub(super) view: Arc<View>,
    pub(super) who: String,
    pub(super) workspace: Workspace,
    pub(super) role: Role,
    /// As the workspace sees it.
    pub(super) engine: Engine,
}

impl FromRequestParts<Arc<App>> for Member {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let Identity { view, who } = Identity::from_request_parts(parts, app).await?;
        let home = workspaces::home(&view, &who).await?;
        let workspace = match parts.headers.get(HEADER) {
            None => home,
            Some(named) => {
                let id = named.to_str().ok().and_then(|text| text.trim().parse::<caisson_core::Uuid>().ok());
                let id = id.ok_or_else(|| invalid_field("header.x-workspace-id", "is no UUID"))?.to_string();
                if id == home.id { home } else { workspaces::find(app, &id).await?.ok_or_else(|| workspaces::unknown(&id))? }
            }
        };
        let role = workspace.role_of(&who).ok_or_else(|| workspaces::not_yours(&workspace.id))?;
        let engine = workspace.engine(app)?;
        Ok(Self { view, who, workspace, role, engine })
    }
}

impl Member {
    /// Refuses who is less than this.
    pub(super) fn at_least(&self, role: Role) -> ApiResult<()> {
        if self.role < role { Err(lacks(self.role, role)) } else { Ok(()) }
    }

    /// Whose images and registries are meant.
    pub(super) fn owner(&self) -> &str {
        &self.workspace.tenant
    }
}
