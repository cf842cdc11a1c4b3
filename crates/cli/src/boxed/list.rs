//! `boxed list`.

use anyhow::Result;
use http::Method;

use super::types::Sandboxes;
use crate::{client::Client, output, table};

pub(super) async fn list(client: &Client) -> Result<()> {
    let Sandboxes { sandboxes } = client.json(Method::GET, "/v1/sandbox", None::<&()>).await?;
    let rows: Vec<Vec<String>> =
        sandboxes.into_iter().map(|sandbox| vec![sandbox.id, sandbox.state, sandbox.driver_type, sandbox.created_at]).collect();
    output::print(&table::render(&["ID", "STATE", "DRIVER", "CREATED"], &rows))
}
