//! The members of an archive that comes in pieces.

use std::io;

use bytes::Bytes;
use rustix::fs::Timespec;

use super::{BLOCK, Kind, header::Header, padding, pax::Extension};
use crate::{Error, LeftOuts, MAX_PATH};

/// The largest extended header. Some carry extended attributes, of which nothing is taken.
const MAX_EXTENSION: u64 = 256 << 10;
/// Headers in front of one member.
const MAX_HEADERS: u32 = 8;
/// Zeros behind the end: archives are filled up to whole tape records.
const MAX_PADDING: u64 = 1 << 20;
pub(super) const NO_SPARSE: &str = "is a sparse file; pack without `--sparse`";

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Where a link points.
    pub link: Vec<u8>,
    pub mode: u32,
    /// What whoever packed it called the user that it belongs to. Beyond every id there is, if that was no number.
    pub user: u64,
    /// Likewise the group.
    pub group: u64,
    pub modified: Timespec,
    /// Bytes of content; only files have any.
    pub size: u64,
}

/// See the module. `pieces` are those of the stream; when they end, so has the stream.
#[derive(Debug)]
pub struct Members<I> {
    pieces: I,
    piece: Bytes,
    /// Of the present member's content.
    left: u64,
    /// Zeros behind it.
    padding: usize,
    name: Vec<u8>,
    /// What whoever packed it said is not in it. Complete at the end.
    pub left_out: LeftOuts,
}

impl<I: Iterator<Item = io::Result<Bytes>>> Members<I> {
    pub fn new(pieces: I) -> Self {
        Self { pieces, piece: Bytes::new(), left: 0, padding: 0, name: Vec::new(), left_out: LeftOuts::default() }
    }

    /// The next member; what is left of the content of the one before is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        while self.content()?.is_some() {}
        let mut extension = Extension::default();
        let (mut long_path, mut long_link) = (None, None);
        for _ in 0..MAX_HEADERS {
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                if extension != Extension::default() || long_path.is_some() || long_link.is_some() {
                    return Err(self.refused("ends behind a header that announces another member"));
                }
                return self.end().map(|()| None);
            }
            let header = Header::of(&block).map_err(|why| self.refused(why))?;
            self.name = header.name();
            if !header.is_known() {
                return Err(self.refused("has a header of a kind that is not known"));
            }
            match header.kind() {
                b'x' => {
                    let records = self.small(&header, MAX_EXTENSION, "has an extended header that is too long")?;
                    extension.add(&records).map_err(|why| self.refused(why))?;
                }
                b'g' => {
                    let records = self.small(&header, MAX_EXTENSION, "has an extended header that is too long")?;
                    let mut global = Extension::default();
                    global.add(&records).map_err(|why| self.refused(why))?;
                    if global.is_about_a_member() {
                        return Err(self.refused("has a name or a size that is to be that of all members"));
                    }
                }
                b'L' => long_path = Some(self.long(&header)?),
                b'K' => long_link = Some(self.long(&header)?),
                _ => {
                    for left in extension.left_out.named() {
                        self.left_out.add(&left.path, left.why.as_str());
                    }
                    return self.member(&header, extension, long_path, long_link).map(Some);
                }
            }
        }
        Err(self.refused("has too many headers in a row"))
    }

    /// The next piece of the present member's content.
    pub fn content(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left == 0 {
            while self.padding > 0 {
                let skipped = self.piece(self.padding)?;
                self.padding -= skipped.len();
            }
            return Ok(None);
        }
        let piece = self.piece(usize::try_from(self.left).unwrap_or(usize::MAX))?;
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }

    fn member(&mut self, header: &Header<'_>, extension: Extension, path: Option<Vec<u8>>, link: Option<Vec<u8>>) -> Result<Member, Error> {
        let path = extension.path.or(path).unwrap_or_else(|| header.name());
        self.name.clone_from(&path);
        let refused = |why| Error::archive(&path, why);
        let kind = match header.kind() {
            // The oldest archives say by a slash that it is a directory.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' | b'6' => Kind::Special,
            b'5' => Kind::Directory,
            b'S' => return Err(refused(NO_SPARSE)),
            other => return Err(Error::archive(&path, format!("is of a kind that is not known (`{}`)", other.escape_ascii()))),
        };
        let size = match extension.size {
            Some(size) => size,
            None => header.size().map_err(refused)?,
        };
        // Beyond what any file can have, sums would not be sums any more.
        if size > i64::MAX as u64 - MAX_PADDING {
            return Err(refused("has a size that no file can have"));
        }
        if size > 0 && kind != Kind::File {
            return Err(refused("has content, which only files have"));
        }
        let modified = match extension.modified {
            Some(modified) => modified,
            None => Timespec { tv_sec: header.mtime().map_err(refused)?, tv_nsec: 0 },
        };
        let (mode, link) = (header.mode().map_err(refused)?, extension.link.or(link).unwrap_or_else(|| header.link()));
        let (user, group) = header.owner();
        let (user, group) = (extension.user.unwrap_or(user), extension.group.unwrap_or(group));
        (self.left, self.padding) = (size, padding(size));
        Ok(Member { path, kind, link, mode, user, group, modified, size })
    }

    /// A long name of GNU: the content is the name, with a NUL behind it.
    fn long(&mut self, header: &Header<'_>) -> Result<Vec<u8>, Error> {
        let mut name = self.small(header, MAX_PATH as u64 + 1, "has a name that is longer than Linux takes")?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// A content that is kept.
    fn small(&mut self, header: &Header<'_>, max: u64, too_long: &'static str) -> Result<Vec<u8>, Error> {
        let size = header.size().map_err(|why| self.refused(why))?;
        if size > max {
            return Err(self.refused(too_long));
        }
        (self.left, self.padding) = (size, padding(size));
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        while let Some(piece) = self.content()? {
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    /// Behind the first block of zeros.
    fn end(&mut self) -> Result<(), Error> {
        const BEHIND: &str = "goes on behind its end";
        if self.block()?.iter().any(|byte| *byte != 0) {
            return Err(self.refused(BEHIND));
        }
        let mut zeros = 0;
        loop {
            if self.piece.iter().any(|byte| *byte != 0) {
                return Err(self.refused(BEHIND));
            }
            zeros += self.piece.len() as u64;
            if zeros > MAX_PADDING {
                return Err(self.refused("is followed by more zeros than any archive needs"));
            }
            self.piece = match self.pieces.next() {
                Some(piece) => piece.map_err(Error::Stream)?,
                None => return Ok(()),
            };
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let piece = self.piece(BLOCK - have)?;
            block[have..have + piece.len()].copy_from_slice(&piece);
            have += piece.len();
        }
        Ok(block)
    }

    /// At least one byte and at most `max` of the stream.
    fn piece(&mut self, max: usize) -> Result<Bytes, Error> {
        while self.piece.is_empty() {
            self.piece = match self.pieces.next() {
                Some(piece) => piece.map_err(Error::Stream)?,
                None if self.name.is_empty() => return Err(self.refused("is empty, or breaks off at once")),
                None => return Err(self.refused("is the last that came: the archive breaks off")),
            };
        }
        Ok(self.piece.split_to(max.min(self.piece.len())))
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        Error::archive(&self.name, why)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::write, *};

    fn read(bytes: &[u8], cut: usize) -> Result<Vec<(Member, Vec<u8>)>, Error> {
        let pieces: Vec<_> = bytes.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut members = Members::new(pieces.into_iter());
        let mut all = Vec::new();
        while let Some(member) = members.next_member()? {
            let mut content = Vec::new();
            while let Some(piece) = members.content()? {
                content.extend_from_slice(&piece);
            }
            all.push((member, content));
        }
        Ok(all)
    }

    fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (member, content) in members {
            write::header(&mut bytes, member.kind, &member.path, &member.link, member.mode, member.size, member.modified.tv_sec);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len() + padding(member.size), 0);
        }
        bytes.extend_from_slice(&END);
        bytes
    }

    const END: [u8; 2 * BLOCK] = write::END;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8..=255, 1..300)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in name(), link in name(), mode in 0u32..0o10000, content in proptest::collection::vec(any::<u8>(), 0..1500),
            mtime in any::<i32>(), cut in 1usize..2000, is_link in any::<bool>(),
        ) {
            let kind = if is_link { Kind::Symlink } else { Kind::File };
            let content = if is_link { Vec::new() } else { content };
            let link = if is_link { link } else { Vec::new() };
            let modified = Timespec { tv_sec: mtime.into(), tv_nsec: 0 };
            let member = Member { path, kind, link, mode, user: 0, group: 0, modified, size: content.len() as u64 };
            let members = vec![(member.clone(), content), (Member { kind: Kind::Directory, size: 0, link: Vec::new(), ..member }, Vec::new())];
            prop_assert_eq!(read(&archive(&members), cut).unwrap(), members);
        }

        #[test]
        fn garbage_is_refused_and_nothing_worse(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in any::<prop::sample::Index>()) {
            let good = (Member { path: b"f".to_vec(), kind: Kind::File, link: vec![], mode: 0, user: 0, group: 0, modified: Timespec { tv_sec: 0, tv_nsec: 0 }, size: 700 }, vec![7; 700]);
            _ = read(&bytes, 100);
            let mut whole = archive(&[good.clone(), good]);
            let index = at.index(whole.len());
            for (to, from) in whole[index..].iter_mut().zip(bytes.drain(..)) {
                *to ^= from;
            }
            _ = read(&whole, 511);
        }
    }

    #[test]
    fn an_archive_that_breaks_off_is_no_archive() {
        let member = Member {
            path: b"f".to_vec(),
            kind: Kind::File,
            link: vec![],
            mode: 0,
            user: 0,
            group: 0,
            modified: Timespec { tv_sec: 0, tv_nsec: 0 },
            size: 3,
        };
        let whole = archive(&[(member, b"abc".to_vec())]);
        assert!(read(&whole, whole.len()).is_ok());
        for length in [0, 1, 511, 512, 515, 1024, 1536, whole.len() - 1] {
            assert!(matches!(read(&whole[..length], 512), Err(Error::Archive { .. })), "{length}");
        }
    }
}
