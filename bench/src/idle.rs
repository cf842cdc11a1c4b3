//! What a sandbox costs that does nothing.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{figures::promise, server::Server};

const MANY: usize = 50;
const THOUSAND: usize = 1000;

/// Proportional set sizes of agents: shared pages count for their share (`proc(5)`, `smaps_rollup`).
pub(crate) fn memory(server: &Server) -> Result<()> {
    let mut connection = server.connect()?;
    // Those that other parts of the benchmark still have.
    let list = connection.ask("GET", "/v1/sandboxes?state=running&limit=1000", &Value::Null)?;
    for sandbox in list["data"].as_array().context("a list")? {
        connection.ask("DELETE", &format!("/v1/sandboxes/{}", sandbox["id"].as_str().context("an id")?), &Value::Null)?;
    }
    let mut ids = vec![connection.sandbox()?];
    let alone = mean(&agents(server)?)?;
    while ids.len() < MANY {
        ids.push(connection.sandbox()?);
    }
    let shared = mean(&agents(server)?)?;
    for id in ids {
        connection.ask("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null)?;
    }
    println!("\nIdle sandboxes, PSS of the agent in MiB");
    promise("one alone", alone, 1.5, true);
    promise(&format!("mean of {MANY}"), shared, 1.5, true);
    Ok(())
}

/// A thousand at one time, on a server of their own that allows them.
pub(crate) fn many(program: &Path, directory: &Path) -> Result<()> {
    let directory = directory.join("idle");
    fs::create_dir(&directory)?;
    let settings = [("CAISSON_MAX_SANDBOXES", (THOUSAND + 1).to_string())];
    let server = Server::start_with(program, &directory, "off", &settings)?;
    let mut connection = server.connect()?;
    let begin = Instant::now();
    let ids: Vec<String> = (0..THOUSAND).map(|_| connection.sandbox()).collect::<Result<_>>()?;
    let took = begin.elapsed();
    for id in ids.iter().step_by(THOUSAND / 20) {
        let result = connection.ask("POST", &format!("/v1/sandboxes/{id}/exec"), &json!({"cmd": ["/bin/true"]}))?;
        if result["exit_code"] != 0 {
            bail!("/bin/true failed: {result}");
        }
    }
    let mib = mean(&agents(&server)?)?;
    println!("\n{THOUSAND} idle sandboxes at once: made in {:.1} s, one in 50 ran a program", took.as_secs_f64());
    promise("PSS of an agent in MiB, mean", mib, 1.5, true);
    Ok(())
}

fn mean(pids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("a Pss line")?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    let count = pids.len() as f64;
    Ok(sum / count)
}

/// The agents below the server.
fn agents(server: &Server) -> Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, tail)| tail.split(' ').nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let ours = |mut pid: u32| loop {
        match parents.get(&pid) {
            Some(parent) if *parent == server.pid() => return true,
            Some(parent) if *parent > 1 => pid = *parent,
            _ => return false,
        }
    };
    let is_agent = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"caisson-agent"));
    Ok(parents.keys().copied().filter(is_agent).filter(|pid| ours(*pid)).collect())
}
