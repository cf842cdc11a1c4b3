//! Links that open a file without a key: the storage's own where it has them, otherwise ours.
//!
//! ```text
//! wl_ ‖ base64url( expiry: 8 bytes, BE, seconds ‖ HMAC-SHA256( "caisson workspace file" ‖ expiry ‖ tenant ‖ 0 ‖ workspace ‖ 0 ‖ file ) )
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Json as Reply, extract::FromRequestParts, extract::State, response::Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use caisson_core::Tenant;
use caisson_engine::{Engine, Tree};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, StatusCode, request::Parts};
use jiff::Timestamp;
use sha2::Sha256;

use super::{
    files,
    place::{Workspace, encode, parameter},
};
use crate::{
    app::App,
    caller::Caller,
    error::{ApiError, ApiResult},
    json::Json,
    native::types::{WorkspaceLinkBody, WorkspaceLinkRequestBody, time},
};

const MARK: &str = "wl_";
const EXPIRY: usize = 8;

/// Makes a link that opens one file, without a key, for some time.
///
/// Whoever has the address can read the file until it expires, whatever it is then; it cannot be taken back before. It leads to the storage itself where that has
/// such links, otherwise to this server.
#[utoipa::path(post, path = "/v1/workspaces/{name}/links", operation_id = "create_workspace_link", tag = "workspaces",
    params(("name" = String, Path, description = "The workspace; a `/` in it is `%2F`")), request_body = WorkspaceLinkRequestBody,
    responses((status = 201, description = "The link", body = WorkspaceLinkBody)))]
pub(crate) async fn create(
    Caller(app): Caller,
    place: NamedWorkspace,
    Json(body): Json<WorkspaceLinkRequestBody>,
) -> ApiResult<(StatusCode, Reply<WorkspaceLinkBody>)> {
    let (NamedWorkspace { tree, name }, lasts) = (place, body.lasts()?);
    let expiry = now().saturating_add(lasts.as_secs().max(1));
    let url = match app.engine.workspace_link(&tree, &body.path, Duration::from_secs(lasts.as_secs().max(1))).await? {
        Some(url) => url,
        None => {
            let tenant = app.engine.tenant();
            let token = sign(&app.engine, tenant, &name, &body.path, expiry).await?;
            let (workspace, path) = (encode(&name).replace('/', "%2F"), encode(&body.path));
            format!("{}/v1/shared/{tenant}/{token}/{workspace}/{path}", app.links.base())
        }
    };
    let expires_at = i64::try_from(expiry).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX);
    Ok((StatusCode::CREATED, Reply(WorkspaceLinkBody { path: body.path, url, expires_at: time(expires_at) })))
}

/// Reads a file by a link.
#[utoipa::path(get, path = "/v1/shared/{tenant}/{token}/{name}/{*path}", operation_id = "read_shared_file", tag = "workspaces",
    params(
        ("tenant" = String, Path, description = "Whose it is"),
        ("token" = String, Path, description = "What opens it"),
        ("name" = String, Path, description = "The workspace"),
        ("path" = String, Path, description = "The file"),
    ),
    responses(
        (status = 200, description = "The content", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it"),
    ))]
pub(crate) async fn read(State(app): State<Arc<App>>, shared: Shared, method: Method, headers: HeaderMap) -> ApiResult<Response> {
    let Shared { tenant, token, name, path } = shared;
    let refused = || ApiError::new(StatusCode::UNAUTHORIZED, "invalid_token", "the link does not open this file");
    let tenant: Tenant = tenant.parse().map_err(|_| refused())?;
    let expiry = check(&app.operator, &tenant, &name, &path, &token).await?.ok_or_else(refused)?;
    if now() >= expiry {
        let message = "the link has expired; ask whoever gave it to you for a new one";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "token_expired", message));
    }
    let tree = Tree::named(&tenant, &name)?;
    files::answer(&app.operator.of(&tenant), &tree, &path, &method, &headers).await
}

/// A workspace and what it is called.
pub(crate) struct NamedWorkspace {
    tree: Tree,
    name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for NamedWorkspace {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Workspace(tree) = Workspace::from_request_parts(parts, state).await?;
        Ok(Self { tree, name: parameter(parts, state, "name", "the name of the workspace").await? })
    }
}

/// What a link is made of.
pub(crate) struct Shared {
    tenant: String,
    token: String,
    name: String,
    path: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Shared {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        Ok(Self {
            tenant: parameter(parts, state, "tenant", "the tenant").await?,
            token: parameter(parts, state, "token", "the token").await?,
            name: parameter(parts, state, "name", "the name of the workspace").await?,
            path: parameter(parts, state, "path", "the name of the file").await?,
        })
    }
}

async fn sign(engine: &Engine, tenant: &Tenant, workspace: &str, path: &str, expiry: u64) -> ApiResult<String> {
    let mac = mac(engine, tenant, workspace, path, expiry).await?.finalize().into_bytes();
    Ok(format!("{MARK}{}", URL_SAFE_NO_PAD.encode([&expiry.to_be_bytes()[..], &mac[..]].concat())))
}

/// Until when a token opens this file; nothing when it does not.
async fn check(engine: &Engine, tenant: &Tenant, workspace: &str, path: &str, token: &str) -> ApiResult<Option<u64>> {
    let Some(bytes) = token.strip_prefix(MARK).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()) else { return Ok(None) };
    let Some((expiry, shown)) = bytes.split_first_chunk::<EXPIRY>() else { return Ok(None) };
    let expiry = u64::from_be_bytes(*expiry);
    let mac = mac(engine, tenant, workspace, path, expiry).await?;
    Ok(mac.verify_slice(shown).is_ok().then_some(expiry))
}

/// Files outlive the server, and so do links to them: the key is of the data directory's secret.
async fn mac(engine: &Engine, tenant: &Tenant, workspace: &str, path: &str, expiry: u64) -> ApiResult<Hmac<Sha256>> {
    let secret = engine.secret().await?;
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("keys may have any length");
    mac.update(b"caisson workspace file");
    mac.update(&expiry.to_be_bytes());
    // None of them can have a NUL in it, so none can be taken for another.
    for part in [tenant.as_str(), workspace, path] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    Ok(mac)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
