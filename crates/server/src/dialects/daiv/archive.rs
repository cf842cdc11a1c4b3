//! Archives as they are taken: written anew as they come, with nothing in them but what is wanted.
//!
//! One bad member refuses them all, and nobody can tell before the end: what is made is for nobody until then. What is to be kept is decided by
//! the members in front of it alone.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufReader, Read, Write},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use caisson_core::Limits;
use caisson_tree::{
    MAX_PATH,
    tar::{About, END, Kind, Member, Members, header_of, padding},
};

use super::python::repr;

/// Bytes that are read in one go.
pub(super) const PIECE: usize = 128 << 10;
/// What names may come to in all: they are kept while an archive is read.
const MOST_NAMES: usize = 64 << 20;
/// Folders that an entry may be in, one in the other, and steps of a link.
const DEEPEST: usize = 256;
/// What one may take to come and to be read.
pub(super) const MOST_TIME: Duration = Duration::from_secs(900);
/// What a stream may make us keep to be decompressed.
const MOST_MEMORY: u64 = 128 << 20;
/// The same for Zstandard, as a power of two; it is what RFC 8878 asks of everybody.
const WINDOW: u32 = 23;
/// What tells how a stream is compressed is in its first bytes.
const MAGIC: usize = 6;

/// Why an archive is refused, in upstream's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) String);

fn unreadable(why: impl std::fmt::Display) -> Refused {
    Refused(format!("Invalid or truncated archive: {why}"))
}

/// Why nothing is made of one.
#[derive(Debug)]
pub(super) enum NotTidied {
    Refused(Refused),
    /// It cannot be written.
    Written(io::Error),
}

impl From<Refused> for NotTidied {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// How much may come out of an archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl From<&Limits> for Most {
    fn from(limits: &Limits) -> Self {
        Self { bytes: limits.disk_bytes, entries: limits.disk_inodes }
    }
}

/// Writes the archive that is made of one, which comes piece by piece.
pub(super) fn tidied(pieces: impl Iterator<Item = Bytes>, most: Most, out: &mut impl Write) -> Result<(), NotTidied> {
    let mut members = Members::new(opened(pieces).map_err(unreadable)?);
    let mut seen = Seen::default();
    let (mut bytes, mut entries) = (0u64, 0u64);
    let mut head = Vec::new();
    while let Some(member) = members.next_member().map_err(unreadable)? {
        bytes = bytes.saturating_add(member.size);
        entries += 1;
        if bytes > most.bytes || entries > most.entries {
            let Most { bytes, entries } = most;
            let why = format!("it holds more than the session has room for, which is {bytes} bytes and {entries} entries");
            return Err(unreadable(why).into());
        }
        let Some(kept) = seen.kept(&member)? else { continue };
        head.clear();
        let about = About { mode: kept.mode, user: 0, group: 0, size: kept.size, modified: 0 };
        header_of(&mut head, kept.kind, &kept.path, &kept.link, about);
        out.write_all(&head).map_err(NotTidied::Written)?;
        while let Some(piece) = members.content().map_err(unreadable)? {
            out.write_all(&piece).map_err(NotTidied::Written)?;
        }
        out.write_all(&[0; 512][..padding(kept.size)]).map_err(NotTidied::Written)?;
    }
    out.write_all(&END).and_then(|()| out.flush()).map_err(NotTidied::Written)
}

type Stream<'a> = Box<dyn Iterator<Item = io::Result<Bytes>> + 'a>;

/// The tar stream, whatever it is compressed by.
fn opened<'a>(mut pieces: impl Iterator<Item = Bytes> + 'a) -> io::Result<Stream<'a>> {
    let until = Instant::now() + MOST_TIME;
    let mut begin = Vec::new();
    while begin.len() < MAGIC
        && let Some(piece) = pieces.next()
    {
        begin.extend_from_slice(&piece);
    }
    let magic: Vec<u8> = begin.iter().copied().take(MAGIC).collect();
    let pieces = [Bytes::from(begin)].into_iter().chain(pieces);
    let compressed = |pieces| BufReader::with_capacity(PIECE, Pieces { pieces, piece: Bytes::new() });
    let reader: Box<dyn Read + 'a> = match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(compressed(pieces))),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(compressed(pieces))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MOST_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(compressed(pieces), stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed(pieces))?;
            decoder.window_log_max(WINDOW)?;
            Box::new(decoder)
        }
        _ => return Ok(Box::new(pieces.map(Ok))),
    };
    Ok(Box::new(Decompressed { reader, until }))
}

/// Pieces as they are read.
struct Pieces<I> {
    pieces: I,
    piece: Bytes,
}

impl<I: Iterator<Item = Bytes>> Read for Pieces<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(piece) = self.pieces.next() else { return Ok(0) };
            self.piece = piece;
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// What a reader has, in pieces, for as long as there is time.
struct Decompressed<R> {
    reader: R,
    until: Instant,
}

impl<R: Read> Iterator for Decompressed<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if Instant::now() > self.until {
            let message = format!("it takes more than {} s to read", MOST_TIME.as_secs());
            return Some(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        let mut piece = vec![0; PIECE];
        loop {
            match self.reader.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => {
                    piece.truncate(count);
                    return Some(Ok(piece.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A member as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    path: Vec<u8>,
    kind: Kind,
    link: Vec<u8>,
    mode: u32,
    size: u64,
}

/// What an entry is by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Directory,
    File,
    Link,
}

/// What has been kept so far.
#[derive(Debug, Default)]
struct Seen {
    entries: HashMap<Vec<u8>, Is>,
    /// Where links that are kept pass by: what is a link there later would lead them elsewhere.
    passed: HashSet<Vec<u8>>,
    bytes: usize,
}

impl Seen {
    /// What is kept of a member, if it is.
    fn kept(&mut self, member: &Member) -> Result<Option<Kept>, Refused> {
        let Some(path) = normal(&member.path)? else { return Ok(None) };
        let left_out = |why: &str| {
            tracing::debug!("{} of an archive is left out: {why}", repr(&path));
            Ok(None)
        };
        if path.len() > MAX_PATH {
            return Err(unreadable(format!("{} is longer than any path", repr(&path))));
        }
        if path.iter().filter(|byte| **byte == b'/').count() > DEEPEST {
            return Err(unreadable(format!("{} is in more than {DEEPEST} folders", repr(&path))));
        }
        let mut passed = Vec::new();
        let is = match member.kind {
            Kind::File => Is::File,
            Kind::Directory => Is::Directory,
            Kind::Symlink if self.passed.contains(&path) => return left_out("it is a link where another one passes by"),
            Kind::Symlink => match self.passed_by(&path, &member.link) {
                Some(prefixes) => {
                    passed = prefixes;
                    Is::Link
                }
                None => return left_out("it is a link that leads elsewhere"),
            },
            Kind::HardLink | Kind::Special => return left_out("it is neither a file, a folder nor a link"),
        };
        // From the innermost: what a known folder is in is known, and is a folder.
        let mut new = Vec::new();
        for parent in path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]) {
            match self.entries.get(parent) {
                Some(Is::Directory) => break,
                Some(Is::Link) => return left_out("it is behind a link"),
                Some(Is::File) => return Err(unreadable(format!("{} is a file and a folder", repr(parent)))),
                None => new.push(parent.to_vec()),
            }
        }
        match (self.entries.get(&path), is) {
            (Some(Is::Directory), Is::File | Is::Link) | (Some(Is::File | Is::Link), Is::Directory) => {
                return Err(unreadable(format!("{} is a folder and something else", repr(&path))));
            }
            _ => {}
        }
        for parent in new {
            self.add(parent, Is::Directory)?;
        }
        self.add(path.clone(), is)?;
        for prefix in passed {
            let length = prefix.len();
            let is_new = self.passed.insert(prefix);
            self.count(if is_new { length } else { 0 })?;
        }
        let mode = tidy(member.mode, is == Is::Directory);
        let link = if is == Is::Link { member.link.clone() } else { Vec::new() };
        Ok(Some(Kept { path, kind: member.kind, link, mode, size: member.size }))
    }

    fn add(&mut self, path: Vec<u8>, is: Is) -> Result<(), Refused> {
        let length = path.len();
        let is_new = self.entries.insert(path, is).is_none();
        self.count(if is_new { length } else { 0 })
    }

    fn count(&mut self, bytes: usize) -> Result<(), Refused> {
        self.bytes += bytes;
        if self.bytes > MOST_NAMES {
            return Err(unreadable(format!("its names have more than {MOST_NAMES} bytes")));
        }
        Ok(())
    }

    /// What a link passes by, if it is relative and leads to something in the archive, not by another link: nobody knows where that leads in
    /// the end. Folders that are known stay folders, and are left out.
    fn passed_by(&self, path: &[u8], target: &[u8]) -> Option<Vec<Vec<u8>>> {
        if target.is_empty() || target.starts_with(b"/") || target.contains(&0) || target.len() > MAX_PATH {
            return None;
        }
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
        let joined = [parent, b"/", target].concat();
        let parts: Vec<&[u8]> = joined.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.len() > 2 * DEEPEST {
            return None;
        }
        let mut prefix: Vec<&[u8]> = Vec::new();
        let mut passed = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if *part == b".." {
                prefix.pop()?;
                // It was passed by on the way down.
                continue;
            }
            prefix.push(part);
            if index + 1 == parts.len() {
                break;
            }
            let whole = prefix.join(&b'/');
            match self.entries.get(&whole) {
                Some(Is::Link) => return None,
                Some(Is::Directory) => {}
                Some(Is::File) | None => passed.push(whole),
            }
        }
        Some(passed)
    }
}

/// A member's name without what means nothing; none for the folder itself.
fn normal(name: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
    // A slash at the end is not the name's.
    let mut name = &name[..name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1)];
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    if name.starts_with(b"/") {
        return Err(Refused(format!("Archive contains an absolute path: {}", repr(name))));
    }
    let parts = || name.split(|byte| *byte == b'/');
    if parts().any(|part| part == b"..") {
        return Err(Refused(format!("Archive contains a parent-directory traversal path: {}", repr(name))));
    }
    let path = parts().filter(|part| !matches!(*part, b"" | b".")).collect::<Vec<_>>().join(&b'/');
    Ok(Some(path).filter(|path| !path.is_empty()))
}

/// Permission bits as everything here has them: for all to read, for the owner to write, and nothing else but whether it is a program.
pub(super) fn tidy(mode: u32, is_directory: bool) -> u32 {
    let executable = if is_directory || mode & 0o111 != 0 { 0o111 } else { 0 };
    (mode & 0o777) | 0o644 | executable
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { bytes: 1 << 20, entries: 100 };

    fn member(out: &mut Vec<u8>, kind: Kind, path: &str, link: &str, mode: u32, content: &[u8]) {
        let about = About { mode, user: 7, group: 7, size: content.len() as u64, modified: 1_700_000_000 };
        header_of(out, kind, path.as_bytes(), link.as_bytes(), about);
        out.extend_from_slice(content);
        out.resize(out.len() + padding(content.len() as u64), 0);
    }

    fn archive(members: &[(Kind, &str, &str, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, path, link, mode, content) in members {
            member(&mut out, *kind, path, link, *mode, content);
        }
        out.extend_from_slice(&END);
        out
    }

    /// What is made of an archive that comes in pieces of so many bytes.
    fn tidy_archive(bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let pieces = bytes.chunks(size).map(Bytes::copy_from_slice);
        match tidied(pieces, MOST, &mut out) {
            Ok(()) => Ok(out),
            Err(NotTidied::Refused(Refused(why))) => Err(why),
            Err(NotTidied::Written(error)) => panic!("{error}"),
        }
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        tidy_archive(bytes, 1000).map(drop)
    }

    /// Name, kind, link, mode and content of what is made of it.
    fn made(bytes: &[u8]) -> Vec<(String, Kind, String, u32, String)> {
        let made = tidy_archive(bytes, PIECE).unwrap();
        assert_eq!(tidy_archive(bytes, 1).unwrap(), made, "however it comes");
        let pieces = [Ok(Bytes::from(made))];
        let mut members = Members::new(pieces.into_iter());
        let mut made = Vec::new();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        while let Some(member) = members.next_member().unwrap() {
            assert_eq!((member.modified.tv_sec, member.user, member.group), (0, 0, 0), "{member:?}");
            let mut content = Vec::new();
            while let Some(piece) = members.content().unwrap() {
                content.extend_from_slice(&piece);
            }
            made.push((text(member.path), member.kind, text(member.link), member.mode, text(content)));
        }
        made
    }

    #[test]
    fn names_that_lead_out_refuse_the_whole_archive() {
        let fine = (Kind::File, "fine", "", 0o644, &b"x"[..]);
        for (name, why) in [
            ("/etc/x", "Archive contains an absolute path: '/etc/x'"),
            (".//etc/x", "Archive contains an absolute path: '/etc/x'"),
            ("../x", "Archive contains a parent-directory traversal path: '../x'"),
            ("a/../../x", "Archive contains a parent-directory traversal path: 'a/../../x'"),
            ("a/..", "Archive contains a parent-directory traversal path: 'a/..'"),
            ("../it's", "Archive contains a parent-directory traversal path: \"../it's\""),
        ] {
            for kind in [Kind::File, Kind::Directory, Kind::Symlink, Kind::Special] {
                let bytes = archive(&[fine, (kind, name, "x", 0o644, b"")]);
                assert_eq!(checked(&bytes).unwrap_err(), why, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_made_anew() {
        let bytes = archive(&[
            (Kind::Directory, "./", "", 0o700, b""),
            (Kind::Directory, "./src/", "", 0o1700, b""),
            (Kind::File, "./src/a.sh", "", 0o4711, b"one"),
            (Kind::File, "src//./b", "", 0o600, b"two"),
            (Kind::File, "src/b", "", 0, b"last"),
            (Kind::HardLink, "hard", "src/b", 0o644, b""),
            (Kind::Special, "fifo", "", 0o644, b""),
            (Kind::Symlink, "src/up", "../src/b", 0o777, b""),
            (Kind::Symlink, "out", "../x", 0o777, b""),
            (Kind::Symlink, "absolute", "/etc/passwd", 0o777, b""),
            (Kind::Symlink, "dir", "src", 0o777, b""),
            (Kind::Symlink, "through", "dir/../../x", 0o777, b""),
            (Kind::File, "dir/behind", "", 0o644, b"nothing"),
            // It leads within for as long as nothing on its way is a link.
            (Kind::Symlink, "early", "later/../../dir/x", 0o777, b""),
            (Kind::Symlink, "first", "later/../src", 0o777, b""),
            (Kind::Symlink, "later", "src/deep/down", 0o777, b""),
            (Kind::Symlink, "src/deep", "..", 0o777, b""),
        ]);
        let made = made(&bytes);
        let shown: Vec<(&str, Kind, &str, u32, &str)> =
            made.iter().map(|(path, kind, link, mode, content)| (path.as_str(), *kind, link.as_str(), *mode, content.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("src", Kind::Directory, "", 0o755, ""),
                ("src/a.sh", Kind::File, "", 0o755, "one"),
                ("src/b", Kind::File, "", 0o644, "two"),
                ("src/b", Kind::File, "", 0o644, "last"),
                ("src/up", Kind::Symlink, "../src/b", 0o777, ""),
                ("dir", Kind::Symlink, "src", 0o777, ""),
                ("first", Kind::Symlink, "later/../src", 0o777, ""),
                ("src/deep", Kind::Symlink, "..", 0o777, ""),
            ]
        );
    }

    #[test]
    fn what_is_cut_short_or_too_much_is_refused() {
        let whole = archive(&[(Kind::File, "a", "", 0o644, &[b'x'; 2000])]);
        checked(&whole).unwrap();
        for bytes in [&b""[..], b"nothing of the kind", &whole[..600], &whole[..whole.len() - 1024], &whole[..whole.len() - 1]] {
            let why = checked(bytes).unwrap_err();
            assert!(why.starts_with("Invalid or truncated archive: "), "{why}");
        }
        let large = archive(&[(Kind::File, "a", "", 0o644, &[0; (1 << 20) + 1])]);
        assert!(checked(&large).unwrap_err().contains("more than the session has room for"));
        let twice = archive(&[(Kind::File, "a", "", 0o644, b""), (Kind::File, "a/b", "", 0o644, b"")]);
        assert_eq!(checked(&twice).unwrap_err(), "Invalid or truncated archive: 'a' is a file and a folder");
        let deep = |folders: usize| archive(&[(Kind::File, &format!("{}x", "a/".repeat(folders)), "", 0o644, b"")]);
        checked(&deep(DEEPEST)).unwrap();
        assert!(checked(&deep(DEEPEST + 1)).unwrap_err().contains("in more than 256 folders"));
        let names: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let many: Vec<(Kind, &str, &str, u32, &[u8])> = names.iter().map(|name| (Kind::File, name.as_str(), "", 0o644, &b""[..])).collect();
        assert!(checked(&archive(&many)).unwrap_err().contains("100 entries"));
    }

    #[test]
    fn archives_are_taken_however_they_are_compressed() {
        let plain = archive(&[(Kind::File, "a", "", 0o644, b"content")]);
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let xz = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::stream::encode_all(&plain[..], 1).unwrap();
        for bytes in [&plain, &gzip, &bzip2, &xz, &zstd] {
            assert_eq!(made(bytes), [("a".to_owned(), Kind::File, String::new(), 0o644, "content".to_owned())]);
            let why = checked(&bytes[..bytes.len() - 9]).unwrap_err();
            assert!(why.starts_with("Invalid or truncated archive: "), "{why}");
        }
    }

    /// A few kilobytes that become very many.
    #[test]
    fn r5_1_what_grows_without_end_is_refused() {
        let mut bytes = Vec::new();
        let about = About { mode: 0o644, user: 0, group: 0, size: 1 << 40, modified: 0 };
        header_of(&mut bytes, Kind::File, b"a", b"", about);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&bytes).unwrap();
        encoder.write_all(&vec![0; 8 << 20]).unwrap();
        assert!(checked(&encoder.finish().unwrap()).unwrap_err().contains("more than the session has room for"));
    }

    #[test]
    fn modes_are_tidied() {
        for (mode, file, directory) in [
            (0o600, 0o644, 0o755),
            (0, 0o644, 0o755),
            (0o755, 0o755, 0o755),
            (0o4711, 0o755, 0o755),
            (0o664, 0o664, 0o775),
            (0o1777, 0o777, 0o777),
        ] {
            assert_eq!((tidy(mode, false), tidy(mode, true)), (file, directory), "{mode:o}");
        }
    }
}
