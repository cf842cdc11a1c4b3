//! What a sandbox has written over its image, from the launcher.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
};

use caisson_core::{BackendError, Changes, Given};
use caisson_launcher::protocol::{self, CommitOrder, MAX_REASON, WHOLE};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::link::Link;

/// What is on its way; where the system does not allow that, it is less.
const ON_THE_WAY: usize = 1 << 20;

/// Asks for it.
pub(crate) fn ask(link: &Link, seq: u64, given: &[Given]) -> Result<Changes, BackendError> {
    let exhausted = |error: rustix::io::Errno| BackendError::Exhausted(format!("cannot make a pipe: {error}"));
    let (tar, their_tar) = pipe_with(PipeFlags::CLOEXEC).map_err(exhausted)?;
    let (end, their_end) = pipe_with(PipeFlags::CLOEXEC).map_err(exhausted)?;
    if let Err(error) = fcntl_setpipe_size(&tar, ON_THE_WAY) {
        tracing::debug!(%error, "A pipe stays as small as it is");
    }
    let given = given.iter().map(|given| protocol::Given {
        path: given.path.clone(),
        mode: given.mode,
        user: given.uid,
        group: given.gid,
        size: given.size,
        changed: given.changed,
    });
    let order = CommitOrder { given: given.collect() };
    link.commit(seq, &order, [their_tar.as_fd(), their_end.as_fd()])
        .map_err(|error| BackendError::Failed(format!("cannot talk to the launcher: {error}")))?;
    Ok(Box::new(Told { tar: tar.into(), end: Some(end.into()) }))
}

/// The tar, and behind it whether it is whole.
struct Told {
    tar: File,
    /// Absent when it has been heard.
    end: Option<File>,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        let Some(end) = self.end.take() else { return Ok(0) };
        let mut reason = Vec::new();
        end.take(MAX_REASON as u64).read_to_end(&mut reason)?;
        match reason.as_slice() {
            WHOLE => Ok(0),
            b"" => Err(io::Error::other("the reading of the sandbox's files was ended; the sandbox has ended, or it took too long")),
            reason => Err(io::Error::other(String::from_utf8_lossy(reason).into_owned())),
        }
    }
}
