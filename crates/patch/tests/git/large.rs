//! Files that are more than is in memory, patches that are longer than they may be, and trees that are not what they were.

use std::{cell::Cell, io, thread};

use caisson_patch::{Entry, Error, Id, Kind, Options, Side, Source, Tree, write_patch};

use crate::tree::{Nodes, apply, file, in_memory, patch};

/// Gives so many bytes, and notes the largest piece that was asked for.
struct Endless(Cell<usize>);

struct Piece<'a> {
    of: &'a Endless,
    at: u64,
    left: u64,
}

impl Source for Endless {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + '_>> {
        Ok(Box::new(Piece { of: self, at: 0, left: entry.size }))
    }
}

impl io::Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.of.0.set(self.of.0.get().max(buffer.len()));
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for byte in &mut buffer[..length] {
            *byte = (self.at / 1000) as u8;
            self.at += 1;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// Counts what it is given.
struct Counter(u64);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tree(entries: &[(&str, u64, Id)]) -> Tree {
    let entry = |(path, size, id): &(&str, u64, Id)| Entry {
        path: path.as_bytes().to_vec(),
        kind: Kind::File { executable: false },
        size: *size,
        id: *id,
    };
    Tree::new(entries.iter().map(entry).collect()).unwrap()
}

#[test]
fn a_large_file_is_never_in_memory_as_a_whole() {
    const SIZE: u64 = 64 << 20;
    let source = Endless(Cell::new(0));
    let entry = |size| Entry { path: Vec::new(), kind: Kind::Link, size, id: Id::of(b"") };
    let id = |size| Id::of_stream(source.open(&entry(size)).unwrap(), size).unwrap().unwrap();
    let (old, new) = (tree(&[("f", SIZE, id(SIZE))]), tree(&[("f", SIZE - 1, id(SIZE - 1)), ("g", SIZE, id(SIZE))]));
    let mut to = Counter(0);
    let summary = write_patch(&old, &new, &source, &source, &Options::default(), &mut to).unwrap();
    assert_eq!((summary.modified, summary.created, summary.bytes), (1, 1, to.0));
    assert!(source.0.get() <= 64 << 10, "{} bytes at once", source.0.get());
    assert!(to.0 > 10_000 && to.0 < SIZE / 20, "deflated: {}", to.0);
}

#[test]
fn a_file_beyond_the_bound_of_texts_is_one_that_git_takes() {
    let old: Nodes = [(b"f".to_vec(), file("line\n".repeat(40_000))), (b"g".to_vec(), file("x"))].into();
    let new: Nodes = [(b"f".to_vec(), file("line\n".repeat(40_001))), (b"h".to_vec(), file("y".repeat(300_000)))].into();
    let (bytes, _) = patch(&old, &new, &Options { text_bytes: 100_000, ..Options::default() });
    assert!(bytes.windows(16).any(|piece| piece == b"GIT binary patch"));
    apply(&old, &bytes, &new).unwrap();
    let (bytes, _) = patch(&old, &new, &Options::default());
    assert!(!bytes.windows(16).any(|piece| piece == b"GIT binary patch"));
    apply(&old, &bytes, &new).unwrap();
}

#[test]
fn a_patch_that_gets_too_long_is_an_error() {
    let new: Nodes = [(b"f".to_vec(), file("x".repeat(1000)))].into();
    let (old, new) = (in_memory(&Nodes::new()), in_memory(&new));
    let make = |patch_bytes| {
        let options = Options { patch_bytes, ..Options::default() };
        write_patch(&old.0, &new.0, &old.1, &new.1, &options, &mut Counter(0))
    };
    let length = make(u64::MAX).unwrap().bytes;
    assert_eq!(make(length).unwrap().bytes, length);
    let error = make(length - 1).unwrap_err();
    assert!(matches!(error, Error::PatchTooLarge { limit } if limit == length - 1), "{error}");
}

#[test]
fn a_content_that_is_another_is_an_error() {
    let nodes: Nodes = [(b"f".to_vec(), file("abc"))].into();
    let (_, contents) = in_memory(&nodes);
    let right = Id::of(b"abc");
    let none = tree(&[]);
    for (size, text_bytes) in [(3, 10), (3, 1)] {
        let options = Options { text_bytes, ..Options::default() };
        for (claimed, id) in [(size - 1, right), (size + 1, right), (size, Id::of(b"abd"))] {
            let claims = tree(&[("f", claimed, id)]);
            let wrong = Wrong(&contents, right);
            let new = write_patch(&none, &claims, &contents, &wrong, &options, &mut Counter(0)).unwrap_err();
            assert!(matches!(new, Error::Changed { side: Side::New, .. }), "{new}");
            let old = write_patch(&claims, &none, &wrong, &contents, &options, &mut Counter(0)).unwrap_err();
            assert!(matches!(old, Error::Changed { side: Side::Old, .. }), "{old}");
        }
    }
    let gone = tree(&[("g", 3, Id::of(b"gone"))]);
    let error = write_patch(&none, &gone, &contents, &contents, &Options::default(), &mut Counter(0)).unwrap_err();
    assert!(matches!(error, Error::Changed { side: Side::New, .. }), "{error}");
}

/// Gives one content whatever is asked for.
struct Wrong<'a>(&'a dyn Source, Id);

impl Source for Wrong<'_> {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn io::Read + '_>> {
        self.0.open(&Entry { id: self.1, ..entry.clone() })
    }
}

#[test]
fn it_works_on_the_stack_of_a_file_worker() {
    let work = || {
        let text = |step: usize| (0..60_000usize).map(|line| format!("{}\n", line * step % 59_999)).collect::<String>();
        let old: Nodes =
            [(b"t".to_vec(), file(text(1))), (b"b".to_vec(), file(b"\0".repeat(100_000))), (b"m".to_vec(), file(text(3)))].into();
        let new: Nodes =
            [(b"t".to_vec(), file(text(7))), (b"b".to_vec(), file(b"\0\x01".repeat(70_000))), (b"n".to_vec(), file(text(3) + "x"))].into();
        let (patch, summary) = patch(&old, &new, &Options::default());
        assert_eq!((summary.modified, summary.renamed), (2, 1));
        assert!(!patch.is_empty());
    };
    // As much as the agent's threads for files have.
    thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap().join().unwrap();
}
