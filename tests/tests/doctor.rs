//! `caisson doctor` and `GET /v1/doctor`: what they say of this machine, where everything holds.

use std::{process::Stdio, thread, time::Duration};

use caisson_tests::{Home, Server, Value, eventually, json, may_set_the_order, signal};
use rustix::process::Signal;

/// That everything held, and was attacked.
#[track_caller]
fn is_green(report: &Value) {
    assert_eq!(report["state"], "held", "{report:#}");
    let guarantees = report["guarantees"].as_array().expect("a list");
    assert!(guarantees.len() >= 20, "{report:#}");
    for guarantee in guarantees {
        assert_eq!(guarantee["state"], "held", "{guarantee:#}");
        assert!(guarantee["attempts"].as_u64().expect("a number") > 0, "{guarantee:#}");
        assert_eq!((&guarantee["successes"], &guarantee["remedy"]), (&json!([]), &Value::Null));
    }
    let warnings = report["warnings"].as_array().expect("a list").iter().map(|warning| warning.as_str().expect("text"));
    let of_the_order: Vec<&str> = warnings.filter(|warning| warning.contains("CAP_SYS_RESOURCE")).collect();
    assert_eq!(of_the_order.len(), usize::from(!may_set_the_order()), "{report:#}");
}

#[test]
fn everything_holds_here_and_is_listed() {
    let home = Home::new();
    let ran = home.caisson(["doctor"]).exited(0);
    let text = ran.out();
    for number in ["1.1  held", "1.4  held", "2.4  held", "3.1  held", "4.1  held"] {
        assert!(text.contains(number), "{number} is not in\n{text}");
    }
    assert!(text.trim_end().ends_with("attacks.") && text.contains("20 of 20 guarantees held"), "{text}");
    is_green(&home.caisson(["doctor", "--json"]).exited(0).out().parse().expect("JSON"));
    let said = home.caisson(["doctor", "--jsn"]).exited(125).err();
    assert!(said.contains("--json"), "{said}");
    home.finish();
}

#[test]
fn a_server_says_the_same_of_itself() {
    let server = Server::start();
    is_green(&server.get("/v1/doctor").expect(200).json());
    let message = server.get("/v1/doctor?fast=yes").refused(400, "invalid_parameter");
    assert!(message.contains("fast"), "{message}");
    // One at a time: of two at once, at most one is told to come again.
    let answers = thread::scope(|scope| {
        let ask = || server.get("/v1/doctor").status;
        let both = [scope.spawn(ask), scope.spawn(ask)];
        both.map(|thread| thread.join().expect("it answers"))
    });
    assert!(answers.contains(&200) && answers.iter().all(|status| [200, 409].contains(status)), "{answers:?}");
    server.finish();
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    let home = Home::new();
    let outside = tempfile::tempdir().expect("a directory can be made");
    let program = outside.path().join("caisson");
    std::fs::copy(caisson_tests::program(), &program).expect("a program can be copied");
    for path in [outside.path(), &program] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    let mut command = home.clean("setpriv");
    command.current_dir("/").args(["--reuid", "65533", "--regid", "65533", "--clear-groups"]).arg(&program).arg("doctor");
    let output = command.output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("usermod --add-subuids") && said.contains("run Caisson as root"), "{said}");
    home.finish();
}

#[test]
fn interrupted_it_leaves_nothing() {
    let home = Home::new();
    for kind in [Signal::INT, Signal::KILL] {
        let mut child = home.command(["doctor"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        eventually("its first sandbox", Duration::from_secs(20), || {
            let all = caisson_tests::Process::all();
            let launcher = all.values().find(|process| process.parent == child.id() && process.is_launcher())?;
            all.values().find(|process| process.is_agent() && process.parent == launcher.pid).map(|_| ())
        });
        signal(child.id(), kind);
        let status = child.wait().expect("it ends");
        assert!(!status.success());
    }
    home.finish();
}
