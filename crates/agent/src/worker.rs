//! Threads for file work, so that a slow file never holds up the rest. Each touches files as the sandbox's user, without any
//! capability: the kernel's own checks apply, and no trick with a path can use the agent's identity.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use caisson_sys::process::{Identity, become_file_owner};
use caisson_wire::{Refusal, RefusalCode};
use tokio::sync::oneshot;

use crate::refusal::refuse;

/// Streams that go on at once; more wait their turn.
const MAX_THREADS: usize = 16;
pub(crate) const STACK_BYTES: usize = 128 << 10;
/// For work that needs more.
const DEEP_STACK_BYTES: usize = 1 << 20;
/// Work that lasts as long as somebody looks.
const MAX_LASTING: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. None is started before there is work.
#[derive(Debug)]
pub(crate) struct Workers {
    user: Identity,
    queue: mpsc::Sender<Job>,
    take: Arc<Mutex<mpsc::Receiver<Job>>>,
    threads: AtomicUsize,
    /// Jobs that wait or run.
    busy: Arc<AtomicUsize>,
    lasting: Arc<AtomicUsize>,
}

impl Workers {
    pub(crate) fn new(user: Identity) -> Self {
        // Bounded by the number of HTTP/2 streams, each of which has at most one job.
        let (queue, take) = mpsc::channel();
        Self { user, queue, take: Arc::new(Mutex::new(take)), threads: AtomicUsize::new(0), busy: Arc::default(), lasting: Arc::default() }
    }

    /// Does `work` on one of the threads.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move || {
            // Whoever asked may have gone; the work is done all the same.
            drop(sender.send(work()));
        })?;
        receiver.await.unwrap_or_else(|_| Err(refuse(RefusalCode::Failed, "the file worker ended")))
    }

    /// Whether nothing is done and nobody looks.
    pub(crate) fn are_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && self.lasting.load(Ordering::Relaxed) == 0
    }

    /// Does `work` on one of the threads and does not wait for it.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let threads = self.threads.load(Ordering::Relaxed);
        if self.busy.fetch_add(1, Ordering::Relaxed) >= threads && threads < MAX_THREADS {
            self.start_thread()?;
        }
        let busy = Arc::clone(&self.busy);
        let job: Job = Box::new(move || {
            work();
            busy.fetch_sub(1, Ordering::Relaxed);
        });
        self.queue.send(job).map_err(|_| refuse(RefusalCode::Failed, "the file workers ended"))
    }

    /// Does `work`, which takes as long as it takes, on a thread of its own.
    pub(crate) fn spawn_lasting(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let (user, lasting) = (self.user, Arc::clone(&self.lasting));
        let one_more = |count: usize| (count < MAX_LASTING).then_some(count + 1);
        if lasting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            return Err(refuse(RefusalCode::Exhausted, format!("{MAX_LASTING} watches go on already; end one of them")));
        }
        let started = std::thread::Builder::new().name("watch".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            become_user(user);
            work();
            lasting.fetch_sub(1, Ordering::Relaxed);
        });
        started.map(drop).map_err(|error| {
            self.lasting.fetch_sub(1, Ordering::Relaxed);
            refuse(RefusalCode::Exhausted, format!("the sandbox has no room for a watch: {error}"))
        })
    }

    /// Does `work`, which needs much stack, on a thread of its own and does not wait for it. How many there are at once is for the caller to
    /// say.
    pub(crate) fn spawn_deep(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let user = self.user;
        let started = std::thread::Builder::new().name("checkpoint".to_owned()).stack_size(DEEP_STACK_BYTES).spawn(move || {
            become_user(user);
            work();
        });
        started.map(drop).map_err(|error| refuse(RefusalCode::Exhausted, format!("the sandbox has no room for a checkpoint: {error}")))
    }

    fn start_thread(&self) -> Result<(), Refusal> {
        let (user, take) = (self.user, Arc::clone(&self.take));
        let started = std::thread::Builder::new().name("files".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            become_user(user);
            loop {
                let job = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }
        });
        match started {
            Ok(_) => {
                self.threads.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // With others there it only takes longer.
            Err(_) if self.threads.load(Ordering::Relaxed) > 0 => Ok(()),
            Err(error) => {
                self.busy.fetch_sub(1, Ordering::Relaxed);
                Err(refuse(RefusalCode::Exhausted, format!("the sandbox has no room for a file worker: {error}")))
            }
        }
    }
}

fn become_user(user: Identity) {
    if become_file_owner(user).is_err() {
        // A thread that could touch files as somebody else must not live.
        std::process::abort();
    }
}
