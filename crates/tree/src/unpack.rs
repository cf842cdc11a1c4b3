//! From a tar stream into a directory.
//!
//! What is there stays unless a member takes its place: files and links are replaced by renaming, directories are kept as they are. Nothing is
//! written through a link, whoever made it. Members that lead out of the directory end it; what cannot be made there (devices, fifos) is left
//! out and told.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Uid, chownat, fchown, fstatvfs, linkat, mkdirat, statat, symlinkat, utimensat},
    io::Errno,
};

use crate::{
    Draft, Error, LeftOuts, MAX_ID, MAX_PATH, PERMISSIONS,
    beneath::{make_directories, open_beneath},
    draft::{dress, place, times},
    error::At,
    name::{normal, split},
    tar::{Kind, Member, Members},
};

/// Which symbolic links are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// All, wherever they point.
    All,
    /// Those that lead to something in the directory, whatever other links of the archive are there. The rest is left out.
    Within,
}

/// What has been made so far.
#[derive(Debug, Default)]
pub struct Unpacked {
    pub files: u64,
    pub directories: u64,
    pub links: u64,
    /// Of the contents.
    pub bytes: u64,
    pub left_out: LeftOuts,
}

/// See the module.
#[derive(Debug)]
pub struct Unpack {
    root: OwnedFd,
    links: Links,
    /// Whether the root is new too, and so gets the permission bits that the archive says.
    fresh: bool,
    /// Whether owners and set-id bits are taken too.
    owners: bool,
    room: Room,
    /// The directory in which the last member was made: the next one is mostly there too.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// New directories that more may come into: their permission bits and times come last.
    open: Vec<Undressed>,
    pub done: Unpacked,
}

#[derive(Debug)]
struct Undressed {
    path: Vec<u8>,
    owner: Option<(Uid, Gid)>,
    mode: u32,
    modified: Timespec,
}

/// What the file system can hold in all. An archive that announces more is given up before it has filled everything.
#[derive(Debug)]
struct Room {
    bytes: u64,
    entries: u64,
}

impl Room {
    fn of(root: &OwnedFd) -> io::Result<Self> {
        let about = fstatvfs(root)?;
        // File systems that make entries as they are needed say 0.
        Ok(Self {
            bytes: about.f_blocks.saturating_mul(about.f_frsize),
            entries: if about.f_files == 0 { u64::MAX } else { about.f_files },
        })
    }

    fn take(&mut self, bytes: u64) -> rustix::io::Result<()> {
        match (self.bytes.checked_sub(bytes), self.entries.checked_sub(1)) {
            (Some(bytes), Some(entries)) => {
                *self = Self { bytes, entries };
                Ok(())
            }
            _ => Err(Errno::NOSPC),
        }
    }
}

impl Unpack {
    /// Into the directory `root`, which is open for reading.
    pub fn new(root: OwnedFd, fresh: bool, links: Links) -> io::Result<Self> {
        let room = Room::of(&root)?;
        Ok(Self { root, links, fresh, owners: false, room, parent: None, open: Vec::new(), done: Unpacked::default() })
    }

    /// What is made gets the owners and set-id bits that the archive says.
    #[must_use]
    pub fn with_owners(self) -> Self {
        Self { owners: true, ..self }
    }

    fn owner(&self, path: &[u8], member: &Member) -> Result<Option<(Uid, Gid)>, Error> {
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id <= MAX_ID);
        match (self.owners, id(member.user), id(member.group)) {
            (false, ..) => Ok(None),
            (true, Some(user), Some(group)) => Ok(Some((Uid::from_raw(user), Gid::from_raw(group)))),
            _ => Err(Error::archive(path, format!("belongs to {}:{}, and ids go up to {MAX_ID}", member.user, member.group))),
        }
    }

    fn mode(&self, member: &Member) -> u32 {
        member.mode & if self.owners { 0o7777 } else { PERMISSIONS }
    }

    /// Everything that the stream has. After an error, what was made before it is there, whole.
    pub fn all(&mut self, pieces: impl Iterator<Item = io::Result<Bytes>>) -> Result<(), Error> {
        let mut members = Members::new(pieces);
        while let Some(member) = members.next_member()? {
            let path = normal(&member.path).map_err(|why| Error::archive(&member.path, why.to_string()))?;
            self.room.take(member.size).at(&path)?;
            self.dress_all_but(&path)?;
            match member.kind {
                Kind::Directory => self.directory(&path, &member)?,
                _ if path.is_empty() => return Err(Error::archive(&member.path, "names the directory itself and is none")),
                Kind::File => self.file(&path, &member, &mut members)?,
                Kind::Symlink => self.symlink(&path, &member)?,
                Kind::HardLink => self.hard_link(&path, &member)?,
                Kind::Special => self.done.left_out.add(&path, "is a device or a fifo"),
            }
        }
        self.dress_all_but(b"")?;
        for left in members.left_out.named() {
            self.done.left_out.add(&left.path, left.why.as_str());
        }
        Ok(())
    }

    fn file<I>(&mut self, path: &[u8], member: &Member, members: &mut Members<I>) -> Result<(), Error>
    where
        I: Iterator<Item = io::Result<Bytes>>,
    {
        let (parent, name) = self.parent_of(path)?;
        let (owner, mode) = (self.owner(path, member)?, self.mode(member));
        let mut draft = Draft::begin(parent).at(path)?;
        while let Some(piece) = members.content()? {
            draft.file().write_all(&piece).at(path)?;
        }
        // In front of the bits: a change of owners takes some away.
        if let Some((user, group)) = owner {
            fchown(draft.file(), Some(user), Some(group)).at(path)?;
        }
        draft.finish(name, mode, Some(member.modified), true).at(path)?;
        self.done.files += 1;
        self.done.bytes += member.size;
        Ok(())
    }

    fn directory(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        let owner = self.owner(path, member)?;
        let undressed = Undressed { path: path.to_vec(), owner, mode: self.mode(member), modified: member.modified };
        if path.is_empty() {
            if std::mem::take(&mut self.fresh) {
                self.open.insert(0, undressed);
            }
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                self.open.push(undressed);
                self.done.directories += 1;
                Ok(())
            }
            // One that is there stays as it is. A link to one is none.
            Err(Errno::EXIST) => match kind(&parent, name).at(path)? {
                FileType::Directory => Ok(()),
                _ => Err(Error::entry(path, Errno::NOTDIR)),
            },
            Err(error) => Err(Error::entry(path, error)),
        }
    }

    fn symlink(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        if member.link.is_empty() || member.link.len() > MAX_PATH || member.link.contains(&0) {
            return Err(Error::archive(path, "is a link to something that cannot be a path"));
        }
        if self.links == Links::Within && !leads_within(path, &member.link) {
            self.done.left_out.add(path, format!("is a link that leads out of it, to {}", String::from_utf8_lossy(&member.link)));
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        place(&parent, name, |name| symlinkat(&member.link, &parent, name)).at(path)?;
        if let Some((user, group)) = self.owner(path, member)? {
            chownat(&parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).at(path)?;
        }
        utimensat(&parent, name, &times(member.modified), AtFlags::SYMLINK_NOFOLLOW).at(path)?;
        self.done.links += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        let target = normal(&member.link).map_err(|why| Error::archive(path, format!("is a hard link to something that {why}")))?;
        let shown = || String::from_utf8_lossy(&member.link).escape_debug().to_string();
        let (from, old) = split(&target);
        let from = open_beneath(&self.root, from, crate::beneath::DIRECTORY);
        let found = from.and_then(|from| kind(&from, old).map(|kind| (from, kind)));
        let Some((from, FileType::RegularFile)) = found.ok().filter(|_| !old.is_empty()) else {
            return Err(Error::archive(path, format!("is a hard link to `{}`, which is no file in the directory", shown())));
        };
        if target == path {
            return Err(Error::archive(path, "is a hard link to itself"));
        }
        let (parent, name) = self.parent_of(path)?;
        place(&parent, name, |name| linkat(&from, old, &parent, name, AtFlags::empty())).at(path)?;
        self.done.links += 1;
        Ok(())
    }

    /// The directory that an entry is to be made in, open, and the entry's name.
    fn parent_of<'a>(&mut self, path: &'a [u8]) -> Result<(Arc<OwnedFd>, &'a [u8]), Error> {
        let (parent, name) = split(path);
        if let Some((known, directory)) = &self.parent
            && known == parent
        {
            return Ok((Arc::clone(directory), name));
        }
        let directory = Arc::new(make_directories(&self.root, parent).at(path)?);
        self.parent = Some((parent.to_vec(), Arc::clone(&directory)));
        Ok((directory, name))
    }

    /// Finishes new directories that `path` is not in.
    fn dress_all_but(&mut self, path: &[u8]) -> Result<(), Error> {
        let is_in = |directory: &[u8]| directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some(done) = self.open.pop_if(|last| path.is_empty() || !is_in(&last.path)) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let directory = open_beneath(&self.root, &done.path, flags).at(&done.path)?;
            if let Some((user, group)) = done.owner {
                fchown(&directory, Some(user), Some(group)).at(&done.path)?;
            }
            dress(&directory, done.mode, Some(done.modified)).at(&done.path)?;
        }
        Ok(())
    }
}

fn kind(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<FileType> {
    Ok(FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode))
}

/// Whether a link at `path` leads to something below the root, also by way of other links of which the same is true.
///
/// That is so when it first goes up, no further than to the root, and then only down: where it goes down from is a real directory, as nothing is
/// unpacked through links, and each link on the way down leads below the root by itself. A `..` behind a name could go up from wherever a
/// link by that name leads.
fn leads_within(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut down = false;
    for part in target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        match (part, down, depth) {
            (b"..", true, _) | (b"..", _, 0) => return false,
            (b"..", ..) => depth -= 1,
            _ => down = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
        path::Path,
    };

    use rustix::fs::{CWD, openat};

    use super::*;
    use crate::tar;

    /// Kind, path, link or content, mode.
    type Line<'a> = (Kind, &'a str, &'a str, u32);

    fn archive(lines: &[Line<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, path, text, mode) in lines {
            let (link, content) = if *kind == Kind::File { ("", *text) } else { (*text, "") };
            tar::header(&mut bytes, *kind, path.as_bytes(), link.as_bytes(), *mode, content.len() as u64, 1_000_000);
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend_from_slice(&tar::END);
        bytes
    }

    fn unpack(root: &Path, bytes: &[u8], links: Links) -> Result<Unpacked, Error> {
        let root = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut unpack = Unpack::new(root, false, links).unwrap();
        unpack.all(bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece)))).map(|()| unpack.done)
    }

    #[test]
    fn a_tree_is_made_with_its_links_bits_and_times() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let done = unpack(
            directory.path(),
            &archive(&[
                (Kind::Directory, "./", "", 0o700),
                (Kind::Directory, "ro/", "", 0o555),
                (Kind::File, "ro/f", "content", 0o4755),
                (Kind::Symlink, "ro/l", "/anywhere", 0o777),
                (Kind::HardLink, "ro/h", "./ro/f", 0),
                (Kind::File, "x/y/z", "", 0o600),
                (Kind::Special, "fifo", "", 0o600),
                (Kind::File, "x/y/z", "again", 0o640),
            ]),
            Links::All,
        )
        .unwrap();
        assert_eq!((done.files, done.directories, done.links, done.bytes), (3, 1, 2, 12));
        assert_eq!((done.left_out.total(), done.left_out.named()[0].path.as_slice()), (1, &b"fifo"[..]));
        let of = |name: &str| fs::symlink_metadata(at(name)).unwrap();
        assert_eq!((of("ro").mode() & 0o7777, of("ro").mtime()), (0o555, 1_000_000));
        assert_eq!((of("ro/f").mode() & 0o7777, of("ro/f").mtime()), (0o755, 1_000_000), "set-user-id is not taken");
        assert_eq!((of("ro/f").ino(), of("ro/l").mtime()), (of("ro/h").ino(), 1_000_000));
        assert_eq!(fs::read_to_string(at("x/y/z")).unwrap(), "again");
        assert_eq!(of("").mode() & 0o777, fs::metadata(directory.path()).unwrap().mode() & 0o777);
    }

    #[test]
    fn owners_and_bits_are_taken_where_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let mine = fs::metadata(directory.path()).unwrap();
        let owner = (mine.uid(), mine.gid());
        let about = |mode, user, group| tar::About { mode, user, group, size: 0, modified: 0 };
        let (mut bytes, mut foreign) = (Vec::new(), Vec::new());
        for (kind, path, link, mode) in
            [(Kind::Directory, "d/", "", 0o1777), (Kind::File, "d/f", "", 0o4751), (Kind::Symlink, "d/l", "f", 0o777)]
        {
            tar::header_of(&mut bytes, kind, path.as_bytes(), link.as_bytes(), about(mode, owner.0, owner.1));
        }
        tar::header_of(&mut foreign, Kind::File, b"x", b"", about(0o600, 65_536, 0));
        for whole in [&mut bytes, &mut foreign] {
            whole.extend_from_slice(&tar::END);
        }
        let unpack = |bytes: Vec<u8>| {
            let root = openat(CWD, directory.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            Unpack::new(root, false, Links::All).unwrap().with_owners().all([Ok(Bytes::from(bytes))].into_iter())
        };
        unpack(bytes).unwrap();
        let of = |name: &str| fs::symlink_metadata(directory.path().join(name)).unwrap();
        assert_eq!((of("d").mode() & 0o7777, of("d/f").mode() & 0o7777), (0o1777, 0o4751));
        let error = unpack(foreign).unwrap_err().to_string();
        assert!(error.contains("65536:0"), "{error}");
    }

    #[test]
    fn r5_1_nothing_is_written_through_links_or_outside() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "safe").unwrap();
        symlink(&outside, root.join("there")).unwrap();
        let target = outside.to_str().unwrap();
        for lines in [
            vec![(Kind::File, "there/f", "bad", 0o600)],
            vec![(Kind::Symlink, "l", target, 0), (Kind::File, "l/f", "bad", 0o600)],
            vec![(Kind::Symlink, "l", target, 0), (Kind::Directory, "l", "", 0o777)],
            vec![(Kind::Symlink, "l", "../outside/f", 0), (Kind::HardLink, "h", "l", 0)],
            vec![(Kind::HardLink, "h", "there/f", 0)],
            vec![(Kind::HardLink, "h", "../outside/f", 0)],
            vec![(Kind::HardLink, "h", "", 0)],
            vec![(Kind::File, "../outside/f", "bad", 0o600)],
            vec![(Kind::File, "dir/../../outside/f", "bad", 0o600)],
            vec![(Kind::File, "/outside/f", "bad", 0o600)],
            vec![(Kind::File, "dir", "bad", 0o600)],
            vec![(Kind::File, "./", "bad", 0o600)],
        ] {
            unpack(&root, &archive(&lines), Links::All).unwrap_err();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{lines:?}");
            assert_eq!(fs::metadata(outside.join("f")).unwrap().nlink(), 1, "{lines:?}");
        }
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o755);
        // A link in the place of a file is replaced, not followed.
        symlink(outside.join("f"), root.join("link")).unwrap();
        unpack(&root, &archive(&[(Kind::File, "link", "mine", 0o600)]), Links::All).unwrap();
        assert_eq!(
            (fs::read_to_string(root.join("link")).unwrap().as_str(), fs::read_to_string(outside.join("f")).unwrap().as_str()),
            ("mine", "safe")
        );
    }

    #[test]
    fn r5_1_links_within_can_be_told_from_others() {
        for (path, target, within) in [
            ("l", "a", true),
            ("l", "./a//b", true),
            ("d/l", "../a", true),
            ("d/e/l", "../../a/b", true),
            ("l", ".", true),
            ("d/l", "..", true),
            ("l", "/a", false),
            ("l", "..", false),
            ("l", "../a", false),
            ("d/l", "../../a", false),
            ("d/l", "a/..", false),
            ("d/e/l", "../up/../..", false),
        ] {
            assert_eq!(leads_within(path.as_bytes(), target.as_bytes()), within, "{path} -> {target}");
        }
        let directory = tempfile::tempdir().unwrap();
        let lines = [(Kind::Symlink, "in", "f", 0), (Kind::Symlink, "out", "/etc/passwd", 0)];
        let done = unpack(directory.path(), &archive(&lines), Links::Within).unwrap();
        assert_eq!((done.links, done.left_out.total()), (1, 1));
    }

    #[test]
    fn r5_1_what_cannot_fit_is_given_up_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        tar::header(&mut bytes, Kind::File, b"huge", b"", 0o600, 1 << 60, 0);
        let error = unpack(directory.path(), &bytes, Links::All).unwrap_err();
        assert!(matches!(error, Error::Entry { cause, .. } if cause.raw_os_error() == Some(Errno::NOSPC.raw_os_error())));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
