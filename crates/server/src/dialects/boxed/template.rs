//! From what a client calls a template to one of this server, or to an image.

use caisson_core::Image;
use caisson_engine::Engine;
use http::StatusCode;

use super::answer::refusal;
use crate::{
    app::App,
    dialects::images,
    error::ApiResult,
    templates::{self, Template},
};

/// What upstream takes where nothing is asked for.
const DEFAULT: &str = "python:3.10-slim";
/// The one bare name that upstream knows.
const DATA_SCIENCE: (&str, &str) = ("python-data-science", "boxed-python:3.9");

/// A template of this server that is called like this.
pub(super) async fn of_server(app: &App, engine: &Engine, name: &str) -> ApiResult<Option<Template>> {
    match name.parse() {
        Ok(name) => Ok(templates::find(app.config.templates.as_ref(), engine, &name).await?),
        Err(_) => Ok(None),
    }
}

pub(super) async fn image(app: &App, engine: &Engine, template: &str) -> ApiResult<Image> {
    if let Some(image) = images::named(app, engine, template).await? {
        return Ok(image);
    }
    let reference = match template {
        name if name == DATA_SCIENCE.0 => DATA_SCIENCE.1,
        name if !name.contains(':') => DEFAULT,
        reference => reference,
    };
    images::named(app, engine, reference).await?.ok_or_else(|| {
        let text = format!(
            "failed to create sandbox: failed to pull image {reference}: this server has no such image; get it with `caisson image pull \
             {reference}`, map it to one that is here with CAISSON_IMAGE_ALIASES={reference}=host, or ask for `host`"
        );
        refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Auth, testing::Bench};

    #[tokio::test]
    async fn names_are_found_as_upstream_finds_them() {
        let bench = Bench::new().await;
        let app = bench.app(Auth::None);
        for template in ["", "host", "python:3.10-slim", "anything", "a/b", "python-data-science"] {
            assert_eq!(image(&app, bench.engine(), template).await.unwrap(), Image::Host, "{template}");
        }
        for (template, reference) in [("python:3.12", "python:3.12"), (":", ":")] {
            let error = image(&app, bench.engine(), template).await.unwrap_err();
            let (status, _, text) = error.parts();
            assert_eq!(status, 500);
            assert!(text.starts_with(&format!("failed to create sandbox: failed to pull image {reference}: ")), "{text}");
            assert!(text.contains("CAISSON_IMAGE_ALIASES"), "{text}");
        }
    }
}
