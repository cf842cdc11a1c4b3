//! `boxed repl`: standard input to a process in a sandbox, and what it says.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use caisson_core::Stream;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{cli::ReplArgs, sandbox, say, types::Frame};
use crate::{
    client::{Client, Socket, percent},
    output,
    signals::Signals,
    stdin,
};

/// Bytes of one frame of input.
const PIECE: usize = 1 << 10;
/// How long the server may take to answer a close.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn repl(client: &Client, args: &ReplArgs) -> Result<()> {
    let target = format!("{}/interact?lang={}", sandbox(&args.id), percent(args.lang.as_bytes()));
    say(&format!("Connecting to {}{target}", client.url()))?;
    let mut socket = client.socket(&target).await?;
    say("Connected! Type to send input, press Ctrl-C to leave.")?;
    let mut signals = Signals::listen()?;
    let mut input = stdin::stream()?;
    loop {
        tokio::select! {
            // Cancel-safe, as a stream's next is.
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    if tell(&text).await? {
                        return leave(&mut socket).await;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| format!("{} {}", u16::from(frame.code), frame.reason)).unwrap_or_default();
                    bail!("the server closed the connection: {reason}");
                }
                Some(Ok(_)) => {}
                Some(Err(Error::ConnectionClosed)) | None => bail!("the server closed the connection"),
                Some(Err(error)) => bail!("the connection broke: {error}"),
            },
            // Likewise.
            piece = next(&mut input) => match piece {
                Some(data) => {
                    for piece in data.chunks(PIECE) {
                        socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.map_err(|error| anyhow!("the connection broke: {error}"))?;
                    }
                }
                // There is no way to say so but to close, and the process may still have something to say.
                None => input = None,
            },
            _ = signals.next() => return leave(&mut socket).await,
        }
    }
}

async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Tells what a frame says; whether that was the end.
async fn tell(text: &str) -> Result<bool> {
    let Ok(Frame { method: Some(method), params }) = serde_json::from_str(text) else { return Ok(false) };
    match method.as_str() {
        "stdout" => output::write(Stream::Stdout, params.chunk).await?,
        "stderr" => output::write(Stream::Stderr, params.chunk).await?,
        "error" => say(&format!("[Error] {}", params.message))?,
        "exit" => {
            say(&format!("[Process Exited with code {}]", params.code.unwrap_or_default()))?;
            return Ok(true);
        }
        _ => {}
    }
    Ok(false)
}

async fn leave(socket: &mut Socket) -> Result<()> {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let closed = async {
        if socket.close(Some(frame)).await.is_ok() {
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        }
    };
    // Whoever does not answer is left.
    tokio::time::timeout(CLOSED_WITHIN, closed).await.ok();
    Ok(())
}
