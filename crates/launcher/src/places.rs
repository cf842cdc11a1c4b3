//! Places inside a root that whoever made its image has filled: on the way to one no link is followed, and none at its end.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Finds them.
pub(crate) struct Places<'r> {
    root: &'r OwnedFd,
    /// The directory that was looked for last: most steps are beside the one before.
    last: Option<(String, OwnedFd)>,
}

impl<'r> Places<'r> {
    pub(crate) fn of(root: &'r OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// The directory in which a path ends, and its last name. Whoever uses them must not follow a link of that name. `ELOOP` and `ENOTDIR`:
    /// there is something else on the way.
    pub(crate) fn find<'p>(&mut self, path: &'p str) -> io::Result<(BorrowedFd<'_>, &'p str)> {
        let Some((parent, name)) = path.rsplit_once('/') else { return Ok((self.root.as_fd(), path)) };
        let directory = match self.last.take() {
            Some((known, directory)) if known == parent => directory,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                openat2(self.root, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::IN_ROOT)?
            }
        };
        let (_, directory) = &*self.last.insert((parent.to_owned(), directory));
        Ok((directory.as_fd(), name))
    }

    /// To be said when something was mounted there: what was found before at it or below it is hidden now.
    pub(crate) fn covered(&mut self, path: &str) {
        let below = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if self.last.as_ref().is_some_and(|(known, _)| below(known)) {
            self.last = None;
        }
    }
}
