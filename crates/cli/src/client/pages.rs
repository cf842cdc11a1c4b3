//! Lists that come in pages.

use anyhow::Result;
use caisson_server::native::types::PageBody;
use http::Method;
use serde::de::DeserializeOwned;

use super::{Client, percent};

/// The server's largest page.
const PAGE: usize = 1000;

impl Client {
    /// Everything of a list; `query` begins with `&`, where there is one.
    pub(crate) async fn every<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: PageBody<T> = self.json(Method::GET, &format!("{path}?limit={PAGE}{query}{cursor}"), None::<&()>).await?;
            let nothing_came = page.data.is_empty();
            all.extend(page.data);
            match page.next_cursor {
                Some(next) if !nothing_came => cursor = format!("&cursor={}", percent(next.as_bytes())),
                _ => return Ok(all),
            }
        }
    }
}
