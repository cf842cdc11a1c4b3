//! Files in and out of a sandbox that lives, beside `cp` and `tar` on the host.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    figures::{Figures, heading, promise, row},
    server::Server,
};

const LARGE: usize = 64 << 20;
const SMALL: usize = 4 << 10;
const COUNT: usize = 1000;
/// Runs before counting begins.
const WARM_UP: usize = 2;

pub(crate) fn files(server: &Server, directory: &Path, runs: usize) -> Result<()> {
    let directory = directory.join("files");
    fs::create_dir_all(directory.join("many"))?;
    let id = server.connect()?.sandbox()?;
    large(server, &directory, &id, runs.max(5))?;
    many(server, &directory, &id, runs.max(5))
}

fn large(server: &Server, directory: &Path, id: &str, runs: usize) -> Result<()> {
    let (from, to) = (directory.join("large"), directory.join("copy"));
    let content: Vec<u8> = (0..LARGE / 8).flat_map(|n| (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    fs::write(&from, &content)?;
    let target = format!("/v1/sandboxes/{id}/files?path=large");
    let mut connection = server.connect()?;
    let mut took: [Vec<Duration>; 3] = Default::default();
    for round in 0..runs + WARM_UP {
        let mut note = |what: usize, begin: Instant| {
            if round >= WARM_UP {
                took[what].push(begin.elapsed());
            }
        };
        fs::remove_file(&to).ok();
        let begin = Instant::now();
        run(Command::new("cp").arg(&from).arg(&to))?;
        note(0, begin);
        let begin = Instant::now();
        connection.upload(&target, &from)?;
        note(1, begin);
        fs::remove_file(&to)?;
        let begin = Instant::now();
        connection.download(&target, &to)?;
        note(2, begin);
        if round == 0 && fs::read(&to)? != content {
            bail!("what came back is not what was sent");
        }
    }
    let [cp, upload, download] = took.map(Figures::new);
    heading(&format!("One file of 64 MiB, {runs} runs each"));
    row("cp on the host", &cp);
    row("upload over HTTP", &upload);
    row("download over HTTP", &download);
    promise("upload / cp, speed", cp.p50() / upload.p50(), 0.7, false);
    promise("download / cp, speed", cp.p50() / download.p50(), 0.7, false);
    Ok(())
}

/// What `docker cp` and its like do is at least the third: a stream of `tar` from one process to another.
fn many(server: &Server, directory: &Path, id: &str, runs: usize) -> Result<()> {
    let (from, to) = (directory.join("many"), directory.join("many-copied"));
    for index in 0..COUNT {
        fs::write(from.join(format!("file-{index}")), [u8::try_from(index % 251)?; SMALL])?;
    }
    let mut connection = server.connect()?;
    let mut took: [Vec<Duration>; 4] = Default::default();
    for round in 0..runs + WARM_UP {
        let fresh =
            || fs::remove_dir_all(&to).or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        let inside = format!("{id}:many-{round}");
        for (what, took) in took.iter_mut().enumerate() {
            if what != 2 {
                fresh()?;
            }
            let begin = Instant::now();
            match what {
                0 => run(Command::new("cp").arg("-r").arg(&from).arg(&to))?,
                1 => tar_to_tar(&from, &to)?,
                2 => run(server.command().arg("cp").arg(&from).arg(&inside))?,
                _ => run(server.command().arg("cp").arg(&inside).arg(&to))?,
            }
            if round >= WARM_UP {
                took.push(begin.elapsed());
            }
            if what != 2 && fs::read_dir(&to)?.count() != COUNT {
                bail!("not every file was copied");
            }
        }
        if fs::read(to.join("file-7"))? != [7; SMALL] {
            bail!("what came back is not what was sent");
        }
        let gone = format!("/v1/sandboxes/{id}/files?path=many-{round}&recursive=true");
        connection.ask("DELETE", &gone, &serde_json::Value::Null)?;
    }
    let [cp, tar, upload, download] = took.map(Figures::new);
    heading(&format!("{COUNT} files of 4 KiB, {runs} runs each"));
    row("cp -r on the host", &cp);
    row("tar to tar on the host", &tar);
    row("caisson cp into a sandbox", &upload);
    row("caisson cp out of it", &download);
    println!("  in / tar to tar, speed: {:.2}; out: {:.2}", tar.p50() / upload.p50(), tar.p50() / download.p50());
    Ok(())
}

fn tar_to_tar(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let mut pack = Command::new("tar").arg("-C").arg(from).args(["-c", "."]).stdout(Stdio::piped()).spawn()?;
    let pipe = pack.stdout.take().context("a pipe")?;
    run(Command::new("tar").arg("-C").arg(to).arg("-x").stdin(pipe))?;
    if pack.wait()?.success() { Ok(()) } else { bail!("tar failed") }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if output.status.success() { Ok(()) } else { bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)) }
}
