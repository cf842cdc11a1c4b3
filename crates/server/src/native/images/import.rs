//! From files.

use axum::{Json as Reply, extract::Request};
use caisson_image::{Reference, Source};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{everybodys, refusal::refused};
use crate::{
    caller::Caller,
    error::ApiResult,
    native::{
        files::content,
        types::{ImageBody, ImportedBody},
    },
    params::Params,
};

/// Takes in images that come as one archive, for everybody: an OCI layout, what `docker save` writes, or a root file system.
///
/// Any of them may be compressed by gzip or Zstandard. All images that say their names are taken in, or, with `name`, the one that there is,
/// under that name; a root file system needs one. An archive that breaks off changes nothing.
#[utoipa::path(post, path = "/v1/images/import", operation_id = "import_image", tag = "images",
    params(("name" = Option<String>, Query, description = "What it is to be called")),
    request_body(content_type = "application/octet-stream", description = "The archive"),
    responses((status = 200, description = "What came", body = ImportedBody)))]
pub(crate) async fn import(Caller(app): Caller, mut params: Params, request: Request) -> ApiResult<Reply<ImportedBody>> {
    let name = params.text("name")?.map(|name| name.parse::<Reference>()).transpose().map_err(|error| refused(&error))?;
    params.finish()?;
    let store = everybodys(&app)?.clone();
    let body = StreamReader::new(content(request.into_body(), app.config.body_stall));
    let source = Source::Stream(Box::new(SyncIoBridge::new(body)));
    let images = store.import(source, name).await.map_err(|error| refused(&error))?;
    let mut told = Vec::with_capacity(images.len());
    for image in images {
        let name: Reference = image.name.parse().map_err(|error| refused(&error))?;
        told.push(ImageBody::from(&store.inspect(&name).await.map_err(|error| refused(&error))?.listed));
    }
    Ok(Reply(ImportedBody { images: told }))
}
