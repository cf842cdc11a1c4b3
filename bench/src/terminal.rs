//! What is typed comes back: through a terminal in a sandbox, over a WebSocket, beside a terminal on the host.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::json;
use tungstenite::{Message, WebSocket};

use crate::{
    figures::{Figures, heading, promise, row},
    server::Server,
};

/// Gives back every byte as it comes; the terminal itself does nothing. The first byte says that it listens.
const ECHO: &str = "stty raw -echo; printf r; exec cat";
/// Bytes typed before counting begins.
const WARM_UP: usize = 50;

pub(crate) fn echo(server: &Server, count: usize) -> Result<()> {
    let mut connection = server.connect()?;
    let id = connection.sandbox()?;
    let mut host = Host::start()?;
    let mut sandbox = Remote::start(server, &id)?;
    let (on_host, inside) = take_turns(&mut host, &mut sandbox, count)?;
    heading(&format!("Terminal: a byte to `cat` and back, {count} each"));
    row("on the host", &on_host);
    row("in a sandbox, WebSocket", &inside);
    promise("sandbox / host, p50", inside.p50() / on_host.p50(), 1.5, true);

    let flood = connection.ask("POST", &format!("/v1/sandboxes/{id}/exec"), &json!({"cmd": ["yes"], "background": true}))?;
    let flood = flood["id"].as_str().context("an id")?;
    let stop = AtomicBool::new(false);
    let (on_host, inside) = thread::scope(|scope| {
        let reader = scope.spawn(|| drain(server, flood, &stop));
        let took = take_turns(&mut host, &mut sandbox, count);
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        took
    })?;
    connection.ask("DELETE", &format!("/v1/sandboxes/{id}"), &serde_json::Value::Null)?;
    heading("The same while `yes` floods another reader of the same sandbox");
    row("on the host", &on_host);
    row("in a sandbox, WebSocket", &inside);
    promise("p99 in a sandbox, ms", inside.at(99), 5.0, true);
    Ok(())
}

fn take_turns(host: &mut Host, sandbox: &mut Remote, count: usize) -> Result<(Figures, Figures)> {
    let (mut on_host, mut inside) = (Vec::new(), Vec::new());
    for round in 0..count + WARM_UP {
        let byte = b'a' + u8::try_from(round % 26)?;
        let begin = Instant::now();
        host.echo(byte)?;
        let local = begin.elapsed();
        let begin = Instant::now();
        sandbox.echo(byte)?;
        let remote = begin.elapsed();
        if round >= WARM_UP {
            on_host.push(local);
            inside.push(remote);
        }
    }
    Ok((Figures::new(on_host), Figures::new(inside)))
}

/// Reads a flood, and cares for nothing in it.
fn drain(server: &Server, execution: &str, stop: &AtomicBool) -> Result<()> {
    let mut stream = server.begin(&format!("/v1/executions/{execution}/output?follow=true"))?;
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer)? {
            0 => bail!("the flood ended after {read} bytes"),
            count => read += count,
        }
    }
    Ok(())
}

/// A terminal of the host, with both ends here.
struct Host {
    screen: File,
    child: Child,
}

impl Host {
    fn start() -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags)?;
        grantpt(&screen)?;
        unlockpt(&screen)?;
        let terminal = ioctl_tiocgptpeer(&screen, flags)?;
        let child = Command::new("sh").args(["-c", ECHO]).stdin(terminal.try_clone()?).stdout(terminal).stderr(Stdio::null()).spawn()?;
        let mut host = Self { screen: screen.into(), child };
        host.hear(b'r')?;
        Ok(host)
    }

    fn hear(&mut self, wanted: u8) -> Result<()> {
        let mut byte = [0];
        self.screen.read_exact(&mut byte)?;
        if byte == [wanted] { Ok(()) } else { bail!("the terminal of the host says {byte:?}") }
    }

    fn echo(&mut self, byte: u8) -> Result<()> {
        self.screen.write_all(&[byte])?;
        self.hear(byte)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// A terminal of a sandbox.
struct Remote {
    socket: WebSocket<TcpStream>,
}

impl Remote {
    fn start(server: &Server, id: &str) -> Result<Self> {
        let command = ECHO.replace(' ', "+").replace(';', "%3B");
        let mut remote = Self { socket: server.socket(&format!("/v1/sandboxes/{id}/pty?cmd=sh&cmd=-c&cmd={command}"))? };
        remote.hear(b'r')?;
        Ok(remote)
    }

    fn hear(&mut self, wanted: u8) -> Result<()> {
        loop {
            match self.socket.read()? {
                // The stream and the offset come before it.
                Message::Binary(bytes) if bytes.get(9..) == Some(&[wanted]) => return Ok(()),
                Message::Binary(bytes) => bail!("the terminal of the sandbox says {bytes:?}"),
                Message::Close(frame) => bail!("the terminal of the sandbox ended: {frame:?}"),
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    fn echo(&mut self, byte: u8) -> Result<()> {
        self.socket.send(Message::Binary(vec![byte].into()))?;
        self.hear(byte)
    }
}
