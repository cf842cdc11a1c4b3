//! New sandboxes. The answer comes before they are up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Image, LeftToImage, Limits, SandboxId, SandboxSpec, TimeLimits, UserSpec};
use caisson_engine::CreateRequest;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    WORK_DIR,
    answer::{invalid_field, refusal},
    attendant::{self, OWN_PROGRAMS},
    body::Body,
    check::Problems,
    images::{self, Chosen},
    member::{Member, Role},
    record::{CLIENT_REFERENCE, CREATED_BY, IMAGE, IMAGE_ID, MARK, READINESS_PORT, Status, TASK, address, capabilities, name_of},
    sealed::Secret,
};
use crate::{
    dialects::few,
    error::{ApiError, ApiResult},
};

const MIB: u64 = 1 << 20;
/// Characters of an id that is made up here.
const SHORT: usize = 10;
/// Of the memory, so much may be files: some is left for programs when it is full.
const FILES: u64 = 75;

/// A sandbox to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxProvision {
    /// 1 to 255 characters, unique among the workspace's living sandboxes; one is made up when absent
    task_id: Option<String>,
    /// A registered image
    image_id: Option<String>,
    /// An image by its name; passed over where there is an `image_id`
    image: Option<String>,
    #[serde(deserialize_with = "few::map")]
    env_vars: Option<BTreeMap<String, Option<String>>>,
    /// Seconds to live from now on: 60 to 86400; that of the image when absent, and no end where that has none
    ttl_seconds: Option<i64>,
    /// Kept in the sandbox's record
    client_reference: Option<String>,
    /// A hint; all sandboxes start fast
    fast_start: Option<bool>,
}

/// A sandbox that comes up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxProvisioned {
    success: bool,
    sandbox_id: Option<String>,
    status: Status,
    sandbox_url: Option<String>,
    error: Option<String>,
    endpoint: ModboxEndpoint,
    #[schema(value_type = Object)]
    capabilities: BTreeMap<&'static str, String>,
    cache: ModboxCache,
}

/// Where a sandbox's own API will be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxEndpoint {
    base_url: String,
    api_url: String,
    /// Opens it; told here alone
    access_token: String,
}

/// What is prepared of an image: nothing, as nothing has to be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxCache {
    pub(super) requested: bool,
    pub(super) status: Option<&'static str>,
}

/// Makes a sandbox; answers at once, and the sandbox comes up behind the answer.
#[utoipa::path(post, path = "/sandboxes/provision", operation_id = "modbox_provision", tag = "modbox", request_body = ModboxProvision,
    responses((status = 201, description = "It comes up", body = ModboxProvisioned)))]
pub(crate) async fn provision(member: Member, Body(body): Body<ModboxProvision>) -> ApiResult<Response> {
    member.at_least(Role::Member)?;
    let mut problems = Problems::default();
    problems.text("task_id", body.task_id.as_deref(), 1..=255);
    let image_id = problems.uuid("image_id", body.image_id.as_deref());
    if image_id.is_none() {
        problems.text("image", body.image.as_deref(), 1..=512);
    }
    let ttl = problems.within("ttl_seconds", body.ttl_seconds, 60..=86_400);
    problems.text("client_reference", body.client_reference.as_deref(), 0..=1000);
    problems.done()?;
    if body.fast_start.is_some() {
        tracing::debug!("`fast_start` changes nothing: all sandboxes start as fast as they can");
    }
    let chosen = images::choose(&member, image_id, body.image.as_deref()).await?;
    let task_id = body.task_id.unwrap_or_else(made_up);
    let request = CreateRequest {
        name: Some(name_of(&task_id)),
        spec: spec(&chosen, body.env_vars.unwrap_or_default()),
        time_limits: TimeLimits { lifetime: ttl.or(chosen.ttl_seconds).map(Duration::from_secs), idle_timeout: None },
        metadata: metadata(&member, &chosen, &task_id, body.client_reference),
    };
    let (app, engine) = (Arc::clone(member.view.app()), member.engine.clone());
    let work = Arc::clone(&app);
    let begun = app.owned(async move {
        let begun = engine.begin(request).await?;
        attendant::attend(&work, engine, &begun);
        Ok::<_, Error>(begun)
    });
    let sandbox = begun.await?.map_err(|error| refused(error, &task_id))?;
    let base_url = address(&app, &sandbox);
    let answer = ModboxProvisioned {
        success: true,
        sandbox_id: Some(sandbox.id.uuid().to_string()),
        status: Status::Provisioning,
        sandbox_url: None,
        error: None,
        capabilities: capabilities(&base_url),
        endpoint: ModboxEndpoint {
            api_url: format!("{base_url}/modbox/api"),
            base_url,
            access_token: Secret::of(&app.operator).await?.sandbox_key(sandbox.id),
        },
        cache: ModboxCache { requested: false, status: None },
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// The same.
#[utoipa::path(post, path = "/sandboxes", operation_id = "modbox_create_sandbox", tag = "modbox", request_body = ModboxProvision,
    responses((status = 201, description = "It comes up", body = ModboxProvisioned)))]
pub(crate) async fn create(member: Member, body: Body<ModboxProvision>) -> ApiResult<Response> {
    provision(member, body).await
}

fn made_up() -> String {
    let id = SandboxId::random();
    format!("sbx-{}", &id.as_str()[3..3 + SHORT])
}

fn spec(chosen: &Chosen, env_vars: BTreeMap<String, Option<String>>) -> SandboxSpec {
    let memory_bytes = chosen.memory_mb * MIB;
    let mut env: BTreeMap<String, String> = env_vars.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    // Other images say themselves where their programs are.
    if chosen.image == Image::Host {
        env.entry("PATH".to_owned()).or_insert_with(|| format!("{}:{OWN_PROGRAMS}", Image::HOST_PATH));
    }
    SandboxSpec {
        image: chosen.image.clone(),
        limits: Limits { memory_bytes, disk_bytes: memory_bytes / 100 * FILES, cpu_millis: 1000, ..Limits::default() },
        user: UserSpec::root(),
        work_dir: WORK_DIR.to_owned(),
        left_to_image: LeftToImage { user: false, work_dir: false },
        env,
        ..SandboxSpec::default()
    }
}

fn metadata(member: &Member, chosen: &Chosen, task_id: &str, client_reference: Option<String>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        (MARK.0.to_owned(), MARK.1.to_owned()),
        (TASK.to_owned(), task_id.to_owned()),
        (CREATED_BY.to_owned(), member.who.clone()),
        (IMAGE.to_owned(), chosen.shown.clone()),
    ]);
    let more = [
        (IMAGE_ID, chosen.id.clone()),
        (READINESS_PORT, chosen.readiness_port.map(|port| port.to_string())),
        (CLIENT_REFERENCE, client_reference),
    ];
    metadata.extend(more.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    metadata
}

/// Why nothing comes up.
fn refused(error: Error, task_id: &str) -> ApiError {
    match &error {
        Error::Conflict { code: "name_taken", .. } => {
            let message = format!("a sandbox of this workspace is called `{task_id}`; destroy it first, or take another `task_id`");
            refusal(StatusCode::BAD_REQUEST, "sandbox_name_conflict", message)
        }
        Error::Invalid { code: "invalid_env" | "reserved_env", message } => invalid_field("body.env_vars", message.clone()),
        Error::Unsupported { message } => refusal(StatusCode::BAD_REQUEST, "provisioning_failed", message.clone()),
        _ => error.into(),
    }
}
