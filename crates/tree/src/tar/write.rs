//! Headers as they are written.

use super::{
    BLOCK, Kind,
    header::{MAGIC, field},
    padding,
};
use crate::LeftOuts;

/// Behind the last member.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The name of the records that say what is not in the archive: the reason, a line break, the path. There may be many of it.
pub(super) const LEFT_OUT: &[u8] = b"CAISSON.left_out";
/// What eleven octal digits can say, and one more.
const OCTAL: u64 = 1 << 33;

/// What a header says of a member beside its names.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub mode: u32,
    /// Up to [`crate::MAX_ID`].
    pub user: u32,
    pub group: u32,
    pub size: u64,
    /// Seconds.
    pub modified: i64,
}

/// Appends the header of a member that is root's. Owners of one machine mean nothing on another.
pub(crate) fn header(out: &mut Vec<u8>, kind: Kind, path: &[u8], link: &[u8], mode: u32, size: u64, mtime: i64) {
    header_of(out, kind, path, link, About { mode, user: 0, group: 0, size, modified: mtime });
}

/// Appends the header of a member, with an extended one in front of it where the plain one cannot say it.
pub fn header_of(out: &mut Vec<u8>, kind: Kind, path: &[u8], link: &[u8], about: About) {
    let About { size, modified: mtime, .. } = about;
    let mut records = Vec::new();
    let name = split(path);
    if name.is_none() {
        add(&mut records, b"path", path);
    }
    if link.len() > field::LINK.len() {
        add(&mut records, b"linkpath", link);
    }
    if size >= OCTAL {
        add(&mut records, b"size", size.to_string().as_bytes());
    }
    if !(0..OCTAL as i64).contains(&mtime) {
        add(&mut records, b"mtime", mtime.to_string().as_bytes());
    }
    if !records.is_empty() {
        if std::str::from_utf8(path).is_err() || std::str::from_utf8(link).is_err() {
            let mut first = Vec::new();
            add(&mut first, b"hdrcharset", b"BINARY");
            records.splice(0..0, first);
        }
        extended(out, b'x', &records);
    }
    let letter = match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Directory => b'5',
        Kind::Special => b'6',
    };
    let (prefix, name) = name.unwrap_or((b"", &path[..path.len().min(field::NAME.len())]));
    let link = &link[..link.len().min(field::LINK.len())];
    block(out, letter, prefix, name, link, About { modified: mtime.clamp(0, OCTAL as i64 - 1), ..about });
}

/// Appends what is told of those that are not in the archive, if there are any, as a part of the header that follows. (A global one, behind
/// which nothing has to come, is an error at the end of an archive for Python.)
pub(crate) fn left_out(out: &mut Vec<u8>, left_out: &LeftOuts) {
    let mut records = Vec::new();
    for left in left_out.named() {
        add(&mut records, LEFT_OUT, &[left.why.replace('\n', " ").as_bytes(), b"\n", &left.path].concat());
    }
    let more = left_out.total() - left_out.named().len() as u64;
    if more > 0 {
        add(&mut records, LEFT_OUT, format!("and {more} more\n").as_bytes());
    }
    if !records.is_empty() {
        extended(out, b'x', &records);
    }
}

fn extended(out: &mut Vec<u8>, kind: u8, records: &[u8]) {
    let about = About { mode: 0o644, user: 0, group: 0, size: records.len() as u64, modified: 0 };
    block(out, kind, b"", b"PaxHeaders/caisson", b"", about);
    out.extend_from_slice(records);
    out.resize(out.len() + padding(records.len() as u64), 0);
}

/// A record with its length in front, which counts its own digits.
fn add(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // Around them: a space, `=` and a line break.
    let rest = name.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", name, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

fn block(out: &mut Vec<u8>, kind: u8, prefix: &[u8], name: &[u8], link: &[u8], about: About) {
    let About { mode, user, group, size, modified } = about;
    let begin = out.len();
    out.resize(begin + BLOCK, 0);
    let block = &mut out[begin..];
    let mut set = |field: std::ops::Range<usize>, bytes: &[u8]| block[field.start..][..bytes.len()].copy_from_slice(bytes);
    set(field::NAME, name);
    set(field::MODE, format!("{mode:07o}").as_bytes());
    set(field::UID, format!("{user:07o}").as_bytes());
    set(field::GID, format!("{group:07o}").as_bytes());
    if size < OCTAL {
        set(field::SIZE, format!("{size:011o}").as_bytes());
    } else {
        // The same as in the extended header, so that there is one view of it.
        let mut wide = [0; 12];
        wide[0] = 0x80;
        wide[4..].copy_from_slice(&size.to_be_bytes());
        set(field::SIZE, &wide);
    }
    set(field::MTIME, format!("{modified:011o}").as_bytes());
    set(field::CHECKSUM, b"        ");
    set(field::TYPE..field::TYPE + 1, &[kind]);
    set(field::LINK, link);
    set(field::MAGIC, MAGIC);
    set(field::PREFIX, prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[field::CHECKSUM.start..][..8].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A path as prefix and name, if it fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= field::NAME.len() {
        return Some((b"", path));
    }
    let slash = |at: &usize| path[*at] == b'/' && path.len() - at - 1 <= field::NAME.len() && at + 1 < path.len();
    let at = (1..=field::PREFIX.len().min(path.len() - 1)).find(slash)?;
    Some((&path[..at], &path[at + 1..]))
}
