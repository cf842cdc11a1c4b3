//! One page of a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list, newest first where nothing else is said.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Page)]
pub struct PageBody<T> {
    pub data: Vec<T>,
    /// Give it back as `cursor` to get the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> PageBody<T> {
    pub(crate) fn new<U>(page: &caisson_core::Page<U>) -> Self
    where
        T: for<'a> From<&'a U>,
    {
        Self { data: page.data.iter().map(T::from).collect(), next_cursor: page.next_cursor.clone() }
    }
}
