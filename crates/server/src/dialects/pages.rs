//! Lists that foreign APIs give whole: one page after the other, so that no more than one is in memory.

use caisson_core::{Error, Page, Sandbox, SandboxFilter};
use caisson_engine::Engine;
use futures::{Stream, stream};

/// The first page and all that come after it. The first one says whether there is an answer at all.
pub(super) fn all(engine: Engine, filter: SandboxFilter, first: Page<Sandbox>) -> impl Stream<Item = Result<Vec<Sandbox>, Error>> {
    stream::try_unfold(Some(first), move |page: Option<Page<Sandbox>>| {
        let (engine, mut filter) = (engine.clone(), filter.clone());
        async move {
            let Some(page) = page else { return Ok(None) };
            filter.cursor = page.next_cursor;
            let next = match filter.cursor {
                Some(_) => Some(engine.sandboxes(&filter).await?),
                None => None,
            };
            Ok(Some((page.data, next)))
        }
    })
}
