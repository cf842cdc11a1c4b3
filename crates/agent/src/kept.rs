//! Contents that outlive their files, in one file without a name: nothing inside can open it, no walk, archive or image has it, and the kernel
//! frees it with its last handle. It takes of the sandbox's own storage.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::FileExt},
    time::Instant,
};

use caisson_patch::{Entry, Id, Keep, Source, Tree};
use rustix::{
    fs::{CWD, FallocateFlags, MemfdFlags, Mode, OFlags, ResolveFlags, fallocate, memfd_create, openat2},
    io::Errno,
};

/// Contents up to this size are looked at as a whole before they are written.
const SMALL: u64 = 64 << 10;
/// Free pieces that are tried for a content before it goes to the end.
const TRIES: usize = 64;
/// Less is not given back to the file system.
const PAGE: u64 = 4096;

/// A file without a name on the sandbox's storage, or in its memory where that makes none. Not for a worker: it is the agent's own, wherever the sandbox's user may write.
pub(crate) fn nameless(uid: u32) -> io::Result<File> {
    // Whose Landlock domain takes no writing into the root has a directory there that no user can take away.
    let directory = if uid == 0 { c"/" } else { c"/tmp" };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let file: OwnedFd =
        match openat2(CWD, directory, flags, Mode::from_raw_mode(0o600), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
            // A root of an image before Linux 6.10: overlayfs makes no such file, and one with a name could be kept by root inside.
            Err(Errno::OPNOTSUPP) => memfd_create(c"checkpoint", MemfdFlags::CLOEXEC)?,
            opened => opened?,
        };
    Ok(file.into())
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Contents {
    file: File,
    places: HashMap<Id, Place>,
    /// Pieces between contents: where, and how long. No two of them touch, and none ends where the file does.
    free: BTreeMap<u64, u64>,
    end: u64,
    /// Contents that nobody may use, to be looked at when the state is settled.
    loose: Vec<Id>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    size: u64,
    /// Entries of the checkpoint that have it.
    uses: u32,
}

impl Contents {
    pub(crate) fn new(file: File) -> Self {
        Self { file, places: HashMap::new(), free: BTreeMap::new(), end: 0, loose: Vec::new() }
    }

    /// Makes the contents of `new` those that are kept, in place of those of `old`.
    pub(crate) fn settle(&mut self, old: &Tree, new: &Tree) {
        for (before, after) in old.differences(new) {
            if let Some((entry, place)) = before.and_then(|entry| Some((entry, self.places.get_mut(&entry.id)?))) {
                place.uses = place.uses.saturating_sub(1);
                if place.uses == 0 {
                    self.loose.push(entry.id);
                }
            }
            if let Some(place) = after.and_then(|entry| self.places.get_mut(&entry.id)) {
                place.uses = place.uses.saturating_add(1);
            }
        }
        self.sweep();
    }

    /// Makes the contents of this tree those that are kept, and no others.
    pub(crate) fn keep_only(&mut self, tree: &Tree) {
        for place in self.places.values_mut() {
            place.uses = 0;
        }
        for entry in tree.entries() {
            if let Some(place) = self.places.get_mut(&entry.id) {
                place.uses = place.uses.saturating_add(1);
            }
        }
        self.loose = self.places.keys().copied().collect();
        self.sweep();
    }

    /// Frees what no entry has.
    pub(crate) fn sweep(&mut self) {
        let mut freed = Vec::new();
        for id in std::mem::take(&mut self.loose) {
            if self.places.get(&id).is_some_and(|place| place.uses == 0)
                && let Some(place) = self.places.remove(&id)
            {
                self.release(place.offset, place.size);
                freed.push(place.offset);
            }
        }
        freed.sort_unstable();
        let mut last = None;
        for offset in freed {
            // What was at the end of the file is not among them any more.
            let Some((&begin, &length)) = self.free.range(..=offset).next_back() else { continue };
            if offset < begin + length && length >= PAGE && last != Some(begin) {
                last = Some(begin);
                // A file system that cannot do it keeps the room, and the next contents take it.
                fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, begin, length).ok();
            }
        }
        // Likewise.
        self.file.set_len(self.end).ok();
    }

    /// A place for so many bytes.
    fn take(&mut self, size: u64) -> u64 {
        let found = self.free.iter().take(TRIES).find(|(_, length)| **length >= size).map(|(offset, length)| (*offset, *length));
        match found {
            Some((offset, length)) => {
                self.free.remove(&offset);
                if length > size {
                    self.free.insert(offset + size, length - size);
                }
                offset
            }
            None => {
                let offset = self.end;
                self.end += size;
                offset
            }
        }
    }

    fn release(&mut self, mut offset: u64, mut length: u64) {
        if let Some((&before, &its)) = self.free.range(..offset).next_back().filter(|(before, its)| *before + *its == offset) {
            self.free.remove(&before);
            (offset, length) = (before, length + its);
        }
        if let Some(behind) = self.free.remove(&(offset + length)) {
            length += behind;
        }
        if offset + length == self.end {
            self.end = offset;
        } else {
            self.free.insert(offset, length);
        }
    }
}

impl Source for Contents {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + '_>> {
        if entry.size == 0 {
            return Ok(Box::new(io::empty()));
        }
        let place = self.places.get(&entry.id).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Piece { file: &self.file, offset: place.offset, left: place.size }))
    }
}

/// A part of a file as it is read.
struct Piece<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Contents while a tree is read.
pub(crate) struct Keeping<'a>(RefCell<State<'a>>);

struct State<'a> {
    contents: &'a mut Contents,
    until: Instant,
    /// The one that comes.
    size: u64,
    small: Vec<u8>,
    /// Where a large one goes, and how much of it has come.
    large: Option<(u64, u64)>,
}

impl<'a> Keeping<'a> {
    /// After `until`, nothing is taken any more.
    pub(crate) fn new(contents: &'a mut Contents, until: Instant) -> Self {
        Self(RefCell::new(State { contents, until, size: 0, small: Vec::new(), large: None }))
    }
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        self.0.get_mut().drop_large();
    }
}

impl Keep for Keeping<'_> {
    fn begin(&self, size: u64) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.drop_large();
        state.small.clear();
        state.size = size;
        if size > SMALL {
            state.large = Some((state.contents.take(size), 0));
        }
        Ok(())
    }

    fn piece(&self, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        if Instant::now() >= state.until {
            return Err(Errno::TIMEDOUT.into());
        }
        match &mut state.large {
            Some((offset, written)) => {
                state.contents.file.write_all_at(bytes, *offset + *written)?;
                *written += bytes.len() as u64;
            }
            None => state.small.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn end(&self, id: Id) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        let size = state.size;
        if size == 0 || state.contents.places.contains_key(&id) {
            state.drop_large();
            return Ok(());
        }
        let offset = match state.large.take() {
            Some((offset, _)) => offset,
            None => {
                let offset = state.contents.take(size);
                if let Err(error) = state.contents.file.write_all_at(&state.small, offset) {
                    state.contents.release(offset, size);
                    return Err(error);
                }
                offset
            }
        };
        state.contents.places.insert(id, Place { offset, size, uses: 0 });
        state.contents.loose.push(id);
        Ok(())
    }
}

impl State<'_> {
    /// Gives back the place of a content that did not come as a whole, or that is there already.
    fn drop_large(&mut self) {
        if let Some((offset, _)) = self.large.take() {
            self.contents.release(offset, self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, time::Duration};

    use caisson_patch::Kind;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn content(number: usize) -> Vec<u8> {
        // Small ones, empty ones, and some that go straight to their place.
        let length = [0, 1, 300, 5000, 70_000, 200_000][number % 6] + number;
        (0..if number.is_multiple_of(6) { 0 } else { length }).map(|at| (at * 31 + number * 7) as u8).collect()
    }

    fn tree(numbers: &[usize]) -> Tree {
        let entry = |number: &usize| {
            let content = content(*number);
            Entry {
                path: format!("f{number}").into_bytes(),
                kind: Kind::File { executable: false },
                size: content.len() as u64,
                id: Id::of(&content),
            }
        };
        Tree::new(numbers.iter().map(entry).collect()).unwrap()
    }

    fn keep(contents: &mut Contents, numbers: &[usize]) {
        let keeping = Keeping::new(contents, soon());
        for number in numbers {
            let content = content(*number);
            keeping.begin(content.len() as u64).unwrap();
            content.chunks(50_000).for_each(|piece| keeping.piece(piece).unwrap());
            keeping.end(Id::of(&content)).unwrap();
        }
    }

    fn check(contents: &Contents, numbers: &[usize]) {
        for (number, entry) in numbers.iter().map(|number| (number, tree(&[*number]).entries()[0].clone())) {
            let mut read = Vec::new();
            contents.open(&entry).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == content(*number), "{number}");
        }
        let kept: u64 = contents.places.values().map(|place| place.size).sum();
        let free: u64 = contents.free.values().sum();
        assert_eq!(kept + free, contents.end, "every byte is a content's or free");
        let mut ends: Vec<_> = contents.free.iter().map(|(offset, length)| (*offset, offset + length)).collect();
        ends.extend(contents.places.values().map(|place| (place.offset, place.offset + place.size)));
        ends.sort_unstable();
        assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "nothing overlaps");
    }

    #[test]
    fn what_is_used_is_there_and_the_rest_gives_its_room_back() {
        let mut contents = Contents::new(tempfile::tempfile().unwrap());
        let (mut old, mut have) = (tree(&[]), Vec::new());
        for round in 0..60 {
            let want: Vec<usize> = (0..80).filter(|number| (number * 7 + round * 13) % 5 != round % 3).collect();
            let new = tree(&want);
            keep(&mut contents, &want);
            check(&contents, &have);
            contents.settle(&old, &new);
            check(&contents, &want);
            (old, have) = (new, want);
        }
        let used: u64 = old.entries().iter().map(|entry| entry.size).sum();
        assert!(contents.end < used * 2, "{} for {used}", contents.end);
        contents.keep_only(&tree(&[1, 3, 4]));
        check(&contents, &[1, 3, 4].into_iter().filter(|number| have.contains(number)).collect::<Vec<_>>());
        contents.keep_only(&tree(&[]));
        assert_eq!((contents.end, contents.places.len(), contents.free.len()), (0, 0, 0));
        assert_eq!(contents.file.metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn what_breaks_off_leaves_nothing() {
        let mut contents = Contents::new(tempfile::tempfile().unwrap());
        keep(&mut contents, &[1, 4]);
        contents.settle(&tree(&[]), &tree(&[1, 4]));
        let end = contents.end;
        {
            let keeping = Keeping::new(&mut contents, soon());
            keeping.begin(100_000).unwrap();
            keeping.piece(&[1; 50_000]).unwrap();
            keeping.begin(10).unwrap();
            keeping.piece(&[1; 5]).unwrap();
            keeping.begin(200_000).unwrap();
        }
        keep(&mut contents, &[2, 5]);
        contents.sweep();
        check(&contents, &[1, 4]);
        assert_eq!(contents.end, end);
        assert!(contents.open(&tree(&[5]).entries()[0]).is_err());
        let late = Keeping::new(&mut contents, Instant::now());
        late.begin(3).unwrap();
        assert_eq!(late.piece(b"abc").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_content_of_several_entries_stays_as_long_as_one_has_it() {
        let mut contents = Contents::new(tempfile::tempfile().unwrap());
        let named = |names: &[&str]| {
            let entry = tree(&[3]).entries()[0].clone();
            Tree::new(names.iter().map(|name| Entry { path: name.as_bytes().to_vec(), ..entry.clone() }).collect()).unwrap()
        };
        keep(&mut contents, &[3]);
        contents.settle(&named(&[]), &named(&["a", "b"]));
        contents.settle(&named(&["a", "b"]), &named(&["b"]));
        check(&contents, &[3]);
        // Moved, so that it goes and comes at once.
        contents.settle(&named(&["b"]), &named(&["c"]));
        contents.settle(&named(&["c"]), &named(&["a"]));
        check(&contents, &[3]);
        contents.settle(&named(&["a"]), &named(&[]));
        assert_eq!(contents.end, 0);
    }
}
