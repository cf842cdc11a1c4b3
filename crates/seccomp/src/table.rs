//! The table as it is written, and as it is understood.
//!
//! ```toml
//! [[group]]                          # calls that are answered alike, whatever their arguments
//! reason = "…"
//! only = "x86_64"                    # optional: the architecture that has them
//! errno = "EPERM"                    # optional: refused with this; absent, they are allowed
//! calls = ["mount", …]
//!
//! [[rule]]                           # a call that is answered so when all conditions hold
//! call = "socket"
//! reason = "…"
//! errno = "EPERM"                    # optional, as above
//! where = [{ argument = 0, bits = 32, is = 1 }]
//! ```
//! Rules of one call are tried in the order of the table; then its group decides; a call with rules and without a group is refused with
//! EPERM. A call that does not stand in the table does not exist: ENOSYS.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the table cannot be read")]
    Syntax(#[from] toml::de::Error),
    #[error("`{0}` is no architecture that is known; x86_64 and aarch64 are")]
    Architecture(String),
    #[error("`{call}` ({reason}) is no system call of {architecture}; say `only` when another architecture has it")]
    UnknownCall { call: String, reason: String, architecture: &'static str },
    #[error("`{call}` stands in two groups, for `{first}` and for `{second}`")]
    Twice { call: String, first: String, second: String },
    #[error("`{reason}`: `{errno}` is no error that is known; EPERM, ENOSYS, EINVAL and EOPNOTSUPP are")]
    Errno { reason: String, errno: String },
    #[error("`{reason}`: {what}")]
    Condition { reason: String, what: &'static str },
    #[error("the program would be longer than the kernel takes")]
    TooLong,
}

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Allow,
    /// The call is not made; the program sees this error.
    Errno(u16),
    /// The process ends (`SECCOMP_RET_KILL_PROCESS`).
    Kill,
}

/// `ENOSYS`, asm-generic/errno.h.
pub(crate) const ENOSYS: u16 = 38;
/// `EPERM`.
const EPERM: u16 = 1;

fn errno(name: &str) -> Option<u16> {
    Some(match name {
        "EPERM" => EPERM,
        "EINVAL" => 22,
        "ENOSYS" => ENOSYS,
        "EOPNOTSUPP" => 95,
        _ => return None,
    })
}

/// A kind of processor, as far as system calls are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// By the name that Rust gives it.
    pub fn named(name: &str) -> Result<Self, TableError> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(TableError::Architecture(other.to_owned())),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// `AUDIT_ARCH_*`, include/uapi/linux/audit.h.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    fn call(self, number: u32) -> Option<&'static str> {
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::new(number as usize).map(|call| call.name()),
            Self::Aarch64 => syscalls::aarch64::Sysno::new(number as usize).map(|call| call.name()),
        }
    }

    fn number(self, call: &str) -> Option<u32> {
        match self {
            Self::X86_64 => call.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id().cast_unsigned()),
            Self::Aarch64 => call.parse::<syscalls::aarch64::Sysno>().ok().map(|call| call.id().cast_unsigned()),
        }
    }
}

/// One test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// Whether all 64 bits count or the low 32, which is what the kernel looks at where an argument is an `int`.
    pub wide: bool,
    /// Only these bits are compared.
    pub mask: u64,
    pub value: u64,
    /// Whether the bits must be equal, or must not.
    pub equal: bool,
}

/// What a call gets when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub answer: Answer,
}

/// Everything about one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub rules: Vec<Rule>,
    /// When no rule holds.
    pub otherwise: Answer,
}

/// A table, understood for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub architecture: Architecture,
    /// By number.
    pub calls: BTreeMap<u32, Call>,
}

impl Table {
    /// Reads a table. Every name must be a call of the architecture.
    pub fn parse(text: &str, architecture: Architecture) -> Result<Self, TableError> {
        let written: Written = toml::from_str(text)?;
        let mut calls = BTreeMap::new();
        let mut reasons: BTreeMap<u32, String> = BTreeMap::new();
        for group in written.group {
            if group.only.as_deref().is_some_and(|only| only != architecture.name()) {
                continue;
            }
            let otherwise = answer(group.errno.as_deref(), &group.reason)?;
            for call in group.calls {
                let number = number(architecture, &call, &group.reason)?;
                if let Some(first) = reasons.insert(number, group.reason.clone()) {
                    return Err(TableError::Twice { call, first, second: group.reason });
                }
                calls.insert(number, Call { rules: Vec::new(), otherwise });
            }
        }
        for rule in written.rule {
            let number = number(architecture, &rule.call, &rule.reason)?;
            let conditions = rule.r#where.iter().map(|condition| condition.understand(&rule.reason)).collect::<Result<Vec<_>, _>>()?;
            if conditions.is_empty() {
                return Err(TableError::Condition { reason: rule.reason, what: "a rule needs a condition; without one it is a group" });
            }
            let answer = answer(rule.errno.as_deref(), &rule.reason)?;
            let call = calls.entry(number).or_insert(Call { rules: Vec::new(), otherwise: Answer::Errno(EPERM) });
            call.rules.push(Rule { conditions, answer });
        }
        Ok(Self { architecture, calls })
    }

    /// The calls that may be made at all, whatever their arguments have to be.
    #[must_use]
    pub fn allowed(&self) -> Vec<&'static str> {
        let is_allowed = |call: &Call| call.otherwise == Answer::Allow || call.rules.iter().any(|rule| rule.answer == Answer::Allow);
        let numbers = self.calls.iter().filter(|(_, call)| is_allowed(call)).map(|(number, _)| *number);
        numbers.filter_map(|number| self.architecture.call(number)).collect()
    }

    /// The same with what `other` says of the calls that it names.
    #[must_use]
    pub fn overridden_by(mut self, other: Self) -> Self {
        self.calls.extend(other.calls);
        self
    }
}

fn number(architecture: Architecture, call: &str, reason: &str) -> Result<u32, TableError> {
    architecture.number(call).ok_or_else(|| TableError::UnknownCall {
        call: call.to_owned(),
        reason: reason.to_owned(),
        architecture: architecture.name(),
    })
}

fn answer(name: Option<&str>, reason: &str) -> Result<Answer, TableError> {
    let Some(name) = name else { return Ok(Answer::Allow) };
    errno(name).map(Answer::Errno).ok_or_else(|| TableError::Errno { reason: reason.to_owned(), errno: name.to_owned() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    group: Vec<WrittenGroup>,
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGroup {
    reason: String,
    only: Option<String>,
    errno: Option<String>,
    calls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    call: String,
    reason: String,
    errno: Option<String>,
    r#where: Vec<WrittenCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCondition {
    argument: u8,
    bits: u8,
    mask: Option<u64>,
    is: Option<u64>,
    is_not: Option<u64>,
}

impl WrittenCondition {
    fn understand(&self, reason: &str) -> Result<Condition, TableError> {
        let wrong = |what| Err(TableError::Condition { reason: reason.to_owned(), what });
        let (value, equal) = match (self.is, self.is_not) {
            (Some(value), None) => (value, true),
            (None, Some(value)) => (value, false),
            _ => return wrong("a condition has either `is` or `is_not`"),
        };
        let (wide, all) = match self.bits {
            32 => (false, u64::from(u32::MAX)),
            64 => (true, u64::MAX),
            _ => return wrong("`bits` is 32 or 64"),
        };
        let mask = self.mask.unwrap_or(all);
        if self.argument > 5 {
            return wrong("arguments are numbered from 0 to 5");
        }
        if mask & !all != 0 || value & !mask != 0 {
            return wrong("a value has bits that are never compared");
        }
        Ok(Condition { argument: self.argument, wide, mask, value, equal })
    }
}
