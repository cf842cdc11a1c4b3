//! Sandboxes by the thousand: what comes goes again, and nothing grows with them but the records.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Client, Server, Setup, allowed, fewer, json};

const MIB: u64 = 1 << 20;

/// Does `work` `count` times, `at_once` at a time.
fn side_by_side(count: usize, at_once: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    work(n);
                }
            });
        }
    });
}

#[test]
fn a_storm_of_a_thousand_sandboxes_fifty_at_a_time_leaves_nothing() {
    let server = Server::start();
    let (count, begin) = (fewer(1000), Instant::now());
    side_by_side(count, 50, |n| {
        // Each third with a name, which must be free again for the next; each fifth on disk.
        let name = if n % 3 == 0 { json!(format!("storm-{}", n % 150)) } else { json!(null) };
        let storage = if n % 5 == 0 { "disk" } else { "memory" };
        let body = json!({"name": name, "storage": storage, "limits": {"disk_bytes": 16 * MIB, "disk_inodes": 1000}});
        let answer = server.post("/v1/sandboxes", &body);
        // One of that name may be alive still: then it is that one.
        assert!([200, 201].contains(&answer.status), "{}: {}", answer.status, answer.text());
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        let gone = server.request("DELETE", &format!("/v1/sandboxes/{id}")).send();
        assert!([200, 410].contains(&gone.status), "{}: {}", gone.status, gone.text());
    });
    eprintln!("{count} sandboxes made and ended in {:?}", begin.elapsed());
    let alive = server.get("/v1/sandboxes?state=running&state=creating&state=stopping").expect(200).json();
    assert_eq!(alive["data"], json!([]));
    assert_eq!(server.python("print(1)"), "1\n");
    server.finish();
}

/// What could grow with the number of sandboxes.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Resident memory of server and launcher.
    server_bytes: u64,
    launcher_bytes: u64,
    descriptors: usize,
    launcher_descriptors: usize,
    threads: usize,
    processes: usize,
    cgroups: usize,
    mounts: usize,
    /// Database and output logs.
    store_bytes: u64,
}

fn entries(path: impl AsRef<Path>) -> usize {
    fs::read_dir(path).into_iter().flatten().flatten().count()
}

fn lines(path: &str) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.metadata().map_or(0, |m| if m.is_dir() { bytes_below(&entry.path()) } else { m.len() })).sum()
}

impl Figures {
    fn now(server: &Server) -> Self {
        let (pid, launcher) = (server.pid(), server.launcher());
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path().join("caisson"));
        let cgroups = hierarchies.chain(["/sys/fs/cgroup/caisson".into()]).map(|parent| {
            let below = fs::read_dir(parent).into_iter().flatten().flatten();
            below.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())).count()
        });
        Self {
            server_bytes: server.process().resident(),
            launcher_bytes: launcher.resident(),
            descriptors: entries(format!("/proc/{pid}/fd")),
            launcher_descriptors: entries(format!("/proc/{}/fd", launcher.pid)),
            threads: entries(format!("/proc/{pid}/task")),
            processes: server.below().len(),
            cgroups: cgroups.sum(),
            mounts: lines("/proc/self/mountinfo") + lines(&format!("/proc/{}/mountinfo", launcher.pid)),
            store_bytes: bytes_below(&server.home().data()),
        }
    }

    /// Once everything that comes and goes has gone: processes that are parked for the next sandboxes, and threads for blocking work.
    fn at_rest(server: &Server, before: Option<Self>) -> Self {
        let Some(before) = before else {
            thread::sleep(allowed(Duration::from_secs(1)));
            return Self::now(server);
        };
        let begin = Instant::now();
        loop {
            let now = Self::now(server);
            let quiet = now.descriptors <= before.descriptors + FEW
                && now.processes <= before.processes + FEW
                && now.cgroups <= before.cgroups + FEW;
            if quiet || begin.elapsed() > allowed(Duration::from_secs(10)) {
                return now;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What may be more by chance: a parked process (with a control group in each of up to four hierarchies), a connection of the database, a
/// thread for blocking work. One sandbox in a hundred that left one of them would leave a hundred.
const FEW: usize = 12;

/// One whole life: made, used, ended.
fn cycle(client: &Client, n: usize) {
    let made = client.request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json();
    let id = made["id"].as_str().expect("an id");
    let result = client.request("POST", &format!("/v1/sandboxes/{id}/exec")).json(&json!({"cmd": ["echo", n.to_string()]})).send();
    let result = result.expect(200).json();
    assert_eq!((&result["status"], &result["stdout"]), (&json!("exited"), &json!(format!("{n}\n"))), "{result:#}");
    client.request("DELETE", &format!("/v1/sandboxes/{id}")).send().expect(200);
}

#[test]
fn r7_6_ten_thousand_sandboxes_made_used_and_ended_leave_every_figure_as_it_was() {
    // As short as it can be, so that what is purged meanwhile is part of it.
    let server = Setup::default().env("CAISSON_RETENTION", "1m").start();
    let (all, warm) = (fewer(10_000), fewer(500));
    let rounds = |from: usize, to: usize| side_by_side(to - from, 4, |n| cycle(&server.client, from + n));

    rounds(0, warm);
    let before = Figures::at_rest(&server, None);
    let begin = Instant::now();
    let mut told = before;
    for part in 1..=5 {
        rounds(warm + (all - warm) * (part - 1) / 5, warm + (all - warm) * part / 5);
        told = Figures::at_rest(&server, Some(before));
        eprintln!("after {} of {all}, {:?}: {told:?}", warm + (all - warm) * part / 5, begin.elapsed());
    }
    eprintln!("before, after {warm}: {before:?}");
    let after = told;

    // The allocator keeps what busy moments needed, and the database its pages (2 MiB in each of six connections). A KiB that is lost with each
    // of ten thousand would show.
    assert!(after.server_bytes < before.server_bytes + 9 * MIB, "memory of the server: {before:?} {after:?}");
    // One thread and no tables that grow: some pages of the stack and the heap at most.
    assert!(after.launcher_bytes < before.launcher_bytes + MIB, "memory of the launcher: {before:?} {after:?}");
    for (what, before, after) in [
        ("descriptors of the server", before.descriptors, after.descriptors),
        ("descriptors of the launcher", before.launcher_descriptors, after.launcher_descriptors),
        ("threads", before.threads, after.threads),
        ("processes", before.processes, after.processes),
        ("control groups", before.cgroups, after.cgroups),
    ] {
        assert!(after <= before + FEW, "{what}: {before} before, {after} after");
    }
    assert_eq!(after.mounts, before.mounts, "mounts");
    // Two records and a line of output each, if none of them had been purged yet. The write-ahead log is emptied from time to time and
    // keeps its length: 8,000 pages of 4 KiB at most.
    let records = u64::try_from(all - warm).expect("a count") * 3 * 1024;
    assert!(after.store_bytes < before.store_bytes + records + 32 * MIB, "store: {before:?} {after:?}");
    assert_eq!(server.get("/v1/sandboxes?state=running&state=creating&state=stopping").expect(200).json()["data"], json!([]));
    server.finish();
}
