//! The built-in image `host`: the programs of the host, read-only, and nothing else of it.

use caisson_core::{Image, UserSpec};
use caisson_launcher::{host::Lent, plan::Step};

use crate::names::Names;

/// The search path of a sandbox of this image.
pub(crate) const PATH: &str = Image::HOST_PATH;

/// What the host lends, found once at start.
#[derive(Debug, Clone)]
pub(crate) struct HostImage(pub(crate) Lent);

impl HostImage {
    /// What this host lends.
    pub(crate) fn find() -> Self {
        Self(Lent::find())
    }

    /// The steps that make `/usr` & co. and `/etc`.
    pub(crate) fn steps(&self, names: &Names, hostname: &str, user: &UserSpec) -> Vec<Step> {
        let mut steps = self.0.programs.clone();
        steps.push(Step::Directory { path: "etc".into(), mode: 0o755, owner: 0 });
        steps.extend(self.0.etc.iter().cloned());
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

#[cfg(test)]
mod tests {
    use caisson_launcher::host::{CERTIFICATES, LENT_FROM_ETC, LENT_FROM_ETC_BY_PREFIX, PROGRAM_DIRECTORIES};

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
