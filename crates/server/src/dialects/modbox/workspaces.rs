//! Workspaces: each is a tenant. A user's own is that of their key; others are made here, with tenants of their own.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use caisson_core::{Scope, Tenant, Uuid};
use caisson_engine::Engine;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    answer::refusal,
    body::Body,
    check::Problems,
    images::Image,
    member::{Identity, Role, lacks},
    registries::Registry,
    sealed::Secret,
    shelf::{self, Kept},
};
use crate::{
    app::App,
    caller::View,
    error::{ApiError, ApiResult},
    native::types::time,
};

/// Whose all workspaces are, among what is kept.
const ALL: &str = "";
/// In front of the tenants of workspaces that are made here.
const TENANT: &str = "ws-";
/// Workspaces that one user has made. Each has the quotas of the user's own tenant for itself.
const MOST: usize = 20;
const NAME: std::ops::RangeInclusive<usize> = 1..=255;
const DESCRIPTION: std::ops::RangeInclusive<usize> = 0..=1000;

/// What a workspace is read for is still so when it is written: there is one server, and one who changes.
static CHANGING: Mutex<()> = Mutex::const_new(());

/// A workspace with who is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Workspace {
    pub(super) id: String,
    pub(super) tenant: String,
    pub(super) name: String,
    description: Option<String>,
    created_by: String,
    created_at: String,
    updated_at: String,
    pub(super) members: Vec<Membership>,
}

/// Somebody who is in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) who: String,
    pub(super) role: Role,
    pub(super) added_by: String,
    pub(super) created_at: String,
}

impl Kept for Workspace {
    const KIND: &str = "modbox.workspace";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Membership {
    pub(super) fn new(secret: &Secret<'_>, who: &str, role: Role, added_by: &str) -> Self {
        Self {
            id: Uuid::random().to_string(),
            user_id: secret.uuid("user", who).to_string(),
            who: who.to_owned(),
            role,
            added_by: added_by.to_owned(),
            created_at: now(),
        }
    }
}

impl Workspace {
    fn new(id: String, tenant: String, name: String, description: Option<String>, first: Membership) -> Self {
        let (created_by, created_at) = (first.who.clone(), now());
        Self { id, tenant, name, description, created_by, updated_at: created_at.clone(), created_at, members: vec![first] }
    }

    /// Who somebody is in it.
    pub(super) fn role_of(&self, who: &str) -> Option<Role> {
        self.members.iter().find(|member| member.who == who).map(|member| member.role)
    }

    fn has_owner(&self) -> bool {
        self.members.iter().any(|member| member.role == Role::Owner)
    }

    /// The engine as the workspace sees it.
    pub(super) fn engine(&self, app: &App) -> ApiResult<Engine> {
        Ok(app.operator.of(&self.tenant.parse::<Tenant>()?))
    }

    pub(super) fn touch(&mut self) {
        self.updated_at = now();
    }
}

pub(super) fn now() -> String {
    time(Timestamp::now())
}

/// The workspace of this id.
pub(super) async fn find(app: &App, id: &str) -> ApiResult<Option<Workspace>> {
    // In one spelling.
    let Ok(id) = id.parse::<Uuid>() else { return Ok(None) };
    shelf::find(&app.operator, ALL, &id.to_string()).await
}

/// The workspace that was made with this tenant.
pub(super) async fn of_tenant(app: &App, tenant: &Tenant) -> ApiResult<Option<Workspace>> {
    match tenant.as_str().strip_prefix(TENANT).and_then(|id| id.parse::<Uuid>().ok()) {
        Some(id) => find(app, &id.to_string()).await,
        None => Ok(None),
    }
}

/// The workspace of the tenant that a caller's key is of. It is made when somebody first asks, and whoever asks is in it.
pub(super) async fn home(view: &View, who: &str) -> ApiResult<Workspace> {
    let secret = Secret::of(&view.operator).await?;
    let tenant = view.engine.tenant();
    let id = secret.uuid("workspace", tenant.as_str()).to_string();
    if let Some(known) = shelf::find::<Workspace>(&view.operator, ALL, &id).await?
        && known.role_of(who).is_some_and(|role| role == at_home(&known, Some(role), view.scope) || view.scope == Scope::Read)
    {
        return Ok(known);
    }
    let _alone = CHANGING.lock().await;
    let Some(mut known) = shelf::find::<Workspace>(&view.operator, ALL, &id).await? else {
        let role = if view.scope == Scope::Read { Role::Viewer } else { Role::Owner };
        let first = Membership::new(&secret, who, role, who);
        let made = Workspace::new(id, tenant.to_string(), tenant.to_string(), None, first);
        shelf::add(&view.operator, ALL, &made).await?;
        return Ok(made);
    };
    let recorded = known.role_of(who);
    let role = at_home(&known, recorded, view.scope);
    match known.members.iter_mut().find(|member| member.who == who) {
        Some(member) => member.role = role,
        None => known.members.push(Membership::new(&secret, who, role, who)),
    }
    shelf::put(&view.operator, ALL, &known).await?;
    Ok(known)
}

/// Who somebody is in the workspace of their own key: the first one that may change things owns it.
fn at_home(workspace: &Workspace, recorded: Option<Role>, scope: Scope) -> Role {
    match (scope, recorded) {
        (Scope::Read, recorded) => recorded.unwrap_or(Role::Viewer),
        (_, Some(Role::Owner)) => Role::Owner,
        (_, _) if !workspace.has_owner() => Role::Owner,
        _ => Role::Admin,
    }
}

/// Changes a workspace as it is now. `None`: there is none any more.
pub(super) async fn change<T>(app: &App, id: &str, change: impl FnOnce(&mut Workspace) -> ApiResult<T>) -> ApiResult<T> {
    let _alone = CHANGING.lock().await;
    let mut workspace = shelf::find::<Workspace>(&app.operator, ALL, id).await?.ok_or_else(|| unknown(id))?;
    let result = change(&mut workspace)?;
    workspace.touch();
    shelf::put(&app.operator, ALL, &workspace).await?;
    Ok(result)
}

pub(super) fn unknown(id: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "workspace_not_found", format!("there is no workspace `{id}`"))
}

pub(super) fn not_yours(id: &str) -> ApiError {
    refusal(StatusCode::FORBIDDEN, "workspace_forbidden", format!("workspace `{id}` is not one of yours; ask its owner to add you"))
}

/// A workspace to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxCreateWorkspace {
    /// 1 to 255 characters
    name: Option<String>,
    description: Option<String>,
}

/// What of a workspace is to be other.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxUpdateWorkspace {
    name: Option<String>,
    description: Option<String>,
}

/// A workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxWorkspace {
    id: String,
    name: String,
    description: Option<String>,
    /// The tenant that it is
    realm: String,
    created_by: String,
    created_at: String,
    updated_at: String,
    members: Vec<ModboxMember>,
}

/// Somebody who is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxMember {
    id: String,
    workspace_id: String,
    user_id: String,
    /// Known of those who have an address
    email: Option<String>,
    /// `owner`, `admin`, `member` or `viewer`
    role: Role,
    added_by: String,
    created_at: String,
}

/// A workspace among others.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxWorkspaceItem {
    id: String,
    name: String,
    description: Option<String>,
    created_by: String,
    created_at: String,
    my_role: Role,
}

/// All that one is in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxWorkspaces {
    workspaces: Vec<ModboxWorkspaceItem>,
    total: usize,
}

impl ModboxMember {
    pub(super) fn new(workspace: &str, member: &Membership) -> Self {
        Self {
            id: member.id.clone(),
            workspace_id: workspace.to_owned(),
            user_id: member.user_id.clone(),
            email: member.who.contains('@').then(|| member.who.clone()),
            role: member.role,
            added_by: member.added_by.clone(),
            created_at: member.created_at.clone(),
        }
    }
}

impl From<&Workspace> for ModboxWorkspace {
    fn from(workspace: &Workspace) -> Self {
        Self {
            id: workspace.id.clone(),
            name: workspace.name.clone(),
            description: workspace.description.clone(),
            realm: workspace.tenant.clone(),
            created_by: workspace.created_by.clone(),
            created_at: workspace.created_at.clone(),
            updated_at: workspace.updated_at.clone(),
            members: workspace.members.iter().map(|member| ModboxMember::new(&workspace.id, member)).collect(),
        }
    }
}

/// Lists the workspaces that the caller is in, the own one first.
#[utoipa::path(get, path = "/workspaces", operation_id = "modbox_list_workspaces", tag = "modbox",
    responses((status = 200, description = "All of them", body = ModboxWorkspaces)))]
pub(crate) async fn list(identity: Identity) -> ApiResult<Json<ModboxWorkspaces>> {
    let home = home(&identity.view, &identity.who).await?;
    let all = shelf::all::<Workspace>(&identity.view.operator, ALL).await?;
    let others = all.into_iter().filter(|workspace| workspace.id != home.id);
    let item = |workspace: Workspace| {
        let my_role = workspace.role_of(&identity.who)?;
        let Workspace { id, name, description, created_by, created_at, .. } = workspace;
        Some(ModboxWorkspaceItem { id, name, description, created_by, created_at, my_role })
    };
    let workspaces: Vec<_> = std::iter::once(home.clone()).chain(others).filter_map(item).collect();
    let total = workspaces.len();
    Ok(Json(ModboxWorkspaces { workspaces, total }))
}

/// Makes a workspace, which the caller owns.
#[utoipa::path(post, path = "/workspaces", operation_id = "modbox_create_workspace", tag = "modbox", request_body = ModboxCreateWorkspace,
    responses((status = 201, description = "The workspace", body = ModboxWorkspace)))]
pub(crate) async fn create(identity: Identity, Body(body): Body<ModboxCreateWorkspace>) -> ApiResult<Response> {
    let mut problems = Problems::default();
    let name = problems.required("name", body.name, NAME);
    problems.text("description", body.description.as_deref(), DESCRIPTION);
    problems.done()?;
    let Identity { view, who } = identity;
    let app = Arc::clone(view.app());
    let made = app.owned(async move { make(&view, &who, name, body.description).await }).await??;
    Ok((StatusCode::CREATED, Json(ModboxWorkspace::from(&made))).into_response())
}

async fn make(view: &View, who: &str, name: String, description: Option<String>) -> ApiResult<Workspace> {
    let secret = Secret::of(&view.operator).await?;
    let _alone = CHANGING.lock().await;
    let made = shelf::all::<Workspace>(&view.operator, ALL).await?;
    let own = |workspace: &&Workspace| workspace.created_by == who && workspace.tenant.starts_with(TENANT);
    if made.iter().filter(own).count() >= MOST {
        let message = format!("you have made {MOST} workspaces, and there may be no more; delete one that is not used any more");
        return Err(refusal(StatusCode::CONFLICT, "conflict", message));
    }
    let id = Uuid::random().to_string();
    let tenant = format!("{TENANT}{id}");
    let workspace = Workspace::new(id, tenant, name, description, Membership::new(&secret, who, Role::Owner, who));
    // Nobody gets beyond a quota by making a workspace without one.
    workspace.engine(view)?.set_quotas(view.engine.tenant_use().quotas).await?;
    shelf::add(&view.operator, ALL, &workspace).await?;
    Ok(workspace)
}

/// The workspace that a path names, for somebody who is at least this in it.
pub(super) async fn named(identity: &Identity, id: &str, least: Role) -> ApiResult<(Workspace, Role)> {
    let home = home(&identity.view, &identity.who).await?;
    let workspace = match find(&identity.view, id).await? {
        Some(workspace) if workspace.id == home.id => home,
        Some(workspace) => workspace,
        None => return Err(unknown(id)),
    };
    let role = workspace.role_of(&identity.who).ok_or_else(|| not_yours(id))?;
    if role < least { Err(lacks(role, least)) } else { Ok((workspace, role)) }
}

/// A workspace with its members.
#[utoipa::path(get, path = "/workspaces/{id}", operation_id = "modbox_get_workspace", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "The workspace", body = ModboxWorkspace)))]
pub(crate) async fn get(identity: Identity, axum::extract::Path(id): axum::extract::Path<String>) -> ApiResult<Json<ModboxWorkspace>> {
    let (workspace, _) = named(&identity, &id, Role::Viewer).await?;
    Ok(Json(ModboxWorkspace::from(&workspace)))
}

/// Changes name and description.
#[utoipa::path(put, path = "/workspaces/{id}", operation_id = "modbox_update_workspace", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxUpdateWorkspace, responses((status = 200, description = "The workspace", body = ModboxWorkspace)))]
pub(crate) async fn update(
    identity: Identity,
    axum::extract::Path(id): axum::extract::Path<String>,
    Body(body): Body<ModboxUpdateWorkspace>,
) -> ApiResult<Json<ModboxWorkspace>> {
    let mut problems = Problems::default();
    problems.text("name", body.name.as_deref(), NAME);
    problems.text("description", body.description.as_deref(), DESCRIPTION);
    problems.done()?;
    let (workspace, _) = named(&identity, &id, Role::Admin).await?;
    let changed = change(&identity.view, &workspace.id, |workspace| {
        workspace.name = body.name.unwrap_or_else(|| workspace.name.clone());
        workspace.description = body.description.or_else(|| workspace.description.take());
        workspace.touch();
        Ok(workspace.clone())
    });
    Ok(Json(ModboxWorkspace::from(&changed.await?)))
}

/// Ends everything in a workspace and removes it.
#[utoipa::path(delete, path = "/workspaces/{id}", operation_id = "modbox_delete_workspace", tag = "modbox", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(identity: Identity, axum::extract::Path(id): axum::extract::Path<String>) -> ApiResult<StatusCode> {
    let (workspace, _) = named(&identity, &id, Role::Owner).await?;
    if !workspace.tenant.starts_with(TENANT) {
        let message = "this is the workspace of a key of yours; it goes when the key does";
        return Err(refusal(StatusCode::CONFLICT, "conflict", message));
    }
    let app = Arc::clone(identity.view.app());
    let work = Arc::clone(&app);
    app.owned(async move { clear(&work, &workspace).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// First nobody gets in any more, then what is in there ends.
async fn clear(app: &App, workspace: &Workspace) -> ApiResult<()> {
    {
        let _alone = CHANGING.lock().await;
        shelf::remove::<Workspace>(&app.operator, ALL, &workspace.id).await?;
    }
    let engine = workspace.engine(app)?;
    super::list::end_all(&engine).await?;
    for image in shelf::all::<Image>(&engine, &workspace.tenant).await? {
        shelf::remove::<Image>(&engine, &workspace.tenant, image.id()).await?;
    }
    for registry in shelf::all::<Registry>(&engine, &workspace.tenant).await? {
        shelf::remove::<Registry>(&engine, &workspace.tenant, registry.id()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_home_whoever_comes_first_owns() {
        let member = |who: &str, role| Membership {
            id: String::new(),
            user_id: String::new(),
            who: who.to_owned(),
            role,
            added_by: String::new(),
            created_at: String::new(),
        };
        let mut workspace = Workspace::new(String::new(), "t".to_owned(), "t".to_owned(), None, member("reads", Role::Viewer));
        assert_eq!(at_home(&workspace, Some(Role::Viewer), Scope::Read), Role::Viewer);
        assert_eq!(at_home(&workspace, None, Scope::Run), Role::Owner);
        workspace.members.push(member("owns", Role::Owner));
        assert_eq!(at_home(&workspace, workspace.role_of("owns"), Scope::Run), Role::Owner);
        assert_eq!(at_home(&workspace, workspace.role_of("owns"), Scope::Read), Role::Owner);
        assert_eq!(at_home(&workspace, None, Scope::Admin), Role::Admin);
        assert_eq!(at_home(&workspace, workspace.role_of("reads"), Scope::Run), Role::Admin);
        assert_eq!(at_home(&workspace, None, Scope::Read), Role::Viewer);
    }
}
