//! Keys: who may ask, for which tenant, and for how much.

use std::{fmt, str::FromStr};

use jiff::Timestamp;

use crate::{KeyId, Tenant, sandbox::UnknownName};

/// What a key is good for. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Looking at everything of its tenant: sandboxes, executions, output, files, events.
    Read,
    /// Making, using, changing and ending things of its tenant.
    Run,
    /// Keys and quotas of all tenants, and what concerns the server as a whole.
    Admin,
}

impl Scope {
    /// All scopes, the smallest first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Run, Self::Admin];

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownName)
    }
}

/// What is kept of a key: its SHA-256. A key has so many random bits that nothing slower is needed.
#[derive(Clone, Copy)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// A key as recorded. The key itself is shown once and kept nowhere.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: KeyId,
    pub hash: KeyHash,
    pub tenant: Tenant,
    pub scope: Scope,
    /// What it is for, in its maker's words.
    pub note: String,
    pub created_at: Timestamp,
    /// From then on it is as if revoked.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_include_the_smaller_ones() {
        assert!(Scope::Read < Scope::Run && Scope::Run < Scope::Admin);
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("root".parse::<Scope>().is_err());
    }
}
