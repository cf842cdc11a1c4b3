//! The private directory of a program that is held, and its gate.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
};

use caisson_sys::process::{Identity, as_file_owner};
use caisson_wire::{FIXED_FILE, GATE_FILE, Gate, HOLD_DIR, Hold, MAX_FACTS, Refusal, RefusalCode, TAKEN_FILE};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::Errno,
};

use super::{cannot, gate::Open};
use crate::{
    code::{not_the_user, random_letters},
    lookup,
    refusal::{of_path, refuse},
};

/// All that leads a program to its gate. Removed when dropped.
#[derive(Debug)]
pub(super) struct Room {
    user: Identity,
    directory: String,
    gate: String,
    inode: u64,
}

/// What a hook has said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) fixed: BTreeSet<String>,
    pub(super) taken: BTreeSet<String>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Room {
    /// Where code is its own gate, it is at `code_path`, where there must not be anything in any case.
    pub(super) fn make(user: Identity, hold: &Hold, code_path: &str) -> Result<Self, Refusal> {
        let directory = format!("/tmp/.{}{}", random_letters(), random_letters());
        let gate = match hold.gate {
            Gate::Code => code_path.to_owned(),
            Gate::Script(_) | Gate::Message => format!("{directory}/{GATE_FILE}"),
        };
        for (name, _) in &hold.files {
            if name.is_empty() || name.contains('/') || [".", "..", GATE_FILE, FIXED_FILE, TAKEN_FILE].contains(&name.as_str()) {
                return Err(refuse(RefusalCode::Invalid, "a file of what is held has a name that cannot be"));
            }
        }
        let made = as_file_owner(user, || {
            match fs::symlink_metadata(code_path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(of_path(&error, code_path.as_bytes())),
                Ok(_) => return Err(of_path(&Errno::EXIST.into(), code_path.as_bytes())),
            }
            fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|error| of_path(&error, directory.as_bytes()))
        });
        made.map_err(not_the_user)??;
        let mut room = Self { user, directory, gate, inode: 0 };
        room.inode = as_file_owner(user, || room.furnish(hold)).map_err(not_the_user)??;
        Ok(room)
    }

    /// Puts files and gate in; returns the gate's inode.
    fn furnish(&self, hold: &Hold) -> Result<u64, Refusal> {
        for (name, text) in &hold.files {
            let path = format!("{}/{name}", self.directory);
            fs::write(&path, text).map_err(|error| of_path(&error, path.as_bytes()))?;
        }
        let made = mknodat(CWD, self.gate.as_str(), FileType::Fifo, Mode::from_raw_mode(0o600), 0);
        let made = made.map_err(io::Error::from).and_then(|()| fs::symlink_metadata(&self.gate));
        Ok(made.map_err(|error| of_path(&error, self.gate.as_bytes()))?.ino())
    }

    /// Removes it, as far as it is there.
    pub(super) fn clear(&self) {
        drop(as_file_owner(self.user, || {
            if self.gate_is_ours() {
                drop(fs::remove_file(&self.gate));
            }
            drop(fs::remove_dir_all(&self.directory));
        }));
    }

    /// The environment with the variable that leads here.
    pub(super) fn environment(&self, hold: &Hold, environment: &[(String, String)]) -> Result<Vec<(String, String)>, Refusal> {
        let mut led = environment.to_vec();
        let Some(variable) = &hold.variable else { return Ok(led) };
        let mut value = variable.value.replace(HOLD_DIR, &self.directory);
        let there = lookup::variable(environment, &variable.name).filter(|there| !there.is_empty());
        match there {
            Some(there) if variable.before_others => value = format!("{value}:{there}"),
            Some(_) => return Err(cannot(format!("the variable `{}` is set", variable.name))),
            None => {}
        }
        // Where it stands, so that the others keep their order.
        match led.iter_mut().find(|(name, _)| *name == variable.name) {
            Some((_, old)) => *old = value,
            None => led.push((variable.name.clone(), value)),
        }
        Ok(led)
    }

    /// The gate, once the program waits there.
    pub(super) fn look(&self) -> Result<Option<Open>, Refusal> {
        let opened = as_file_owner(self.user, || {
            if !self.gate_is_ours() {
                return Err(Errno::NOENT);
            }
            // The kernel opens a FIFO for whoever would not wait only if somebody reads or is about to (fifo(7)).
            open(self.gate.as_str(), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        });
        match opened.map_err(not_the_user)? {
            Ok(fd) => Ok(Some(Open::new(fd))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(cannot(format!("its gate has gone: {error}"))),
        }
    }

    /// What the hook has said, if there is one.
    pub(super) fn facts(&self) -> Result<Facts, Refusal> {
        let read = as_file_owner(self.user, || {
            if !self.gate_is_ours() {
                return Err(io::Error::other("something else is in the place of its gate"));
            }
            Ok(Facts { fixed: self.lines(FIXED_FILE)?, taken: self.lines(TAKEN_FILE)? })
        });
        read.map_err(not_the_user)?.map_err(|error| cannot(format!("what was said about it cannot be read: {error}")))
    }

    fn lines(&self, name: &str) -> io::Result<BTreeSet<String>> {
        let path = format!("{}/{name}", self.directory);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match open(path, flags, Mode::empty()) {
            Ok(file) => fs::File::from(file),
            Err(Errno::NOENT) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        file.take(MAX_FACTS as u64 + 1).read_to_string(&mut text)?;
        if text.len() > MAX_FACTS {
            return Err(io::Error::other("it is too much"));
        }
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Whoever has put something in its place has a program that waits for ever.
    fn gate_is_ours(&self) -> bool {
        fs::symlink_metadata(&self.gate).is_ok_and(|metadata| metadata.file_type().is_fifo() && metadata.ino() == self.inode)
    }
}

#[cfg(test)]
mod tests {
    use caisson_wire::HoldVariable;

    use super::*;

    fn me() -> Identity {
        Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn hold(gate: Gate, before_others: bool) -> Hold {
        let variable = HoldVariable { name: "LED".to_owned(), value: format!("{HOLD_DIR}/x"), before_others };
        Hold { files: vec![("hook".to_owned(), "text".to_owned())], variable: Some(variable), gate, fixed: Vec::new() }
    }

    #[test]
    fn nothing_is_left_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let code = directory.path().join("main.js");
        let room = Room::make(me(), &hold(Gate::Code, false), code.to_str().unwrap()).unwrap();
        let private = room.directory.clone();
        assert!(fs::symlink_metadata(&code).unwrap().file_type().is_fifo() && fs::read(format!("{private}/hook")).unwrap() == b"text");
        assert!(room.look().unwrap().is_none(), "nobody waits");
        assert!(Room::make(me(), &hold(Gate::Code, false), code.to_str().unwrap()).is_err(), "something is there");
        drop(room);
        assert!(fs::symlink_metadata(&code).is_err() && fs::metadata(private).is_err());
    }

    #[test]
    fn a_file_in_the_place_of_the_gate_stays_and_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let code = directory.path().join("main.js");
        let room = Room::make(me(), &hold(Gate::Code, false), code.to_str().unwrap()).unwrap();
        fs::remove_file(&code).unwrap();
        fs::write(&code, "mine").unwrap();
        assert!(room.look().is_err() && room.facts().is_err());
        drop(room);
        assert_eq!(fs::read(&code).unwrap(), b"mine");
    }

    #[test]
    fn variables_lead_there_and_keep_their_place() {
        let room = Room::make(me(), &hold(Gate::Message, true), "/tmp/never-there/main.py").unwrap();
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let led = room.environment(&hold(Gate::Message, true), &[text("LED", "old"), text("Z", "z")]).unwrap();
        assert_eq!(led, [text("LED", &format!("{}/x:old", room.directory)), text("Z", "z")]);
        assert!(room.environment(&hold(Gate::Message, false), &[text("LED", "old")]).is_err());
        let led = room.environment(&hold(Gate::Message, false), &[text("LED", "")]).unwrap();
        assert_eq!(led, [text("LED", &format!("{}/x", room.directory))]);
    }
}
