//! Each wall left out in turn: the probe of `crates/probe` must notice. What it says of whole sandboxes is in `tests/tests/guarantees.rs`.
//!
//! Needs root and the program `caisson-probe` beside the tests (`cargo build --release -p caisson-probe`).

use std::{collections::BTreeSet, os::fd::AsFd, path::PathBuf, process::Command, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use caisson_core::{Limits, SandboxSpec};
use caisson_engine::{
    CreateRequest, Created, Engine, EngineConfig, ExecRequest, FileAttributes, Program,
    doctor::{self, State},
};
use caisson_native::{Native, NativeConfig, Weakness};
use caisson_store::Sqlite;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

fn probe() -> Vec<u8> {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().skip(1).take(3).map(|directory| directory.join("caisson-probe"));
    let path: PathBuf = places.into_iter().find(|path| path.is_file()).expect("run `cargo build --release -p caisson-probe` first");
    std::fs::read(path).unwrap()
}

/// Does `work` with an engine whose sandboxes lack a wall.
fn without<T>(weakness: Option<Weakness>, work: impl AsyncFnOnce(&Engine) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let mut config = NativeConfig::new(directory.path().to_owned());
    config.parked = 1;
    config.weakness = weakness;
    let native = Arc::new(Native::start(config).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Sqlite::open(&directory.path().join("caisson.db")).await.unwrap();
        let engine = Engine::open(EngineConfig::new(directory.path().to_owned()), native, Arc::new(store)).await.unwrap();
        let result = work(&engine).await;
        engine.shutdown().await;
        result
    })
}

/// The numbers of the guarantees that a group of attacks finds broken.
fn broken(weakness: Option<Weakness>, group: &str) -> BTreeSet<String> {
    let findings = without(weakness, async |engine| attack(engine, group).await);
    assert!(!findings.is_empty(), "nothing was tried");
    let number = |finding: &Value| finding["guarantee"].as_str().unwrap().to_owned();
    // What rests on something that this machine may not give would be found everywhere.
    findings.iter().filter(|finding| finding["held"] != true && finding["rests_on"].is_null()).map(number).collect()
}

async fn attack(engine: &Engine, group: &str) -> Vec<Value> {
    let limits = Limits { cpu_millis: 2000, ..Limits::default() };
    let request = CreateRequest { spec: SandboxSpec { limits, ..SandboxSpec::default() }, ..CreateRequest::default() };
    let Created::New(sandbox) = engine.create(request).await.unwrap() else { panic!("it has no name and cannot exist") };
    let content = Box::pin(futures::stream::iter([Ok(Bytes::from(probe()))]));
    engine.write_file(sandbox.id, b"/tmp/probe", FileAttributes { mode: Some(0o755), ..FileAttributes::default() }, content).await.unwrap();
    let program = Program::Argv(vec!["/tmp/probe".to_owned(), group.to_owned()]);
    let request = ExecRequest { timeout: Some(Duration::from_secs(600)), ..ExecRequest::new(program) };
    let running = engine.exec(sandbox.id, request).await.unwrap();
    let result = running.wait().await.unwrap();
    let text = String::from_utf8_lossy(&result.stdout.head).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {:?} {text:.500} {:?}", result.execution, result.stderr))
}

#[track_caller]
fn notices(weakness: Weakness, group: &str, numbers: &[&str]) {
    let found = broken(Some(weakness), group);
    for number in numbers {
        assert!(found.contains(*number), "without this wall the probe must find {number} broken in {group}; it found {found:?}");
    }
}

#[test]
fn a_missing_filter_is_noticed() {
    notices(Weakness::Filter, "calls", &["1.4", "1.5", "1.6"]);
}

#[test]
fn user_code_that_is_the_agent_is_noticed() {
    notices(Weakness::Identity, "walls", &["1.2", "2.4"]);
}

#[test]
fn mounts_that_allow_too_much_are_noticed() {
    notices(Weakness::Mounts, "walls", &["1.2"]);
}

/// Needs a kernel with Landlock (Linux 5.13).
#[test]
fn a_missing_second_wall_is_noticed() {
    notices(Weakness::Landlock, "walls", &["1.2"]);
}

#[test]
fn a_proc_that_shows_the_host_is_noticed() {
    notices(Weakness::Sight, "sight", &["2.3", "2.7"]);
}

#[test]
fn missing_limits_are_noticed() {
    notices(Weakness::Limits, "limits", &["4.4"]);
    notices(Weakness::Limits, "processes", &["4.2"]);
    notices(Weakness::Limits, "files", &["4.4"]);
    notices(Weakness::Limits, "memory", &["4.1"]);
}

/// The sandbox shares a network namespace that was made for this test and leads nowhere, but has an address and a service on it.
#[test]
fn a_shared_network_is_noticed() {
    let line = "ip link set lo up && ip address add 10.0.0.1/32 dev lo && exec sleep 600";
    let mut holder = Command::new("unshare").args(["--net", "sh", "-c", line]).spawn().unwrap();
    let found = thread::scope(|scope| {
        let pid = holder.id();
        let inside = scope.spawn(move || {
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            let path = format!("/proc/{pid}/ns/net");
            while std::fs::read_link(&path).unwrap() == own || !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep")
            {
                thread::sleep(Duration::from_millis(5));
            }
            let namespace = std::fs::File::open(&path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let _service = std::net::TcpListener::bind("10.0.0.1:80").unwrap();
            broken(Some(Weakness::Network), "network")
        });
        inside.join()
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(found.unwrap().contains("3.1"));
}

/// What the doctor says of a machine without this wall.
#[track_caller]
fn doctor_says_broken(weakness: Weakness, numbers: &[&str]) {
    let report = without(Some(weakness), async |engine| doctor::examine(engine, None).await).unwrap();
    assert_eq!(report.state, State::Broken, "{report:#?}");
    for number in numbers {
        let verdict = report.verdicts.iter().find(|verdict| verdict.number == *number).unwrap();
        assert!(verdict.state == State::Broken && !verdict.successes.is_empty() && verdict.remedy.is_some(), "{verdict:#?}");
    }
}

#[test]
fn the_doctor_names_what_is_missing() {
    doctor_says_broken(Weakness::Filter, &["1.4", "1.6"]);
    doctor_says_broken(Weakness::Identity, &["1.2", "2.4"]);
    doctor_says_broken(Weakness::Sight, &["2.3", "2.7"]);
}
