//! Whose templates: a server's, or those of this machine.

use anyhow::{Context, Result, anyhow};
use caisson_server::{
    native::types::TemplateBody,
    templates::{TemplateFolder, TemplateName},
};
use futures::FutureExt;
use http::Method;

use crate::{
    client::{self, Client, ServerArgs},
    config::Here,
    waiting::spinner,
};

/// Where the templates are that a command is about.
#[derive(Debug)]
pub(super) enum Place {
    Server(Box<Client>),
    Here(TemplateFolder),
}

/// Does `work` with the templates of the server that is named, or with those of this machine where none is.
pub(super) fn with<T, F: Future<Output = Result<T>>>(args: &ServerArgs, work: impl FnOnce(Place) -> F) -> Result<T> {
    if args.is_named() {
        return client::talk(args, |client| work(Place::Server(Box::new(client))));
    }
    let folder = Here::find()?.templates();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(work(Place::Here(folder)).boxed_local())
}

/// Where a server has this template. A name has nothing in it that would have to be encoded.
pub(super) fn target(name: &TemplateName) -> String {
    format!("/v1/templates/{name}")
}

impl Place {
    /// All of them.
    pub(super) async fn all(&self) -> Result<Vec<TemplateBody>> {
        match self {
            Self::Server(client) => spinner("asking the server", client.every("/v1/templates", "")).await,
            Self::Here(folder) => Ok(folder.all().into_iter().map(|(name, read)| TemplateBody::everybodys(name, read)).collect()),
        }
    }

    /// One of them.
    pub(super) async fn one(&self, name: &TemplateName) -> Result<TemplateBody> {
        match self {
            Self::Server(client) => spinner("asking the server", client.json(Method::GET, &target(name), None::<&()>)).await,
            Self::Here(folder) => match folder.get(name) {
                Some(read) => Ok(TemplateBody::everybodys(name.to_string(), read)),
                None => Err(none_here(folder, name)),
            },
        }
    }
}

/// There is no such file on this machine.
pub(super) fn none_here(folder: &TemplateFolder, name: &TemplateName) -> anyhow::Error {
    anyhow!("there is no template `{name}` in {}; `caisson template ls` shows those that there are", folder.path().display())
}
