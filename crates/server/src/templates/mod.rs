//! Templates: named recipes for sandboxes.
//!
//! ```text
//! <data>/templates/NAME.toml ── the operator's, there for everybody ─┐
//!                                                                    ├─▶ [`find`]: the operator's come first
//! documents of the store ────── a tenant's own ──────────────────────┘
//! ```

mod folder;
mod own;
mod text;
mod warm;

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use caisson_core::{Error, Result, Tenant};
use caisson_engine::Engine;

pub(crate) use self::warm::keep_warm;
pub use self::{
    folder::{Read, TemplateFolder},
    text::{read, write},
};
use crate::native::types::{PoolBody, RecipeBody, TemplateBody};

/// What is read of a template, in bytes.
pub const LARGEST: usize = 256 << 10;

/// What a template is called: what a file may be called as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateName(String);

impl TemplateName {
    /// The longest name.
    pub const MAX_LENGTH: usize = 64;
    /// What a name looks like, as a regular expression.
    pub const PATTERN: &str = "^[a-z0-9][a-z0-9._-]*$";

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
        let begins_well = text.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !begins_well || text.len() > Self::MAX_LENGTH || !text.bytes().all(fine) {
            let message = format!(
                "`{}` is no name for a template: 1 to {} characters of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit",
                text.chars().take(Self::MAX_LENGTH).collect::<String>().escape_debug(),
                Self::MAX_LENGTH
            );
            return Err(Error::invalid("invalid_template_name", message));
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for TemplateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A template that can be used.
#[derive(Debug, Clone)]
pub struct Template {
    pub name: TemplateName,
    /// Whose it is; the operator's, which is for everybody, where nobody is named.
    pub owner: Option<Tenant>,
    pub recipe: Arc<RecipeBody>,
}

/// The operator's template of this name; `None` where there is none. One that cannot be read is refused with the reason.
pub fn of_operator(folder: &TemplateFolder, name: &TemplateName) -> Result<Option<Template>> {
    match folder.get(name) {
        None => Ok(None),
        Some(Ok(recipe)) => Ok(Some(Template { name: name.clone(), owner: None, recipe })),
        Some(Err(why)) => Err(Error::conflict("template_broken", format!("the file of template `{name}` cannot be used: {why}"))),
    }
}

/// The refusal of a name that no template has, with those that there are.
#[must_use]
pub fn unknown(name: &str, there: &[String]) -> Error {
    /// More would be no help.
    const SHOWN: usize = 50;
    let name: String = name.chars().take(TemplateName::MAX_LENGTH).collect();
    let name = name.escape_debug();
    let message = match there {
        [] => format!("there is no template `{name}`, and no other either; `caisson template add` makes one"),
        some => {
            let more = if some.len() > SHOWN { ", …" } else { "" };
            format!("there is no template `{name}`; there are {}{more}", some[..some.len().min(SHOWN)].join(", "))
        }
    };
    Error::invalid("unknown_template", message)
}

/// What of the operator's files can be asked for; an empty folder where there is none.
async fn blocking<T: Send + 'static>(
    folder: Option<&TemplateFolder>,
    work: impl FnOnce(&TemplateFolder) -> T + Send + 'static,
) -> Result<Option<T>> {
    let Some(folder) = folder.cloned() else { return Ok(None) };
    match tokio::task::spawn_blocking(move || work(&folder)).await {
        Ok(done) => Ok(Some(done)),
        Err(error) => Err(Error::internal("the templates of this server could not be read", error)),
    }
}

/// The template of this name as the engine's tenant has it, if there is one.
pub(crate) async fn find(folder: Option<&TemplateFolder>, engine: &Engine, name: &TemplateName) -> Result<Option<Template>> {
    let asked = name.clone();
    if let Some(template) = blocking(folder, move |folder| of_operator(folder, &asked)).await?.transpose()?.flatten() {
        return Ok(Some(template));
    }
    let own = own::find(engine, name).await?;
    Ok(own.map(|recipe| Template { name: name.clone(), owner: Some(engine.tenant().clone()), recipe: Arc::new(recipe) }))
}

/// The same of a name that a request gives, which is refused where there is none.
pub(crate) async fn wanted(folder: Option<&TemplateFolder>, engine: &Engine, name: &str) -> Result<Template> {
    if let Ok(name) = name.parse()
        && let Some(template) = find(folder, engine, &name).await?
    {
        return Ok(template);
    }
    let there: Vec<String> = all(folder, engine).await?.into_iter().map(|template| template.name).collect();
    Err(unknown(name, &there))
}

/// All that the engine's tenant has, in the order of their names; with those of the operator that cannot be used, and why.
pub(crate) async fn all(folder: Option<&TemplateFolder>, engine: &Engine) -> Result<Vec<TemplateBody>> {
    let own = own::all(engine).await?.into_iter().map(|(name, recipe)| (name.clone(), TemplateBody::own(name, recipe)));
    let mut all: BTreeMap<String, TemplateBody> = own.collect();
    let of_operator = blocking(folder, TemplateFolder::all).await?.unwrap_or_default();
    all.extend(of_operator.into_iter().map(|(name, read)| (name.clone(), TemplateBody::everybodys(name, read))));
    Ok(all.into_values().collect())
}

/// One of them, also when it cannot be used.
pub(crate) async fn one(folder: Option<&TemplateFolder>, engine: &Engine, name: &TemplateName) -> Result<Option<TemplateBody>> {
    let asked = name.clone();
    let (found, is_own) = match blocking(folder, move |folder| folder.get(&asked)).await?.flatten() {
        Some(read) => (Some(TemplateBody::everybodys(name.to_string(), read)), false),
        None => (own::find(engine, name).await?.map(|recipe| TemplateBody::own(name.to_string(), recipe)), true),
    };
    let with_pool = |mut template: TemplateBody| {
        let says = template.recipe.as_ref().is_some_and(|recipe| recipe.min_warm.is_some() || recipe.max_warm.is_some());
        let pool = if says { engine.pool_of(name.as_str(), is_own) } else { None };
        template.pool = pool.map(|figures| PoolBody { warm: figures.warm, target: figures.target });
        template
    };
    Ok(found.map(with_pool))
}

/// The operator's that cannot be used, each as a sentence.
pub(crate) async fn broken(folder: Option<&TemplateFolder>) -> Result<Vec<String>> {
    Ok(blocking(folder, TemplateFolder::broken).await?.unwrap_or_default())
}

/// Keeps a template of the tenant's own, which takes the place of its own one of that name. Returns whether there was none.
pub(crate) async fn put(folder: Option<&TemplateFolder>, engine: &Engine, name: &TemplateName, recipe: &RecipeBody) -> Result<bool> {
    recipe.check()?;
    if recipe.min_warm.is_some_and(|min| min > 0) {
        let message = "field `min_warm` is for templates of the operator, as it takes room whether anybody asks or not; `max_warm` alone keeps \
                       sandboxes ready while they are asked for";
        return Err(Error::invalid("unsupported", message));
    }
    let asked = name.clone();
    if blocking(folder, move |folder| folder.has(&asked)).await? == Some(true) {
        let message = format!("template `{name}` is the operator's, a file of the server; take another name");
        return Err(Error::conflict("template_of_operator", message));
    }
    own::put(engine, name, recipe).await
}

/// Removes a template of the tenant's own.
pub(crate) async fn remove(folder: Option<&TemplateFolder>, engine: &Engine, name: &TemplateName) -> Result<()> {
    if own::remove(engine, name).await? {
        return Ok(());
    }
    let asked = name.clone();
    if blocking(folder, move |folder| folder.has(&asked)).await? == Some(true) {
        let message =
            format!("template `{name}` is the operator's: remove the file `templates/{name}.toml` of the server's data directory");
        return Err(Error::conflict("template_of_operator", message));
    }
    Err(Error::not_found("template", name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files_and_of_nothing_else() {
        for good in ["a", "0", "python-3.12", "a_b..c", &"x".repeat(64)] {
            assert!(good.parse::<TemplateName>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "A", "a/b", "a b", "ä", "..", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<TemplateName>().unwrap_err().code(), "invalid_template_name", "{bad:?}");
        }
    }

    #[test]
    fn who_asks_for_what_is_not_there_hears_what_is() {
        assert!(unknown("x", &[]).to_string().contains("`caisson template add` makes one"));
        assert!(unknown("x", &["a".to_owned(), "b".to_owned()]).to_string().ends_with("there are a, b"));
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert!(unknown(&"x\u{1b}".repeat(9999), &many).to_string().len() < 500);
    }
}
