//! Whose things are, and how much of them somebody may have.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use crate::Error;

/// The tenant of the configured key, and of everything that is older than tenants.
const DEFAULT: &str = "default";

/// Whose something is. Tenants see nothing of one another: what is another's answers like what never was.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The longest name.
    pub const MAX_LENGTH: usize = 64;
    /// What a name looks like, as a regular expression.
    pub const PATTERN: &str = "^[a-z0-9][a-z0-9._-]*$";

    /// The name in APIs and records.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Tenant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
        let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !begins_well || text.len() > Self::MAX_LENGTH || !text.bytes().all(fine) {
            let most = Self::MAX_LENGTH;
            let message =
                format!("a tenant's name is 1 to {most} characters of a-z, 0-9, `-`, `_` and `.`, beginning with a letter or digit");
            return Err(Error::invalid("invalid_tenant", message));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a tenant may have; `None` is no limit of its own, and then the server's are the only ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Sandboxes that have not ended, those of one-shots included.
    pub sandboxes: Option<u64>,
    /// Executions started within one minute, one-shots included.
    pub executions_per_minute: Option<u64>,
    /// The memory limits of its living sandboxes together.
    pub memory_bytes: Option<u64>,
    /// The disk limits of its living sandboxes on disk together. Files of the others are in memory and count there.
    pub disk_bytes: Option<u64>,
    /// All files of its workspaces together.
    pub workspace_bytes: Option<u64>,
}

impl Quotas {
    /// The largest figure that can be asked for.
    pub const MAX: u64 = 1 << 50;
}

/// What a tenant has at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    pub sandboxes: u64,
    /// Executions started within the last minute.
    pub executions_per_minute: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// As last counted; only those of tenants with a quota are.
    pub workspace_bytes: Option<u64>,
}

/// Which quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    Sandboxes,
    ExecutionsPerMinute,
    MemoryBytes,
    DiskBytes,
    WorkspaceBytes,
}

impl Quota {
    /// The name in APIs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::ExecutionsPerMinute => "executions_per_minute",
            Self::MemoryBytes => "memory_bytes",
            Self::DiskBytes => "disk_bytes",
            Self::WorkspaceBytes => "workspace_bytes",
        }
    }
}

/// A quota that does not allow what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    pub quota: Quota,
    pub limit: u64,
    /// What is in use without what was asked for.
    pub used: u64,
    pub asked: u64,
    /// When there is room again; known of rates alone.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quota, limit, used, asked, retry_after } = self;
        let name = quota.as_str();
        match (quota, retry_after) {
            (Quota::ExecutionsPerMinute, after) => {
                let seconds = after.unwrap_or_default().as_secs().max(1);
                write!(f, "quota `{name}` is {limit}, and {used} were started within the last minute; try again in {seconds} s")
            }
            (Quota::Sandboxes, _) => write!(f, "quota `{name}` is {limit}, and {used} are alive; end some of them first"),
            (Quota::MemoryBytes | Quota::DiskBytes, _) => {
                write!(f, "quota `{name}` is {limit}, living sandboxes have {used} of it and this one asks for {asked}")?;
                f.write_str("; end some of them, or ask for less")
            }
            (Quota::WorkspaceBytes, _) => {
                write!(
                    f,
                    "quota `{name}` is {limit}, workspaces have {used} of it and this file asks for at least {asked} more; remove some files first"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["default", "a", "team-7.prod_x", &"x".repeat(64)] {
            assert_eq!(good.parse::<Tenant>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "-a", ".", "..", "a/b", "a b", "a\0", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Tenant>().unwrap_err().code(), "invalid_tenant", "{bad:?}");
        }
        assert_eq!(Tenant::default(), "default".parse().unwrap());
    }

    #[test]
    fn a_refusal_names_quota_limit_and_use() {
        let exceeded = |quota, retry_after| Exceeded { quota, limit: 1000, used: 900, asked: 200, retry_after }.to_string();
        for (quota, retry_after) in [
            (Quota::Sandboxes, None),
            (Quota::MemoryBytes, None),
            (Quota::DiskBytes, None),
            (Quota::ExecutionsPerMinute, Some(Duration::from_secs(7))),
        ] {
            let message = exceeded(quota, retry_after);
            assert!(message.contains(quota.as_str()) && message.contains("1000") && message.contains("900"), "{message}");
            assert_eq!(message.contains("in 7 s"), retry_after.is_some(), "{message}");
        }
    }
}
