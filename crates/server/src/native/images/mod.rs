//! Images: look at them, get them, take them in, give them out, remove them.
//!
//! Names have slashes in them, so they stand in a parameter and not in the path.

pub(crate) mod commit;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod pull;
pub(crate) mod refusal;

use std::collections::HashSet;

use axum::Json as Reply;
use caisson_core::Error;
use caisson_image::{ImageStore, Reference};

use self::refusal::refused;
use crate::{
    caller::{Caller, View},
    error::{ApiError, ApiResult},
    native::types::{CollectedBody, ImageBody, ImageDetailsBody, PageBody},
    params::Params,
};

/// The store as those see it who look after it.
fn everybodys(app: &View) -> ApiResult<&ImageStore> {
    let what = "this server keeps no images; sandboxes are made of `host`";
    app.config.images.as_ref().ok_or_else(|| Error::unsupported(what).into())
}

/// The store as the caller's tenant sees it.
pub(crate) fn own(app: &View) -> ApiResult<ImageStore> {
    Ok(everybodys(app)?.of(app.engine.tenant()))
}

fn named(params: &mut Params) -> ApiResult<Reference> {
    let missing = || ApiError::bad_request("invalid_parameter", "parameter `name` is missing; it names the image");
    params.text("name")?.ok_or_else(missing)?.parse().map_err(|error: caisson_image::Error| refused(&error))
}

/// Lists the images that sandboxes can be made of, beside `host`, in the order of their names; there are few enough for one page.
///
/// They are there for all tenants, but for those that a tenant has pulled with a login of its own.
#[utoipa::path(get, path = "/v1/images", operation_id = "list_images", tag = "images",
    responses((status = 200, description = "All of them", body = PageBody<ImageBody>)))]
pub(crate) async fn list(Caller(app): Caller, params: Params) -> ApiResult<Reply<PageBody<ImageBody>>> {
    params.finish()?;
    let images = own(&app)?.list().await.map_err(|error| refused(&error))?;
    Ok(Reply(PageBody { data: images.iter().map(ImageBody::from).collect(), next_cursor: None }))
}

/// An image with its layers, and what it says about the programs that run on it.
#[utoipa::path(get, path = "/v1/images/inspect", operation_id = "inspect_image", tag = "images",
    params(("name" = String, Query, description = "Such as `alpine:3.20`")),
    responses((status = 200, description = "The image", body = ImageDetailsBody)))]
pub(crate) async fn inspect(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<ImageDetailsBody>> {
    let name = named(&mut params)?;
    params.finish()?;
    let image = own(&app)?.inspect(&name).await.map_err(|error| refused(&error))?;
    Ok(Reply(ImageDetailsBody::from(&image)))
}

/// Removes an image: its name, and what no other image needs.
///
/// One that sandboxes are made of is refused with 409 (`image_in_use`). With `force` it loses its name at once, and goes with the next removal
/// or `gc` after its sandboxes have ended.
#[utoipa::path(delete, path = "/v1/images", operation_id = "delete_image", tag = "images",
    params(
        ("name" = String, Query, description = "Such as `alpine:3.20`"),
        ("force" = Option<bool>, Query, description = "Also when it is in use"),
    ),
    responses((status = 200, description = "What was removed", body = CollectedBody)))]
pub(crate) async fn delete(Caller(app): Caller, mut params: Params) -> ApiResult<Reply<CollectedBody>> {
    let (name, force) = (named(&mut params)?, params.flag("force")?);
    params.finish()?;
    let store = own(&app)?;
    // Whoever uses an image holds a lease of the store's, so there is nobody to be named.
    let nobody = HashSet::new();
    let engine = app.engine.clone();
    let done = app.owned(async move {
        engine.let_go_of_image(&name.to_string()).await;
        if force { store.remove(&name, nobody).await } else { store.remove_unused(&name, nobody).await }
    });
    Ok(Reply(CollectedBody::from(&done.await?.map_err(|error| refused(&error))?)))
}

/// Removes images that have lost their names and that no sandbox uses, and whatever belongs to no image.
#[utoipa::path(post, path = "/v1/images/gc", operation_id = "collect_images", tag = "images",
    responses((status = 200, description = "What was removed", body = CollectedBody)))]
pub(crate) async fn gc(Caller(app): Caller, params: Params) -> ApiResult<Reply<CollectedBody>> {
    params.finish()?;
    let store = everybodys(&app)?.clone();
    let done = app.owned(async move { store.gc(HashSet::new()).await }).await?;
    Ok(Reply(CollectedBody::from(&done.map_err(|error| refused(&error))?)))
}
