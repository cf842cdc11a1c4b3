//! What this dialect keeps, as values of its own.

use caisson_core::Document;
use caisson_engine::Engine;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{ApiError, ApiResult};

/// Something that is kept.
pub(super) trait Kept: Serialize + DeserializeOwned {
    const KIND: &str;

    /// Its name among those of its kind and owner.
    fn id(&self) -> &str;
}

/// Whether there was none of that name.
pub(super) async fn add<T: Kept>(engine: &Engine, owner: &str, thing: &T) -> ApiResult<bool> {
    Ok(engine.insert_document(&written(owner, thing)).await?)
}

/// Whether there was one.
pub(super) async fn put<T: Kept>(engine: &Engine, owner: &str, thing: &T) -> ApiResult<bool> {
    Ok(engine.replace_document(&written(owner, thing)).await?)
}

/// Whether there was one.
pub(super) async fn remove<T: Kept>(engine: &Engine, owner: &str, id: &str) -> ApiResult<bool> {
    Ok(engine.remove_document(T::KIND, owner, id).await?)
}

pub(super) async fn find<T: Kept>(engine: &Engine, owner: &str, id: &str) -> ApiResult<Option<T>> {
    engine.document(T::KIND, owner, id).await?.map(read).transpose()
}

/// The oldest first.
pub(super) async fn all<T: Kept>(engine: &Engine, owner: &str) -> ApiResult<Vec<T>> {
    engine.documents(T::KIND, owner).await?.into_iter().map(read).collect()
}

fn written<T: Kept>(owner: &str, thing: &T) -> Document {
    let body = serde_json::to_string(thing).expect("what is kept has text keys and finite figures");
    Document { kind: T::KIND.to_owned(), owner: owner.to_owned(), id: thing.id().to_owned(), body, ..Document::default() }
}

fn read<T: Kept>(document: Document) -> ApiResult<T> {
    serde_json::from_str(&document.body).map_err(|error| {
        tracing::error!("Document {} of kind {} cannot be read: {error}", document.id, document.kind);
        ApiError::internal()
    })
}
