//! Trees of files: walked, copied, removed, read from and written to tar streams. The agent uses it inside a sandbox, and `caisson cp` on the
//! other side, where the stream comes out of a sandbox and is as hostile as one that goes in. Layers of images are unpacked by it too.
//!
//! Everything below a root is reached by handles: a name is always an entry of a directory that is open, never a path that is walked
//! again. So no link on the way is followed, and nothing outside is touched, whoever changes the tree meanwhile.

mod beneath;
mod copy;
mod delta;
mod draft;
mod error;
mod layer;
mod left_out;
mod name;
mod pack;
mod remove;
pub mod tar;
mod unpack;
mod walk;

pub use beneath::{make_directories, open_beneath};
pub use copy::{Copied, copy};
pub use delta::{Delta, Given};
pub use draft::Draft;
pub use error::Error;
pub use layer::{Allowance, Layer, LayerError, MAX_ID, TooMuch};
pub use left_out::{LeftOut, LeftOuts};
pub use name::{Refused, is_a_name, normal, temporary};
pub use pack::{CHUNK, Pack};
pub use remove::{discard, remove, remove_tree};
pub use unpack::{Links, Unpack, Unpacked};
pub use walk::{Visit, Walk, on_proc};

/// Permission bits that are taken along; set-user-id, set-group-id and sticky are not among them.
pub const PERMISSIONS: u32 = 0o777;
/// The longest path that the kernel takes.
pub const MAX_PATH: usize = 4095;
/// The longest name of an entry.
pub const MAX_NAME: usize = 255;
