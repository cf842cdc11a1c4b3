//! A state of a tree: what has which name, mode and content.

use std::{cmp::Ordering, collections::HashSet, fmt, io, io::Read, ops::Range};

use sha1::{Digest, Sha1};

use crate::Error;

const CHUNK: usize = 64 << 10;

/// The files and links of a tree, in the order of their paths' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(Vec<Entry>);

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root: names with slashes between them.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Bytes of the content; for a link, of where it points.
    pub size: u64,
    pub id: Id,
}

/// As much of type and mode as git knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File { executable: bool },
    Link,
}

/// What git calls a content: the SHA-1 of a blob. Two contents with one name, which can be made, count as the same here as they do there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 20]);

impl Tree {
    /// Puts the entries in order. Refuses what no directory could hold.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, Error> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut directories = HashSet::new();
        let mut previous: &[u8] = b"";
        for entry in &entries {
            let refuse = |why| Err(Error::Path { path: entry.path.clone(), why });
            if entry.path.contains(&0) {
                return refuse("a name has no zero byte");
            }
            if entry.path.split(|byte| *byte == b'/').any(|name| matches!(name, b"" | b"." | b"..")) {
                return refuse("every part is a name");
            }
            // Those of the path before are there already.
            let shared = entry.path.iter().zip(previous).take_while(|(byte, before)| byte == before).count();
            let slashes = entry.path.iter().enumerate().skip(shared).filter(|(_, byte)| **byte == b'/');
            directories.extend(slashes.map(|(end, _)| &entry.path[..end]));
            previous = &entry.path;
        }
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 && entries[index - 1].path == entry.path {
                return Err(Error::Path { path: entry.path.clone(), why: "it is there already" });
            }
            if directories.contains(entry.path.as_slice()) {
                return Err(Error::Path { path: entry.path.clone(), why: "others are below it" });
            }
        }
        Ok(Self(entries))
    }

    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Where the entry of this path is.
    #[must_use]
    pub fn position(&self, path: &[u8]) -> Option<usize> {
        self.0.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()
    }

    /// What is not the same in another tree, in the order of the paths: what is here and what is there.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Option<&'a Entry>, Option<&'a Entry>)> {
        let (mut olds, mut news) = (self.0.iter().peekable(), other.0.iter().peekable());
        let pairs = std::iter::from_fn(move || {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.path.cmp(&new.path),
            };
            let old = if order.is_le() { olds.next() } else { None };
            let new = if order.is_ge() { news.next() } else { None };
            Some((old, new))
        });
        pairs.filter(|(old, new)| old != new)
    }

    /// Where the entry of this path is, or those are that are below it as a directory.
    pub(crate) fn places(&self, path: &[u8], directory: bool) -> Range<usize> {
        if !directory {
            return self.position(path).map_or(0..0, |place| place..place + 1);
        }
        // What is below comes together, in front of whatever has the next byte there.
        let (below, behind) = ([path, b"/"].concat(), [path, b"0"].concat());
        self.0.partition_point(|entry| entry.path < below)..self.0.partition_point(|entry| entry.path < behind)
    }
}

impl Entry {
    /// The mode as a patch has it.
    pub(crate) fn mode(&self) -> &'static str {
        match self.kind {
            Kind::File { executable: false } => "100644",
            Kind::File { executable: true } => "100755",
            Kind::Link => "120000",
        }
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind == Kind::Link
    }

    /// The last part of the path.
    pub(crate) fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

impl Id {
    /// Stands for no content at all.
    pub(crate) const NONE: Self = Self([0; 20]);

    /// The name of this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hash = Self::begin(content.len() as u64);
        hash.update(content);
        Self(hash.finalize().into())
    }

    /// The name of the first `size` bytes, absent when there are fewer.
    pub fn of_stream(content: impl Read, size: u64) -> io::Result<Option<Self>> {
        Self::of_stream_through(content, size, |_| Ok(()))
    }

    /// The same, with each piece shown on the way.
    pub(crate) fn of_stream_through(
        mut content: impl Read,
        size: u64,
        mut show: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Self>> {
        let mut hash = Self::begin(size);
        let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)).max(1)];
        let mut left = size;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match content.read(&mut buffer[..room]) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    hash.update(&buffer[..read]);
                    show(&buffer[..read])?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Self(hash.finalize().into())))
    }

    /// To be fed with so many bytes.
    pub(crate) fn begin(size: u64) -> Sha1 {
        let mut hash = Sha1::new();
        hash.update(format!("blob {size}\0"));
        hash
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Result<Tree, Error> {
        let entry = |path: &&str| Entry { path: path.as_bytes().to_vec(), kind: Kind::Link, size: 0, id: Id::of(b"") };
        Tree::new(paths.iter().map(entry).collect())
    }

    #[test]
    fn contents_have_the_names_that_git_gives_them() {
        assert_eq!(Id::of(b"").to_string(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(Id::of(b"old\n").to_string(), "3367afdbbf91e638efe983616377c60477cc6612");
        assert_eq!(Id::of_stream(&b"old\nand more"[..], 4).unwrap(), Some(Id::of(b"old\n")));
        assert_eq!(Id::of_stream(&b"old"[..], 4).unwrap(), None);
    }

    #[test]
    fn a_tree_is_one_that_a_directory_could_hold() {
        let good = tree(&["a/b", "a.b", "a/c", "b"]).unwrap();
        assert!(good.entries().is_sorted_by(|a, b| a.path < b.path));
        assert!(good.places(b"a", true) == (1..3) && good.places(b"b", true).is_empty() && good.places(b"a.b", true).is_empty());
        assert_eq!(good.position(b"a/c"), Some(2));
        for (bad, why) in [
            (&["a", "a"][..], "already"),
            (&["a", "a.b", "a/b"], "below"),
            (&["a//b"], "every part"),
            (&["/a"], "every part"),
            (&["a/../b"], "every part"),
            (&[""], "every part"),
            (&["a\0"], "zero"),
        ] {
            let error = tree(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }
}
