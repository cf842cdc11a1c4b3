//! The store as the engine knows it.

use std::sync::Arc;

use async_trait::async_trait;
use caisson_core::{Image, ImageLease, Images, Result, StoredImage, Tenant};

use crate::{Error, ImageStore, Reference};

#[async_trait]
impl Images for ImageStore {
    async fn resolve(&self, tenant: &Tenant, name: &str) -> Result<Option<(Arc<StoredImage>, ImageLease)>> {
        // What can be no name is the name of nothing.
        let Ok(reference) = name.parse::<Reference>() else { return Err(Image::unknown(name)) };
        match self.of(tenant).resolve(&reference).await {
            Ok((image, lease)) => Ok(Some((image, ImageLease::new(lease)))),
            Err(Error::Unknown { .. }) => Ok(None),
            Err(error) => Err(caisson_core::Error::internal(format!("image `{reference}` cannot be read"), error)),
        }
    }
}
