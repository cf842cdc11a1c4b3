//! Writing a patch, one change after the other.

use std::io::Write;

use crate::{
    Entry, Error, Id, Side, Source, Tree, binary,
    changes::{Change, Changes},
    output::Output,
    quote::quoted,
    renames,
    source::Sources,
    text,
};

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Largest file that is in memory as a whole. What is larger, before or after, is binary.
    pub text_bytes: u64,
    /// Longest patch. Git itself takes none of 1,023 MiB or more.
    pub patch_bytes: u64,
    pub texts: Texts,
    pub renames: Renames,
}

/// What is a text, besides having no zero byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// As in git.
    Any,
    /// Only what is UTF-8, so that the patch is. Also where links point.
    Utf8,
}

/// What is a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renames {
    /// Nothing: one file is deleted, another created.
    None,
    /// Same content, other path.
    Identical,
    /// Also files that are the same by so much of a hundred; 50 in git.
    Similar(u8),
}

/// What is in a patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries by what happened to them. One whose type changed is deleted and created.
    pub created: usize,
    pub deleted: usize,
    pub modified: usize,
    pub renamed: usize,
    /// Length of the patch; 0 if nothing changed.
    pub bytes: u64,
    /// What changed and is not in the patch, as git takes no such path: `.GIT/x`, or a link `.gitmodules`.
    pub refused: Vec<Vec<u8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { text_bytes: 8 << 20, patch_bytes: (1023 << 20) - 1, texts: Texts::Any, renames: Renames::Similar(50) }
    }
}

/// Writes what leads from `old` to `new`, in the order of the paths' bytes. The same trees always give the same bytes. After an error, what was
/// written is no patch.
pub fn write_patch(
    old: &Tree,
    new: &Tree,
    old_source: &dyn Source,
    new_source: &dyn Source,
    options: &Options,
    to: &mut dyn Write,
) -> Result<Summary, Error> {
    let sources = Sources { old: old_source, new: new_source };
    let options = Options { text_bytes: options.text_bytes.min(u64::from(u32::MAX) / 2), ..*options };
    let mut changes = Changes::between(old, new);
    if options.renames != Renames::None {
        changes.pair_identical();
    }
    if let Renames::Similar(least) = options.renames {
        renames::pair_similar(&mut changes, &sources, least.clamp(1, 100), options.text_bytes)?;
    }
    let mut summary = Summary { refused: changes.refused.iter().map(|path| path.to_vec()).collect(), ..Summary::default() };
    let mut patch = Patch { out: Output::new(to, options.patch_bytes), sources, options };
    for change in changes.in_order() {
        match change {
            Change::Created(_) => summary.created += 1,
            Change::Deleted(_) => summary.deleted += 1,
            Change::Modified(..) => summary.modified += 1,
            Change::Renamed(..) => summary.renamed += 1,
        }
        patch.put(change)?;
    }
    summary.bytes = patch.out.end()?;
    Ok(summary)
}

struct Patch<'a> {
    out: Output<'a>,
    sources: Sources<'a>,
    options: Options,
}

impl Patch<'_> {
    fn put(&mut self, change: Change<'_>) -> Result<(), Error> {
        let (old, new) = match change {
            Change::Deleted(old) => (Some(old), None),
            Change::Created(new) => (None, Some(new)),
            Change::Modified(old, new) | Change::Renamed(old, new, _) => (Some(old), Some(new)),
        };
        let Some(any) = old.or(new) else { return Ok(()) };
        self.line(&[b"diff --git ", &quoted("a/", &old.unwrap_or(any).path), b" ", &quoted("b/", &new.unwrap_or(any).path)])?;
        match (old, new) {
            (Some(old), None) => self.line(&[b"deleted file mode ", old.mode().as_bytes()])?,
            (None, Some(new)) => self.line(&[b"new file mode ", new.mode().as_bytes()])?,
            (Some(old), Some(new)) if old.mode() != new.mode() => {
                self.line(&[b"old mode ", old.mode().as_bytes()])?;
                self.line(&[b"new mode ", new.mode().as_bytes()])?;
            }
            _ => {}
        }
        if let Change::Renamed(old, new, score) = change {
            self.line(&[format!("similarity index {score}%").as_bytes()])?;
            self.line(&[b"rename from ", &quoted("", &old.path)])?;
            self.line(&[b"rename to ", &quoted("", &new.path)])?;
        }
        if old.map(|entry| entry.id) == new.map(|entry| entry.id) {
            return Ok(());
        }
        let id = |entry: Option<&Entry>| entry.map_or(Id::NONE, |entry| entry.id);
        let mode = match (old, new) {
            (Some(old), Some(new)) if old.mode() == new.mode() => format!(" {}", new.mode()),
            _ => String::new(),
        };
        self.line(&[format!("index {}..{}{mode}", id(old), id(new)).as_bytes()])?;
        self.content(old, new)
    }

    fn content(&mut self, old: Option<&Entry>, new: Option<&Entry>) -> Result<(), Error> {
        if [old, new].into_iter().flatten().any(|entry| entry.size > self.options.text_bytes) {
            return binary::put(&mut self.out, &self.sources, old, new);
        }
        let load = |side, entry: Option<&Entry>| entry.map_or(Ok(Vec::new()), |entry| self.sources.load(side, entry));
        let (before, after) = (load(Side::Old, old)?, load(Side::New, new)?);
        if !self.is_text(&before) || !self.is_text(&after) {
            drop((before, after));
            return binary::put(&mut self.out, &self.sources, old, new);
        }
        if before.is_empty() && after.is_empty() {
            return Ok(());
        }
        self.line(&[b"--- ", &label("a/", old)])?;
        self.line(&[b"+++ ", &label("b/", new)])?;
        text::put(&mut self.out, &before, &after)
    }

    fn is_text(&self, content: &[u8]) -> bool {
        // Further on than git looks, so that no hunk has a zero byte in it.
        !content.contains(&0) && (self.options.texts == Texts::Any || std::str::from_utf8(content).is_ok())
    }

    fn line(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        parts.iter().try_for_each(|part| self.out.put(part))?;
        self.out.put("\n")
    }
}

/// The name above hunks. A tab says where one with blanks ends.
fn label(prefix: &str, entry: Option<&Entry>) -> Vec<u8> {
    let Some(entry) = entry else { return b"/dev/null".to_vec() };
    let mut label = quoted(prefix, &entry.path);
    if entry.path.contains(&b' ') {
        label.push(b'\t');
    }
    label
}
