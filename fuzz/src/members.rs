//! Members of tar archives out of choices: their checksums are right, and few names, so that they meet each other.

use std::path::Path;

use arbitrary::Arbitrary;

/// Members one after the other, with an end or broken off.
#[must_use]
pub fn archive(members: &[Member], base: &Path, end: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(|member| member.bytes(base)).collect();
    if end {
        bytes.extend_from_slice(&[0; 1024]);
    }
    bytes
}

/// Absolute names are below the directory that the test is in.
#[derive(Debug, Arbitrary)]
pub struct Member {
    kind: Kind,
    name: Name,
    link: Name,
    mode: u16,
    /// User and group.
    owner: (Id, Id),
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

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Id {
    Root,
    Highest,
    TooHigh,
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
    /// As layers of images have them: of `a`, of `b`, of all of a directory, of the directory above, and of nothing.
    WhiteoutOfA,
    WhiteoutOfB,
    Opaque,
    WhiteoutOfUp,
    WhiteoutOfNothing,
    BookKeeping,
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
        set(108, 8, format!("{:07o}", self.owner.0.number()).as_bytes());
        set(116, 8, format!("{:07o}", self.owner.1.number()).as_bytes());
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

impl Id {
    fn number(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Highest => 65_535,
            Self::TooHigh => 65_536,
            Self::Other(id) => id.into(),
        }
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
                Part::WhiteoutOfA => ".wh.a",
                Part::WhiteoutOfB => ".wh.b",
                Part::Opaque => ".wh..wh..opq",
                Part::WhiteoutOfUp => ".wh...",
                Part::WhiteoutOfNothing => ".wh.",
                Part::BookKeeping => ".wh..wh.plnk",
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
