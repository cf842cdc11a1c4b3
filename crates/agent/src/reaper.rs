//! Reaping. PID 1 gets every orphan; those that somebody waits for are handed over, the rest are only taken note of by the kernel.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use caisson_sys::process::{Exit, child_signals, reap};
use tokio::sync::oneshot;

use crate::watched::watch;

/// Who waits for which process.
#[derive(Debug)]
pub(crate) struct Reaper {
    signals: Mutex<Option<OwnedFd>>,
    waiting: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
}

impl Reaper {
    /// Blocks SIGCHLD in this thread and those that it will start.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { signals: Mutex::new(Some(child_signals()?)), waiting: Mutex::default() })
    }

    /// To be called before the loop of [`Reaper::run`] can run again, so before the next `await` after the process was started.
    pub(crate) fn wait_for(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, sender);
        receiver
    }

    /// Runs for ever.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner).take();
        let signals = watch(signals.ok_or_else(|| io::Error::other("the reaper runs already"))?)?;
        let mut buffer = [0u8; 1024];
        loop {
            let mut ready = signals.readable().await?;
            // Several children may have ended for one signal, so the signals only say: look.
            match rustix::io::read(signals.get_ref(), &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
            while let Some(exit) = reap()? {
                let sender = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&exit.pid);
                if let Some(sender) = sender {
                    // Whoever waited may have gone; then nobody wants to know.
                    _ = sender.send(exit);
                }
            }
        }
    }
}
