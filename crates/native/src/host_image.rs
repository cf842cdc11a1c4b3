//! The built-in image `host`: the programs of the host, read-only, and nothing else of it.

use std::{fs, path::Path};

use caisson_core::{Image, UserSpec};
use caisson_launcher::plan::Step;

use crate::names::Names;

/// Top-level directories that hold programs. On most distributions all but `usr` are links into it.
const PROGRAM_DIRECTORIES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Entries of `/etc` without which programs in `/usr` do not work; they hold no secrets and are lent read-only. Everything else
/// in the sandbox's `/etc` is generated.
const LENT_FROM_ETC: [&str; 12] = [
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
const LENT_FROM_ETC_BY_PREFIX: [&str; 3] = ["java-", "python3", "R"];
/// Certificates, but not the private keys beside them.
const CERTIFICATES: &str = "ssl/certs";

/// The search path of a sandbox of this image.
pub(crate) const PATH: &str = Image::HOST_PATH;

/// What the host lends, found once at start.
#[derive(Debug, Clone)]
pub(crate) struct HostImage {
    programs: Vec<Step>,
    etc: Vec<Step>,
}

impl HostImage {
    /// Looks at the host's directories.
    pub(crate) fn find() -> Self {
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

    /// The steps that make `/usr` & co. and `/etc`.
    pub(crate) fn steps(&self, names: &Names, hostname: &str, user: &UserSpec) -> Vec<Step> {
        let mut steps = self.programs.clone();
        steps.push(Step::Directory { path: "etc".into(), mode: 0o755, owner: 0 });
        steps.extend(self.etc.iter().cloned());
        let UserSpec { uid, gid, name, home } = user;
        let mut file = |name: &str, content: String| {
            steps.push(Step::File { path: format!("etc/{name}"), mode: 0o644, owner: 0, content });
        };
        let (account, group) = if *uid == 0 {
            (String::new(), String::new())
        } else {
            (format!("{name}:x:{uid}:{gid}::{home}:/bin/bash\n"), format!("{name}:x:{gid}:\n"))
        };
        file(
            "passwd",
            format!(
                "root:x:0:0:root:/root:/bin/bash\n\
                 daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
                 {account}\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        );
        file("group", format!("root:x:0:\ndaemon:x:1:\ntty:x:5:\n{group}nogroup:x:65534:\n"));
        names.files(hostname).into_iter().for_each(|(name, content)| file(name, content));
        file("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nprotocols: files\nservices: files\n".into());
        // What the request says of PATH stands.
        file("profile", format!("export PATH=\"${{PATH:-{PATH}}}\"\n[ -z \"$BASH_VERSION\" ] || PS1='\\u@\\h:\\w\\$ '\n"));
        steps.push(Step::Symlink { path: "etc/os-release".into(), target: "../usr/lib/os-release".into() });
        steps.push(Step::Symlink { path: "etc/mtab".into(), target: "/proc/self/mounts".into() });
        steps
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_and_the_listed_parts_of_etc_are_lent() {
        let steps = HostImage::find().steps(&Names::Own, "box", &UserSpec::default());
        for step in &steps {
            if let Step::Bind { source, path, .. } = step {
                let known = PROGRAM_DIRECTORIES.iter().any(|d| path == d)
                    || path.strip_prefix("etc/").is_some_and(|name| {
                        LENT_FROM_ETC.contains(&name)
                            || LENT_FROM_ETC_BY_PREFIX.iter().any(|p| name.starts_with(p))
                            || name == CERTIFICATES
                            || name == "ssl/openssl.cnf"
                    });
                assert!(known, "{source} at {path}");
            }
        }
        assert!(
            steps
                .iter()
                .any(|s| matches!(s, Step::File { path, content, .. } if path == "etc/passwd" && content.contains("user:x:1000:1000")))
        );
    }
}
