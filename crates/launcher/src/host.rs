//! What a host lends to sandboxes of the built-in image: its programs, read-only, and nothing else of it.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::plan::Step;

/// Top-level directories that hold programs. On most distributions all but `usr` are links into it.
pub const PROGRAM_DIRECTORIES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Entries of `/etc` without which programs in `/usr` do not work; they hold no secrets and are lent read-only. Everything else
/// in the sandbox's `/etc` is generated.
pub const LENT_FROM_ETC: [&str; 12] = [
    "alternatives",
    "ca-certificates",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "matplotlibrc",
    "mime.types",
    "perl",
    "protocols",
    "services",
];
/// The same for names that carry a version.
pub const LENT_FROM_ETC_BY_PREFIX: [&str; 3] = ["java-", "python3", "R"];
/// Certificates, but not the private keys beside them.
pub const CERTIFICATES: &str = "ssl/certs";

/// What a host lends, found once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    pub programs: Vec<Step>,
    pub etc: Vec<Step>,
}

impl Lent {
    /// Looks at the directories of whoever's root this process has.
    #[must_use]
    pub fn find() -> Self {
        let programs = PROGRAM_DIRECTORIES.into_iter().filter_map(|name| lend_or_link(Path::new("/"), name, "")).collect();
        let mut names: Vec<String> = LENT_FROM_ETC.iter().map(|name| (*name).to_owned()).collect();
        for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str()
                && LENT_FROM_ETC_BY_PREFIX.iter().any(|prefix| name.starts_with(prefix))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        let mut etc: Vec<Step> = names.iter().filter_map(|name| lend_or_link(Path::new("/etc"), name, "etc/")).collect();
        if Path::new("/etc").join(CERTIFICATES).is_dir() {
            etc.push(Step::Directory { path: "etc/ssl".into(), mode: 0o755, owner: 0 });
            etc.push(Step::Bind { source: format!("/etc/{CERTIFICATES}"), path: format!("etc/{CERTIFICATES}"), file: false });
            if Path::new("/etc/ssl/openssl.cnf").is_file() {
                etc.push(Step::Bind { source: "/etc/ssl/openssl.cnf".into(), path: "etc/ssl/openssl.cnf".into(), file: true });
            }
        }
        Self { programs, etc }
    }
}

/// A step that shows `directory/name` of the host at the same place inside: the same link where it is a link that stays within what
/// is lent, otherwise the thing itself. `None` when the host has no such thing.
fn lend_or_link(directory: &Path, name: &str, prefix: &str) -> Option<Step> {
    let source = directory.join(name);
    let path = format!("{prefix}{name}");
    let metadata = fs::symlink_metadata(&source).ok()?;
    if metadata.is_symlink() {
        let target = fs::read_link(&source).ok()?;
        let target = target.to_str()?;
        if target.trim_start_matches('/').starts_with("usr/") {
            return Some(Step::Symlink { path, target: target.to_owned() });
        }
    }
    let real = fs::canonicalize(&source).ok()?;
    let file = real.is_file();
    (file || real.is_dir()).then(|| Some(Step::Bind { source: real.to_str()?.to_owned(), path, file }))?
}
