//! The port behind which the images of a server are kept.

use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;

use crate::{Result, StoredImage, Tenant};

/// Keeps an image's layers where they are for as long as any clone of it lives. What it is made of is the store's affair.
#[derive(Clone)]
pub struct ImageLease(#[expect(dead_code, reason = "it is there to be dropped")] Arc<dyn Any + Send + Sync>);

impl ImageLease {
    /// A lease that ends when `guard` is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Arc::new(guard))
    }
}

impl fmt::Debug for ImageLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageLease")
    }
}

/// Where sandboxes get their images from.
#[async_trait]
pub trait Images: fmt::Debug + Send + Sync + 'static {
    /// The image of this name as a request gives it, which may be short for another, and what keeps it from being removed: the tenant's own,
    /// or one for all. `None` when there is none; an error that says more, such as which names there are, is just as well.
    async fn resolve(&self, tenant: &Tenant, name: &str) -> Result<Option<(Arc<StoredImage>, ImageLease)>>;
}
