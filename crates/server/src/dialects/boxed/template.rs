//! From what a client calls a template to an image.

use std::collections::BTreeMap;

use caisson_core::Image;
use http::StatusCode;

use super::answer::refusal;
use crate::error::ApiResult;

/// What upstream takes where nothing is asked for.
const DEFAULT: &str = "python:3.10-slim";
/// The one bare name that upstream knows.
const DATA_SCIENCE: (&str, &str) = ("python-data-science", "boxed-python:3.9");

pub(super) fn image(aliases: &BTreeMap<String, Image>, template: &str) -> ApiResult<Image> {
    let known = |name: &str| aliases.get(name).cloned().or_else(|| (name == Image::Host.name()).then_some(Image::Host));
    if let Some(image) = known(template) {
        return Ok(image);
    }
    let reference = match template {
        name if name == DATA_SCIENCE.0 => DATA_SCIENCE.1,
        name if !name.contains(':') => DEFAULT,
        reference => reference,
    };
    known(reference).ok_or_else(|| {
        let text = format!(
            "failed to create sandbox: failed to pull image {reference}: this server has no such image; map it to one that it has with \
             CAISSON_IMAGE_ALIASES={reference}=host, or ask for `host`"
        );
        refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_upstream_finds_them() {
        let aliases: BTreeMap<String, Image> = [(DEFAULT.to_owned(), Image::Host)].into();
        for template in ["", "host", "python:3.10-slim", "anything", "a/b"] {
            assert_eq!(image(&aliases, template).unwrap(), Image::Host, "{template}");
        }
        for (template, reference) in [("python:3.12", "python:3.12"), ("python-data-science", "boxed-python:3.9"), (":", ":")] {
            let error = image(&aliases, template).unwrap_err();
            let (status, _, text) = error.parts();
            assert_eq!(status, 500);
            assert!(text.starts_with(&format!("failed to create sandbox: failed to pull image {reference}: ")), "{text}");
            assert!(text.contains("CAISSON_IMAGE_ALIASES"), "{text}");
        }
        assert!(image(&BTreeMap::new(), "").is_err());
    }
}
