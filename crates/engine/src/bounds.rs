//! How long and how many things in a request may be. Whoever describes the API tells these.

use std::time::Duration;

/// Bytes of a path; the kernel's own limit, the NUL behind it not counted.
pub const PATH_BYTES: usize = 4095;
/// Characters of a sandbox's name.
pub const NAME_LENGTH: usize = 64;
/// Characters of a host name.
pub const HOSTNAME_LENGTH: usize = 63;
/// Labels of one sandbox.
pub const METADATA_PAIRS: usize = 64;
/// Characters of what is noted about a key or a webhook.
pub const NOTE_LENGTH: usize = 200;
/// Webhooks of one tenant.
pub const WEBHOOKS: usize = 20;
/// Bytes of a webhook's address.
pub const URL_BYTES: usize = 2000;
/// What begins like this in an environment is for Caisson itself to say.
pub const RESERVED_ENV: &str = "CAISSON_";
/// Set-up commands of one template.
pub const SETUP_STEPS: usize = 32;
/// As long as one of them may take.
pub const SETUP_STEP_WITHIN: Duration = Duration::from_secs(3600);
/// Words of an interpreter that a template names.
pub const INTERPRETER_WORDS: usize = 16;
/// Modules that a template has a waiting Python import.
pub const PRELOADED: usize = 32;
