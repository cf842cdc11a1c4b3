//! The conversation with the launcher: one socket, one thread that reads, answers matched by number.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use caisson_core::{BackendError, Death};
use caisson_launcher::{
    plan::{MOST_FILE_LOCKS, Plan, Setup},
    protocol::{self, CommitOrder, Ended, Failure, Launched, LayerOrder, MAX_MESSAGE, Tag},
};
use caisson_sys::{kernel::sealed_program, message::send};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use tokio::sync::watch;

use crate::{explain::explain, parts, rootless::Rootless};

/// How a launch stands.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    Waiting,
    /// The agent runs; its cgroup has this name.
    Launched(String),
    Failed(Failure),
    Ended(Death),
}

/// What is known of a sandbox that the launcher has.
#[derive(Debug)]
struct Held {
    progress: watch::Sender<Progress>,
    /// The server's end of the agent's stream once more.
    stream: OwnedFd,
}

type Table = Mutex<HashMap<u64, Held>>;

/// A running launcher. Dropping it closes the socket, and that ends the launcher and every sandbox.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    table: Arc<Table>,
    next_seq: AtomicU64,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Link {
    /// Starts a launcher and waits until it answers.
    pub(crate) fn start(setup: &Setup, rootless: Option<&Rootless>) -> Result<Self, BackendError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| BackendError::Failed(format!("cannot {what}: {error}"))
        };
        let program = parts::launcher().map_err(failed("copy the launcher into memory"))?;
        let agent = sealed_program(c"caisson-agent", parts::AGENT).map_err(failed("copy the agent into memory"))?;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed("make a socket")(error.into()))?;
        let pid = spawn(&program, theirs).map_err(failed("start the launcher"))?;
        send(socket.as_fd(), &protocol::encode(Tag::Setup, 0, setup), &[agent.as_fd()]).map_err(failed("talk to the launcher"))?;
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut length = receive(socket.as_fd(), &mut buffer).map_err(failed("hear from the launcher"))?;
        if let (Some(rootless), Ok((Tag::MapIds, ..))) = (rootless, protocol::split(&buffer[..length])) {
            rootless.map(pid)?;
            send(socket.as_fd(), &protocol::encode(Tag::IdsMapped, 0, &()), &[]).map_err(failed("talk to the launcher"))?;
            length = receive(socket.as_fd(), &mut buffer).map_err(failed("hear from the launcher"))?;
        }
        match protocol::split(&buffer[..length]) {
            Ok((Tag::Ready, _, _)) => {}
            Ok((Tag::Failed, _, body)) => {
                return Err(protocol::decode(body).map_or_else(
                    |_| BackendError::Failed("the launcher sent a message that makes no sense".to_owned()),
                    |failure| explain(&failure),
                ));
            }
            _ => return Err(BackendError::Failed("the launcher did not start; see its message above".to_owned())),
        }
        let table = Arc::new(Table::default());
        let reader = {
            let (table, socket) = (Arc::clone(&table), socket.try_clone().map_err(failed("copy a socket"))?);
            std::thread::Builder::new().name("launcher-link".to_owned()).spawn(move || read(&socket, &table, buffer))
        };
        let reader = Some(reader.map_err(failed("start a thread"))?);
        Ok(Self { socket, table, next_seq: AtomicU64::new(1), reader })
    }

    /// Whether the launcher still answers.
    pub(crate) fn alive(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
    }

    /// Asks for a sandbox whose agent gets `theirs`, the other end of `ours`, and whose root is `image` if it is kept on disk. How it goes
    /// is told through the receiver.
    pub(crate) fn launch(
        &self,
        plan: &Plan,
        ours: OwnedFd,
        theirs: BorrowedFd<'_>,
        image: Option<BorrowedFd<'_>>,
    ) -> io::Result<(u64, watch::Receiver<Progress>)> {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let tag = if image.is_some() { Tag::LaunchOnDisk } else { Tag::Launch };
        let message = protocol::encode(tag, seq, plan);
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the launch plan is too large"));
        }
        let (sender, receiver) = watch::channel(Progress::Waiting);
        lock(&self.table).insert(seq, Held { progress: sender, stream: ours });
        // The launcher reads at once whatever comes, so this waits for a few milliseconds at worst.
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(theirs).chain(image).collect();
        if let Err(error) = send(self.socket.as_fd(), &message, &fds) {
            lock(&self.table).remove(&seq);
            return Err(error);
        }
        Ok((seq, receiver))
    }

    /// Asks for what a sandbox has written over its image: a tar in the first pipe, and in the second whether it is whole. Both are closed behind it.
    pub(crate) fn commit(&self, seq: u64, order: &CommitOrder, pipes: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        let message = protocol::encode(Tag::Commit, seq, order);
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "what the sandbox was given is too much to be told"));
        }
        send(self.socket.as_fd(), &message, &pipes)
    }

    /// Asks for layers of a directory: how it goes is said through the socket, which is closed behind it.
    pub(crate) fn layer(&self, seq: u64, order: &LayerOrder, socket: BorrowedFd<'_>) -> io::Result<()> {
        send(self.socket.as_fd(), &protocol::encode(Tag::Layer, seq, order), &[socket])
    }

    /// Asks for the end of a sandbox; [`Progress::Ended`] or [`Progress::Failed`] follows.
    pub(crate) fn destroy(&self, seq: u64) -> io::Result<()> {
        send(self.socket.as_fd(), &protocol::encode(Tag::Destroy, seq, &()), &[])
    }

    /// Ends the launcher with everything it has, and waits until it is gone.
    pub(crate) fn shutdown(&self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write) {
            tracing::debug!(%error, "The launcher had gone before it was told to");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shutdown();
        // The launcher closes its end when nothing is left, and that ends the reader.
        if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
            tracing::error!("The thread that listens to the launcher has panicked");
        }
    }
}

/// The launcher's standard input is the socket; its environment is empty. Gives its number.
fn spawn(program: &OwnedFd, socket: OwnedFd) -> io::Result<u32> {
    use std::os::{fd::AsRawFd, unix::process::CommandExt};
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("caisson-launcher")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        // A group of its own: Ctrl-C on a terminal is for the server, which then ends the launcher in order.
        .process_group(0)
        .spawn()?;
    let pid = child.id();
    // Reaped by its own thread; it ends when the socket closes, whatever happens to this process.
    std::thread::Builder::new().name("launcher-wait".to_owned()).spawn(move || match child.wait() {
        Ok(status) if status.success() => tracing::debug!("The launcher has ended"),
        Ok(status) => tracing::error!(%status, "The launcher has died and every sandbox with it"),
        Err(error) => tracing::error!(%error, "The launcher cannot be waited for"),
    })?;
    Ok(pid)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::empty()))?.0)
}

/// Until the launcher closes its end.
fn read(socket: &OwnedFd, table: &Table, mut buffer: Vec<u8>) {
    loop {
        let length = match receive(socket.as_fd(), &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        if hear(&buffer[..length], table).is_err() {
            tracing::error!("The launcher sent a message that makes no sense");
            break;
        }
    }
    // Launchers end their sandboxes when they go. An agent that has missed its parent's death ends at the end of its stream.
    for (_, Held { progress, stream }) in lock(table).drain() {
        if let Err(error) = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "An agent's stream had ended before its launcher");
        }
        progress.send_replace(Progress::Ended(Death {
            oom_kills: 0,
            how: "the launcher ended".to_owned(),
            of_all: true,
            launch_error: None,
        }));
    }
}

fn hear(message: &[u8], table: &Table) -> Result<(), protocol::Malformed> {
    let (tag, seq, body) = protocol::split(message)?;
    let (progress, last) = match tag {
        Tag::Launched => (Progress::Launched(protocol::decode::<Launched>(body)?.cgroup), false),
        Tag::Failed => (Progress::Failed(protocol::decode(body)?), true),
        Tag::Ended => {
            let Ended { exit, signal, oom_kills, file_locks } = protocol::decode(body)?;
            let how = match (exit, signal) {
                (Some(status), _) => format!("its agent exited with status {status}"),
                (_, Some(signal)) => format!("its agent was ended by signal {signal}"),
                _ => "it was gone already".to_owned(),
            };
            let how = match file_locks {
                Some(count) => format!("file_locks: limit {MOST_FILE_LOCKS} in all its programs, and it had {count}"),
                None => how,
            };
            (Progress::Ended(Death { oom_kills, how, of_all: false, launch_error: None }), true)
        }
        _ => return Err(protocol::Malformed),
    };
    let mut table = lock(table);
    if last {
        if let Some(held) = table.remove(&seq) {
            held.progress.send_replace(progress);
        }
    } else if let Some(held) = table.get(&seq) {
        held.progress.send_replace(progress);
    }
    Ok(())
}

/// A table is still whole when a thread has panicked while it held it.
fn lock(table: &Table) -> std::sync::MutexGuard<'_, HashMap<u64, Held>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
