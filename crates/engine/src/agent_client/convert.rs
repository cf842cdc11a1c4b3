//! What an agent says about files, checked.

use caisson_core::{FileKind, FileStat};
use caisson_wire as wire;
use jiff::Timestamp;

use super::AgentError;

/// The longest path that Linux takes.
const MAX_PATH: usize = 4096;

/// The stat, if it can be one.
pub(super) fn stat(stat: wire::FileStat) -> Result<FileStat, AgentError> {
    let path = path(&stat.path)?;
    if !path.starts_with(b"/") {
        return Err(AgentError::Nonsense("a path that is not absolute".to_owned()));
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
        target: stat.target.as_deref().map(self::path).transpose()?,
    })
}

fn path(text: &str) -> Result<Vec<u8>, AgentError> {
    match wire::path::decode(text) {
        Some(path) if !path.is_empty() && path.len() <= MAX_PATH && !path.contains(&0) => Ok(path),
        _ => Err(AgentError::Nonsense("a path that cannot be one".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> wire::FileStat {
        wire::FileStat { path: path.to_owned(), kind: wire::FileKind::File, size: 1, mode: 0o100_644, mtime_ns: i64::MIN, target: None }
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
}
