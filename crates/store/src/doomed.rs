//! Which ended sandboxes are to go.

/// A choice of records whose time is over.
#[derive(Debug, Clone)]
pub(crate) enum Doomed {
    /// Those that ended before this moment, in microseconds.
    Before(i64),
    /// Of one tenant, the one with this mark and those that ended earlier.
    UpTo(Mark),
}

/// The first of a tenant's ended sandboxes that is beyond what is kept, seen from the newest end.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) tenant: String,
    pub(crate) at: i64,
    pub(crate) id: String,
}

/// Finds the mark of every tenant that has more than is kept; the place beyond follows it as the one parameter.
pub(crate) const MARKS: &str = "select tenant, tombstone_at, id from (select tenant, tombstone_at, id, row_number() over \
    (partition by tenant order by tombstone_at desc, id desc) as place from sandboxes where state = 'ended') as ended where place = ";
