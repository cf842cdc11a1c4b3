//! What clients do with an execution while it runs.

use std::sync::Arc;

use bytes::Bytes;
use caisson_core::{Error, ExecutionId, Result, Stream};
use caisson_wire as wire;
use wire::frame::{Frame, Kind};

use super::RunningExecution;
use crate::{Engine, activity::Use, request::WindowSize, validate};

/// Somebody who follows an execution. While there is one, a terminal is in use, and a program that waits for its readers waits for this one.
#[derive(Debug)]
pub struct Attachment {
    running: Option<Arc<RunningExecution>>,
    /// Those that are read from where the program has come to already.
    streams: Vec<Stream>,
    _in_use: Option<Use>,
}

impl Attachment {
    /// Whether the program runs on a terminal; only while it runs.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.is_terminal)
    }

    /// How many follow the execution, this one included; only while it runs.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.log.followers())
    }

    /// How much of its standard input has been accepted; only while it runs.
    #[must_use]
    pub fn stdin_bytes(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.input.accepted())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.log.leave(&self.streams);
        }
    }
}

impl Engine {
    /// Begins to follow these streams of an execution, running or ended, each from an offset.
    pub async fn attach(&self, id: ExecutionId, wanted: &[(Stream, u64)]) -> Result<Attachment> {
        let Some(running) = self.core.registry.execution(&self.tenant, id) else {
            self.execution(id).await?;
            return Ok(Attachment { running: None, streams: Vec::new(), _in_use: None });
        };
        let streams = running.log.attend(wanted);
        // A sandbox that takes nothing new is ending, and the end can be followed.
        let in_use = running.activity.begin();
        Ok(Attachment { running: Some(running), streams, _in_use: in_use })
    }

    /// Appends to the standard input of a running program and says how much was accepted in all. Waits while it does not read. Bytes from
    /// an `offset` below what was accepted are those that were sent before, and are passed over.
    pub async fn write_stdin(&self, id: ExecutionId, offset: Option<u64>, bytes: Bytes) -> Result<u64> {
        let running = self.running(id).await?;
        running.activity.touch();
        running.input.write(offset, bytes).await
    }

    /// Ends the standard input of a running program.
    pub async fn end_stdin(&self, id: ExecutionId) -> Result<()> {
        self.running(id).await?.input.end().await
    }

    /// Gives the terminal of a running program another size.
    pub async fn resize(&self, id: ExecutionId, size: WindowSize) -> Result<()> {
        validate::window_size(size)?;
        let running = self.running(id).await?;
        if !running.is_terminal {
            return Err(Error::conflict(
                "not_a_terminal",
                format!("execution `{id}` does not run on a terminal; start it with `terminal`"),
            ));
        }
        let size = wire::WindowSize { cols: size.cols, rows: size.rows };
        running.send(Frame::new(Kind::Resize, size.to_bytes().to_vec())).await
    }

    async fn running(&self, id: ExecutionId) -> Result<Arc<RunningExecution>> {
        match self.core.registry.execution(&self.tenant, id) {
            Some(running) => Ok(running),
            None => Err(self.not_running(id).await),
        }
    }
}
