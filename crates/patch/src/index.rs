//! What a scan found, so that the next one reads only what has changed since.

use crate::{Entry, Error, Id, Kind, Tree};

const MAGIC: &[u8; 8] = b"caisspx1";

/// The tree as it was scanned, and how each entry looked to the file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    pub(crate) tree: Tree,
    /// As many as there are entries.
    pub(crate) looks: Vec<Look>,
    /// By the clock that files are stamped with, before the first one was looked at.
    pub(crate) begun: Time,
}

/// What cannot stay the same when a content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) modified: Time,
    pub(crate) changed: Time,
    pub(crate) inode: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Time {
    /// Before everything.
    pub(crate) const MIN: Self = Self { seconds: i64::MIN, nanoseconds: 0 };
}

impl Index {
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The entry of this path, if it looks the same as then and that says that its content is.
    pub(crate) fn unchanged(&self, path: &[u8], kind: Kind, size: u64, look: Look) -> Option<&Entry> {
        let place = self.tree.position(path)?;
        let entry = &self.tree.entries()[place];
        (entry.kind == kind && entry.size == size && self.looks[place] == look && !self.is_racy(look)).then_some(entry)
    }

    /// Whether an entry may have changed behind the scan without looking different, as it was written to so shortly before that the clock
    /// need not have gone on. Git has the same rule for its index. Where files are stamped with whole seconds, that is long.
    fn is_racy(&self, look: Look) -> bool {
        let latest = look.modified.max(look.changed);
        if latest.nanoseconds == 0 { latest.seconds >= self.begun.seconds.saturating_sub(2) } else { latest >= self.begun }
    }

    /// As bytes, to be kept where nobody else writes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put_time(&mut bytes, self.begun);
        bytes.extend((self.looks.len() as u64).to_le_bytes());
        for (entry, look) in self.tree.entries().iter().zip(&self.looks) {
            bytes.extend((entry.path.len() as u32).to_le_bytes());
            bytes.extend(&entry.path);
            bytes.push(match entry.kind {
                Kind::File { executable: false } => 0,
                Kind::File { executable: true } => 1,
                Kind::Link => 2,
            });
            bytes.extend(entry.size.to_le_bytes());
            bytes.extend(entry.id.0);
            put_time(&mut bytes, look.modified);
            put_time(&mut bytes, look.changed);
            bytes.extend(look.inode.to_le_bytes());
        }
        let sum = Id::of(&bytes);
        bytes.extend(sum.0);
        bytes
    }

    /// From such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (content, sum) = bytes.split_last_chunk().ok_or(Error::Index("it is too short"))?;
        if Id::of(content) != Id(*sum) {
            return Err(Error::Index("its check sum is wrong"));
        }
        let mut rest = content.strip_prefix(MAGIC).ok_or(Error::Index("it is of another kind"))?;
        let begun = time(&mut rest)?;
        let count = u64::from_le_bytes(take(&mut rest)?);
        let (mut entries, mut looks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            let (path, behind) = rest.split_at_checked(length).ok_or(Error::Index("it ends too early"))?;
            rest = behind;
            let kind = match take(&mut rest)? {
                [0] => Kind::File { executable: false },
                [1] => Kind::File { executable: true },
                [2] => Kind::Link,
                [_] => return Err(Error::Index("it has an entry of another kind")),
            };
            let size = u64::from_le_bytes(take(&mut rest)?);
            let id = Id(take(&mut rest)?);
            entries.push(Entry { path: path.to_vec(), kind, size, id });
            looks.push(Look { modified: time(&mut rest)?, changed: time(&mut rest)?, inode: u64::from_le_bytes(take(&mut rest)?) });
        }
        if !rest.is_empty() {
            return Err(Error::Index("it has something behind its end"));
        }
        // They belong to the entries by place.
        if !entries.is_sorted_by(|a, b| a.path < b.path) {
            return Err(Error::Index("it is not in order"));
        }
        Ok(Self { tree: Tree::new(entries)?, looks, begun })
    }
}

fn put_time(bytes: &mut Vec<u8>, time: Time) {
    bytes.extend(time.seconds.to_le_bytes());
    bytes.extend(time.nanoseconds.to_le_bytes());
}

fn time(rest: &mut &[u8]) -> Result<Time, Error> {
    Ok(Time { seconds: i64::from_le_bytes(take(rest)?), nanoseconds: u32::from_le_bytes(take(rest)?) })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (taken, behind) = rest.split_first_chunk().ok_or(Error::Index("it ends too early"))?;
    *rest = behind;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGUN: Time = Time { seconds: 100, nanoseconds: 500 };

    fn index(modified: Time, changed: Time) -> Index {
        let entry = Entry { path: b"a\xff".to_vec(), kind: Kind::File { executable: true }, size: 3, id: Id::of(b"abc") };
        Index { tree: Tree::new(vec![entry]).unwrap(), looks: vec![Look { modified, changed, inode: 7 }], begun: BEGUN }
    }

    #[test]
    fn what_was_written_to_just_before_the_scan_is_read_again() {
        let at = |seconds, nanoseconds| Time { seconds, nanoseconds };
        for (modified, changed, trusted) in [
            (at(100, 499), at(100, 499), true),
            (at(100, 500), at(100, 499), false),
            (at(1, 1), at(100, 500), false),
            (at(200, 1), at(1, 1), false),
            (at(99, 0), at(99, 0), false),
            (at(97, 0), at(97, 0), true),
        ] {
            let index = index(modified, changed);
            let look = index.looks[0];
            let found = index.unchanged(b"a\xff", Kind::File { executable: true }, 3, look);
            assert_eq!(found.is_some(), trusted, "{modified:?} {changed:?}");
            assert!(index.unchanged(b"a\xff", Kind::File { executable: false }, 3, look).is_none());
            assert!(index.unchanged(b"a\xff", Kind::File { executable: true }, 4, look).is_none());
            assert!(index.unchanged(b"a\xff", Kind::File { executable: true }, 3, Look { inode: 8, ..look }).is_none());
            assert!(index.unchanged(b"b", Kind::File { executable: true }, 3, look).is_none());
        }
    }

    #[test]
    fn bytes_give_the_same_index_and_damaged_ones_none() {
        let index = index(BEGUN, Time { seconds: -1, nanoseconds: 9 });
        let bytes = index.to_bytes();
        assert_eq!(Index::from_bytes(&bytes).unwrap(), index);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(matches!(Index::from_bytes(&damaged), Err(Error::Index(_))), "at {at}");
            assert!(Index::from_bytes(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_anybody_are_refused_or_an_index(content in prop::collection::vec(any::<u8>(), 0..300), cut in 0..200usize) {
            // With a right sum, so that what is behind it is reached.
            let good = index(BEGUN, BEGUN).to_bytes();
            let mut bytes = [&good[..cut.min(good.len() - 20)], &content].concat();
            let sum = Id::of(&bytes);
            bytes.extend(sum.0);
            if let Ok(index) = Index::from_bytes(&bytes) {
                prop_assert_eq!(index.to_bytes(), bytes);
            }
        }
    }
}
