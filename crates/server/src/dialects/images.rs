//! Images by the names that others have for them.

use caisson_core::Image;
use caisson_engine::Engine;
use caisson_image::Reference;

use crate::{app::App, error::ApiResult, native::images::refusal::refused};

/// The image of this name, as the engine's tenant may have it: one that is here, another one where the operator says so, or `host`.
pub(super) async fn named(app: &App, engine: &Engine, name: &str) -> ApiResult<Option<Image>> {
    if let (Some(store), Ok(reference)) = (&app.config.images, name.parse::<Reference>())
        && store.of(engine.tenant()).has(&reference).await.map_err(|error| refused(&error))?
    {
        return Ok(Some(Image::Named { name: reference.to_string(), id: None }));
    }
    Ok(app.config.image_aliases.get(name).cloned().or_else(|| (name == Image::Host.name()).then_some(Image::Host)))
}
