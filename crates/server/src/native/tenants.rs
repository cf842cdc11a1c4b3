//! Tenants: what each may have and has, and who the caller is.

use axum::Json as Reply;
use caisson_core::{Error, Tenant};

use super::{id::Id, sandboxes::limit};
use crate::{
    caller::Caller,
    error::ApiResult,
    json::Json,
    native::types::{CallerBody, PageBody, TenantBody, UpdateQuotasBody},
    params::Params,
};

/// Lists tenants in the order of their names.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "list_tenants", tag = "keys",
    params(
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of tenants", body = PageBody<TenantBody>)))]
pub(crate) async fn list(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<PageBody<TenantBody>>> {
    let (limit, cursor) = (limit(&mut params)?, params.text("cursor")?);
    params.finish()?;
    let page = app.engine.tenants(limit, cursor.as_deref())?;
    Ok(Reply(PageBody::new(&page)))
}

/// A tenant with what it may have and what it has.
#[utoipa::path(get, path = "/v1/tenants/{id}", operation_id = "get_tenant", tag = "keys",
    params(("id" = String, Path, description = "Its name")), responses((status = 200, description = "The tenant", body = TenantBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(tenant): Id<Tenant>, params: Params) -> ApiResult<Reply<TenantBody>> {
    params.finish()?;
    if !app.engine.knows_tenant(&tenant) {
        return Err(Error::not_found("tenant", tenant.to_string()).into());
    }
    Ok(Reply(TenantBody::from(&app.engine.of(&tenant).tenant_use())))
}

/// Changes what a tenant may have, at once; what it has beyond that it keeps. The tenant comes into being when it was not there.
#[utoipa::path(patch, path = "/v1/tenants/{id}", operation_id = "update_tenant", tag = "keys",
    params(("id" = String, Path, description = "Its name")), request_body = UpdateQuotasBody,
    responses((status = 200, description = "The tenant", body = TenantBody)))]
pub(crate) async fn update(
    Caller(app): Caller,
    Id(tenant): Id<Tenant>,
    Json(body): Json<UpdateQuotasBody>,
) -> ApiResult<Reply<TenantBody>> {
    let engine = app.engine.of(&tenant);
    let quotas = body.change(engine.tenant_use().quotas)?;
    let changed = app
        .owned(async move {
            engine.set_quotas(quotas).await?;
            Ok::<_, Error>(engine.tenant_use())
        })
        .await??;
    Ok(Reply(TenantBody::from(&changed)))
}

/// Who the caller is: tenant, scope, key, and what the tenant may have and has.
#[utoipa::path(get, path = "/v1/whoami", operation_id = "whoami", tag = "keys",
    responses((status = 200, description = "Who asks", body = CallerBody)))]
pub(crate) async fn whoami(Caller(app): Caller, params: Params) -> ApiResult<Reply<CallerBody>> {
    params.finish()?;
    Ok(Reply(CallerBody {
        tenant: TenantBody::from(&app.engine.tenant_use()),
        scope: app.scope.as_str().to_owned(),
        key_id: app.key().map(|id| id.to_string()),
    }))
}
