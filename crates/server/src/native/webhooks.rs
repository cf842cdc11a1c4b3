//! Webhooks: make, look at, remove.

use std::sync::Arc;

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Tenant, WebhookId};
use caisson_engine::Engine;
use http::StatusCode;

use super::id::Id;
use crate::{
    caller::{Caller, View},
    error::ApiResult,
    json::Json,
    native::types::{CreateWebhookBody, PageBody, WebhookBody},
    params::Params,
    webhooks::Secret,
};

/// Makes a webhook: what happens from now on is sent to its address, in order and at least once.
///
/// Each event is a `POST` whose body is that of `GET /v1/events`, signed as [Standard Webhooks](https://www.standardwebhooks.com) has it, with the
/// `secret` that this answer tells and no other will. An answer of 2xx is a success, `410` ends it for good, and anything else is tried again
/// for as long as the event is kept.
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "create_webhook", tag = "webhooks", request_body = CreateWebhookBody,
    responses((status = 201, description = "The webhook", body = WebhookBody)))]
pub(crate) async fn create(Caller(app): Caller, Json(body): Json<CreateWebhookBody>) -> ApiResult<Response> {
    let engine = whose(&app, body.tenant.as_deref())?;
    let new = body.into_new(Secret::random()?)?;
    let owner = Arc::clone(&app);
    let webhook = app.owned(async move { owner.webhooks.add(&owner.tasks, &engine, new).await }).await??;
    let body = WebhookBody { secret: Some(Secret::to_text(&webhook.secret)), ..WebhookBody::from(&webhook) };
    Ok((StatusCode::CREATED, Reply(body)).into_response())
}

/// Lists a tenant's webhooks, the oldest first; there are few enough for one page.
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "list_webhooks", tag = "webhooks",
    params(("tenant" = Option<String>, Query, description = "Whose; the caller's own when absent")),
    responses((status = 200, description = "All of them", body = PageBody<WebhookBody>)))]
pub(crate) async fn list(Caller(app): Caller, params: Params) -> ApiResult<Reply<PageBody<WebhookBody>>> {
    let webhooks = named(&app, params)?.webhooks().await?;
    Ok(Reply(PageBody { data: webhooks.iter().map(WebhookBody::from).collect(), next_cursor: None }))
}

/// A webhook, and how far it has come.
#[utoipa::path(get, path = "/v1/webhooks/{id}", operation_id = "get_webhook", tag = "webhooks",
    params(("id" = String, Path), ("tenant" = Option<String>, Query, description = "Whose; the caller's own when absent")),
    responses((status = 200, description = "The webhook", body = WebhookBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(id): Id<WebhookId>, params: Params) -> ApiResult<Reply<WebhookBody>> {
    Ok(Reply(WebhookBody::from(&named(&app, params)?.webhook(id).await?)))
}

/// Removes a webhook: from the answer on nothing is sent there.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", operation_id = "delete_webhook", tag = "webhooks",
    params(("id" = String, Path), ("tenant" = Option<String>, Query, description = "Whose; the caller's own when absent")),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(Caller(app): Caller, Id(id): Id<WebhookId>, params: Params) -> ApiResult<StatusCode> {
    let engine = named(&app, params)?;
    let owner = Arc::clone(&app);
    app.owned(async move { owner.webhooks.remove(&engine, id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

fn named(app: &View, mut params: Params) -> ApiResult<Engine> {
    let tenant = params.text("tenant")?;
    params.finish()?;
    whose(app, tenant.as_deref())
}

/// The engine as this tenant sees it. Admins, and nobody else gets here, may name another than their own.
fn whose(app: &View, tenant: Option<&str>) -> ApiResult<Engine> {
    let Some(name) = tenant else { return Ok(app.engine.clone()) };
    let tenant: Tenant = name.parse()?;
    if !app.engine.knows_tenant(&tenant) {
        return Err(Error::not_found("tenant", tenant.to_string()).into());
    }
    Ok(app.engine.of(&tenant))
}
