//! Tar archives that mean harm: however they are cut into pieces, they mean the same; and whatever is in them, nothing outside of the
//! directory is made, changed or linked to.
#![no_main]

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use arbitrary::Arbitrary;
use bytes::Bytes;
use caisson_fuzz::members::{Member, archive};
use caisson_tree::{Links, Unpack, tar::Members};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[derive(Debug, Arbitrary)]
enum Input {
    /// Bytes as they come, cut into pieces of this length.
    Bytes(Vec<u8>, u8),
    /// Headers whose checksums are right.
    Members { members: Vec<Member>, end: bool, within: bool },
}

fuzz_target!(|input: Input| match input {
    Input::Bytes(bytes, cut) => {
        let whole = read(&bytes, bytes.len().max(1));
        assert_eq!(read(&bytes, usize::from(cut).max(1)), whole, "a cut changes nothing");
    }
    Input::Members { members, end, within } => unpack(&members, end, within),
});

/// Every member with its content, or why it was refused.
fn read(bytes: &[u8], cut: usize) -> Result<Vec<String>, String> {
    let pieces = bytes.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let (mut members, mut all) = (Members::new(pieces), Vec::new());
    while let Some(member) = members.next_member().map_err(|error| error.to_string())? {
        let mut length = 0;
        while let Some(piece) = members.content().map_err(|error| error.to_string())? {
            length += piece.len() as u64;
        }
        assert_eq!(length, member.size, "a content is as long as it was announced");
        all.push(format!("{member:?}"));
    }
    Ok(all)
}

fn unpack(members: &[Member], end: bool, within: bool) {
    let base = TempDir::new().expect("there is a place for temporary files");
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    fs::create_dir(&root).expect("the place can be used");
    fs::create_dir(&outside).expect("the place can be used");
    fs::write(outside.join("safe"), "safe").expect("the place can be used");
    let before = look(&outside);
    let bytes = archive(members, base.path(), end);
    let links = if within { Links::Within } else { Links::All };
    let handle = fs::File::open(&root).expect("the place can be used").into();
    let result = Unpack::new(handle, true, links).expect("it is a directory").all([Ok::<_, io::Error>(bytes.into())].into_iter());
    if let Err(error) = result {
        assert!(error.to_string().len() < 4000);
    }
    assert_eq!(look(&outside), before);
    assert_eq!(fs::read_dir(base.path()).expect("it is there").count(), 2);
}

/// What could have changed.
fn look(outside: &Path) -> (u32, usize, u32, u64, String) {
    let directory = fs::metadata(outside).expect("it is there");
    let safe = fs::metadata(outside.join("safe")).expect("it is there");
    let entries = fs::read_dir(outside).expect("it is there").count();
    let content = fs::read_to_string(outside.join("safe")).expect("it is there");
    (directory.mode(), entries, safe.mode(), safe.nlink(), content)
}
