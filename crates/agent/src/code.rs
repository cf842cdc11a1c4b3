//! The file that holds an execution's source code, for as long as the execution.

use std::{fs::File, io::Write};

use caisson_sys::process::{Identity, as_file_owner};
use caisson_wire::{CodeFile, Refusal, RefusalCode};
use rustix::{
    fs::{CWD, Mode, OFlags, openat, unlink},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

use crate::refusal::{of_path, refuse};

/// The file; removed when dropped.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) path: String,
    user: Identity,
}

impl Drop for Written {
    fn drop(&mut self) {
        // The program may have removed or renamed it, which is its right.
        drop(as_file_owner(self.user, || unlink(self.path.as_str())));
    }
}

/// Where the file is when nothing is in its way.
pub(crate) fn place(code: &CodeFile, directory: &str) -> Result<String, Refusal> {
    check_name(code)?;
    Ok(format!("{}/{}.{}", directory.trim_end_matches('/'), code.stem, code.extension))
}

/// What the program is told of a file that is there.
pub(crate) fn told<'a>(code: &CodeFile, path: &'a str) -> &'a str {
    if code.exact { path.rsplit('/').next().unwrap_or(path) } else { path }
}

fn check_name(code: &CodeFile) -> Result<(), Refusal> {
    let plain =
        |part: &str| !part.is_empty() && part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain(&code.stem) && plain(&code.extension) {
        return Ok(());
    }
    Err(refuse(RefusalCode::Invalid, "the name of the code file may have letters, digits, `_` and `-`"))
}

/// Writes the file at exactly this path, where there must not be any.
pub(crate) fn write_at(path: String, text: &str, user: Identity) -> Result<Written, Refusal> {
    let written = as_file_owner(user, || match create(&path) {
        Ok(file) => fill(file, text, path.clone()),
        Err(error) => Err(of_path(&error.into(), path.as_bytes())),
    });
    let path = written.map_err(not_the_user)??;
    Ok(Written { path, user })
}

fn create(path: &str) -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::from_raw_mode(0o644))
}

pub(crate) fn not_the_user(error: std::io::Error) -> Refusal {
    refuse(RefusalCode::Failed, format!("cannot become the sandbox's user: {error}"))
}

/// Writes the file into `directory`, or into `/tmp` where the user may not write there. Never touches one that exists.
pub(crate) fn write(code: &CodeFile, directory: &str, user: Identity) -> Result<Written, Refusal> {
    check_name(code)?;
    if code.exact {
        let path = place(code, directory)?;
        // What cannot be removed cannot be made either.
        as_file_owner(user, || unlink(path.as_str()).ok()).map_err(not_the_user)?;
        return write_at(path, &code.text, user);
    }
    let written = as_file_owner(user, || {
        let mut last = Errno::EXIST;
        for place in [directory, "/tmp"] {
            for attempt in 0..8 {
                let suffix = if attempt == 0 { String::new() } else { format!("-{}", random_letters()) };
                let path = format!("{}/{}{suffix}.{}", place.trim_end_matches('/'), code.stem, code.extension);
                match create(&path) {
                    Ok(file) => return fill(file, &code.text, path),
                    Err(Errno::EXIST) => {}
                    Err(error) => {
                        last = error;
                        break;
                    }
                }
            }
        }
        Err(of_path(&last.into(), directory.as_bytes()))
    });
    let path = written.map_err(not_the_user)??;
    Ok(Written { path, user })
}

fn fill(file: rustix::fd::OwnedFd, text: &str, path: String) -> Result<String, Refusal> {
    match File::from(file).write_all(text.as_bytes()) {
        Ok(()) => Ok(path),
        Err(error) => {
            // Half a program must not stay; that it cannot be removed either changes nothing of the refusal.
            _ = unlink(path.as_str());
            Err(of_path(&error, path.as_bytes()))
        }
    }
}

/// Six letters that are hard to guess, for names that must not collide.
pub(crate) fn random_letters() -> String {
    let mut bytes = [0u8; 6];
    // Collisions are handled by whoever uses the name, so a generator that is not ready costs a retry at most.
    _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn file(stem: &str) -> CodeFile {
        CodeFile { stem: stem.to_owned(), extension: "py".to_owned(), text: "print(1)".to_owned(), exact: false }
    }

    #[test]
    fn a_file_that_exists_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_str().unwrap();
        std::fs::write(directory.path().join("main.py"), "mine").unwrap();
        let written = write(&file("main"), root, me()).unwrap();
        assert_ne!(written.path, format!("{root}/main.py"));
        assert_eq!(std::fs::read_to_string(&written.path).unwrap(), "print(1)");
        let path = written.path.clone();
        drop(written);
        assert!(!std::path::Path::new(&path).exists());
        assert_eq!(std::fs::read_to_string(directory.path().join("main.py")).unwrap(), "mine");
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", "a b", "a.b", "\0"] {
            assert!(write(&file(bad), "/tmp", me()).is_err(), "{bad:?}");
        }
    }
}
