//! What a sandbox may reach.

use caisson_server::native::types::NetworkBody;

/// A name, rules on one line, a policy as JSON, or behind an `@` the file that it is in.
pub(crate) fn network(text: &str) -> Result<NetworkBody, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("file `{path}` cannot be read: {error}"));
    let parsed = match text.strip_prefix('@') {
        Some(path) => read(path)?.trim().parse::<NetworkBody>(),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}
