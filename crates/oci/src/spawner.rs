//! The thread that starts runtimes. What it starts asks the kernel for its death when its parent's thread ends, so this one lasts as long as the
//! backend; programs are started by `posix_spawn(3)`, which copies nothing of this process, with an empty environment and three descriptors.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use caisson_launcher::bundle::COMMAND;
use tokio::sync::oneshot;

/// One launcher that is to become a runtime.
#[derive(Debug)]
pub(crate) struct Job {
    /// Where its order stands.
    pub(crate) order: PathBuf,
    /// The agent's stream.
    pub(crate) stream: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) reply: oneshot::Sender<io::Result<Child>>,
}

/// Dropping it ends the thread, and with it every runtime that is left.
#[derive(Debug)]
pub(crate) struct Spawner {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    pub(crate) fn start(launcher: OwnedFd) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            for Job { order, stream, stderr, reply } in queue {
                let child = Command::new(format!("/proc/self/fd/{}", launcher.as_raw_fd()))
                    .args([COMMAND.as_ref(), order.as_os_str()])
                    .env_clear()
                    .current_dir("/")
                    .stdin(Stdio::from(stream))
                    .stdout(Stdio::null())
                    .stderr(Stdio::from(stderr))
                    .process_group(0)
                    .spawn();
                if let Err(Ok(mut child)) = reply.send(child) {
                    // Nobody waits for it any more.
                    drop(child.kill().and_then(|()| child.wait()));
                }
            }
        };
        let thread = std::thread::Builder::new().name("oci-spawner".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    pub(crate) fn ask(&self, job: Job) -> io::Result<()> {
        let gone = || io::Error::other("the thread that starts runtimes has ended");
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The thread that starts runtimes has panicked");
        }
    }
}
