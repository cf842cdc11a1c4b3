//! Which files that were created are others that were deleted, with a few changes: as git does it, by how many bytes are in lines that both
//! have, in whatever order.

use std::collections::HashSet;

use crate::{
    Entry, Error, Side,
    changes::{Changes, may_become},
    source::Sources,
};

/// Pairs that are looked at; git's own limit. With more, only identical files are renames.
const MAX_PAIRS: usize = 1_000_000;
/// Pieces of all files together, each a line or 64 bytes of one.
const MAX_PIECES: usize = 1 << 20;
/// Steps of all comparisons together.
const MAX_WORK: usize = 100 << 20;
const PIECE: usize = 64;

/// The pieces of a file: a hash of each kind, and how many bytes are in such.
struct Pieces(Vec<(u64, u32)>);

/// Makes renames of what is similar by at least so much of a hundred.
pub(crate) fn pair_similar(changes: &mut Changes<'_>, sources: &Sources<'_>, least: u8, text_bytes: u64) -> Result<(), Error> {
    let usable = |entry: &Entry| !entry.is_link() && entry.size > 0 && entry.size <= text_bytes;
    let places = |entries: &[&Entry]| (0..entries.len()).filter(|index| usable(entries[*index])).collect::<Vec<_>>();
    let (olds, news) = (places(&changes.deleted), places(&changes.created));
    if olds.is_empty() || news.is_empty() || olds.len().saturating_mul(news.len()) > MAX_PAIRS {
        return Ok(());
    }
    // What has no other of nearly its size is not read.
    let sized = |entry: &Entry, others: &[usize], of: &[&Entry]| others.iter().any(|other| could_be(entry, of[*other], least));
    let mut left = MAX_PIECES;
    let mut read = |side, entries: &[&Entry], places: &[usize], others: &[usize], of: &[&Entry]| -> Result<_, Error> {
        let mut all = Vec::new();
        for index in places.iter().filter(|index| sized(entries[**index], others, of)) {
            let pieces = Pieces::of(&sources.load(side, entries[*index])?);
            let Some(rest) = left.checked_sub(pieces.0.len()) else { return Ok(None) };
            left = rest;
            all.push((*index, pieces));
        }
        Ok(Some(all))
    };
    let Some(old_pieces) = read(Side::Old, &changes.deleted, &olds, &news, &changes.created)? else { return Ok(()) };
    let Some(new_pieces) = read(Side::New, &changes.created, &news, &olds, &changes.deleted)? else { return Ok(()) };
    let mut pairs = Vec::new();
    let mut work = 0;
    for (new, new_pieces) in &new_pieces {
        for (old, old_pieces) in &old_pieces {
            let (from, to) = (changes.deleted[*old], changes.created[*new]);
            if !could_be(from, to, least) || !may_become(from, to) {
                continue;
            }
            work += old_pieces.0.len() + new_pieces.0.len();
            if work > MAX_WORK {
                return Ok(());
            }
            let score = old_pieces.common(new_pieces) * 100 / from.size.max(to.size);
            if score >= u64::from(least) {
                // Only identical files are the same as a whole, and those are paired.
                pairs.push((100 - score.min(99) as u8, from.name() != to.name(), *new, *old));
            }
        }
    }
    pairs.sort_unstable();
    let (mut old_used, mut new_used) = (HashSet::new(), HashSet::new());
    pairs.retain(|(.., new, old)| {
        let free = !old_used.contains(old) && !new_used.contains(new);
        if free {
            old_used.insert(*old);
            new_used.insert(*new);
        }
        free
    });
    changes.pair(pairs.into_iter().map(|(distance, _, new, old)| (old, new, 100 - distance)).collect());
    Ok(())
}

/// By size alone.
fn could_be(one: &Entry, other: &Entry, least: u8) -> bool {
    let (small, large) = (one.size.min(other.size), one.size.max(other.size));
    small.saturating_mul(100) >= large.saturating_mul(u64::from(least))
}

impl Pieces {
    fn of(content: &[u8]) -> Self {
        let mut pieces = Vec::new();
        let mut begin = 0;
        while begin < content.len() {
            let most = &content[begin..content.len().min(begin + PIECE)];
            let length = most.iter().position(|byte| *byte == b'\n').map_or(most.len(), |end| end + 1);
            pieces.push((hash(&most[..length]), length as u32));
            begin += length;
        }
        pieces.sort_unstable();
        pieces.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        Self(pieces)
    }

    /// Bytes that are in both.
    fn common(&self, other: &Self) -> u64 {
        let (mut one, mut two) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = 0;
        while let (Some(a), Some(b)) = (one.peek(), two.peek()) {
            let order = a.0.cmp(&b.0);
            if order.is_eq() {
                common += u64::from(a.1.min(b.1));
            }
            if order.is_le() {
                one.next();
            }
            if order.is_ge() {
                two.next();
            }
        }
        common
    }
}

/// FNV-1a: the same everywhere, and enough for a guess.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
