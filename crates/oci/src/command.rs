//! Programs that are to end soon: started without our environment, in a process group of their own, ended when they do not.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// What is kept of what a program says.
pub(crate) const MOST_SAID: usize = 8 << 10;

/// What it writes on its standard output. The error is what it said, or why it could not be started, or that it hangs.
pub(crate) async fn output(program: &Path, arguments: &[&OsStr], within: Duration) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talk = async {
        let (out, err, status) = tokio::join!(read(stdout), read(stderr), child.wait());
        (out, err, status)
    };
    let ended = tokio::time::timeout(within, talk).await;
    let Ok((out, err, status)) = ended else {
        // Whatever it has started goes with it. It is not reaped yet, so the number is its own.
        if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It has ended in this moment.
            kill_process_group(group, Signal::KILL).ok();
        }
        return Err(format!("it did not end within {} s, and was killed", within.as_secs()));
    };
    match status {
        Ok(status) if status.success() => Ok(out),
        Ok(status) if err.is_empty() => Err(status.to_string()),
        Ok(_) => Err(err),
        Err(error) => Err(error.to_string()),
    }
}

/// The beginning of what comes, all of which is read.
pub(crate) async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    String::from_utf8_lossy(&read_bytes(stream).await).trim().to_owned()
}

pub(crate) async fn read_bytes(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MOST_SAID - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let shell = Path::new("/bin/sh");
        let run = async |line: &str| output(shell, &["-c".as_ref(), line.as_ref()], Duration::from_millis(500)).await;
        assert_eq!(run("echo x; echo y >&2").await, Ok("x".to_owned()));
        assert_eq!(run("echo y >&2; exit 3").await, Err("y".to_owned()));
        let before = std::time::Instant::now();
        assert!(run("sleep 61 & sleep 62").await.unwrap_err().contains("killed"));
        assert!(before.elapsed() < Duration::from_secs(5));
        assert!(output(Path::new("/nowhere"), &[], Duration::from_secs(1)).await.is_err());
    }
}
