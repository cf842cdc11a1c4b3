//! What a dialect keeps beside the records: text that is its own business.

use jiff::Timestamp;

use crate::SandboxId;

/// One thing of one kind. Whoever looks for it names kind and owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// What kind of thing it is, such as `modbox.image`.
    pub kind: String,
    /// Whose it is: a tenant, a user, a sandbox. What is kept about a sandbox goes with its record.
    pub owner: String,
    /// Its name among those of its kind and owner.
    pub id: String,
    /// JSON.
    pub body: String,
    /// When it goes by itself; never where nothing is said.
    pub until: Option<Timestamp>,
    /// The sandbox whose record it goes with, where that is not its owner.
    pub sandbox: Option<SandboxId>,
}
