//! Our own terminal as the screen and the keyboard of one in a sandbox.
//!
//! ```text
//! attend ─▶ the program ends │ the way out │ a signal
//!    ▲ │
//!    │ └ the connection breaks ─▶ come back, from where we were ─▶ give up
//!    └──────────────────────────────┘
//! ```

mod keys;
mod raw;
mod screen;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use caisson_core::{ExecutionId, Stream};
use caisson_server::native::types::{ClientMessage, ExecutionBody, ServerMessage, TerminalBody, decode_output};
use futures::{SinkExt, StreamExt};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use self::{
    keys::{Keys, Typed},
    raw::Raw,
    screen::Screen,
};
use crate::{
    client::{Client, Refusal, Socket},
    output,
    signals::Signals,
    status, stdin,
};

/// How long a server that has gone is looked for.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// A server says at least every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(50);
/// How long our own terminal may take for what puts it at rest.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Messages on their way to the server; while there are so many, no more keys are read.
const OUTBOX: usize = 16;
/// Ctrl-C, which is ours only while there is nobody else to have it.
const INTERRUPT: u8 = 3;

/// The terminal that a program in the sandbox is to have, as large as ours.
pub(crate) fn wanted() -> Result<TerminalBody> {
    if !raw::is_there() {
        bail!("standard input and output are no terminal; use `caisson exec` without -t");
    }
    let (cols, rows) = raw::size();
    Ok(TerminalBody { cols: cols.into(), rows: rows.into() })
}

/// Is the terminal of an execution until it ends; returns its exit status.
pub(crate) async fn attend(client: &Client, execution: ExecutionId) -> Result<ExitCode> {
    wanted()?;
    let mut session = Session {
        client,
        execution,
        offset: 0,
        screen: Screen::default(),
        keys: Keys::new(),
        // The last things that may fail in an ordinary way are asked for before the terminal is touched.
        signals: Signals::listen().context("cannot listen for signals")?,
        quit: signal(SignalKind::quit())?,
        resized: signal(SignalKind::window_change())?,
        stopped: signal(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?,
        continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
        keyboard: None,
    };
    let first = client.socket(&session.target()).await?;
    let left = {
        let raw = Raw::begin()?;
        session.keyboard = stdin::stream()?;
        let left = session.carry_on(&raw, first).await;
        // What the program can undo no more. Its own end may come when it had no chance to either. A terminal that stands still does not.
        timeout(LAST_WORDS, output::write(Stream::Stdout, session.screen.at_rest().into_bytes())).await.ok();
        left
    };
    match left? {
        Left::Ended(end) => {
            let (code, message) = status::of_execution(&end);
            if let Some(message) = message {
                status::complain(&message);
            }
            Ok(ExitCode::from(code))
        }
        Left::Program => {
            status::complain(&format!("left; its program goes on: `caisson sh {execution}` comes back"));
            Ok(ExitCode::SUCCESS)
        }
        Left::Signal(number) => Ok(status::of_signal(number)),
    }
}

/// Why the session is over.
#[derive(Debug)]
enum Left {
    Ended(Box<ExecutionBody>),
    /// We left it to itself.
    Program,
    Signal(i32),
}

/// The connection broke.
struct Broken;

struct Session<'a> {
    client: &'a Client,
    execution: ExecutionId,
    /// Everything before it has been shown.
    offset: u64,
    screen: Screen,
    keys: Keys,
    signals: Signals,
    quit: Signal,
    resized: Signal,
    stopped: Signal,
    continued: Signal,
    keyboard: Option<mpsc::Receiver<Bytes>>,
}

impl Session<'_> {
    fn target(&self) -> String {
        format!("/v1/executions/{}/stream?stdout_offset={}", self.execution, self.offset)
    }

    async fn carry_on(&mut self, raw: &Raw, first: Socket) -> Result<Left> {
        let mut socket = first;
        loop {
            match self.attend(raw, socket).await? {
                Ok(left) => return Ok(left),
                Err(Broken) => {
                    socket = match self.come_back(raw).await? {
                        Ok(socket) => socket,
                        Err(left) => return Ok(left),
                    }
                }
            }
        }
    }

    /// Until the program or the connection has ended, or somebody wants to leave.
    async fn attend(&mut self, raw: &Raw, socket: Socket) -> Result<Result<Left, Broken>> {
        let (mut sink, mut stream) = socket.split();
        let (outbox, mut waiting) = mpsc::channel::<Message>(OUTBOX);
        // Apart from the rest: a program that does not read must not keep its output from being shown.
        let sending = async {
            while let Some(message) = waiting.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::pin!(sending);
        // Whatever size it has been given last.
        outbox.try_send(size()).ok();
        // Before this offset everything has been shown once, to somebody: what the terminal answers to it must not be typed again.
        let mut replayed_to = None;
        loop {
            tokio::select! {
                message = timeout(SILENCE, stream.next()) => match message {
                    Ok(Some(Ok(Message::Binary(bytes)))) => {
                        if let Some(left) = self.show(&bytes).await? {
                            return Ok(Ok(left));
                        }
                    }
                    Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text).context("the server's message makes no sense")? {
                        ServerMessage::Start { stdout_bytes, .. } => replayed_to = Some(stdout_bytes),
                        ServerMessage::End(end) => return Ok(Ok(Left::Ended(end))),
                        ServerMessage::Error { error } if error.code == "execution_finished" => {}
                        ServerMessage::Error { error } => bail!("{}", error.message),
                    },
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                    Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return Ok(Err(Broken)),
                },
                // Polled by reference until it ends, which it does with the connection.
                () = &mut sending => return Ok(Err(Broken)),
                // Loses nothing when another arm wins. Only while there is room behind it.
                bytes = key(&mut self.keyboard), if outbox.capacity() > 1 => {
                    let Some(bytes) = bytes else { return Ok(Ok(Left::Program)) };
                    match self.keys.typed(&bytes) {
                        Typed::Leave => return Ok(Ok(Left::Program)),
                        Typed::Bytes(bytes) if replayed_to.is_some_and(|end| self.offset >= end) && !bytes.is_empty() => {
                            outbox.try_send(Message::Binary(bytes.into())).ok();
                        }
                        Typed::Bytes(_) => {}
                    }
                }
                // These keep what is not taken.
                _ = self.resized.recv() => drop(outbox.try_send(size())),
                _ = self.stopped.recv() => raw.stop()?,
                _ = self.continued.recv() => {
                    raw.again()?;
                    drop(outbox.try_send(size()));
                }
                left = told_to_end(&mut self.signals, &mut self.quit) => return Ok(Ok(left)),
            }
        }
    }

    /// Shows what the program wrote. Whoever wants us to end meanwhile need not wait for a terminal that stands still.
    async fn show(&mut self, message: &Bytes) -> Result<Option<Left>> {
        let (stream, chunk) = decode_output(message).context("the server's message makes no sense")?;
        if stream == Stream::Stdout {
            self.offset = chunk.offset + chunk.data.len() as u64;
            self.screen.shows(&chunk.data);
        }
        tokio::select! {
            // What is not written when we end is of no use any more.
            written = output::write(Stream::Stdout, chunk.data) => written.map(|()| None),
            left = told_to_end(&mut self.signals, &mut self.quit) => Ok(Some(left)),
        }
    }

    /// Looks for the server again. The inner error says that somebody does not want to wait for it.
    async fn come_back(&mut self, raw: &Raw) -> Result<Result<Socket, Left>> {
        self.remark("the connection broke; trying to come back (Ctrl-C gives up)").await?;
        let (deadline, target) = (Instant::now() + COMES_BACK_WITHIN, self.target());
        let client = self.client;
        let looking = async {
            loop {
                match client.socket(&target).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) if error.is::<Refusal>() => return Err(error),
                    Err(error) if Instant::now() >= deadline => {
                        return Err(anyhow!("{error:#}; whether the program goes on is not known"));
                    }
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        tokio::pin!(looking);
        loop {
            tokio::select! {
                // Polled by reference until it is done.
                found = &mut looking => return found.map(Ok),
                bytes = key(&mut self.keyboard) => match bytes {
                    Some(bytes) if !bytes.contains(&INTERRUPT) && self.keys.typed(&bytes) != Typed::Leave => {}
                    _ => return Ok(Err(Left::Program)),
                },
                _ = self.stopped.recv() => raw.stop()?,
                _ = self.continued.recv() => raw.again()?,
                left = told_to_end(&mut self.signals, &mut self.quit) => return Ok(Err(left)),
            }
        }
    }

    /// Words of ours between the program's.
    async fn remark(&self, text: &str) -> Result<()> {
        output::write(Stream::Stderr, format!("\r\ncaisson: {text}\r\n").into_bytes()).await
    }
}

/// Somebody wants us to end. Cancel-safe: a signal that was not returned is returned the next time.
async fn told_to_end(signals: &mut Signals, quit: &mut Signal) -> Left {
    tokio::select! {
        _ = quit.recv() => Left::Signal(SignalKind::quit().as_raw_value()),
        number = signals.next() => Left::Signal(number),
    }
}

/// What has been typed; `None` when nothing will be any more.
async fn key(keyboard: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    keyboard.as_mut()?.recv().await
}

fn size() -> Message {
    let (cols, rows) = raw::size();
    let message = ClientMessage::Resize { cols: cols.into(), rows: rows.into() };
    Message::Text(serde_json::to_string(&message).expect("a size is two figures").into())
}
