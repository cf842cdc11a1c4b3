//! States of a tree that are told by what is different from an index, so that their cost follows the difference.

use std::collections::BTreeSet;

use crate::{
    Entry, Error, Index, Kind, Tree,
    index::{Look, Time},
};

/// What is different from an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Paths of which the index says nothing any more, nor of what is below them. In order, none below another.
    hidden: Vec<Vec<u8>>,
    /// Directories in which something else is left out than for the index. In order.
    ruled: Vec<Vec<u8>>,
    /// What is there instead.
    found: Index,
}

impl Change {
    pub(crate) fn new(mut hidden: Vec<Vec<u8>>, mut ruled: Vec<Vec<u8>>, found: Index) -> Self {
        hidden.sort_unstable();
        let mut outermost: Vec<Vec<u8>> = Vec::with_capacity(hidden.len());
        for path in hidden {
            if !is_in(&outermost, &path) {
                outermost.push(path);
            }
        }
        ruled.sort_unstable();
        Self { hidden: outermost, ruled, found }
    }

    /// Everything that is not in the index.
    #[must_use]
    pub fn found(&self) -> &Index {
        &self.found
    }

    /// Files and links in the state that this is of `index`, and the bytes of their paths beyond those that the index has; fewer, if negative.
    #[must_use]
    pub fn size(&self, index: &Index) -> (usize, i64) {
        let (mut entries, mut paths) = (index.tree.entries().len(), 0);
        for entry in self.hidden(index) {
            entries -= 1;
            paths -= entry.path.len() as i64;
        }
        entries += self.found.tree.entries().len();
        paths += self.found.tree.entries().iter().map(|entry| entry.path.len() as i64).sum::<i64>();
        (entries, paths)
    }

    /// The whole state that this is of `index`, as one by which every file is read again.
    pub fn unread(&self, index: &Index) -> Result<Index, Error> {
        let shown = index.tree.entries().iter().filter(|entry| !is_in(&self.hidden, &entry.path));
        let tree = Tree::new(shown.chain(self.found.tree.entries()).cloned().collect())?;
        let looks = vec![Look { modified: Time::MIN, changed: Time::MIN, inode: 0 }; tree.entries().len()];
        Ok(Index { tree, looks, begun: Time::MIN })
    }

    pub(crate) fn has_other_rules(&self, path: &[u8]) -> bool {
        self.ruled.binary_search_by(|ruled| ruled.as_slice().cmp(path)).is_ok()
    }

    /// The entries of `index` that do not count.
    fn hidden<'i>(&self, index: &'i Index) -> impl Iterator<Item = &'i Entry> {
        let places = self.hidden.iter().flat_map(|path| {
            let own = if path.is_empty() { 0..index.tree.entries().len() } else { index.tree.places(path, true) };
            index.tree.position(path).into_iter().chain(own).collect::<Vec<_>>()
        });
        places.map(|place| &index.tree.entries()[place])
    }

    fn entry<'i>(&'i self, index: &'i Index, path: &[u8]) -> Option<&'i Entry> {
        let at = |index: &'i Index| index.tree.position(path).map(|place| &index.tree.entries()[place]);
        at(&self.found).or_else(|| at(index).filter(|_| !is_in(&self.hidden, path)))
    }
}

/// The entries that are not the same in two states of one index: as they are in the first, and as they are in the second.
pub fn differences(index: &Index, old: &Change, new: &Change) -> Result<(Tree, Tree), Error> {
    let of = |change: &'_ Change| -> Vec<Vec<u8>> {
        let found = change.found.tree.entries().iter().map(|entry| entry.path.clone());
        found.chain(change.hidden(index).map(|entry| entry.path.clone())).collect()
    };
    let paths: BTreeSet<Vec<u8>> = of(old).into_iter().chain(of(new)).collect();
    let (mut olds, mut news) = (Vec::new(), Vec::new());
    for path in paths {
        let (was, is) = (old.entry(index, &path), new.entry(index, &path));
        if was != is {
            olds.extend(was.cloned());
            news.extend(is.cloned());
        }
    }
    Ok((Tree::new(olds)?, Tree::new(news)?))
}

/// Whether a path or a directory that it is in is one of these, which are in order.
fn is_in(paths: &[Vec<u8>], path: &[u8]) -> bool {
    if paths.is_empty() {
        return false;
    }
    let has = |path: &[u8]| paths.binary_search_by(|one| one.as_slice().cmp(path)).is_ok();
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    has(b"") || has(path) || slashes.into_iter().any(|end| has(&path[..end]))
}

/// The state of the scan before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    index: Option<&'a Index>,
    change: Option<&'a Change>,
}

impl<'a> Before<'a> {
    pub(crate) fn of(index: Option<&'a Index>, change: Option<&'a Change>) -> Self {
        Self { index, change }
    }

    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.change.is_some_and(|change| change.found.tree.position(path).is_some())
            || self.index.is_some_and(|index| index.tree.position(path).is_some() && self.shows(path))
    }

    pub(crate) fn has_below(&self, path: &[u8]) -> bool {
        self.at(path, true).next().is_some()
    }

    /// The entry of this path, or those that are below it as a directory.
    pub(crate) fn at(self, path: &[u8], directory: bool) -> impl Iterator<Item = (&'a Entry, Look)> {
        let of =
            move |index: &'a Index| index.tree.places(path, directory).map(move |place| (&index.tree.entries()[place], index.looks[place]));
        let found = self.change.map(|change| of(&change.found));
        let kept = self.index.map(of).into_iter().flatten().filter(move |(entry, _)| self.shows(&entry.path));
        found.into_iter().flatten().chain(kept)
    }

    /// See [`Index::unchanged`].
    pub(crate) fn unchanged(&self, path: &[u8], kind: Kind, size: u64, look: Look) -> Option<&'a Entry> {
        let found = self.change.and_then(|change| change.found.unchanged(path, kind, size, look));
        found.or_else(|| self.index.filter(|_| self.shows(path))?.unchanged(path, kind, size, look))
    }

    /// Whether what the index says of a path counts.
    fn shows(&self, path: &[u8]) -> bool {
        self.change.is_none_or(|change| !is_in(&change.hidden, path))
    }
}
