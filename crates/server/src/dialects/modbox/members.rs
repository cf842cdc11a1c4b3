//! Who is in a workspace.

use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    answer::{invalid_field, refusal},
    body::Body,
    check::Problems,
    member::{Identity, Role},
    sealed::Secret,
    user,
    workspaces::{self, Membership, ModboxMember, Workspace},
};
use crate::error::{ApiError, ApiResult};

/// Members of one workspace.
const MOST: usize = 1000;

/// Somebody to be let in.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxAddMember {
    /// That of somebody who has a key here: it stands in the key's note
    email: Option<String>,
    /// `admin`, `member` (when absent) or `viewer`
    role: Option<String>,
}

/// What somebody is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxSetRole {
    /// `admin`, `member` or `viewer`
    role: Option<String>,
}

/// A role that can be given. There is one owner.
fn role(text: &str) -> ApiResult<Role> {
    let known = [Role::Admin, Role::Member, Role::Viewer];
    known.into_iter().find(|role| role.as_str() == text).ok_or_else(|| invalid_field("body.role", "is none of admin, member, viewer"))
}

fn unknown(what: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "member_not_found", format!("there is nobody of the name `{what}`"))
}

fn owned() -> ApiError {
    refusal(StatusCode::FORBIDDEN, "forbidden", "the owner of a workspace stays who they are")
}

/// Lists who is in a workspace.
#[utoipa::path(get, path = "/workspaces/{id}/members", operation_id = "modbox_list_members", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "All of them", body = Vec<ModboxMember>)))]
pub(crate) async fn list(identity: Identity, Path(id): Path<String>) -> ApiResult<Json<Vec<ModboxMember>>> {
    let (workspace, _) = workspaces::named(&identity, &id, Role::Viewer).await?;
    Ok(Json(workspace.members.iter().map(|member| ModboxMember::new(&workspace.id, member)).collect()))
}

/// Lets somebody in.
#[utoipa::path(post, path = "/workspaces/{id}/members", operation_id = "modbox_add_member", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxAddMember, responses((status = 201, description = "They are in", body = ModboxMember)))]
pub(crate) async fn add(identity: Identity, Path(id): Path<String>, Body(body): Body<ModboxAddMember>) -> ApiResult<Response> {
    let mut problems = Problems::default();
    problems.email("email", body.email.as_deref());
    let email = problems.required("email", body.email, 1..=254).to_lowercase();
    problems.done()?;
    let role = body.role.as_deref().map_or(Ok(Role::Member), role)?;
    let (workspace, _) = workspaces::named(&identity, &id, Role::Admin).await?;
    if !user::is_known(&identity.view.operator, &email)? {
        return Err(unknown(&email));
    }
    let secret = Secret::of(&identity.view.operator).await?;
    let member = Membership::new(&secret, &email, role, &identity.who);
    let added = workspaces::change(&identity.view, &workspace.id, |workspace| {
        if workspace.role_of(&email).is_some() {
            return Err(refusal(StatusCode::CONFLICT, "conflict", format!("`{email}` is in this workspace already")));
        }
        if workspace.members.len() >= MOST {
            return Err(refusal(StatusCode::CONFLICT, "conflict", format!("a workspace may have {MOST} members")));
        }
        workspace.members.push(member.clone());
        Ok(ModboxMember::new(&workspace.id, &member))
    });
    Ok((StatusCode::CREATED, Json(added.await?)).into_response())
}

/// Changes what somebody may do.
#[utoipa::path(put, path = "/workspaces/{id}/members/{user_id}", operation_id = "modbox_update_member", tag = "modbox",
    params(("id" = String, Path), ("user_id" = String, Path)), request_body = ModboxSetRole,
    responses((status = 200, description = "Who they are now", body = ModboxMember)))]
pub(crate) async fn update(
    identity: Identity,
    Path((id, user_id)): Path<(String, String)>,
    Body(body): Body<ModboxSetRole>,
) -> ApiResult<Json<ModboxMember>> {
    let role = role(body.role.as_deref().ok_or_else(|| invalid_field("body.role", "is missing"))?)?;
    let (workspace, _) = workspaces::named(&identity, &id, Role::Admin).await?;
    let changed = workspaces::change(&identity.view, &workspace.id, |workspace| {
        let id = workspace.id.clone();
        let member = find(workspace, &user_id)?;
        if member.role == Role::Owner {
            return Err(owned());
        }
        member.role = role;
        Ok(ModboxMember::new(&id, member))
    });
    Ok(Json(changed.await?))
}

/// Lets somebody out, or oneself.
#[utoipa::path(delete, path = "/workspaces/{id}/members/{user_id}", operation_id = "modbox_remove_member", tag = "modbox",
    params(("id" = String, Path), ("user_id" = String, Path)), responses((status = 204, description = "They are out")))]
pub(crate) async fn remove(identity: Identity, Path((id, user_id)): Path<(String, String)>) -> ApiResult<StatusCode> {
    let oneself = Secret::of(&identity.view.operator).await?.uuid("user", &identity.who).to_string() == user_id.to_lowercase();
    let least = if oneself { Role::Viewer } else { Role::Admin };
    let (workspace, _) = workspaces::named(&identity, &id, least).await?;
    workspaces::change(&identity.view, &workspace.id, |workspace| {
        let member = find(workspace, &user_id)?.clone();
        if member.role == Role::Owner {
            return Err(owned());
        }
        workspace.members.retain(|other| *other != member);
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find<'a>(workspace: &'a mut Workspace, user_id: &str) -> ApiResult<&'a mut Membership> {
    let found = workspace.members.iter_mut().find(|member| member.user_id.eq_ignore_ascii_case(user_id));
    found.ok_or_else(|| unknown(user_id))
}
