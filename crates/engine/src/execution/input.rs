//! Standard input of a running program: in order, counted, and no faster than it is read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use caisson_core::{Error, ExecutionId, Result};
use caisson_wire::frame::{Frame, Kind, STDIN_WINDOW};
use tokio::sync::Semaphore;

use crate::agent_client::FrameSender;

/// Standard input in one frame. Less than a quarter of the window stays untold by the agent, so there is always room for this.
const CHUNK: usize = 64 << 10;

/// Where bytes for a running program are put in.
#[derive(Debug)]
pub(crate) struct Input {
    execution: ExecutionId,
    frames: FrameSender,
    /// Bytes that the agent has room for.
    room: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was accepted so far, and how much of it has left the agent.
    accepted: u64,
    taken: u64,
    gate: Gate,
}

/// Who may put something in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Only the request that started the program.
    Request,
    /// Clients.
    Clients,
    /// Clients, and it has no end.
    Terminal,
    /// Nobody: a client has ended it.
    Ended,
    /// Nobody: the program has closed it.
    Unread,
    /// Nobody: the program has ended.
    Over,
}

impl Input {
    /// `sent` bytes have travelled with the start.
    pub(crate) fn new(execution: ExecutionId, frames: FrameSender, gate: Gate, sent: usize) -> Self {
        let state = State { accepted: sent as u64, taken: 0, gate };
        Self { execution, frames, room: Semaphore::new(STDIN_WINDOW.saturating_sub(sent)), state: Mutex::new(state) }
    }

    /// Appends what a client sends and says how much was accepted in all. With an offset, bytes before what was accepted are those that
    /// were sent before, and are passed over. Waits while the program does not read. Whoever gives up waiting finds by the count how much
    /// of it was accepted.
    pub(super) async fn write(&self, offset: Option<u64>, bytes: Bytes) -> Result<u64> {
        self.put(offset, bytes, |gate| matches!(gate, Gate::Clients | Gate::Terminal)).await
    }

    /// Appends what the request itself brings.
    pub(crate) async fn feed(&self, bytes: Bytes) -> Result<u64> {
        self.put(None, bytes, |gate| gate == Gate::Request).await
    }

    async fn put(&self, mut offset: Option<u64>, mut bytes: Bytes, may: impl Fn(Gate) -> bool) -> Result<u64> {
        loop {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            // A chunk fits into 32 bits. Given back unless it is used below.
            let room = self.room.acquire_many(u32::try_from(chunk.len()).unwrap_or(u32::MAX)).await.map_err(|_| self.refusal())?;
            let place = self.frames.reserve().await.map_err(|_| self.refusal())?;
            // From here on nothing waits, so a chunk is accepted and counted or neither.
            let mut state = self.state();
            if !may(state.gate) {
                drop(state);
                return Err(self.refusal());
            }
            let known = match offset {
                None => 0,
                Some(offset) if offset > state.accepted => return Err(self.gap(offset, state.accepted)),
                Some(offset) => state.accepted - offset,
            };
            let fresh = chunk.slice(usize::try_from(known).unwrap_or(usize::MAX).min(chunk.len())..);
            offset = offset.map(|offset| offset + chunk.len() as u64);
            if !fresh.is_empty() {
                room.forget();
                self.room.add_permits(chunk.len() - fresh.len());
                state.accepted += fresh.len() as u64;
                place.send(Frame::new(Kind::Stdin, fresh).encode());
            }
            if bytes.is_empty() {
                return Ok(state.accepted);
            }
        }
    }

    /// Nothing more comes from clients.
    pub(super) async fn end(&self) -> Result<()> {
        self.end_from(Gate::Clients).await
    }

    /// Nothing more comes from the request.
    pub(super) async fn end_of_request(&self) -> Result<()> {
        self.end_from(Gate::Request).await
    }

    async fn end_from(&self, gate: Gate) -> Result<()> {
        let place = self.frames.reserve().await.map_err(|_| self.refusal())?;
        let mut state = self.state();
        if state.gate != gate {
            drop(state);
            return Err(self.refusal());
        }
        state.gate = Gate::Ended;
        place.send(Frame::new(Kind::StdinEof, Bytes::new()).encode());
        Ok(())
    }

    /// The agent says that so many bytes have left it; `false` when that cannot be.
    pub(crate) fn taken(&self, count: u32) -> bool {
        let mut state = self.state();
        state.taken += u64::from(count);
        if state.taken > state.accepted {
            return false;
        }
        self.room.add_permits(usize::try_from(count).unwrap_or(usize::MAX));
        true
    }

    /// The program does not read any more.
    pub(crate) fn unread(&self) {
        self.close(Gate::Unread);
    }

    /// The program has ended.
    pub(super) fn over(&self) {
        self.close(Gate::Over);
    }

    /// What was accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.state().accepted
    }

    fn close(&self, gate: Gate) {
        self.state().gate = gate;
        // Whoever waits for room gets its refusal.
        self.room.close();
    }

    fn refusal(&self) -> Error {
        let id = self.execution;
        let (code, message) = match self.state().gate {
            Gate::Request => (
                "stdin_not_open",
                format!("standard input of execution `{id}` came with its request; start it with `stdin_stream` to send it later"),
            ),
            Gate::Terminal => ("is_a_terminal", "a terminal has no end of input; send the character that means it (Ctrl-D, 4)".to_owned()),
            Gate::Ended => ("stdin_closed", format!("standard input of execution `{id}` was ended before")),
            Gate::Unread => ("stdin_closed", format!("the program of execution `{id}` does not read its standard input any more")),
            // The frames' other end goes with the execution.
            Gate::Clients | Gate::Over => ("execution_finished", format!("execution `{id}` has ended")),
        };
        Error::conflict(code, message)
    }

    fn gap(&self, offset: u64, accepted: u64) -> Error {
        let id = self.execution;
        Error::conflict("stdin_gap", format!("standard input of execution `{id}` has come to {accepted}, so nothing can begin at {offset}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    fn input(gate: Gate) -> (Input, mpsc::Receiver<Bytes>) {
        let (frames, sent) = mpsc::channel(100);
        (Input::new(ExecutionId::random(), frames, gate, 0), sent)
    }

    fn sent(frames: &mut mpsc::Receiver<Bytes>) -> Vec<u8> {
        let (mut decoder, mut all) = (caisson_wire::frame::Decoder::default(), Vec::new());
        while let Ok(bytes) = frames.try_recv() {
            decoder.push(&bytes);
        }
        while let Some(frame) = decoder.next_frame().unwrap() {
            all.extend_from_slice(&frame.payload);
        }
        all
    }

    #[track_caller]
    fn code<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
        result.unwrap_err().code()
    }

    #[tokio::test]
    async fn what_was_accepted_is_never_sent_twice() {
        let (input, mut frames) = input(Gate::Clients);
        assert_eq!(input.write(Some(0), Bytes::from_static(b"hello")).await.unwrap(), 5);
        assert_eq!(input.write(Some(3), Bytes::from_static(b"lo wor")).await.unwrap(), 9);
        assert_eq!(input.write(Some(0), Bytes::from_static(b"hell")).await.unwrap(), 9);
        assert_eq!(input.write(Some(9), Bytes::new()).await.unwrap(), 9);
        assert_eq!(code(input.write(Some(10), Bytes::from_static(b"d")).await), "stdin_gap");
        assert_eq!(input.write(None, Bytes::from_static(b"ld")).await.unwrap(), 11);
        assert_eq!(sent(&mut frames), b"hello world");
        // What was passed over has taken no room.
        assert_eq!(input.room.available_permits(), STDIN_WINDOW - 11);
    }

    #[tokio::test]
    async fn nobody_sends_more_than_the_agent_has_room_for() {
        let (input, mut frames) = input(Gate::Clients);
        let much = Bytes::from(vec![b'x'; STDIN_WINDOW + 10]);
        assert!(input.write(None, much).now_or_never().is_none());
        assert_eq!((sent(&mut frames).len(), input.accepted()), (STDIN_WINDOW, STDIN_WINDOW as u64));
        assert!(input.taken(10));
        assert!(input.write(None, Bytes::from_static(b"0123456789")).now_or_never().is_some());
        assert!(!input.taken(STDIN_WINDOW as u32 + 1), "more than was ever sent");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_the_end() {
        for (close, expect) in [(Input::unread as fn(&Input), "stdin_closed"), (Input::over as fn(&Input), "execution_finished")] {
            let (input, _frames) = input(Gate::Clients);
            let waits = input.write(None, Bytes::from(vec![0; STDIN_WINDOW + 1]));
            let (refused, ()) = tokio::join!(waits, async { close(&input) });
            assert_eq!(code(refused), expect);
            assert_eq!(code(input.write(None, Bytes::from_static(b"x")).await), expect);
            assert_eq!(code(input.end().await), expect);
        }
    }

    #[tokio::test]
    async fn each_gate_is_for_its_own() {
        let x = || Bytes::from_static(b"x");
        let (given, _frames) = input(Gate::Request);
        assert_eq!(code(given.write(None, x()).await), "stdin_not_open");
        assert_eq!(given.feed(x()).await.unwrap(), 1);
        let (terminal, _frames) = input(Gate::Terminal);
        assert_eq!(terminal.write(None, x()).await.unwrap(), 1);
        assert_eq!(code(terminal.end().await), "is_a_terminal");
        let (open, _frames) = input(Gate::Clients);
        open.end().await.unwrap();
        assert_eq!((code(open.end().await), code(open.write(None, x()).await)), ("stdin_closed", "stdin_closed"));
    }
}
