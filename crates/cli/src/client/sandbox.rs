//! A sandbox by its id or its name.

use anyhow::{Result, bail};
use caisson_core::SandboxId;
use caisson_server::native::types::{PageBody, SandboxBody};
use http::Method;

use super::{Client, percent};

impl Client {
    /// The path of a sandbox in the API. What is no id is the name of a living one.
    pub(crate) async fn sandbox(&self, id_or_name: &str) -> Result<String> {
        let id = match id_or_name.parse::<SandboxId>() {
            Ok(id) => id,
            Err(_) => self.named(id_or_name).await?,
        };
        Ok(format!("/v1/sandboxes/{id}"))
    }

    async fn named(&self, name: &str) -> Result<SandboxId> {
        let states = "state=creating&state=running&state=stopping&state=stopped";
        let target = format!("/v1/sandboxes?limit=1&{states}&name={}", percent(name.as_bytes()));
        let page: PageBody<SandboxBody> = self.json(Method::GET, &target, None::<&()>).await?;
        match page.data.first().map(|sandbox| sandbox.id.parse()) {
            Some(Ok(id)) => Ok(id),
            _ => bail!("`{name}` is neither an id nor the name of a living sandbox; `caisson ls` shows them"),
        }
    }
}
