//! Images by the names that others have for them.

use std::collections::BTreeMap;

use caisson_core::Image;

/// The image of this name: another one where the operator says so.
pub(super) fn named(aliases: &BTreeMap<String, Image>, name: &str) -> Option<Image> {
    aliases.get(name).cloned().or_else(|| name.parse().ok())
}
