//! A second wall behind mounts, ids and the filter: a Landlock domain (`landlock(7)`) around the agent and all that it starts. Where another
//! wall had a hole, there would still be
//!
//! - no mounting: the kernel refuses `mount(2)` and its kin to whoever is in a domain;
//! - no device files;
//! - no signal and no abstract socket that reaches beyond the sandbox (Linux 6.12);
//! - for ordinary users, no writing below a top directory that is mounted read-only.
//!
//! One domain for the whole sandbox and not one for each execution, so that executions can signal and debug one another.

use std::{fs, io, os::fd::AsFd};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs, open};

/// The newest rights that are asked for; an older kernel takes those that it knows, one without Landlock none.
const NEWEST: ABI = ABI::V6;

/// Enters the domain, for good. `uid` is that of the sandbox's user.
pub(crate) fn confine(uid: u32) -> io::Result<()> {
    let everything = AccessFs::from_all(NEWEST);
    let without_devices = everything & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let ruleset = if uid == 0 {
        allow(ruleset, &directory("/")?, without_devices)?
    } else {
        // Root of an image may make top directories; nobody else can.
        allow_writing(allow(ruleset, &directory("/")?, AccessFs::from_read(NEWEST))?, without_devices)?
    };
    ruleset.restrict_self().map(drop).map_err(io::Error::other)
}

/// Each top directory that can be written at all. `/dev` is read-only, but the devices in it and what is mounted below are not.
fn allow_writing(mut ruleset: RulesetCreated, rights: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let directory = directory(entry.path())?;
        if entry.file_name() == "dev" || !fstatvfs(&directory)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            ruleset = allow(ruleset, &directory, rights)?;
        }
    }
    Ok(ruleset)
}

fn directory(path: impl rustix::path::Arg) -> io::Result<impl AsFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn allow(ruleset: RulesetCreated, directory: &impl AsFd, rights: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    ruleset.add_rule(PathBeneath::new(directory, rights)).map_err(io::Error::other)
}
