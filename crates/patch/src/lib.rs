//! What is different between two states of a tree of files, as a patch that `git apply` takes.
//!
//! ```text
//! scan(directory) ─▶ Index ── tree() ─▶ Tree ─┐
//!    ▲ so that unchanged files are not        ├─▶ write_patch ─▶ the dialect of `git diff -M --binary --full-index`
//!    └ read again: the index of before        │
//!                       contents: two Sources ┘
//! ```
//!
//! Applied to the old tree, the patch gives the new one in all that git expresses: contents to the byte, the execute bit, symbolic links, and
//! names of any bytes. Not expressed are empty directories, owners, other modes, and what is neither file nor link. Nothing of git runs
//! and nothing inside the tree steers it, but for its `.gitignore` files where those are asked for. One change git expresses but cannot apply:
//! a directory in the place of a link that leads to itself.
//!
//! Contents are in memory one pair at a time, and only up to [`Options::text_bytes`]; larger ones go through as binary patches, piece by
//! piece. The work on one pair of texts and on finding renames is bounded too: beyond it the patch gets longer, never wrong.

mod binary;
mod changes;
mod entry;
mod error;
mod ignore;
mod index;
mod layered;
mod lines;
mod output;
mod quote;
mod renames;
mod scan;
mod source;
mod text;
mod write;

pub use entry::{Entry, Id, Kind, Tree};
pub use error::{Error, Side};
pub use index::Index;
pub use layered::{Change, differences};
pub use scan::{Keep, Layers, Limits, Scan, Scanned, ScannedLayers, scan, scan_layers};
pub use source::{Directory, Source};
pub use write::{Options, Renames, Summary, Texts, write_patch};
