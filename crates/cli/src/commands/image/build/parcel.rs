//! Archives on their way into a step: files of the context, and what comes out of other images or archives, by other names, owners and bits.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use bytes::Bytes;
use caisson_tree::{
    MAX_ID, normal,
    tar::{self, About, Kind, Member, Members},
};
use sha2::{Digest, Sha256};

use super::context::open_file;
use crate::client::{Body, pieces, read_piece};

/// A piece is about as long.
const PIECE: usize = 256 << 10;

/// Something that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the directory that it goes into; empty for the directory itself.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    Link(Vec<u8>),
    File { path: PathBuf, digest: [u8; 32] },
    Text(String),
}

/// What `--chown` and `--chmod` say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dress {
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
}

impl Entry {
    /// Adds to a digest all that a build can see of it, which its time is not.
    pub(super) fn add_to(&self, hash: &mut Sha256) {
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&self.name);
        add(&self.mode.to_le_bytes());
        match &self.content {
            Content::Nothing => add(b"directory"),
            Content::Link(target) => [b"link", &target[..]].into_iter().for_each(add),
            Content::File { digest, .. } => [b"file", &digest[..]].into_iter().for_each(add),
            Content::Text(text) => add(&[b"file", &Sha256::digest(text)[..]].concat()),
        }
    }
}

/// An archive of these, all of them root's unless `dress` says otherwise.
pub(super) fn of_entries(entries: Vec<Entry>, dress: Dress) -> Body {
    body(Parcel::new(Entries { entries: entries.into_iter(), open: None, dress }))
}

fn body(from: impl Read + Send + 'static) -> Body {
    let from: Box<dyn Read + Send> = Box::new(from);
    pieces(from, |mut from| {
        let piece = read_piece(&mut from)?;
        Ok((!piece.is_empty()).then_some((piece, from)))
    })
}

/// What makes an archive a little at a time.
trait Make {
    /// Adds a little more to `out`, which is empty, and says whether there is more behind it.
    fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool>;
}

/// An archive that is made while it is read.
struct Parcel<M> {
    maker: M,
    ended: bool,
    out: Vec<u8>,
    read: usize,
}

impl<M: Make> Parcel<M> {
    fn new(maker: M) -> Self {
        Self { maker, ended: false, out: Vec::new(), read: 0 }
    }
}

impl<M: Make> Read for Parcel<M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.out.len() && !self.ended {
            self.out.clear();
            self.read = 0;
            self.ended = !self.maker.more(&mut self.out)?;
        }
        let count = buffer.len().min(self.out.len() - self.read);
        buffer[..count].copy_from_slice(&self.out[self.read..][..count]);
        self.read += count;
        Ok(count)
    }
}

struct Entries {
    entries: std::vec::IntoIter<Entry>,
    /// The file that is being read, how much of it is left, and zeros behind it.
    open: Option<(Box<dyn Read + Send>, u64, usize)>,
    dress: Dress,
}

impl Make for Entries {
    fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if let Some((file, left, padding)) = &mut self.open {
            let most = usize::try_from(*left).unwrap_or(PIECE).min(PIECE);
            out.resize(most, 0);
            file.read_exact(out).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other("a file of the context became shorter while it was copied"),
                _ => error,
            })?;
            *left -= most as u64;
            if *left == 0 {
                out.resize(most + *padding, 0);
                self.open = None;
            }
            return Ok(true);
        }
        while out.len() < PIECE && self.open.is_none() {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(&tar::END);
                return Ok(false);
            };
            self.begin(entry, out)?;
        }
        Ok(true)
    }
}

impl Entries {
    fn begin(&mut self, entry: Entry, out: &mut Vec<u8>) -> io::Result<()> {
        let (content, size): (Box<dyn Read + Send>, u64) = match &entry.content {
            Content::File { path, .. } => {
                let file = open_file(path)?;
                let size = file.metadata()?.len();
                (Box::new(file), size)
            }
            Content::Text(text) => (Box::new(io::Cursor::new(text.clone())), text.len() as u64),
            Content::Nothing | Content::Link(_) => (Box::new(io::empty()), 0),
        };
        let link = if let Content::Link(target) = &entry.content { &target[..] } else { b"" };
        let name = if entry.name.is_empty() { b"./" } else { &entry.name[..] };
        let mode = self.dress.mode.unwrap_or(entry.mode);
        let (user, group) = self.dress.owner.unwrap_or((0, 0));
        tar::header_of(out, entry.kind, name, link, About { mode, user, group, size, modified: entry.modified });
        self.open = (size > 0).then(|| (content, size, tar::padding(size)));
        Ok(())
    }
}

/// An archive that is there already, with its owners; a file in it that is the only one gets the name `only`, where that is given.
pub(super) fn of_archive(archive: impl Read + Send + 'static, dress: Dress, only: Option<Vec<u8>>) -> Body {
    let pieces: Pieces = Box::new(in_pieces(archive));
    body(Parcel::new(Archive { members: Members::new(pieces), dress, only, inside: false, padding: 0 }))
}

type Pieces = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

fn in_pieces(mut from: impl Read + Send + 'static) -> impl Iterator<Item = io::Result<Bytes>> + Send {
    std::iter::from_fn(move || match read_piece(&mut from) {
        Ok(piece) if piece.is_empty() => None,
        other => Some(other),
    })
}

struct Archive {
    members: Members<Pieces>,
    dress: Dress,
    only: Option<Vec<u8>>,
    /// Whether a member's content may come.
    inside: bool,
    padding: usize,
}

impl Make for Archive {
    fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.inside {
            match self.members.content().map_err(io::Error::other)? {
                Some(piece) => out.extend_from_slice(&piece),
                None => {
                    out.resize(self.padding, 0);
                    self.inside = false;
                }
            }
            return Ok(true);
        }
        let Some(member) = self.members.next_member().map_err(io::Error::other)? else {
            out.extend_from_slice(&tar::END);
            return Ok(false);
        };
        self.begin(member, out)?;
        Ok(true)
    }
}

impl Archive {
    fn begin(&mut self, member: Member, out: &mut Vec<u8>) -> io::Result<()> {
        let id = |id: u64| match u32::try_from(id) {
            Ok(id) if id <= MAX_ID => Ok(id),
            _ => Err(io::Error::other(format!("the archive has an owner whose id is above {MAX_ID}; say whose it is to be with --chown"))),
        };
        let (user, group) = match self.dress.owner {
            Some(owner) => owner,
            None => (id(member.user)?, id(member.group)?),
        };
        let name = match &self.only {
            Some(only) if member.kind == Kind::File => only.clone(),
            _ => member.path,
        };
        let mode = self.dress.mode.filter(|_| member.kind != Kind::Symlink).unwrap_or(member.mode);
        let about = About { mode, user, group, size: member.size, modified: member.modified.tv_sec };
        tar::header_of(out, member.kind, &name, &member.link, about);
        self.inside = member.size > 0;
        self.padding = tar::padding(member.size);
        Ok(())
    }
}

/// A local archive that `ADD` unpacks: plain, or compressed by gzip or Zstandard. `None` for any other file.
pub(super) fn unpacked(path: &std::path::Path) -> io::Result<Option<Box<dyn Read + Send>>> {
    let mut magic = [0; 6];
    let count = { open_file(path)?.take(6).read(&mut magic)? };
    let plain = || -> io::Result<Box<dyn Read + Send>> {
        let file = open_file(path)?;
        Ok(match &magic[..count] {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::new(file)?),
            _ => Box::new(file),
        })
    };
    // What is compressed in another way cannot be looked into.
    let other = match &magic[..count] {
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        _ => None,
    };
    if let Some(other) = other {
        return Err(io::Error::other(format!(
            "it is compressed by {other}, which is not supported; compress it by gzip or Zstandard, or COPY it"
        )));
    }
    let mut first = Members::new(in_pieces(plain()?));
    let is_archive = matches!(first.next_member(), Ok(Some(member)) if normal(&member.path).is_ok());
    if is_archive { plain().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use http_body_util::BodyExt;

    use super::*;

    async fn members(body: Body) -> Vec<(String, Kind, u32, (u64, u64), Vec<u8>)> {
        let bytes = body.collect().await.unwrap().to_bytes();
        let mut members = Members::new([Ok(bytes)].into_iter());
        let mut all = Vec::new();
        while let Some(member) = members.next_member().unwrap() {
            let mut content = Vec::new();
            while let Some(piece) = members.content().unwrap() {
                content.extend_from_slice(&piece);
            }
            all.push((String::from_utf8(member.path).unwrap(), member.kind, member.mode, (member.user, member.group), content));
        }
        all
    }

    fn entry(name: &str, content: Content) -> Entry {
        let kind = match content {
            Content::Nothing => Kind::Directory,
            Content::Link(_) => Kind::Symlink,
            _ => Kind::File,
        };
        Entry { name: name.as_bytes().to_vec(), kind, mode: 0o640, modified: 1, content }
    }

    #[tokio::test]
    async fn entries_become_an_archive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let large = vec![7; 2 * PIECE + 3];
        fs::write(&path, &large).unwrap();
        let all = vec![
            entry("", Content::Nothing),
            entry("f", Content::File { path: path.clone(), digest: [0; 32] }),
            entry("l", Content::Link(b"f".to_vec())),
            entry("t", Content::Text("text".to_owned())),
            entry("e", Content::Text(String::new())),
        ];
        let plain = members(of_entries(all.clone(), Dress::default())).await;
        let names: Vec<_> = plain.iter().map(|member| (member.0.as_str(), member.1, member.2, member.3)).collect();
        let root = (0, 0);
        assert_eq!(
            names,
            [
                ("./", Kind::Directory, 0o640, root),
                ("f", Kind::File, 0o640, root),
                ("l", Kind::Symlink, 0o640, root),
                ("t", Kind::File, 0o640, root),
                ("e", Kind::File, 0o640, root)
            ]
        );
        assert!(plain[1].4 == large && plain[3].4 == b"text");
        let dressed = members(of_entries(all, Dress { owner: Some((7, 8)), mode: Some(0o755) })).await;
        assert!(dressed.iter().all(|member| (member.2, member.3) == (0o755, (7, 8))));
        // And through again.
        let mut archive = Vec::new();
        let about = About { mode: 0o4755, user: 5, group: 6, size: 3, modified: 0 };
        tar::header_of(&mut archive, Kind::File, b"long/name", b"", about);
        archive.extend_from_slice(b"abc");
        archive.resize(archive.len() + tar::padding(3), 0);
        archive.extend_from_slice(&tar::END);
        let again = members(of_archive(io::Cursor::new(archive.clone()), Dress::default(), Some(b"other".to_vec()))).await;
        assert_eq!(again, [("other".to_owned(), Kind::File, 0o4755, (5, 6), b"abc".to_vec())]);
        let again = members(of_archive(io::Cursor::new(archive), Dress { owner: Some((1, 2)), mode: Some(0o600) }, None)).await;
        assert_eq!((again[0].0.as_str(), again[0].2, again[0].3), ("long/name", 0o600, (1, 2)));
        let empty = members(of_entries(Vec::new(), Dress::default())).await;
        assert!(empty.is_empty());
    }

    #[test]
    fn archives_are_told_from_other_files() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut archive = Vec::new();
        tar::file(&mut archive, b"f", 0);
        archive.extend_from_slice(&tar::END);
        fs::write(at("a.tar"), &archive).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(fs::File::create(at("a.tgz")).unwrap(), flate2::Compression::fast());
        gzip.write_all(&archive).unwrap();
        gzip.finish().unwrap();
        fs::write(at("a.tar.zst"), zstd::encode_all(&archive[..], 1).unwrap()).unwrap();
        for name in ["a.tar", "a.tgz", "a.tar.zst"] {
            let mut plain = Vec::new();
            unpacked(&at(name)).unwrap().unwrap().read_to_end(&mut plain).unwrap();
            assert!(plain == archive, "{name}");
        }
        let mut gzip = flate2::write::GzEncoder::new(fs::File::create(at("text.gz")).unwrap(), flate2::Compression::fast());
        gzip.write_all(b"no archive").unwrap();
        gzip.finish().unwrap();
        fs::write(at("empty"), "").unwrap();
        for name in ["text.gz", "empty"] {
            assert!(unpacked(&at(name)).unwrap().is_none(), "{name}");
        }
        fs::write(at("a.xz"), [0xfd, b'7', b'z', b'X', b'Z', 0]).unwrap();
        assert!(unpacked(&at("a.xz")).err().unwrap().to_string().contains("xz"));
    }

    #[test]
    fn a_digest_tells_names_bits_and_contents_apart() {
        let digest = |entry: &Entry| {
            let mut hash = Sha256::new();
            entry.add_to(&mut hash);
            hash.finalize()
        };
        let text = |text: &str| entry("a", Content::Text(text.to_owned()));
        let same = Entry { modified: 99, ..text("x") };
        assert_eq!(digest(&text("x")), digest(&same));
        for other in [
            text("y"),
            Entry { mode: 0o600, ..text("x") },
            entry("b", Content::Text("x".to_owned())),
            entry("a", Content::Link(b"x".to_vec())),
        ] {
            assert_ne!(digest(&text("x")), digest(&other), "{other:?}");
        }
    }
}
