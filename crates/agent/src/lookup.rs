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
