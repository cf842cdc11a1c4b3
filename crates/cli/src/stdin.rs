//! Standard input: as it comes, or all of it.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{args::MAX_CODE, status};

/// Bytes read in one go, and how many such pieces wait for the program to take them.
const PIECE: usize = 64 << 10;
const QUEUE: usize = 4;

/// Standard input as it comes; ends with it. `None` when reading would stop us: a terminal belongs to the job in the foreground.
pub(crate) fn stream() -> Result<Option<mpsc::Receiver<Bytes>>> {
    if is_a_terminal_of_others() {
        return Ok(None);
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    // Not a task: nobody must wait for a read that may never return.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || feed(&sender))
        .context("cannot start a thread for standard input")?;
    Ok(Some(receiver))
}

fn feed(sender: &mpsc::Sender<Bytes>) {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    // The program has ended or does not read any more.
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return status::complain(&format!("cannot read standard input, the program sees its end: {error}")),
        }
    }
}

/// All of standard input, which must not be larger than `limit` bytes; `remedy` says what to do when it is.
pub(crate) fn read_all(limit: usize, remedy: &str) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut data).context("cannot read standard input")?;
    if data.len() > limit {
        bail!("standard input is larger than {} MiB; {remedy}", limit >> 20);
    }
    Ok(data)
}

/// Code: all of standard input, which must be text, and no longer than code may be.
pub(crate) fn read_code(remedy: &str) -> Result<String> {
    String::from_utf8(read_all(MAX_CODE, remedy)?).context("the code on standard input is not UTF-8")
}

/// Whether standard input is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether it is a terminal on which another job is in the foreground.
pub(crate) fn is_a_terminal_of_others() -> bool {
    is_terminal() && rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|foreground| foreground != rustix::process::getpgrp())
}
