//! From a sandbox.

use axum::Json as Reply;
use caisson_core::{SandboxId, Tenant};
use caisson_image::{Changes, Commit, Error, Reference, Version};
use http::StatusCode;

use super::{own, refusal::refused};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    json::Json,
    native::{
        id::Id,
        types::{CommitBody, ImageDetailsBody},
    },
};

/// Characters of a comment.
const MAX_COMMENT: usize = 1000;

/// Makes an image of a sandbox that was made of an image: its layers, and what the sandbox has changed as one more.
///
/// The sandbox's programs stand still while its files are read, for 30 s at most, and then go on. What every sandbox is given (`/etc/hosts` and the
/// like, its home, what is mounted) is in the image only where it was changed. Without any change no layer is added. The image belongs to the
/// caller's tenant; that of the server's own tenant is there for everybody, unless the image below is not.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/commit", operation_id = "commit_sandbox", tag = "images",
    params(("id" = String, Path)), request_body = CommitBody,
    responses((status = 201, description = "The image", body = ImageDetailsBody)))]
pub(crate) async fn commit(
    Caller(app): Caller,
    Id(id): Id<SandboxId>,
    Json(body): Json<CommitBody>,
) -> ApiResult<(StatusCode, Reply<ImageDetailsBody>)> {
    let name: Reference = body.name.parse().map_err(|error| refused(&error))?;
    if let Version::Digest(_) = name.version() {
        let why = "a new image gets its digest from what is in it; give it a name with a tag, or without".to_owned();
        return Err(refused(&Error::Reference { text: name.to_string(), why }));
    }
    if body.comment.as_ref().is_some_and(|comment| comment.chars().count() > MAX_COMMENT) {
        let message = format!("field `comment` has more than {MAX_COMMENT} characters");
        return Err(ApiError::bad_request("limit_out_of_range", message));
    }
    let store = own(&app)?;
    let for_everybody = *app.engine.tenant() == Tenant::default();
    let engine = app.engine.clone();
    let work = async move {
        let committing = engine.commit(id).await?;
        // Before its programs stand still.
        let turn = store.turn().await;
        let changes = Changes::new(committing.changes().await?);
        let change = body.config.unwrap_or_default().into();
        let what = Commit { name, base: committing.image().clone(), change, comment: body.comment, for_everybody };
        store.commit(turn, what, changes).await.map_err(|error| refused(&error))
    };
    let image = app.owned(work).await??;
    Ok((StatusCode::CREATED, Reply(ImageDetailsBody::from(&image))))
}
