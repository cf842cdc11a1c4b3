//! What happens to files in a sandbox, as it happens.

use axum::response::Response;
use caisson_core::{SandboxId, Watched};
use caisson_engine::FileEvents;
use futures::StreamExt;

use super::{files::path, id::Id, output, types::FileEventBody};
use crate::{
    caller::Caller,
    error::ApiResult,
    params::Params,
    sse::{Events, HungUp},
};

/// Tells what happens to a file or in a directory, as a stream of events.
///
/// The first event is `ready`: from then on everything is told. `created`, `modified` (content, permission bits or times), `deleted`, and
/// `moved` (with `to`; what comes from or goes to elsewhere is `created` or `deleted`) follow. `overflow` says that something below its path was missed, because too much
/// happened at once, the client was slow, or there are too many directories: list it again. The last event is `gone` when what was watched is
/// no more, or `error`. As long as somebody watches, the sandbox is not idle.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/watch", operation_id = "watch_files", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "File or directory, absolute or relative to the work dir; percent-encoded bytes"),
        ("recursive" = Option<bool>, Query, description = "Whether directories below it are watched too"),
    ),
    responses((status = 200, description = "Events", body = FileEventBody, content_type = "text/event-stream")))]
pub(crate) async fn watch(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Response> {
    let (path, recursive) = (path(&mut params)?, params.flag("recursive")?);
    params.finish()?;
    let happening = app.engine.watch_files(id, &path, recursive).await?;
    Ok(app.events(|events| tell(happening, events)))
}

async fn tell(mut happening: FileEvents, events: Events) -> Result<(), HungUp> {
    while let Some(event) = events.during(happening.next()).await? {
        match event {
            Ok(event) => {
                events.send(event.what.as_str(), None, &FileEventBody::from(&event)).await?;
                if event.what == Watched::Gone {
                    break;
                }
            }
            Err(error) => return output::fail(&events, error.into()).await,
        }
    }
    Ok(())
}
