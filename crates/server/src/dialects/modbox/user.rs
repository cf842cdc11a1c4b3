//! Who asks. A user is known by the e-mail address in the note of a key, or, where there is none, by the key's tenant.

use caisson_core::Key;
use caisson_engine::Engine;

use super::check::is_email;
use crate::{caller::View, error::ApiResult};

/// In the note of a key that is a user's token, in front of who that is.
const TOKEN_OF: &str = "Modbox token of ";
/// Keys that are looked at together.
const PAGE: u32 = 1000;

/// Who this is.
pub(super) fn of(view: &View) -> String {
    let noted = view.key_note().and_then(|(note, _)| in_note(note));
    noted.unwrap_or_else(|| view.engine.tenant().to_string())
}

/// The note of a token.
pub(super) fn note_of_token(who: &str) -> String {
    format!("{TOKEN_OF}{who}")
}

/// Whether anybody has a key in whose note this address is.
pub(super) fn is_known(operator: &Engine, email: &str) -> ApiResult<bool> {
    Ok(keys(operator)?.iter().any(|key| in_note(&key.note).as_deref() == Some(email)))
}

/// All keys there are.
pub(super) fn keys(operator: &Engine) -> ApiResult<Vec<Key>> {
    let mut keys = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = operator.keys(None, PAGE, cursor.as_deref())?;
        keys.extend(page.data);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(keys),
        }
    }
}

fn in_note(note: &str) -> Option<String> {
    match note.strip_prefix(TOKEN_OF) {
        Some(who) => Some(who.to_owned()),
        None => is_email(note.trim()).then(|| note.trim().to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_in_notes() {
        for (note, who) in [
            (" Dev@Example.com", Some("dev@example.com")),
            ("for the robots", None),
            ("", None),
            (&note_of_token("dev@example.com"), Some("dev@example.com")),
            (&note_of_token("team"), Some("team")),
        ] {
            assert_eq!(in_note(note).as_deref(), who, "{note}");
        }
    }
}
