//! From a registry.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{Image, Scope, StoredImage};
use caisson_image::{Error, ImageStore, Logins, Progress, Pull, Reference};
use http::HeaderMap;
use tokio::sync::watch;

use super::{everybodys, own, refusal::refused};
use crate::{
    app::App,
    auth,
    caller::{Caller, View},
    error::ApiResult,
    json::Json,
    native::{
        output,
        types::{ImageBody, Policy, PullBody, PullProgressBody},
    },
    sse::{self, Events, HungUp},
};

/// Between two events of one pull.
const TOLD_EVERY: Duration = Duration::from_millis(250);

type Outcome = Result<Arc<StoredImage>, Arc<Error>>;

/// Gets an image from its registry. What is here already is not fetched again.
///
/// The pull goes on when the client hangs up, and whoever asks for the same image meanwhile waits for the same pull. With
/// `Accept: text/event-stream` the answer is a stream of the events `progress`, and in the end `result` (the image) or `error`. What is pulled
/// with a `login` belongs to the caller's tenant; all else is there for everybody.
#[utoipa::path(post, path = "/v1/images/pull", operation_id = "pull_image", tag = "images", request_body = PullBody, responses(
    (status = 200, description = "The image, or how far it has come",
        content((ImageBody = "application/json"), (PullProgressBody = "text/event-stream"))),
))]
pub(crate) async fn pull(Caller(app): Caller, headers: HeaderMap, Json(body): Json<PullBody>) -> ApiResult<Response> {
    let name: Reference = body.name.parse().map_err(|error| refused(&error))?;
    let (store, logins) = match body.login {
        Some(login) => {
            let mut logins = Logins::none();
            logins.add(name.registry(), login.into()).map_err(|error| refused(&error))?;
            (own(&app)?, logins)
        }
        None => {
            let store = everybodys(&app)?.clone();
            let logins = store.logins().await.map_err(|error| refused(&error))?;
            (store, logins)
        }
    };
    let pull = begin(&app, &store, name.clone(), logins);
    if !sse::wanted(&headers) {
        pull.finish().await.map_err(|error| refused(&error))?;
        return Ok(Reply(pulled(&store, &name).await?).into_response());
    }
    Ok(app.events(|events| tell(pull, store, name, events)))
}

/// A pull that goes on whoever waits for it.
pub(crate) fn begin(app: &App, store: &ImageStore, name: Reference, logins: Logins) -> Pull {
    let pull = store.pull(name, logins);
    let going_on = pull.clone();
    app.tasks.spawn(async move { drop(going_on.finish().await) });
    pull
}

/// What is here of this name now.
async fn pulled(store: &ImageStore, name: &Reference) -> ApiResult<ImageBody> {
    let image = store.inspect(name).await.map_err(|error| refused(&error))?;
    Ok(ImageBody::from(&image.listed))
}

async fn tell(pull: Pull, store: ImageStore, name: Reference, events: Events) -> Result<(), HungUp> {
    let mut progress = pull.progress();
    let mut done = std::pin::pin!(pull.finish());
    let outcome = loop {
        if let Some(outcome) = events.during(next(done.as_mut(), &mut progress)).await? {
            break outcome;
        }
        let told = PullProgressBody::from(&*progress.borrow_and_update());
        events.send("progress", None, &told).await?;
        // What happens meanwhile is told in one go.
        if let Ok(outcome) = events.during(tokio::time::timeout(TOLD_EVERY, done.as_mut())).await? {
            break outcome;
        }
    };
    let told = PullProgressBody::from(&*progress.borrow());
    events.send("progress", None, &told).await?;
    let image = match outcome {
        Ok(_) => pulled(&store, &name).await,
        Err(error) => Err(refused(&error)),
    };
    match image {
        Ok(image) => output::end(&events, &image).await,
        Err(error) => output::fail(&events, error).await,
    }
}

/// Returns when something has changed; with the outcome when all is done.
async fn next(done: impl Future<Output = Outcome>, progress: &mut watch::Receiver<Progress>) -> Option<Outcome> {
    tokio::select! {
        outcome = done => Some(outcome),
        // What has changed is seen the next time as well.
        Ok(()) = progress.changed() => None,
    }
}

/// Gets the image that a request for a sandbox names, if it asks for that. Whoever is no admin may use what is here, and lets the server ask
/// nobody for anything.
pub(crate) async fn provide(app: &Arc<View>, image: &Image, policy: Option<String>) -> ApiResult<()> {
    let policy: Policy = policy.map_or(Ok(Policy::default()), |text| text.parse())?;
    let Image::Named { name, .. } = image else { return Ok(()) };
    if policy == Policy::Never {
        return Ok(());
    }
    auth::check_scope(app.scope, Scope::Admin)?;
    let name: Reference = name.parse().map_err(|error| refused(&error))?;
    if policy == Policy::Missing && own(app)?.has(&name).await.map_err(|error| refused(&error))? {
        return Ok(());
    }
    let store = everybodys(app)?;
    let logins = store.logins().await.map_err(|error| refused(&error))?;
    begin(app, store, name, logins).finish().await.map_err(|error| refused(&error))?;
    Ok(())
}
