//! A tenant's own templates, among the documents of the store.

use caisson_core::{Document, Error, Result};
use caisson_engine::Engine;

use super::TemplateName;
use crate::native::types::RecipeBody;

const KIND: &str = "template";
/// Templates of one tenant.
const MOST: usize = 100;

/// A tenant may be called as a sandbox is, and what is a sandbox's goes with its record.
fn owner(engine: &Engine) -> String {
    format!("tenant:{}", engine.tenant())
}

pub(super) async fn find(engine: &Engine, name: &TemplateName) -> Result<Option<RecipeBody>> {
    let found = engine.document(KIND, &owner(engine), name.as_str()).await?;
    found.map(|document| read(&document)).transpose()
}

pub(super) async fn all(engine: &Engine) -> Result<Vec<(String, RecipeBody)>> {
    let documents = engine.documents(KIND, &owner(engine)).await?;
    documents.into_iter().map(|document| Ok((document.id.clone(), read(&document)?))).collect()
}

/// Whether there was none of that name.
pub(super) async fn put(engine: &Engine, name: &TemplateName, recipe: &RecipeBody) -> Result<bool> {
    let body = serde_json::to_string(recipe).map_err(|error| Error::internal("a template cannot be written", error))?;
    let document = Document { kind: KIND.to_owned(), owner: owner(engine), id: name.to_string(), body, ..Document::default() };
    if engine.replace_document(&document).await? {
        return Ok(false);
    }
    if engine.documents(KIND, &document.owner).await?.len() >= MOST {
        return Err(Error::QuotaExceeded { message: format!("a tenant has {MOST} templates of its own at most; remove some") });
    }
    if engine.insert_document(&document).await? {
        return Ok(true);
    }
    // Somebody else was there first.
    engine.replace_document(&document).await?;
    Ok(false)
}

/// Whether there was one.
pub(super) async fn remove(engine: &Engine, name: &TemplateName) -> Result<bool> {
    engine.remove_document(KIND, &owner(engine), name.as_str()).await
}

fn read(document: &Document) -> Result<RecipeBody> {
    serde_json::from_str(&document.body).map_err(|error| Error::internal(format!("template `{}` cannot be read", document.id), error))
}
