//! Pages of lists, and where they end.

use std::{fmt::Display, str::FromStr};

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Give it back to get the next page; absent on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Cuts off the row that was only asked for to see whether there is more than `limit`.
    #[must_use]
    pub fn cut(mut data: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = data.len() > limit;
        data.truncate(limit);
        let next_cursor = if more { data.last().map(cursor) } else { None };
        Self { data, next_cursor }
    }
}

/// Where a page ended: the sort key of its last row, so rows that come or go do not shift the next page. Its text is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor<Id> {
    /// A moment in microseconds.
    pub at: i64,
    pub id: Id,
}

impl<Id: Display + FromStr> Cursor<Id> {
    /// As it is handed out.
    #[must_use]
    pub fn to_text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(72);
        for byte in self.at.to_be_bytes().into_iter().chain(self.id.to_string().bytes()) {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text
    }

    /// One that was handed out for a list of the same kind; `None` for everything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        if !text.len().is_multiple_of(2) || !text.bytes().all(hex) {
            return None;
        }
        let bytes: Vec<u8> = text.as_bytes().chunks(2).map(digits).collect::<Option<_>>()?;
        let (at, id) = bytes.split_first_chunk::<8>()?;
        Some(Self { at: i64::from_be_bytes(*at), id: std::str::from_utf8(id).ok()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExecutionId, SandboxId};

    #[test]
    fn cursors_round_trip_and_others_are_refused() {
        let cursor = Cursor { at: 1_700_000_000_123_456, id: SandboxId::random() };
        let text = cursor.to_text();
        assert_eq!(Cursor::<SandboxId>::parse(&text), Some(cursor));
        assert_eq!(Cursor::<ExecutionId>::parse(&text), None, "of another list");
        for bad in ["", "0", "00", ".", &text[2..], &text.to_uppercase(), &format!("{text}00"), "1.' or 1=1", "+1", "ää"] {
            assert_eq!(Cursor::<SandboxId>::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        let page = |rows: u32| Page::cut((0..rows).collect(), 3, u32::to_string);
        assert_eq!((page(3).data.len(), page(3).next_cursor), (3, None));
        assert_eq!((page(4).data.len(), page(4).next_cursor), (3, Some("2".to_owned())));
    }
}
