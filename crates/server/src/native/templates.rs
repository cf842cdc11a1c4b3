//! Templates: look at them, keep them, remove them, and make sandboxes from them.

use std::{convert::Infallible, str::FromStr, sync::Arc};

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::Error;
use http::StatusCode;

use super::{
    id::{Id, Kind},
    sandboxes::limit,
};
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

/// Lists templates in the order of their names.
///
/// Those of the operator are there for all tenants, and one that cannot be used says why.
#[utoipa::path(get, path = "/v1/templates", operation_id = "list_templates", tag = "templates",
    params(
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of templates", body = PageBody<TemplateBody>)))]
pub(crate) async fn list(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<PageBody<TemplateBody>>> {
    let (limit, cursor) = (limit(&mut params)? as usize, params.text("cursor")?);
    params.finish()?;
    let mut data = templates::all(app.config.templates.as_ref(), &app.engine).await?;
    // Names are in order, so the last one of a page says where the next begins, whatever has come and gone meanwhile.
    data.retain(|template| cursor.as_ref().is_none_or(|cursor| template.name > *cursor));
    let more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = data.last().filter(|_| more).map(|template| template.name.clone());
    Ok(Reply(PageBody { data, next_cursor }))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::Bench;

    #[tokio::test]
    async fn what_is_kept_is_found_listed_and_removed() {
        let bench = Bench::new().await;
        for (name, status) in [("b", 201), ("a", 201), ("b", 200), ("c", 201)] {
            let body = json!({"description": format!("{name} {status}"), "lifetime_s": null}).to_string();
            let answer = bench.ask("PUT", &format!("/v1/templates/{name}"), &body).await;
            assert_eq!(answer.status, status, "{name}: {}", answer.text);
        }
        let page = |target: &str| {
            let target = target.to_owned();
            let bench = &bench;
            async move { serde_json::from_str::<Value>(&bench.ask("GET", &target, "").await.text).unwrap() }
        };
        let names =
            |page: &Value| page["data"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let first = page("/v1/templates?limit=2").await;
        assert_eq!((names(&first), &first["next_cursor"]), (vec!["a".to_owned(), "b".to_owned()], &json!("b")));
        let rest = page("/v1/templates?limit=2&cursor=b").await;
        assert_eq!((names(&rest), &rest["next_cursor"]), (vec!["c".to_owned()], &Value::Null));
        let found = page("/v1/templates/b").await;
        assert_eq!(found, json!({"name": "b", "whose": "own", "recipe": {"description": "b 200", "lifetime_s": null}}));
        assert_eq!(bench.ask("DELETE", "/v1/templates/b", "").await.status, 204);
        for method in ["GET", "DELETE"] {
            let answer = bench.ask(method, "/v1/templates/b", "").await;
            assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{method}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_name() {
        let bench = Bench::new().await;
        for (target, body, code, named) in [
            ("/v1/templates/Upper", "{}", "invalid_template_name", "Upper"),
            ("/v1/templates/a", r#"{"image": "no such: name"}"#, "invalid_image_name", "`image`"),
            ("/v1/templates/a", r#"{"max_warm": 1001}"#, "limit_out_of_range", "`max_warm`"),
            ("/v1/templates/a", r#"{"max_warm": 1, "min_warm": 2}"#, "limit_out_of_range", "`min_warm`"),
            ("/v1/templates/a", r#"{"min_warm": 1}"#, "unsupported", "`max_warm` alone"),
            ("/v1/templates/a", r#"{"setup": [{"shell": "a", "cmd": ["b"]}]}"#, "invalid_setup", "`setup[0]`"),
            ("/v1/templates/a", r#"{"interpreters": {"cobol": ["x"]}}"#, "unknown_language", "`cobol`"),
            ("/v1/templates/a", r#"{"interpreters": {"py": ["x"], "py": ["y"]}}"#, "invalid_request", "`interpreters`"),
            ("/v1/templates/a", r#"{"limits": {"pids": 1}}"#, "limit_out_of_range", "`limits.pids`"),
            ("/v1/templates/a", r#"{"name": "a"}"#, "invalid_request", "`name`"),
        ] {
            let answer = bench.ask("PUT", target, body).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, code), "{body}: {}", answer.text);
            assert!(answer.text.contains(named), "{body}: {}", answer.text);
        }
        bench.ask("PUT", "/v1/templates/there", "{}").await;
        for (target, body) in [
            ("/v1/sandboxes", r#"{"template": "nowhere"}"#),
            ("/v1/run", r#"{"template": "nowhere", "shell": "true"}"#),
            ("/v1/sandboxes", r#"{"template": "../etc"}"#),
        ] {
            let answer = bench.ask("POST", target, body).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "unknown_template"), "{body}");
            assert!(answer.text.contains("there are there"), "{}", answer.text);
        }
        let answer = bench.ask("POST", "/v1/sandboxes", r#"{"template": "there"}"#).await;
        assert_eq!((answer.status, answer.code().as_str()), (501, "unsupported"), "it goes as far as this machine can: {}", answer.text);
    }
}
