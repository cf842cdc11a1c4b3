//! Registries and who one is there. Passwords are kept sealed and told to nobody.

use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use caisson_core::Uuid;
use caisson_image::{Login, Logins};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    answer::refusal,
    body::Body,
    check::Problems,
    member::{Member, Role},
    sealed::Secret,
    shelf::{self, Kept},
    workspaces::now,
};
use crate::{
    error::{ApiError, ApiResult},
    native::images::refusal::refused,
};

/// Registries of one workspace.
const MOST: usize = 1000;

/// A registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Registry {
    id: String,
    pub(super) name: String,
    server: String,
    username: String,
    /// Sealed, for this registry alone.
    password: String,
    email: Option<String>,
    enabled: bool,
    created_at: String,
    updated_at: String,
}

impl Kept for Registry {
    const KIND: &str = "modbox.registry";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Registry {
    /// Its login, for what the workspace pulls from there. None while it is disabled.
    pub(super) async fn logins(&self, member: &Member) -> ApiResult<Option<(String, Logins)>> {
        let opened = Secret::of(&member.view.operator).await?.open(&self.id, &self.password);
        let Some(password) = opened.filter(|_| self.enabled) else { return Ok(None) };
        // People write it as an address as well.
        let host = self.server.strip_prefix("https://").or_else(|| self.server.strip_prefix("http://")).unwrap_or(&self.server);
        let host = host.split('/').next().unwrap_or_default();
        let mut logins = Logins::none();
        logins.add(host, Login { user: self.username.clone(), password }).map_err(|error| refused(&error))?;
        Ok(Some((host.to_owned(), logins)))
    }
}

/// What a registry is to be; what is absent stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxRegistryBody {
    /// 1 to 255 characters
    name: Option<String>,
    /// 1 to 512 characters
    server: Option<String>,
    /// 1 to 255 characters
    username: Option<String>,
    /// 1 to 512 characters; never told again
    password: Option<String>,
    email: Option<String>,
    enabled: Option<bool>,
}

/// A registry, without its password.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxRegistry {
    id: String,
    name: String,
    server: String,
    username: String,
    email: Option<String>,
    enabled: bool,
    created_at: String,
    updated_at: String,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxRegistries {
    registries: Vec<ModboxRegistry>,
    total: usize,
}

impl From<Registry> for ModboxRegistry {
    fn from(registry: Registry) -> Self {
        let Registry { id, name, server, username, email, enabled, created_at, updated_at, .. } = registry;
        Self { id, name, server, username, email, enabled, created_at, updated_at }
    }
}

impl ModboxRegistryBody {
    fn check(&self, problems: &mut Problems) {
        problems.text("name", self.name.as_deref(), 1..=255);
        problems.text("server", self.server.as_deref(), 1..=512);
        problems.text("username", self.username.as_deref(), 1..=255);
        problems.text("password", self.password.as_deref(), 1..=512);
        problems.email("email", self.email.as_deref());
    }
}

fn unknown(id: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "registry_not_found", format!("there is no registry `{id}` in this workspace"))
}

async fn find(member: &Member, id: &str) -> ApiResult<Registry> {
    let Ok(uuid) = id.parse::<Uuid>() else { return Err(unknown(id)) };
    shelf::find(&member.engine, member.owner(), &uuid.to_string()).await?.ok_or_else(|| unknown(id))
}

/// Lists the workspace's registries.
#[utoipa::path(get, path = "/registries", operation_id = "modbox_list_registries", tag = "modbox",
    responses((status = 200, description = "All of them", body = ModboxRegistries)))]
pub(crate) async fn list(member: Member) -> ApiResult<Json<ModboxRegistries>> {
    let kept = shelf::all::<Registry>(&member.engine, member.owner()).await?;
    let registries: Vec<_> = kept.into_iter().map(ModboxRegistry::from).collect();
    let total = registries.len();
    Ok(Json(ModboxRegistries { registries, total }))
}

/// Registers a registry.
#[utoipa::path(post, path = "/registries", operation_id = "modbox_create_registry", tag = "modbox", request_body = ModboxRegistryBody,
    responses((status = 201, description = "The registry", body = ModboxRegistry)))]
pub(crate) async fn create(member: Member, Body(body): Body<ModboxRegistryBody>) -> ApiResult<Response> {
    let mut problems = Problems::default();
    let name = problems.required("name", body.name, 1..=255);
    let server = problems.required("server", body.server, 1..=512);
    let username = problems.required("username", body.username, 1..=255);
    let password = problems.required("password", body.password, 1..=512);
    problems.email("email", body.email.as_deref());
    problems.done()?;
    member.at_least(Role::Admin)?;
    if shelf::all::<Registry>(&member.engine, member.owner()).await?.len() >= MOST {
        let message = format!("a workspace may have {MOST} registries; delete some that are not used any more");
        return Err(refusal(StatusCode::CONFLICT, "conflict", message));
    }
    let (id, at) = (Uuid::random().to_string(), now());
    let password = Secret::of(&member.view.operator).await?.seal(&id, &password)?;
    let enabled = body.enabled.unwrap_or(true);
    let made = Registry { id, name, server, username, password, email: body.email, enabled, created_at: at.clone(), updated_at: at };
    shelf::add(&member.engine, member.owner(), &made).await?;
    Ok((StatusCode::CREATED, Json(ModboxRegistry::from(made))).into_response())
}

/// A registry.
#[utoipa::path(get, path = "/registries/{id}", operation_id = "modbox_get_registry", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "The registry", body = ModboxRegistry)))]
pub(crate) async fn get(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxRegistry>> {
    Ok(Json(find(&member, &id).await?.into()))
}

/// Changes what is said.
#[utoipa::path(put, path = "/registries/{id}", operation_id = "modbox_update_registry", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxRegistryBody, responses((status = 200, description = "The registry", body = ModboxRegistry)))]
pub(crate) async fn update(
    member: Member,
    Path(id): Path<String>,
    Body(body): Body<ModboxRegistryBody>,
) -> ApiResult<Json<ModboxRegistry>> {
    let mut problems = Problems::default();
    body.check(&mut problems);
    problems.done()?;
    member.at_least(Role::Admin)?;
    let known = find(&member, &id).await?;
    let password = match body.password {
        Some(password) => Secret::of(&member.view.operator).await?.seal(&known.id, &password)?,
        None => known.password,
    };
    let changed = Registry {
        name: body.name.unwrap_or(known.name),
        server: body.server.unwrap_or(known.server),
        username: body.username.unwrap_or(known.username),
        password,
        email: body.email.or(known.email),
        enabled: body.enabled.unwrap_or(known.enabled),
        updated_at: now(),
        ..known
    };
    if !shelf::put(&member.engine, member.owner(), &changed).await? {
        return Err(unknown(&id));
    }
    Ok(Json(changed.into()))
}

/// Removes a registry, also one that images name.
#[utoipa::path(delete, path = "/registries/{id}", operation_id = "modbox_delete_registry", tag = "modbox", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(member: Member, Path(id): Path<String>) -> ApiResult<StatusCode> {
    member.at_least(Role::Admin)?;
    let known = find(&member, &id).await?;
    shelf::remove::<Registry>(&member.engine, member.owner(), &known.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
