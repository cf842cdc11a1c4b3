//! Finding programs as the sandbox's user finds them.

use caisson_sys::process::{Identity, as_file_owner};
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The value of a variable in a list where later entries win.
pub(crate) fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The first of `names` that is a program, and where it is. A name with a slash is taken as it is, relative to `directory`.
pub(crate) fn find(names: &[&str], environment: &[(String, String)], directory: &str, user: Identity) -> Option<String> {
    let path = variable(environment, "PATH").unwrap_or(DEFAULT_PATH);
    as_file_owner(user, || names.iter().find_map(|name| find_one(name, path, directory))).ok()?
}

fn find_one(name: &str, path: &str, directory: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if name.starts_with('/') {
        return is_program(name).then(|| name.to_owned());
    }
    if name.contains('/') {
        let joined = format!("{directory}/{name}");
        return is_program(&joined).then_some(joined);
    }
    path.split(':').filter(|entry| entry.starts_with('/')).map(|entry| format!("{entry}/{name}")).find(|joined| is_program(joined))
}

/// A regular file that this thread's file identity may execute.
fn is_program(path: &str) -> bool {
    stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn me() -> Identity {
        Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        for (place, mode) in [("first", 0o644), ("second", 0o755)] {
            let path = directory.path().join(place).join("tool");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        // One that may not be executed is passed over, and so are relative entries of PATH.
        let environment = [("PATH".to_owned(), format!("second:{root}/first:{root}/second"))];
        let found = |names: &[&str]| find(names, &environment, root, me());
        assert_eq!(found(&["tool"]), Some(format!("{root}/second/tool")));
        assert_eq!(found(&["absent", "tool"]), Some(format!("{root}/second/tool")));
        assert_eq!(found(&["second/tool"]), Some(format!("{root}/second/tool")));
        assert_eq!(found(&["./second/tool"]), Some(format!("{root}/./second/tool")));
        for absent in ["", "absent", "first/tool", "/", "second"] {
            assert_eq!(found(&[absent]), None, "{absent}");
        }
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let environment = [("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        assert_eq!(variable(&environment, "A"), Some("2"));
        assert_eq!(variable(&environment, "B"), None);
    }
}
