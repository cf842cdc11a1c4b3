//! Our own terminal, passing everything on, and put back as it was whatever happens.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Context, Result};
use rustix::{
    process::Signal,
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

use crate::stdin::is_a_terminal_of_others;

/// How the terminal was, while it is otherwise.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// As long as this lives, every key goes to the program and everything it says comes out untouched.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// Begins now. The terminal is put back when this is dropped, and also by a panic of any thread, before its message. Nobody can put it
    /// back who is ended by `SIGKILL`.
    pub(super) fn begin() -> Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                put_back();
                usual(info);
            }));
        });
        *before() = Some(tcgetattr(stdin()).context("cannot ask the terminal how it is set")?);
        let begun = Self(());
        begun.again()?;
        Ok(begun)
    }

    /// The same for one who was stopped, and whose terminal others have used meanwhile.
    pub(super) fn again(&self) -> Result<()> {
        let Some(mut raw) = before().clone() else { return Ok(()) };
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context("cannot set the terminal")
    }

    /// Stops as Ctrl-Z stops a program, with the terminal put back; returns when continued.
    pub(super) fn stop(&self) -> Result<()> {
        restore(before().as_ref());
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).context("cannot stop")
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        put_back();
    }
}

fn put_back() {
    restore(before().take().as_ref());
}

fn restore(before: Option<&Termios>) {
    // Whoever is in the foreground has set it as they like, and would not like to be disturbed; nor would we, who would be stopped.
    if let Some(before) = before.filter(|_| !is_a_terminal_of_others()) {
        // A terminal that has gone is as nobody left it.
        tcsetattr(stdin(), OptionalActions::Now, before).ok();
    }
}

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is a terminal on both sides.
pub(super) fn is_there() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// Its columns and rows; what is usual where it does not know.
pub(super) fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::OwnedFd,
        process::{Command, Stdio},
    };

    use rustix::{
        pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
        termios::LocalModes,
    };

    use super::*;

    /// Says to the process that the test makes of itself how it is to end.
    const HOW: &str = "CAISSON_TEST_ENDS_BY";

    fn ends(how: &str) {
        let raw = Raw::begin().unwrap();
        assert!(!tcgetattr(stdin()).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        match how {
            "drop" => drop(raw),
            "panic" => panic!("as it was told to"),
            "panic elsewhere" => {
                std::thread::spawn(|| panic!("as it was told to")).join().unwrap_err();
                // Nothing is dropped, and yet the terminal is as it was.
                std::process::exit(7);
            }
            other => unreachable!("{other}"),
        }
    }

    #[test]
    fn however_it_ends_the_terminal_is_put_back() {
        if let Ok(how) = std::env::var(HOW) {
            return ends(&how);
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags).unwrap();
        unlockpt(&screen).unwrap();
        let terminal: OwnedFd = ioctl_tiocgptpeer(&screen, flags).unwrap();
        let setting = || format!("{:?}", tcgetattr(&terminal).unwrap());
        let before = setting();
        let this = "terminal::raw::tests::however_it_ends_the_terminal_is_put_back";
        for (how, code) in [("drop", 0), ("panic", 101), ("panic elsewhere", 7)] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", this, "--nocapture", "--test-threads=1"]).env(HOW, how);
            command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
            assert_eq!(command.status().unwrap().code(), Some(code), "{how}");
            assert_eq!(setting(), before, "{how}");
        }
    }
}
