//! What an agent says about files, checked.

use caisson_core::{FileEvent, FileKind, FileStat, Given, LeftOut, Listing, Unpacked, Watched};
use caisson_wire as wire;
use jiff::Timestamp;

use super::AgentError;
use crate::{
    figures,
    search::{GrepLimit, GrepLine, GrepMatch, GrepRequest, Grepped},
};

/// The longest path that Linux takes.
const MAX_PATH: usize = 4096;
/// What is told of things that were left out.
const MAX_LEFT_OUT: usize = 100;
const MAX_REASON: usize = 300;

/// What a sandbox was given, and the bytes of the names, at most.
const MAX_GIVEN: usize = 300;
const MAX_GIVEN_BYTES: usize = 64 << 10;

/// What a sandbox had before any program ran, as far as that is believed: what is cut off counts as a change.
pub(super) fn given(list: wire::GivenList) -> Vec<Given> {
    let mut room = MAX_GIVEN_BYTES;
    let mut fits = |path: &str| {
        room = room.saturating_sub(path.len());
        room > 0
    };
    let entries = list.entries.into_iter().take(MAX_GIVEN).filter(|entry| fits(&entry.path));
    entries
        .map(|wire::Given { path, mode, uid, gid, size, changed_s, changed_ns }| Given {
            path,
            mode,
            uid,
            gid,
            size,
            changed: (changed_s, changed_ns),
        })
        .collect()
}

/// The stat, if it can be one.
pub(super) fn stat(stat: wire::FileStat) -> Result<FileStat, AgentError> {
    let path = path(&stat.path)?;
    if !path.starts_with(b"/") {
        return Err(nonsense("a path that is not absolute"));
    }
    let kind = match stat.kind {
        wire::FileKind::File => FileKind::File,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Other => FileKind::Other,
    };
    Ok(FileStat {
        path,
        kind,
        size: stat.size,
        mode: stat.mode & 0o7777,
        modified_at: Timestamp::from_nanosecond(stat.mtime_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH),
        uid: stat.uid,
        gid: stat.gid,
        inode: stat.inode,
        target: stat.target.as_deref().map(self::path).transpose()?,
    })
}

/// The part of a directory's content, if that is where it is.
pub(super) fn listing(listing: wire::Listing, root: &[u8], limit: u32) -> Result<Listing, AgentError> {
    if listing.entries.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        return Err(nonsense("a listing longer than its limit"));
    }
    let entries = listing.entries.into_iter().map(self::stat).collect::<Result<Vec<_>, _>>()?;
    entries.iter().try_for_each(|entry| below(root, &entry.path).map(drop))?;
    Ok(Listing { entries, next: listing.next.as_deref().map(path).transpose()?, unreadable: listing.unreadable })
}

pub(super) fn unpacked(made: wire::Unpacked) -> Result<Unpacked, AgentError> {
    if made.left_out.len() > MAX_LEFT_OUT {
        return Err(nonsense("more left out than is told"));
    }
    let left_out = made.left_out.into_iter().map(|left| {
        // What it says may have come out of the archive.
        let path =
            wire::path::decode(&left.path).filter(|path| path.len() <= MAX_PATH).ok_or_else(|| nonsense("a path that cannot be one"))?;
        Ok(LeftOut { path, why: figures::tamed(&left.why, MAX_REASON) })
    });
    Ok(Unpacked {
        files: made.files,
        directories: made.directories,
        links: made.links,
        bytes: made.bytes,
        left_out: left_out.collect::<Result<_, _>>()?,
        left_out_total: made.left_out_total,
    })
}

pub(super) fn grepped(found: wire::Grepped, root: &[u8], asked: &GrepRequest) -> Result<Grepped, AgentError> {
    let most = |count: usize, most: u32| if count <= most as usize { Ok(()) } else { Err(nonsense("more found than asked for")) };
    most(found.matches.len(), asked.max_matches)?;
    let lines = |lines: Vec<wire::GrepLine>| {
        most(lines.len(), asked.context)?;
        lines.into_iter().map(line).collect::<Result<Vec<_>, _>>()
    };
    let matches = found.matches.into_iter().map(|hit| {
        let path = path(&hit.path)?;
        below(root, &path)?;
        let line = line(hit.line)?;
        if hit.spans.iter().any(|(first, last)| first > last || *last as usize > line.text.len()) {
            return Err(nonsense("a match outside of its line"));
        }
        Ok(GrepMatch { path, line, spans: hit.spans, before: lines(hit.before)?, after: lines(hit.after)? })
    });
    Ok(Grepped {
        matches: matches.collect::<Result<_, _>>()?,
        files: found.files,
        bytes: found.bytes,
        binary: found.binary,
        unreadable: found.unreadable,
        long_lines: found.long_lines,
        stopped_by: found.stopped_by.map(|limit| match limit {
            wire::GrepLimit::Matches => GrepLimit::Matches,
            wire::GrepLimit::Bytes => GrepLimit::Bytes,
            wire::GrepLimit::Time => GrepLimit::Time,
            wire::GrepLimit::Answer => GrepLimit::Answer,
        }),
    })
}

fn line(line: wire::GrepLine) -> Result<GrepLine, AgentError> {
    let text = wire::path::decode(&line.text).ok_or_else(|| nonsense("a line that is not encoded"))?;
    Ok(GrepLine { number: line.number, text, begin: line.begin, cut: line.cut })
}

pub(super) fn file_event(event: wire::WatchEvent, root: &[u8]) -> Result<FileEvent, AgentError> {
    let path = |text: &str| {
        let path = self::path(text)?;
        below(root, &path).map(|()| path)
    };
    Ok(FileEvent {
        what: match event.what {
            wire::Watch::Ready => Watched::Ready,
            wire::Watch::Created => Watched::Created,
            wire::Watch::Modified => Watched::Modified,
            wire::Watch::Deleted => Watched::Deleted,
            wire::Watch::Moved => Watched::Moved,
            wire::Watch::Overflow => Watched::Overflow,
            wire::Watch::Gone => Watched::Gone,
        },
        path: path(&event.path)?,
        to: event.to.as_deref().map(path).transpose()?,
        directory: event.directory,
    })
}

/// A path that was found by looking into a directory is in it.
fn below(root: &[u8], path: &[u8]) -> Result<(), AgentError> {
    let mut told = root;
    // However the directory was named, what is in it is told behind its plain name.
    while let Some(rest) = told.strip_suffix(b"/.").or_else(|| told.strip_suffix(b"/")) {
        told = rest;
    }
    match path.strip_prefix(told) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => Ok(()),
        _ => Err(nonsense("a path from elsewhere")),
    }
}

fn nonsense(what: &str) -> AgentError {
    AgentError::Nonsense(what.to_owned())
}

fn path(text: &str) -> Result<Vec<u8>, AgentError> {
    match wire::path::decode(text) {
        Some(path) if !path.is_empty() && path.len() <= MAX_PATH && !path.contains(&0) => Ok(path),
        _ => Err(nonsense("a path that cannot be one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> wire::FileStat {
        wire::FileStat {
            path: path.to_owned(),
            kind: wire::FileKind::File,
            size: 1,
            mode: 0o100_644,
            mtime_ns: i64::MIN,
            uid: 0,
            gid: 0,
            inode: 1,
            target: None,
        }
    }

    #[test]
    fn r5_4_paths_are_checked() {
        let good = stat(file("/a%20b%FF")).unwrap();
        assert_eq!((&good.path[..], good.mode), (&b"/a b\xff"[..], 0o644));
        for bad in ["", "relative", "/a%00b", "/a%", &format!("/{}", "x".repeat(MAX_PATH))] {
            assert!(matches!(stat(file(bad)), Err(AgentError::Nonsense(_))), "{bad}");
        }
        let link = wire::FileStat { target: Some(String::new()), ..file("/l") };
        assert!(stat(link).is_err());
    }

    #[test]
    fn what_was_looked_for_in_a_directory_is_in_it() {
        for (root, path, fine) in [
            ("/a", "/a/b", true),
            ("/a", "/a", true),
            ("/a/", "/a/b", true),
            ("/", "/b", true),
            ("//", "/b", true),
            ("/a/.", "/a/b", true),
            ("/.", "/b", true),
            ("/a", "/ab", false),
            ("/a", "/", false),
            ("/a/b", "/a", false),
        ] {
            assert_eq!(below(root.as_bytes(), path.as_bytes()).is_ok(), fine, "{path} in {root}");
        }
        let page = |count: usize, path: &str| wire::Listing { entries: vec![file(path); count], next: None, unreadable: 0 };
        assert!(listing(page(2, "/a/b"), b"/a", 2).is_ok());
        assert!(listing(page(3, "/a/b"), b"/a", 2).is_err() && listing(page(1, "/etc/b"), b"/a", 2).is_err());
    }
}
