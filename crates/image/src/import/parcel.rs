//! Files by name, out of a directory or out of an archive. Those of an archive are put aside as they come, so that it is read once.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use caisson_core::Digest;
use caisson_tree::{
    normal, open_beneath,
    tar::{Kind, Members},
};
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, fstat, open},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{pieces, refused};
use crate::{
    Error,
    compression::plain,
    error::is_full,
    manifest::MAX_DOCUMENT,
    store::{Budget, Disk, Temporary},
};

const MAX_MEMBERS: usize = 20_000;
const BUFFER: usize = 128 << 10;

pub(super) struct Parcel<'a> {
    disk: &'a Disk,
    from: From,
}

enum From {
    Directory(OwnedFd),
    Archive(HashMap<Vec<u8>, Member>),
}

enum Member {
    File(Aside),
    /// What `docker save` wrote where two layers are the same.
    Link(Vec<u8>),
}

struct Aside {
    /// Absent when it has its place among the blobs.
    temporary: Option<Temporary>,
    file: File,
    digest: Digest,
    size: u64,
}

/// Whether an archive with this name in it is one of images, and not a root file system.
pub(super) fn belongs(name: &[u8]) -> bool {
    let is_id = |text: &[u8]| text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit);
    let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    matches!(first, b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories" | b"blobs")
        || is_id(first)
        || [&b".json"[..], b".tar"].iter().any(|end| first.strip_suffix(*end).is_some_and(is_id))
}

impl<'a> Parcel<'a> {
    pub(super) fn directory(disk: &'a Disk, path: &Path) -> Result<Self, Error> {
        let root = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|cause| Error::Store { doing: "open", path: path.display().to_string(), cause: cause.into() })?;
        Ok(Self { disk, from: From::Directory(root) })
    }

    pub(super) fn archive(disk: &'a Disk, raw: impl Read + Send, budget: &Budget) -> Result<Self, Error> {
        let unreadable = |error: caisson_tree::Error| match &error {
            caisson_tree::Error::Stream(cause) => refused(format!("breaks off: {cause}")),
            _ => refused(format!("cannot be read: {error}")),
        };
        let plain = plain(raw).map_err(|error| refused(format!("breaks off: {error}")))?;
        let mut members = Members::new(pieces(plain));
        let (mut kept, mut left) = (HashMap::new(), budget.limits().bytes);
        while let Some(member) = members.next_member().map_err(unreadable)? {
            if budget.is_given_up() {
                return Err(Error::GivenUp);
            }
            let name = normal(&member.path).map_err(|why| refused(format!("has a member that {why}")))?;
            left = left.checked_sub(member.size).ok_or(Error::TooBig { what: "bytes", most: budget.limits().bytes })?;
            let value = match member.kind {
                Kind::File => {
                    let (temporary, mut file) = disk.temporary_file()?;
                    let mut hash = Sha256::new();
                    while let Some(piece) = members.content().map_err(unreadable)? {
                        hash.update(&piece);
                        file.write_all(&piece).map_err(|cause| disk.failure("write", temporary.path(), cause))?;
                    }
                    let digest = Digest::from_bytes(hash.finalize().into());
                    Member::File(Aside { temporary: Some(temporary), file, digest, size: member.size })
                }
                Kind::Symlink => match beside(&name, &member.link) {
                    Some(target) => Member::Link(target),
                    None => return Err(refused("has a link that leads out of it")),
                },
                _ => continue,
            };
            kept.insert(name, value);
            if kept.len() > MAX_MEMBERS {
                return Err(refused(format!("has more than {MAX_MEMBERS} members")));
            }
        }
        Ok(Self { disk, from: From::Archive(kept) })
    }

    /// The whole of a small file, if it is there.
    pub(super) fn small(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let failed = |cause: io::Error| refused(format!("has `{}`, which cannot be read: {cause}", path.escape_debug()));
        let mut bytes = Vec::new();
        match &mut self.from {
            From::Directory(root) => match open_file(root, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file.map_err(failed)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(failed)?,
            },
            From::Archive(members) => match find(members, path) {
                None => return Ok(None),
                Some(aside) => {
                    aside.file.seek(SeekFrom::Start(0)).map_err(failed)?;
                    (&aside.file).take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(failed)?
                }
            },
        };
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(refused(format!("has `{}` of more than {MAX_DOCUMENT} bytes", path.escape_debug())));
        }
        Ok(Some(bytes))
    }

    /// Keeps a file among the blobs, and says what it is.
    pub(super) fn keep(&mut self, path: &str) -> Result<(Digest, u64), Error> {
        let lacks = || refused(format!("lacks `{}`", path.escape_debug()));
        match &mut self.from {
            From::Archive(members) => {
                let aside = find(members, path).ok_or_else(lacks)?;
                if let Some(temporary) = aside.temporary.take()
                    && !self.disk.has_blob(aside.digest, aside.size)
                {
                    self.disk.keep_blob(temporary, &aside.file, aside.digest)?;
                }
                Ok((aside.digest, aside.size))
            }
            From::Directory(root) => {
                let from = open_file(root, path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => lacks(),
                    _ => refused(format!("has `{}`, which cannot be read: {error}", path.escape_debug())),
                })?;
                let (temporary, mut file) = self.disk.temporary_file()?;
                let copied = copy(from, &mut file);
                let (digest, size) = copied.map_err(|cause| match is_full(&cause) {
                    true => self.disk.failure("write", temporary.path(), cause),
                    false => refused(format!("has `{}`, which cannot be copied: {cause}", path.escape_debug())),
                })?;
                if !self.disk.has_blob(digest, size) {
                    self.disk.keep_blob(temporary, &file, digest)?;
                }
                Ok((digest, size))
            }
        }
    }
}

/// By way of one link.
fn find<'m>(members: &'m mut HashMap<Vec<u8>, Member>, path: &str) -> Option<&'m mut Aside> {
    let mut name = normal(path.as_bytes()).ok()?;
    if let Some(Member::Link(target)) = members.get(&name) {
        name.clone_from(target);
    }
    match members.get_mut(&name) {
        Some(Member::File(aside)) => Some(aside),
        _ => None,
    }
}

/// Where a link leads, if that is in the archive.
fn beside(name: &[u8], link: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts.pop();
    if link.starts_with(b"/") {
        return None;
    }
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    normal(&parts.join(&b'/')).ok()
}

fn open_file(root: &OwnedFd, path: &str) -> io::Result<File> {
    let path = normal(path.as_bytes()).map_err(|why| io::Error::other(format!("its name {why}")))?;
    let file = open_beneath(root, &path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY);
    let file = file.map_err(|error| if error == Errno::LOOP { io::Error::other("it is a link, or behind one") } else { error.into() })?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no ordinary file"));
    }
    Ok(file.into())
}

fn copy(mut from: File, to: &mut File) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hash.finalize().into()), size)),
            Ok(count) => {
                hash.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_shows_by_the_first_name() {
        let id = "0123456789abcdef".repeat(4);
        for (name, is) in [
            ("oci-layout", true),
            ("blobs/sha256", true),
            ("manifest.json", true),
            (&format!("{id}.json"), true),
            (&format!("{id}/layer.tar"), true),
            (&id[1..], false),
            ("etc/passwd", false),
            ("usr", false),
        ] {
            assert_eq!(belongs(name.as_bytes()), is, "{name}");
        }
    }

    #[test]
    fn r5_1_links_in_an_archive_stay_in_it() {
        for (name, link, target) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a", "b", Some("b")),
            ("a", "../b", None),
            ("a/b", "../../etc/passwd", None),
            ("a", "/etc/passwd", None),
        ] {
            assert_eq!(beside(name.as_bytes(), link.as_bytes()).as_deref(), target.map(str::as_bytes), "{name} -> {link}");
        }
    }
}
