//! The hostile program of `crates/probe`, in a sandbox: it must get away with nothing. One test for each number of the security
//! requirements; what a sandbox without the wall looks like is in `crates/native/tests/weakened.rs`.

use std::{collections::HashMap, sync::Mutex};

use caisson_tests::{Sandbox, Server, Value, json, may_set_the_order, program};

/// What each group of attacks has found; tried once.
static FOUND: Mutex<Option<HashMap<&'static str, Vec<Value>>>> = Mutex::new(None);

/// Puts the probe into the sandbox and has it try groups of attacks.
fn attack(sandbox: &Sandbox<'_>, groups: &str) -> Vec<Value> {
    let probe = program().with_file_name("caisson-probe");
    let probe =
        std::fs::read(&probe).unwrap_or_else(|error| panic!("{}: {error}; run `cargo build --release -p caisson-probe`", probe.display()));
    let target = sandbox.target("/files?path=/home/user/probe&mode=755");
    drop(sandbox.server.request("PUT", &target).bytes(probe).send().expect(200));
    let cmd: Vec<&str> = std::iter::once("/home/user/probe").chain(groups.split(' ')).collect();
    let result = sandbox.exec(&json!({"cmd": cmd, "timeout_s": 120}));
    assert_eq!((&result["status"], &result["exit_code"]), (&"exited".into(), &0.into()), "{result:#}");
    let findings: Value = result["stdout"].as_str().expect("there is output").parse().expect("the probe prints JSON");
    // It is still there and still answers.
    assert_eq!(sandbox.shell("echo fine"), "fine\n");
    findings.as_array().expect("an array of findings").clone()
}

/// That every attack of the group on this guarantee was made, and failed.
#[track_caller]
fn holds(number: &str, group: &'static str, at_least: usize) {
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let findings = found.get_or_insert_default().entry(group).or_insert_with(|| {
        let server = Server::start();
        let findings = attack(&server.sandbox(&json!({"limits": {"cpus": 2}})), group);
        server.finish();
        findings
    });
    let about: Vec<&Value> = findings.iter().filter(|finding| finding["guarantee"] == number).collect();
    assert!(about.len() >= at_least, "only {} attempts at {number}, at least {at_least} are known", about.len());
    // What rests on a capability that this machine's root lacks is told by the doctor, whose suite looks for it.
    let enforced = |finding: &Value| match finding["rests_on"].as_str() {
        None => true,
        Some(what) => {
            assert_eq!(what, "CAP_SYS_RESOURCE");
            may_set_the_order()
        }
    };
    let broken: Vec<&&Value> = about.iter().filter(|finding| finding["held"] != true && enforced(finding)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

macro_rules! guarantees {
    ($($name:ident: $number:literal by $group:literal, $at_least:literal;)*) => {
        $(#[test]
        fn $name() {
            holds($number, $group, $at_least);
        })*
    };
}

guarantees! {
    r1_1_namespaces_and_ids_are_its_own: "1.1" by "walls", 7;
    r1_2_user_code_has_no_privileges: "1.2" by "walls", 60;
    r1_4_system_calls_are_allowed_by_list: "1.4" by "calls", 99;
    r1_5_terminals_are_not_controlled: "1.5" by "calls", 8;
    r1_6_sockets_are_internet_and_unix: "1.6" by "calls", 400;
    r1_7_other_system_call_tables_are_closed: "1.7" by "calls", 5;
    r1_9_the_session_keyring_is_its_own: "1.9" by "walls", 2;
    r2_1_the_root_shows_no_path_of_the_host: "2.1" by "sight", 50;
    r2_2_the_hosts_accounts_and_state_are_not_there: "2.2" by "sight", 10;
    r2_3_the_kernels_controls_are_closed: "2.3" by "sight", 20;
    r2_4_the_agent_is_out_of_reach: "2.4" by "walls", 15;
    r2_5_no_descriptor_is_inherited: "2.5" by "walls", 4;
    r2_6_the_environment_is_its_own: "2.6" by "sight", 5;
    r2_7_the_host_cannot_be_recognised: "2.7" by "sight", 30;
    r2_9_what_is_lent_cannot_be_changed: "2.9" by "walls", 4;
    r3_1_no_way_leads_out: "3.1" by "network", 60;
    r4_1_memory_has_an_end: "4.1" by "limits processes files memory", 7;
    r4_2_processes_have_an_end: "4.2" by "limits processes files memory", 1;
    r4_4_space_and_inodes_have_an_end: "4.4" by "limits processes files memory", 4;
    r4_6_descriptors_timers_and_priorities_have_an_end: "4.6" by "limits processes files memory", 4;
}
