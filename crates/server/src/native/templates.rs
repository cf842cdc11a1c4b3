//! Templates: look at them, keep them, remove them, and make sandboxes from them.

use std::{convert::Infallible, str::FromStr, sync::Arc};

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::Error;
use http::StatusCode;

use super::id::{Id, Kind};
use crate::{
    caller::{Caller, View},
    error::ApiResult,
    json::Json,
    native::types::{PageBody, RecipeBody, TemplateBody},
    params::Params,
    templates::{self, Template, TemplateName},
};

impl Kind for TemplateName {
    const NAME: &str = "template";
}

/// A name that somebody would like to give.
pub(crate) struct Wanted(String);

impl FromStr for Wanted {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl Kind for Wanted {
    const NAME: &str = "template";
}

/// Lists templates in the order of their names; there are few enough for one page.
///
/// Those of the operator are there for all tenants, and one that cannot be used says why.
#[utoipa::path(get, path = "/v1/templates", operation_id = "list_templates", tag = "templates",
    responses((status = 200, description = "All of them", body = PageBody<TemplateBody>)))]
pub(crate) async fn list(Caller(app): Caller, params: Params) -> ApiResult<Reply<PageBody<TemplateBody>>> {
    params.finish()?;
    Ok(Reply(PageBody { data: templates::all(app.config.templates.as_ref(), &app.engine).await?, next_cursor: None }))
}

/// A template, and what it says.
#[utoipa::path(get, path = "/v1/templates/{id}", operation_id = "get_template", tag = "templates",
    params(("id" = String, Path, description = "Its name")), responses((status = 200, description = "The template", body = TemplateBody)))]
pub(crate) async fn get(Caller(app): Caller, Id(name): Id<TemplateName>, params: Params) -> ApiResult<Reply<TemplateBody>> {
    params.finish()?;
    let found = templates::one(app.config.templates.as_ref(), &app.engine, &name).await?;
    Ok(Reply(found.ok_or_else(|| Error::not_found("template", name.to_string()))?))
}

/// Keeps a template for the caller's tenant, in the place of its own one of that name. Sandboxes that are there stay as they are.
///
/// The name of a template of the operator is refused with 409 (`template_of_operator`).
#[utoipa::path(put, path = "/v1/templates/{id}", operation_id = "put_template", tag = "templates",
    params(("id" = String, Path, description = "Its name")), request_body = RecipeBody, responses(
    (status = 201, description = "A new template", body = TemplateBody),
    (status = 200, description = "It is as the request says", body = TemplateBody),
))]
pub(crate) async fn put(
    Caller(app): Caller,
    Id(Wanted(name)): Id<Wanted>,
    params: Params,
    Json(recipe): Json<RecipeBody>,
) -> ApiResult<Response> {
    params.finish()?;
    let name: TemplateName = name.parse()?;
    let (owner, kept, asked) = (Arc::clone(&app), recipe.clone(), name.clone());
    let put = async move { templates::put(owner.config.templates.as_ref(), &owner.engine, &asked, &kept).await };
    let status = if app.owned(put).await?? { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Reply(TemplateBody::own(name.to_string(), recipe))).into_response())
}

/// Removes a template of the caller's tenant. Sandboxes that were made from it stay.
///
/// Those of the operator are files of the server, and are refused with 409 (`template_of_operator`).
#[utoipa::path(delete, path = "/v1/templates/{id}", operation_id = "delete_template", tag = "templates",
    params(("id" = String, Path, description = "Its name")), responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(Caller(app): Caller, Id(name): Id<TemplateName>, params: Params) -> ApiResult<StatusCode> {
    params.finish()?;
    let owner = Arc::clone(&app);
    app.owned(async move { templates::remove(owner.config.templates.as_ref(), &owner.engine, &name).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// The template that a request for a sandbox names, if it names one.
pub(super) async fn named(app: &View, name: Option<String>) -> ApiResult<Option<Template>> {
    match name {
        Some(name) => Ok(Some(templates::wanted(app.config.templates.as_ref(), &app.engine, &name).await?)),
        None => Ok(None),
    }
}
