//! What the columns hold, and how domain types become columns and come back, whatever database has them.

mod ledger;
mod records;

use std::{str::FromStr, time::Duration};

use caisson_core::StoreError;
use jiff::Timestamp;
use serde::Serialize;

pub(crate) use self::{ledger::*, records::*};

/// One row. `None` is a column that is not there or holds something else; an empty one is `Some(None)`.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Option<Option<String>>;
    fn integer(&self, column: &str) -> Option<Option<i64>>;
    /// Of a column that is never empty.
    fn bytes(&self, column: &str) -> Option<Vec<u8>>;

    fn parsed<T: FromStr>(&self, column: &str) -> Option<T> {
        self.text(column)??.parse().ok()
    }

    fn small(&self, column: &str) -> Option<Option<i32>> {
        self.integer(column)?.map(i32::try_from).transpose().ok()
    }

    fn number(&self, column: &str) -> Option<Option<u64>> {
        self.integer(column)?.map(u64::try_from).transpose().ok()
    }

    fn moment(&self, column: &str) -> Option<Option<Timestamp>> {
        self.integer(column)?.map(Timestamp::from_microsecond).transpose().ok()
    }

    fn duration(&self, column: &str) -> Option<Option<Duration>> {
        Some(self.number(column)?.map(Duration::from_micros))
    }

    /// The error about a row that cannot be read, by what names it.
    fn corrupt(&self, column: &str) -> StoreError {
        StoreError::Corrupt(self.text(column).flatten().unwrap_or_default())
    }
}

/// Databases have no unsigned 64 bits; nothing real is larger than what they have.
pub(crate) fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn duration_us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("columns are plain data with text keys")
}
