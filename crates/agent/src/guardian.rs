//! Watching over starts. A program's first process becomes the sandbox's user a moment before it executes the program, and in that moment
//! other processes of the user may stop it (`SIGSTOP`). The agent's one thread, which stands still until the program is executed,
//! would then stand still for ever. This thread ends such a process.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use caisson_sys::process::{free_start, is_starting, start_is_stopped, starts};

/// How long a start may stand still. It is a few system calls; what takes longer is a sandbox that gets little processor time, or an attack.
const PATIENCE: Duration = Duration::from_millis(500);
/// After this many times [`PATIENCE`] a start is ended that is not stopped, but does not get on either.
const LAST: u32 = 120;
/// After this many looks without a start the thread sleeps until it is called.
const LOOKS: u32 = 4;
const STACK_BYTES: usize = 32 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Guardian {
    thread: OnceLock<Thread>,
}

/// Whether the thread sleeps until it is called.
static ASLEEP: AtomicBool = AtomicBool::new(false);

impl Guardian {
    /// To be called before a program is started. The first of a sandbox needs no watch: there is nobody who could stop it.
    pub(crate) fn watch(&self) -> io::Result<()> {
        if starts() == 0 {
            return Ok(());
        }
        if let Some(thread) = self.thread.get() {
            if ASLEEP.swap(false, Ordering::AcqRel) {
                thread.unpark();
            }
            return Ok(());
        }
        let handle = thread::Builder::new().name("guardian".to_owned()).stack_size(STACK_BYTES).spawn(guard)?;
        // The one thread that starts programs is the only caller.
        _ = self.thread.set(handle.thread().clone());
        Ok(())
    }
}

fn guard() {
    let (mut before, mut quiet, mut slow) = (starts(), 0, 0);
    loop {
        if quiet >= LOOKS {
            ASLEEP.store(true, Ordering::Release);
            // A call between the look and the store is seen here, one after it wakes.
            if starts() == before {
                while ASLEEP.load(Ordering::Acquire) {
                    thread::park();
                }
            }
            ASLEEP.store(false, Ordering::Release);
            quiet = 0;
        }
        thread::sleep(PATIENCE);
        let now = starts();
        if now == before {
            slow += 1;
            if slow >= LAST || start_is_stopped(now) {
                // Fails when it has ended by itself.
                drop(free_start(now));
            }
            quiet = if is_starting() { 0 } else { quiet + 1 };
        } else {
            (before, quiet, slow) = (now, 0, 0);
        }
    }
}
