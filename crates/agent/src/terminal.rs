//! Pseudo-terminals (`pty(7)`): one end is the program's, the other the agent's.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use caisson_sys::process::{Identity, as_file_owner};
use caisson_wire::WindowSize;
use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

/// What a program takes its terminal for when nothing else is said. Every distribution knows it.
pub(crate) const TERM: &str = "xterm-256color";

/// A terminal that nobody uses yet.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) ours: OwnedFd,
    pub(crate) theirs: OwnedFd,
}

impl Terminal {
    /// A new one in the sandbox's own `/dev/pts`. It belongs to whoever opens it, so it is opened as the sandbox's user; nobody has to
    /// change its owner. Neither end becomes the agent's own terminal.
    pub(crate) fn open(size: WindowSize, user: Identity) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = as_file_owner(user, || openpt(flags))??;
        unlockpt(&ours)?;
        // By the descriptor, not by a name that somebody might have laid something over.
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let mut attributes = tcgetattr(&theirs)?;
        // So that the line editor of the kernel erases characters instead of bytes.
        attributes.input_modes |= InputModes::IUTF8;
        tcsetattr(&theirs, OptionalActions::Now, &attributes)?;
        resize(&ours, size)?;
        Ok(Self { ours, theirs })
    }
}

/// Gives it another size. The kernel tells whoever is in the foreground (`SIGWINCH`).
pub(crate) fn resize(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::termios::{isatty, tcgetwinsize};

    use super::*;

    #[test]
    fn a_terminal_is_the_users_and_has_its_size() {
        let me = Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let terminal = Terminal::open(WindowSize { cols: 90, rows: 30 }, me).unwrap();
        assert!(isatty(&terminal.theirs));
        let stat = std::fs::File::from(terminal.theirs.try_clone().unwrap()).metadata().unwrap();
        assert_eq!(stat.uid(), me.uid);
        resize(&terminal.ours, WindowSize { cols: 120, rows: 40 }).unwrap();
        let size = tcgetwinsize(&terminal.theirs).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (120, 40));
    }
}
