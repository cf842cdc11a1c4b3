//! Layers of images that mean harm: whatever is in them, nothing is made outside of their directory, nothing but files, directories, links and
//! whiteouts within it, nobody owns anything who has no place in a sandbox, and no more is written than an image may have.
#![no_main]

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use arbitrary::Arbitrary;
use caisson_fuzz::members::{Member, archive};
use caisson_tree::{Allowance, Layer};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const MOST_BYTES: u64 = 2000;
const MOST_ENTRIES: u64 = 12;
const HIGHEST: u32 = 65_535;

#[derive(Debug, Arbitrary)]
struct Input {
    members: Vec<Member>,
    end: bool,
    cut: u8,
}

fuzz_target!(|input: Input| {
    let base = TempDir::new().expect("there is a place for temporary files");
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    fs::create_dir(&root).expect("the place can be used");
    fs::create_dir(&outside).expect("the place can be used");
    fs::write(outside.join("safe"), "safe").expect("the place can be used");
    let before = look(&outside);
    let bytes = archive(&input.members, base.path(), input.end);
    let pieces = bytes.chunks(usize::from(input.cut).max(1) * 16).map(|piece| Ok::<_, io::Error>(piece.to_vec().into()));
    let allowance = Allowance::new(MOST_BYTES, MOST_ENTRIES);
    let mut layer = Layer::new(fs::File::open(&root).expect("the place can be used").into(), &allowance);
    if let Err(error) = layer.all(pieces) {
        let text = error.to_string();
        assert!(text.len() < 4000 && !text.chars().any(char::is_control), "{text:?}");
    }
    assert_eq!(look(&outside), before);
    assert_eq!(fs::read_dir(base.path()).expect("it is there").count(), 2);
    let mut held = Held::default();
    held.look_below(&root);
    // A whiteout is a member, and may need directories that are made for it.
    assert!(held.entries <= MOST_ENTRIES && held.bytes <= MOST_BYTES, "{held:?}");
    assert!(layer.done.bytes <= MOST_BYTES);
});

/// What could have changed.
fn look(outside: &Path) -> (u32, u32, u32, usize, u32, u64, u32, String) {
    let directory = fs::metadata(outside).expect("it is there");
    let safe = fs::metadata(outside.join("safe")).expect("it is there");
    let entries = fs::read_dir(outside).expect("it is there").count();
    let content = fs::read_to_string(outside.join("safe")).expect("it is there");
    (directory.mode(), directory.uid(), directory.gid(), entries, safe.mode(), safe.nlink(), safe.uid(), content)
}

/// What a layer has become.
#[derive(Debug, Default)]
struct Held {
    entries: u64,
    bytes: u64,
}

impl Held {
    fn look_below(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).expect("root reads it") {
            let path = entry.expect("root reads it").path();
            let about = fs::symlink_metadata(&path).expect("nobody changes it");
            let kind = about.file_type();
            self.entries += 1;
            assert!(about.uid() <= HIGHEST && about.gid() <= HIGHEST, "{path:?} belongs to {}:{}", about.uid(), about.gid());
            if kind.is_dir() {
                self.look_below(&path);
            } else if kind.is_file() {
                // One file of several names is there once.
                self.bytes += about.len() / about.nlink();
            } else {
                assert!(kind.is_symlink() || kind.is_char_device() && about.rdev() == 0, "{path:?} is {kind:?}");
            }
        }
    }
}
