//! Tar archives that mean harm: however they are cut into pieces, they mean the same; and whatever is in them, nothing outside of the
//! directory is made, changed or linked to.
#![no_main]

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use arbitrary::Arbitrary;
use bytes::Bytes;
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

#[derive(Debug, Arbitrary)]
struct Member {
    kind: Kind,
    name: Name,
    link: Name,
    mode: u16,
    /// What the header says, when it is not the truth.
    size: Option<Vec<u8>>,
    content: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    File,
    HardLink,
    Symlink,
    Device,
    Directory,
    LongName,
    LongLink,
    Extended,
    Global,
    Sparse,
    Other(u8),
}

/// Few parts, so that members meet each other. None names anything of this machine.
#[derive(Debug, Arbitrary)]
struct Name {
    absolute: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Part {
    A,
    B,
    Here,
    Up,
    Outside,
    Safe,
    Empty,
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
    let mut bytes: Vec<u8> = members.iter().flat_map(|member| member.bytes(base.path())).collect();
    if end {
        bytes.extend_from_slice(&[0; 1024]);
    }
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

impl Member {
    fn bytes(&self, base: &Path) -> Vec<u8> {
        let (name, link) = (self.name.text(base), self.link.text(base));
        let (kind, content) = match self.kind {
            Kind::File => (b'0', self.content.clone()),
            Kind::HardLink => (b'1', Vec::new()),
            Kind::Symlink => (b'2', Vec::new()),
            Kind::Device => (b'3', Vec::new()),
            Kind::Directory => (b'5', Vec::new()),
            Kind::LongName => (b'L', name.clone()),
            Kind::LongLink => (b'K', link.clone()),
            Kind::Extended => (b'x', record(b"path", &name)),
            Kind::Global => (b'g', [record(b"comment", &name), self.content.clone()].concat()),
            Kind::Sparse => (b'S', Vec::new()),
            Kind::Other(letter) => (letter, self.content.clone()),
        };
        let mut block = [0; 512];
        let mut set =
            |at: usize, most: usize, bytes: &[u8]| block[at..][..bytes.len().min(most)].copy_from_slice(&bytes[..bytes.len().min(most)]);
        set(0, 100, &name);
        set(100, 8, format!("{:07o}", self.mode).as_bytes());
        set(124, 12, &self.size.clone().unwrap_or_else(|| format!("{:011o}", content.len()).into_bytes()));
        set(136, 12, b"00000000001");
        set(148, 8, b"        ");
        set(156, 1, &[kind]);
        set(157, 100, &link);
        set(257, 8, b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = [&block[..], &content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

impl Name {
    fn text(&self, base: &Path) -> Vec<u8> {
        let parts: Vec<&str> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::A => "a",
                Part::B => "b",
                Part::Here => ".",
                Part::Up => "..",
                Part::Outside => "outside",
                Part::Safe => "safe",
                Part::Empty => "",
            })
            .collect();
        // Behind an empty first part a path would be absolute, and of this machine.
        let text = parts.join("/").trim_start_matches('/').to_owned();
        if self.absolute { format!("{}/{text}", base.display()).into_bytes() } else { text.into_bytes() }
    }
}

fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", name, b"=", value, b"\n"].concat()
}
