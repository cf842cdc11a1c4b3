//! What a dialect keeps beside the records: text that is its own business.

/// One thing of one kind. Whoever looks for it names kind and owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What kind of thing it is, such as `modbox.image`.
    pub kind: String,
    /// Whose it is: a tenant, a user, a sandbox. What is kept about a sandbox goes with its record.
    pub owner: String,
    /// Its name among those of its kind and owner.
    pub id: String,
    /// JSON.
    pub body: String,
}
