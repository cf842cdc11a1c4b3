//! What a root that is made of an image leaves open ([`OfImage`]): who user code is, and what that user needs to be there.
//!
//! All of it is the image's word, so it is read in here, behind the walls, and acted upon with no more than this sandbox's own rights: links of
//! the image lead to places of the image. What is read has a bound, and only `/etc/passwd` and `/etc/group` are.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use caisson_wire::{AgentConfig, Given, OfImage, Place, Refusal, RefusalCode, TRUSTED, TRUSTED_BUNDLE};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chown, chownat, fchown, fstat, lstat, mkdir, open, openat2, readlink,
        rmdir, stat, symlink, unlink,
    },
    io::Errno,
};

use crate::{lookup::variable, refusal::refuse};

/// Accounts of an image come to a few thousand bytes.
const MAX_TABLE: u64 = 1 << 20;
/// The ids that an image may use.
const MAX_ID: u32 = 65_535;
/// Shells for the account, best first. The last is said even where there is none.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// Completes the configuration, and makes what is missing. A refusal is the image's fault, and nothing is to run in it.
pub(crate) fn settle(config: &mut AgentConfig) -> Result<(), Refusal> {
    let Some(OfImage { user }) = config.of_image.clone() else { return Ok(()) };
    let accounts = read("passwd")?;
    let is_of_image = user.is_some();
    if let Some(user) = user {
        let found = find(&user, &accounts, &read("group")?)?;
        (config.uid, config.gid, config.name, config.home) = (found.uid, found.gid, found.name, found.home);
    }
    let shell = SHELLS.into_iter().find(|shell| is_file(shell)).unwrap_or(SHELLS[1]);
    for (name, value) in [("HOME", &config.home), ("LOGNAME", &config.name), ("SHELL", &shell.to_owned()), ("USER", &config.name)] {
        if variable(&config.env, name).is_none() {
            config.env.push((name.to_owned(), value.clone()));
        }
    }
    add_account(config, &accounts, shell);
    for directory in [&config.home, &config.work_dir] {
        make(directory, config.uid, config.gid)
            .map_err(|error| bad(format!("`{}` cannot be made a directory of the sandbox: {error}", directory.escape_default())))?;
    }
    if !is_of_image {
        own(&config.home, config.uid, config.gid);
    }
    Ok(())
}

/// Makes what the configuration names, for the user that it is settled on. What is there stays, and a directory of it becomes the user's.
pub(crate) fn furnish(config: &AgentConfig) -> Result<(), Refusal> {
    for Place { path, target } in &config.places {
        let made = match target {
            None => make(path, config.uid, config.gid).map(|()| own(path, config.uid, config.gid)),
            Some(target) => link(path, target, config.uid, config.gid, true),
        };
        made.map_err(|error| bad(format!("`{}` cannot be made in the sandbox: {error}", path.escape_default())))?;
    }
    match &config.trusts {
        None => Ok(()),
        Some(certificate) => trust(certificate, config.of_image.is_some())
            .map_err(|error| bad(format!("certificates to trust cannot be put into `{TRUSTED_BUNDLE}`: {error}"))),
    }
}

/// Files with certificates that an image trusts, relative to its root. The first that is there counts.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// Those of a distribution come to a few hundred thousand bytes.
const MAX_BUNDLE: u64 = 4 << 20;

/// Writes a certificate, and it behind those that the image trusts. What a sandbox has of them from an earlier start is replaced.
fn trust(certificate: &str, is_of_image: bool) -> io::Result<()> {
    // What is lent of the host is a mount of its own; in an image nothing is that could be wanted.
    let how = if is_of_image { ResolveFlags::NO_XDEV } else { ResolveFlags::empty() };
    let mut bundle = Vec::new();
    if let Some(file) =
        BUNDLES.iter().find_map(|path| regular(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, how).ok())
    {
        file.take(MAX_BUNDLE).read_to_end(&mut bundle)?;
    }
    if bundle.last().is_some_and(|last| *last != b'\n') {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(certificate.as_bytes());
    if let Some((directory, _)) = TRUSTED.rsplit_once('/') {
        make(directory, 0, 0)?;
    }
    for (path, bytes) in [(TRUSTED, certificate.as_bytes()), (TRUSTED_BUNDLE, &bundle)] {
        match unlink(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(open(path, how, Mode::from_raw_mode(0o644))?);
        fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
        file.write_all(bytes)?;
    }
    Ok(())
}

/// Another name for what is elsewhere, in directories that are made. It is the user's, as nothing that is the agent's may be in an image.
fn link(path: &str, target: &str, uid: u32, gid: u32, again: bool) -> io::Result<()> {
    if let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
        make(parent, 0, 0)?;
    }
    match symlink(target, path) {
        Ok(()) => Ok(chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?),
        Err(Errno::EXIST) if readlink(path, Vec::new()).is_ok_and(|found| found.as_bytes() == target.as_bytes()) => Ok(()),
        // In an image it may be a directory that waits for what is put there.
        Err(Errno::EXIST) if again && rmdir(path).is_ok() => link(path, target, uid, gid, false),
        Err(Errno::EXIST) => Err(io::Error::other("something else is there already; take an image without it")),
        Err(error) => Err(error.into()),
    }
}

/// What the launcher and [`settle`] make in every root of an image, where it is not there. None of it is a change that anybody made.
const GIVEN: [&str; 10] = [
    "",
    "etc",
    "etc/caisson",
    "etc/caisson/bundle.pem",
    "etc/caisson/ca.pem",
    "etc/hostname",
    "etc/hosts",
    "etc/passwd",
    "etc/resolv.conf",
    "tmp",
];

/// What there is of it, home and work dir included, and how it is now. To be asked before any program runs.
pub(crate) fn given(config: &AgentConfig) -> Vec<Given> {
    if config.of_image.is_none() {
        return Vec::new();
    }
    let mut paths: Vec<String> = GIVEN.map(str::to_owned).to_vec();
    for directory in [&config.home, &config.work_dir].into_iter().chain(config.places.iter().map(|place| &place.path)) {
        // Links of the image lead elsewhere, and there they were made.
        let Some(real) = std::fs::canonicalize(directory).ok().and_then(|real| real.to_str().map(str::to_owned)) else { continue };
        let real = real.trim_start_matches('/');
        let ends = real.char_indices().filter(|(_, c)| *c == '/').map(|(index, _)| index).chain([real.len()]);
        paths.extend(ends.map(|end| real[..end].to_owned()));
    }
    paths.sort();
    paths.dedup();
    paths.into_iter().filter_map(look).collect()
}

fn look(path: String) -> Option<Given> {
    let stat = lstat(format!("/{path}")).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let size = if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    let (mode, uid, gid) = (stat.st_mode, stat.st_uid, stat.st_gid);
    Some(Given { path, mode, uid, gid, size, changed_s: stat.st_ctime, changed_ns: stat.st_ctime_nsec })
}

fn bad(message: impl Into<String>) -> Refusal {
    refuse(RefusalCode::Image, message)
}

fn is_file(path: &str) -> bool {
    stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// A table of `/etc`; nothing where there is none. Links are followed as everybody inside follows them, but not into other file systems.
fn read(name: &str) -> Result<String, Refusal> {
    let unreadable = |why: &dyn std::fmt::Display| bad(format!("the image's /etc/{name} cannot be read: {why}"));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match in_root(name, flags, ResolveFlags::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        file => file.map_err(|error| unreadable(&error))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_TABLE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_TABLE {
        return Err(unreadable(&"it is larger than 1 MiB"));
    }
    // A line that is no text is nobody's account.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A regular file of `/etc`, on the file system of the root.
fn in_root(name: &str, flags: OFlags, how: ResolveFlags) -> Result<File, Errno> {
    regular(&format!("etc/{name}"), flags, how | ResolveFlags::NO_XDEV)
}

/// A regular file, by its path below the root.
fn regular(path: &str, flags: OFlags, how: ResolveFlags) -> Result<File, Errno> {
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let file = openat2(&root, path, flags, Mode::empty(), how | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile { Ok(File::from(file)) } else { Err(Errno::INVAL) }
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    name: String,
    home: String,
}

/// The account that a line of `passwd(5)` describes.
fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields[..] else { return None };
    let home = if home.starts_with('/') { home } else { "/" };
    Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()?, name: name.to_owned(), home: home.to_owned() })
}

/// The number of a group, by a line of `group(5)`.
fn group(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((name, fields.nth(1)?.parse().ok()?))
}

/// Who an image's `User` is. A number needs no account, a name does. As everywhere, somebody without an account is in group 0.
fn find(user: &str, accounts: &str, groups: &str) -> Result<Account, Refusal> {
    let shown = user.escape_default();
    let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let number: Option<u32> = name.parse().ok();
    let mut known = accounts.lines().filter_map(account);
    let known = match number {
        Some(uid) => known.find(|account| account.uid == uid),
        None => known.find(|account| account.name == name),
    };
    let mut found = match (known, number) {
        (Some(known), _) => known,
        (None, Some(uid)) => Account { uid, gid: 0, name: uid.to_string(), home: "/".to_owned() },
        (None, None) => return Err(bad(format!("the image's user `{shown}` is not in its /etc/passwd; build it with one that is"))),
    };
    if let Some(wanted) = group_name {
        let by_name = || groups.lines().filter_map(group).find(|(name, _)| *name == wanted).map(|(_, gid)| gid);
        found.gid =
            wanted.parse().ok().or_else(by_name).ok_or_else(|| {
                bad(format!("the group of the image's user `{shown}` is not in its /etc/group; build it with one that is"))
            })?;
    }
    if found.uid > MAX_ID || found.gid > MAX_ID {
        return Err(bad(format!("the image's user `{shown}` has an id above {MAX_ID}, which no sandbox has")));
    }
    Ok(found)
}

/// Programs that ask who they are get an answer: the user has an entry in `/etc/passwd`. An image that does not allow it (where there is no
/// such directory, or a link) goes without, as it does elsewhere.
fn add_account(config: &AgentConfig, accounts: &str, shell: &str) {
    if config.uid == 0 && !accounts.is_empty() || accounts.lines().filter_map(account).any(|known| known.uid == config.uid) {
        return;
    }
    let taken = accounts.lines().filter_map(account).any(|known| known.name == config.name);
    let name = if taken { format!("user{}", config.uid) } else { config.name.clone() };
    let mut text = String::new();
    if accounts.is_empty() {
        text += &format!("root:x:0:0:root:/root:{shell}\n");
    } else if !accounts.ends_with('\n') {
        text.push('\n');
    }
    if config.uid != 0 {
        text += &format!("{name}:x:{}:{}::{}:{shell}\n", config.uid, config.gid, config.home);
    }
    // See above.
    drop(append(&text));
}

fn append(text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match in_root("passwd", flags, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => {
            let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = open("/etc/passwd", how, Mode::from_raw_mode(0o644))?;
            fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
            File::from(file)
        }
        file => file?,
    };
    file.write_all(text.as_bytes())
}

/// Makes a directory for its owner, and those above it for root, as they are in a sandbox without an image. One that is there stays as it is.
fn make(directory: &str, uid: u32, gid: u32) -> io::Result<()> {
    let ends = directory.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(index, _)| index).chain([directory.len()]);
    for end in ends {
        let (path, last) = (&directory[..end], end == directory.len());
        match mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let (uid, gid) = if last { (uid, gid) } else { (0, 0) };
                chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let kind = FileType::from_raw_mode(stat(directory)?.st_mode);
    if kind == FileType::Directory { Ok(()) } else { Err(Errno::NOTDIR.into()) }
}

/// Gives a user that the image does not know the home that it has all the same, such as the `WORKDIR` of a Dockerfile, which is root's. What is in
/// it stays as it is, and so does a home where that cannot be.
fn own(home: &str, uid: u32, gid: u32) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if home.trim_matches('/').is_empty() {
        return;
    }
    let Ok(directory) = open(home, flags, Mode::empty()) else { return };
    if fstat(&directory).is_ok_and(|stat| stat.st_uid != uid) {
        fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nnode:x:1000:1001:Node:/home/node:/bin/sh\nfar:x:70000:5::/far:\nhomeless:x:7:7:::/bin/sh";
    const GROUP: &str = "root:x:0:\nstaff:x:50:node,far\nfar:x:99999:\n";

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, name: &str, home: &str) {
        let expected = Account { uid, gid, name: name.to_owned(), home: home.to_owned() };
        assert_eq!(find(user, PASSWD, GROUP).unwrap(), expected, "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        check("node", 1000, 1001, "node", "/home/node");
        check("1000", 1000, 1001, "node", "/home/node");
        check("node:staff", 1000, 50, "node", "/home/node");
        check("1000:7", 1000, 7, "node", "/home/node");
        check("4242", 4242, 0, "4242", "/");
        check("4242:staff", 4242, 50, "4242", "/");
        check("root", 0, 0, "root", "/root");
        check("homeless", 7, 7, "homeless", "/");
    }

    #[test]
    fn users_that_cannot_be_are_refused_by_name() {
        for user in ["nobody-here", "", ":", "node:nowhere", "far", "70000", "1000:70000", "1000:far", "-1", "99999999999"] {
            let refusal = find(user, PASSWD, GROUP).unwrap_err();
            assert!(refusal.code == RefusalCode::Image && refusal.message.contains(&format!("`{user}`")), "{refusal:?}");
        }
    }

    #[test]
    fn directories_are_made_unless_they_are_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        for _ in 0..2 {
            make(path.to_str().unwrap(), uid, gid).unwrap();
            assert!(path.is_dir());
        }
        std::fs::write(root.path().join("file"), "").unwrap();
        for bad in ["file", "file/below"] {
            assert!(make(root.path().join(bad).to_str().unwrap(), uid, gid).is_err(), "{bad}");
        }
    }
}
