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
/// The same for the seven digits of an id.
const OCTAL_ID: u32 = 1 << 21;

/// Appends the header of a member that is root's.
pub(crate) fn header(out: &mut Vec<u8>, kind: Kind, path: &[u8], link: &[u8], mode: u32, size: u64, mtime: i64) {
    owned(out, kind, path, link, mode, size, mtime, (0, 0));
}

/// Appends the header of a member, with an extended one in front of it where the plain one cannot say it. `owner` is the user and the group.
#[expect(clippy::too_many_arguments, reason = "the fields of one header")]
pub fn owned(out: &mut Vec<u8>, kind: Kind, path: &[u8], link: &[u8], mode: u32, size: u64, mtime: i64, owner: (u32, u32)) {
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
    for (name, id) in [(&b"uid"[..], owner.0), (b"gid", owner.1)] {
        if id >= OCTAL_ID {
            add(&mut records, name, id.to_string().as_bytes());
        }
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
    block(out, letter, prefix, name, link, mode, size, mtime.clamp(0, OCTAL as i64 - 1), owner);
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
    block(out, kind, b"", b"PaxHeaders/caisson", b"", 0o644, records.len() as u64, 0, (0, 0));
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

#[expect(clippy::too_many_arguments, reason = "the fields of one block")]
fn block(out: &mut Vec<u8>, kind: u8, prefix: &[u8], name: &[u8], link: &[u8], mode: u32, size: u64, mtime: i64, owner: (u32, u32)) {
    let begin = out.len();
    out.resize(begin + BLOCK, 0);
    let block = &mut out[begin..];
    let mut set = |field: std::ops::Range<usize>, bytes: &[u8]| block[field.start..][..bytes.len()].copy_from_slice(bytes);
    set(field::NAME, name);
    set(field::MODE, format!("{mode:07o}").as_bytes());
    for (field, id) in [(field::UID, owner.0), (field::GID, owner.1)] {
        set(field, format!("{:07o}", id.min(OCTAL_ID - 1)).as_bytes());
    }
    if size < OCTAL {
        set(field::SIZE, format!("{size:011o}").as_bytes());
    } else {
        // The same as in the extended header, so that there is one view of it.
        let mut wide = [0; 12];
        wide[0] = 0x80;
        wide[4..].copy_from_slice(&size.to_be_bytes());
        set(field::SIZE, &wide);
    }
    set(field::MTIME, format!("{mtime:011o}").as_bytes());
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
