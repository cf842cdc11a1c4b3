//! What happened to which entry.

use std::collections::{HashMap, VecDeque};

use crate::{Entry, Id, Kind, Tree, quote};

/// One part of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Deleted(&'a Entry),
    Created(&'a Entry),
    /// Content, execute bit or both.
    Modified(&'a Entry, &'a Entry),
    /// And how much of it is the same, of a hundred.
    Renamed(&'a Entry, &'a Entry, u8),
}

/// All there are between two trees, no renames among them yet.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// Those that may be one half of a rename.
    pub(crate) deleted: Vec<&'a Entry>,
    pub(crate) created: Vec<&'a Entry>,
    /// The others.
    pub(crate) settled: Vec<Change<'a>>,
    /// Paths of changes that git would not take.
    pub(crate) refused: Vec<&'a [u8]>,
}

impl<'a> Changes<'a> {
    pub(crate) fn between(old: &'a Tree, new: &'a Tree) -> Self {
        let mut changes = Self::default();
        old.differences(new).for_each(|(old, new)| changes.add(old, new));
        changes
    }

    fn add(&mut self, old: Option<&'a Entry>, new: Option<&'a Entry>) {
        if let Some(refused) = [old, new].into_iter().flatten().find(|entry| !quote::is_taken(&entry.path, entry.is_link())) {
            self.refused.push(&refused.path);
            return;
        }
        match (old, new) {
            (Some(old), Some(new)) if old.is_link() == new.is_link() => self.settled.push(Change::Modified(old, new)),
            // Of another type, it is another thing.
            (Some(old), Some(new)) => self.settled.extend([Change::Deleted(old), Change::Created(new)]),
            (Some(old), None) => self.deleted.push(old),
            (None, Some(new)) => self.created.push(new),
            (None, None) => {}
        }
    }

    /// Makes one of what was deleted and what was created with the same content; under the same name, if there are several.
    pub(crate) fn pair_identical(&mut self) {
        let mut places: HashMap<Id, VecDeque<usize>> = HashMap::new();
        let mut named: HashMap<(Id, &[u8]), VecDeque<usize>> = HashMap::new();
        for (index, entry) in self.deleted.iter().enumerate().filter(|(_, entry)| is_file(entry)) {
            places.entry(entry.id).or_default().push_back(index);
            named.entry((entry.id, entry.name())).or_default().push_back(index);
        }
        let mut used = vec![false; self.deleted.len()];
        let mut paired: Vec<Option<usize>> = vec![None; self.created.len()];
        for by_name in [true, false] {
            for (entry, pair) in self.created.iter().zip(&mut paired).filter(|(_, pair)| pair.is_none()) {
                let queue = if by_name { named.get_mut(&(entry.id, entry.name())) } else { places.get_mut(&entry.id) };
                let Some(queue) = queue else { continue };
                while queue.front().is_some_and(|index| used[*index]) {
                    queue.pop_front();
                }
                if let Some(&index) = queue.front().filter(|index| may_become(self.deleted[**index], entry)) {
                    used[index] = true;
                    *pair = Some(index);
                }
            }
        }
        self.pair(paired.into_iter().enumerate().filter_map(|(new, old)| Some((old?, new, 100))).collect());
    }

    /// Makes renames of these: the places of what was deleted and created, and how much is the same.
    pub(crate) fn pair(&mut self, pairs: Vec<(usize, usize, u8)>) {
        let (mut old_used, mut new_used) = (vec![false; self.deleted.len()], vec![false; self.created.len()]);
        for (old, new, score) in pairs {
            (old_used[old], new_used[new]) = (true, true);
            self.settled.push(Change::Renamed(self.deleted[old], self.created[new], score));
        }
        let mut used = old_used.into_iter();
        self.deleted.retain(|_| used.next() == Some(false));
        let mut used = new_used.into_iter();
        self.created.retain(|_| used.next() == Some(false));
    }

    /// In the order of the paths that are left when it is done.
    pub(crate) fn in_order(self) -> Vec<Change<'a>> {
        let mut all = self.settled;
        all.extend(self.deleted.into_iter().map(Change::Deleted));
        all.extend(self.created.into_iter().map(Change::Created));
        all.sort_by_key(|change| match change {
            Change::Deleted(entry) => (entry.path.as_slice(), false),
            Change::Created(entry) | Change::Modified(_, entry) | Change::Renamed(_, entry, _) => (entry.path.as_slice(), true),
        });
        all
    }
}

/// Whether one may be said to have become the other: not where a directory took the place of the file, or the other way round. Links are not
/// renamed at all: git misses in its checks that such a link goes away, as the patch does not say that it is one.
pub(crate) fn may_become(old: &Entry, new: &Entry) -> bool {
    let below = |outer: &[u8], inner: &[u8]| inner.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'));
    is_file(old) && is_file(new) && !below(&old.path, &new.path) && !below(&new.path, &old.path)
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. })
}
