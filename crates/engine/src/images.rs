//! From the name of an image to the image, and what it decides for its sandboxes.

use std::sync::Arc;

use caisson_core::{Error, Image, ImageLease, Result, SandboxSpec, Tenant, UserSpec};

use crate::{core::Core, figures, validate};

/// Settles what makes the sandbox, and looks the image up among those that the tenant may use, if it is one of the store, or that the backend has,
/// if it has its own. The lease is for as long as the sandbox. What the image says of user and work dir, where the
/// request leaves that open, then stands in the spec.
pub(crate) async fn resolve(core: &Core, tenant: &Tenant, spec: &mut SandboxSpec) -> Result<Option<ImageLease>> {
    core.backend.resolve(spec)?;
    let Image::Named { name, .. } = &spec.image else { return Ok(None) };
    let (image, lease) = match (core.backend.named(&spec.backend)?.image(name).await, &core.images) {
        // It keeps what its sandboxes are made of.
        (Some(found), _) => (Arc::new(found?), ImageLease::new(())),
        (None, Some(images)) => images.resolve(tenant, name).await?.ok_or_else(|| Image::unknown(name))?,
        (None, None) => return Err(Image::unknown(name)),
    };
    let config = &image.config;
    let bad = |what: String| Error::invalid("invalid_image", format!("image `{}` {what}", figures::tamed(&image.name, 200)));
    validate::env(&config.env.iter().cloned().collect()).map_err(|error| bad(format!("has an environment that cannot be: {error}")))?;
    if let Some(work_dir) = config.work_dir.as_ref().filter(|_| spec.left_to_image.work_dir) {
        validate::directory("WorkingDir", work_dir).map_err(|error| bad(format!("has a work dir that cannot be: {error}")))?;
        spec.work_dir.clone_from(work_dir);
    }
    if let Some(user) = config.user.as_ref().filter(|_| spec.left_to_image.user) {
        spec.user = shown(user);
    }
    spec.image = Image::Stored(image);
    Ok(Some(lease))
}

/// Looks the image of a stopped sandbox up again: it has to be the very one that it was made of, on which its files lie.
pub(crate) async fn resolve_again(core: &Core, tenant: &Tenant, spec: &mut SandboxSpec) -> Result<Option<ImageLease>> {
    let Image::Named { name, id } = &spec.image else { return Ok(None) };
    let found = match &core.images {
        Some(images) => images.resolve(tenant, name).await?,
        None => None,
    };
    match found {
        Some((image, lease)) if Some(image.id) == *id => {
            spec.image = Image::Stored(image);
            Ok(Some(lease))
        }
        found => {
            let what = if found.is_some() { "is another one by now" } else { "is not here any more" };
            let name = figures::tamed(name, 200);
            let message = format!("the sandbox cannot be started again: its image `{name}` {what}; delete it, or bring the image back");
            Err(Error::conflict("image_gone", message))
        }
    }
}

/// Who an image's user is as far as its name tells: for records alone. The agent looks up who that is, inside.
fn shown(user: &str) -> UserSpec {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(0) => UserSpec::root(),
        _ if name == "root" => UserSpec::root(),
        number => UserSpec { uid: number.unwrap_or(UserSpec::default().uid), name: figures::tamed(name, 32), ..UserSpec::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_name_an_images_user() {
        assert_eq!(shown("root"), UserSpec::root());
        assert_eq!(shown("0:0"), UserSpec::root());
        assert_eq!((shown("1001:5").uid, shown("1001:5").name), (1001, "1001".to_owned()));
        assert_eq!((shown("node").uid, shown("node").name), (1000, "node".to_owned()));
    }
}
