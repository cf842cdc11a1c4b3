//! The hostile program of `tests/probe`, in a sandbox: it must get away with nothing.

use caisson_tests::{Sandbox, Server, Value, json, program};

/// Puts the probe into the sandbox and has it try one group of attacks.
fn findings(sandbox: &Sandbox<'_>, group: &str) -> Vec<Value> {
    let probe = program().with_file_name("caisson-probe");
    let probe =
        std::fs::read(&probe).unwrap_or_else(|error| panic!("{}: {error}; run `cargo build --release -p caisson-probe`", probe.display()));
    let target = sandbox.target("/files?path=/home/user/probe&mode=755");
    drop(sandbox.server.request("PUT", &target).bytes(probe).send().expect(200));
    let result = sandbox.exec(&json!({"cmd": ["/home/user/probe", group], "timeout_s": 120}));
    assert_eq!((&result["status"], &result["exit_code"]), (&"exited".into(), &0.into()), "{result:#}");
    let findings: Value = result["stdout"].as_str().expect("there is output").parse().expect("the probe prints JSON");
    findings.as_array().expect("an array of findings").clone()
}

#[track_caller]
fn holds(group: &str, at_least: usize) {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let findings = findings(&sandbox, group);
    assert!(findings.len() >= at_least, "only {} attempts", findings.len());
    let broken: Vec<&Value> = findings.iter().filter(|finding| finding["held"] != true).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    // It is still there and still answers.
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    server.finish();
}

#[test]
fn r1_4_to_1_7_calls_that_are_not_for_user_code_are_refused() {
    holds("calls", 250);
}

#[test]
fn r1_1_to_1_9_and_2_4_the_walls_hold() {
    holds("walls", 70);
}

#[test]
fn r2_1_to_2_7_nothing_of_the_host_is_seen() {
    holds("sight", 100);
}

#[test]
fn r3_1_no_way_leads_out() {
    holds("network", 60);
}

#[test]
fn r4_limits_end_what_has_no_end() {
    holds("limits", 10);
}
