//! One at a time, taking turns.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    figures::{Figures, heading, promise, row},
    peers::{Peer, Peers},
    server::Server,
};

/// Runs before counting begins.
pub(crate) const WARM_UP: usize = 5;

/// Who, and how long each run took, in the order of the runs.
pub(crate) type Samples = Vec<(Peer, Vec<Duration>)>;

/// A fresh sandbox for each run, created, used and destroyed.
pub(crate) fn cold(peers: &Peers<'_>, runs: usize) -> Result<Samples> {
    let mut samples: Samples = peers.all.iter().map(|peer| (*peer, Vec::new())).collect();
    let count = samples.len();
    for round in 0..runs + WARM_UP {
        for turn in 0..count {
            // Nobody always comes after the same one.
            let (peer, times) = &mut samples[(turn + round) % count];
            let begin = Instant::now();
            peers.run(*peer)?;
            if round >= WARM_UP {
                times.push(begin.elapsed());
            }
        }
    }
    heading(&format!("Cold one-shot, python3 print('hello'), {runs} runs each"));
    let figures: Vec<(Peer, Figures)> = samples.iter().map(|(peer, times)| (*peer, Figures::new(times.clone()))).collect();
    for (peer, figures) in &figures {
        row(peer.name(), figures);
    }
    let p50 = |wanted| figures.iter().find(|(peer, _)| *peer == wanted).map(|(_, figures)| figures.p50());
    if let (Some(caisson), Some(bubblewrap)) = (p50(Peer::Caisson), p50(Peer::Bubblewrap)) {
        promise("caisson / bwrap, p50", caisson / bubblewrap, 1.0, true);
    }
    if let (Some(caisson), Some(chroot)) = (p50(Peer::Caisson), p50(Peer::Chroot)) {
        println!("  caisson / chroot, p50: {:.2}", caisson / chroot);
    }
    Ok(samples)
}

/// Every run as a line: who, which, milliseconds.
pub(crate) fn write_csv(file: &Path, samples: &Samples) -> Result<()> {
    let mut text = "peer,run,milliseconds\n".to_owned();
    for (peer, times) in samples {
        for (run, time) in times.iter().enumerate() {
            writeln!(text, "\"{}\",{},{:.3}", peer.name(), run + 1, time.as_secs_f64() * 1000.0)?;
        }
    }
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// `/bin/true` in a sandbox that lives, beside the same on the host.
pub(crate) fn exec(server: &Server, runs: usize) -> Result<()> {
    let mut connection = server.connect()?;
    let path = format!("/v1/sandboxes/{}/exec", connection.sandbox()?);
    let (mut host, mut sandbox) = (Vec::new(), Vec::new());
    for round in 0..runs + WARM_UP {
        let begin = Instant::now();
        let status = Command::new("/bin/true").stdin(Stdio::null()).status()?;
        let on_host = begin.elapsed();
        let begin = Instant::now();
        let result = connection.ask("POST", &path, &json!({"cmd": ["/bin/true"]}))?;
        let inside = begin.elapsed();
        if !status.success() || result["exit_code"] != 0 {
            bail!("/bin/true failed: {status}, {result}");
        }
        if round >= WARM_UP {
            host.push(on_host);
            sandbox.push(inside);
        }
    }
    let (host, sandbox) = (Figures::new(host), Figures::new(sandbox));
    heading(&format!("/bin/true, {runs} runs each"));
    row("fork and exec on the host", &host);
    row("exec in a live sandbox", &sandbox);
    promise("sandbox / host, p50", sandbox.p50() / host.p50(), 2.0, true);
    Ok(())
}
