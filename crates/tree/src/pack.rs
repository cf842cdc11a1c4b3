//! From a tree to a tar stream, a piece at a time.
//!
//! What cannot be read is left out, and a record at the end of the archive says so, for which the directory itself comes once more: other
//! programs pass over the record, most of them with a warning.

use std::{collections::HashMap, io};

use rustix::{
    fd::OwnedFd,
    fs::{FileType, Stat, fstat},
    io::Errno,
};

use crate::{
    Error, LeftOuts, PERMISSIONS,
    error::At,
    tar::{self, About, Kind, padding},
    walk::{Visit, Walk},
};

/// A piece ends when it is at least this long.
pub const CHUNK: usize = 256 << 10;
/// Files of more than one name that are remembered, so that their other names become links.
const MAX_NAMES: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Pack {
    walk: Option<Walk>,
    /// What the directory is; absent when one file alone is packed.
    root: Option<Stat>,
    body: Option<Body>,
    /// By device and inode, the first name.
    names: HashMap<(u64, u64), Vec<u8>>,
    pub left_out: LeftOuts,
    ended: bool,
    /// Whether owners and set-id bits are told. Otherwise all is root's, as owners of one machine mean nothing on another.
    owners: bool,
    /// For the first piece.
    begin: Vec<u8>,
}

/// The content that is being read.
#[derive(Debug)]
struct Body {
    /// Absent when there is nothing more to read of it.
    file: Option<OwnedFd>,
    path: Vec<u8>,
    left: u64,
    padding: usize,
}

impl Pack {
    /// A directory, which is open for reading: itself as `./`, then everything in it.
    pub fn directory(root: OwnedFd) -> Result<Self, Error> {
        Self::directory_of(root, false)
    }

    /// The same; `owners` says whether owners and set-id bits are told.
    pub fn directory_of(root: OwnedFd, owners: bool) -> Result<Self, Error> {
        let stat = fstat(&root).at(b"")?;
        let mut begin = Vec::with_capacity(CHUNK);
        head(&mut begin, Kind::Directory, b"./", b"", &stat, 0, owners);
        let walk = Walk::new(root).at(b"")?;
        Ok(Self { walk: Some(walk), root: Some(stat), begin, owners, ..Self::empty() })
    }

    /// One ordinary file, open for reading, under this name.
    pub fn file(file: OwnedFd, name: &[u8]) -> Result<Self, Error> {
        Self::file_of(file, name, false)
    }

    /// The same; `owners` says whether owner and set-id bits are told.
    pub fn file_of(file: OwnedFd, name: &[u8], owners: bool) -> Result<Self, Error> {
        let stat = fstat(&file).at(name)?;
        let mut begin = Vec::new();
        let body = open_body(&mut begin, file, name.to_vec(), &stat, owners);
        Ok(Self { begin, body: Some(body), owners, ..Self::empty() })
    }

    fn empty() -> Self {
        let (names, left_out, begin) = (HashMap::new(), LeftOuts::default(), Vec::new());
        Self { walk: None, root: None, body: None, names, left_out, ended: false, owners: false, begin }
    }

    /// The next piece; `None` after the last.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut out = std::mem::take(&mut self.begin);
        if !self.ended {
            out.reserve(CHUNK);
        }
        while out.len() < CHUNK && !self.ended {
            match self.body.take() {
                Some(body) => self.body = self.content(body, &mut out)?,
                None => self.entry(&mut out)?,
            }
        }
        Ok((!out.is_empty()).then_some(out))
    }

    fn content(&mut self, mut body: Body, out: &mut Vec<u8>) -> Result<Option<Body>, Error> {
        if body.left == 0 {
            out.resize(out.len() + body.padding, 0);
            return Ok(None);
        }
        let room = (CHUNK - out.len()).min(usize::try_from(body.left).unwrap_or(usize::MAX));
        let count = match &body.file {
            Some(file) => read(file, out, room).unwrap_or(0),
            None => {
                out.resize(out.len() + room, 0);
                room
            }
        };
        if count == 0 {
            // It has become shorter, or the disk is broken; and the header has said already how long it is.
            if self.root.is_none() {
                return Err(Error::entry(&body.path, io::Error::other("could not be read to its end")));
            }
            self.left_out.add(&body.path, "could not be read to its end, which is filled up with zeros");
            body.file = None;
        }
        body.left -= count as u64;
        Ok(Some(body))
    }

    fn entry(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(walk) = &mut self.walk else {
            self.end(out);
            return Ok(());
        };
        let visit = match walk.next_entry() {
            Ok(Some(visit)) => visit,
            Ok(None) => {
                self.walk = None;
                return Ok(());
            }
            Err((path, error)) => {
                self.left_out.add(&path, format!("could not be read to its end: {error}"));
                return Ok(());
            }
        };
        let done = match visit.kind {
            FileType::Directory => directory(walk, &visit, out, self.owners),
            FileType::RegularFile => return self.regular(&visit, out),
            FileType::Symlink => link(walk, &visit, out, self.owners),
            _ => Err(io::Error::other("it is a socket, a fifo or a device")),
        };
        if let Err(error) = done {
            self.leave_out(&visit.path, &error);
        }
        Ok(())
    }

    fn regular(&mut self, visit: &Visit, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        let (file, stat) = match walk.open(visit) {
            Ok(opened) => opened,
            Err(error) => {
                self.leave_out(&visit.path, &error);
                return Ok(());
            }
        };
        if stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)) {
                head(out, Kind::HardLink, &visit.path, first, &stat, 0, self.owners);
                return Ok(());
            }
            if self.names.len() < MAX_NAMES {
                self.names.insert((stat.st_dev, stat.st_ino), visit.path.clone());
            }
        }
        self.body = Some(open_body(out, file, visit.path.clone(), &stat, self.owners));
        Ok(())
    }

    /// What has gone since its directory was read is not there; everything else is told.
    fn leave_out(&mut self, path: &[u8], error: &io::Error) {
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) => {}
            Some(Errno::ACCESS | Errno::PERM) => self.left_out.add(path, "may not be read"),
            _ => self.left_out.add(path, error.to_string()),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if let Some(stat) = self.root.filter(|_| !self.left_out.is_empty()) {
            tar::left_out(out, &self.left_out);
            head(out, Kind::Directory, b"./", b"", &stat, 0, self.owners);
        }
        out.extend_from_slice(&tar::END);
        self.ended = true;
    }
}

fn directory(walk: &mut Walk, visit: &Visit, out: &mut Vec<u8>, owners: bool) -> io::Result<()> {
    let stat = fstat(walk.descend(visit)?)?;
    head(out, Kind::Directory, &[&visit.path, &b"/"[..]].concat(), b"", &stat, 0, owners);
    Ok(())
}

fn link(walk: &mut Walk, visit: &Visit, out: &mut Vec<u8>, owners: bool) -> io::Result<()> {
    let target = walk.read_link(visit)?;
    head(out, Kind::Symlink, &visit.path, &target, &walk.stat(visit)?, 0, owners);
    Ok(())
}

fn open_body(out: &mut Vec<u8>, file: OwnedFd, path: Vec<u8>, stat: &Stat, owners: bool) -> Body {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    head(out, Kind::File, &path, b"", stat, size, owners);
    Body { file: Some(file), path, left: size, padding: padding(size) }
}

fn head(out: &mut Vec<u8>, kind: Kind, path: &[u8], link: &[u8], stat: &Stat, size: u64, owners: bool) {
    let (bits, user, group) = if owners { (0o7777, stat.st_uid, stat.st_gid) } else { (PERMISSIONS, 0, 0) };
    tar::header_of(out, kind, path, link, About { mode: stat.st_mode & bits, user, group, size, modified: stat.st_mtime });
}

/// Appends up to `most` bytes.
pub(crate) fn read(file: &OwnedFd, out: &mut Vec<u8>, most: usize) -> rustix::io::Result<usize> {
    let begin = out.len();
    out.resize(begin + most, 0);
    let result = loop {
        match rustix::io::read(file, &mut out[begin..]) {
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    out.truncate(begin + result.unwrap_or(0));
    result
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::Path,
        process::Command,
    };

    use bytes::Bytes;
    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;
    use crate::{Links, Unpack};

    fn open(path: &Path) -> OwnedFd {
        openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn all(mut pack: Pack) -> (Vec<u8>, LeftOuts) {
        let mut bytes = Vec::new();
        while let Some(piece) = pack.next_piece().unwrap() {
            assert!(piece.len() <= 2 * CHUNK);
            bytes.extend_from_slice(&piece);
        }
        (bytes, pack.left_out)
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let long = format!("{}/{}", "long".repeat(50), "name".repeat(60));
        fs::create_dir_all(from.join(&long)).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("big"), vec![b'x'; 3 * CHUNK + 5]).unwrap();
        fs::write(from.join(&long).join("f"), "deep").unwrap();
        fs::set_permissions(from.join(&long).join("f"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(from.join("big"), from.join("other name")).unwrap();
        symlink("x".repeat(300), from.join("link")).unwrap();
        rustix::fs::mkfifoat(CWD, from.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let (bytes, left_out) = all(Pack::directory(open(&from)).unwrap());
        assert_eq!(left_out.named().iter().map(|left| left.path.as_slice()).collect::<Vec<_>>(), [b"fifo"]);

        let mut unpack = Unpack::new(open(&to), true, Links::All).unwrap();
        unpack.all([Ok(Bytes::from(bytes.clone()))].into_iter()).unwrap();
        assert_eq!(unpack.done.left_out, left_out, "whoever unpacks is told too");
        assert_eq!(fs::read(to.join("big")).unwrap(), vec![b'x'; 3 * CHUNK + 5]);
        assert_eq!(fs::metadata(to.join("big")).unwrap().ino(), fs::metadata(to.join("other name")).unwrap().ino());
        let deep = fs::metadata(to.join(&long).join("f")).unwrap();
        assert_eq!((deep.mode() & 0o7777, deep.mtime()), (0o751, fs::metadata(from.join(&long).join("f")).unwrap().mtime()));
        assert_eq!(fs::read_link(to.join("link")).unwrap().as_os_str().len(), 300);

        // And other programs can read it.
        fs::write(directory.path().join("tar"), bytes).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(directory.path().join("tar")).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 8, "the directory twice");
    }

    #[test]
    fn a_file_that_becomes_shorter_keeps_the_archive_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let begin = |pack: fn(&Path) -> Pack| {
            fs::write(&path, vec![b'x'; 3 * CHUNK]).unwrap();
            let mut pack = pack(&path);
            let first = pack.next_piece().unwrap().unwrap();
            fs::write(&path, "").unwrap();
            (pack, first)
        };
        // One file alone is not worth anything when it is not whole.
        let (mut pack, _) = begin(|path| Pack::file(open(path), b"f").unwrap());
        while pack.next_piece().is_ok_and(|piece| piece.is_some()) {}
        assert!(!pack.ended);
        let (mut pack, mut bytes) = begin(|path| Pack::directory(open(path.parent().unwrap())).unwrap());
        while let Some(piece) = pack.next_piece().unwrap() {
            bytes.extend_from_slice(&piece);
        }
        let mut unpack = Unpack::new(open(directory.path()), false, Links::All).unwrap();
        unpack.all([Ok(Bytes::from(bytes))].into_iter()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 * CHUNK as u64);
        assert!(unpack.done.left_out.named()[0].why.contains("zeros"), "{:?}", unpack.done.left_out);
    }
}
