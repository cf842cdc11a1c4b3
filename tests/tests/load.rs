//! Many at once and many in a row.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use caisson_tests::{Home, Server, allowed, json};

#[test]
fn a_hundred_one_shots_at_once_all_succeed() {
    let server = Server::start();
    thread::scope(|scope| {
        for n in 0..100 {
            let server = &server;
            scope.spawn(move || {
                let result = server.run(&json!({"language": "python", "code": format!("print({n} * 2)"), "timeout_s": 300}));
                assert_eq!((&result["status"], &result["stdout"]), (&json!("exited"), &json!(format!("{}\n", n * 2))), "{result:#}");
            });
        }
    });
    server.finish();
}

#[test]
fn two_hundred_runs_from_the_command_line_leave_nothing() {
    let home = Home::new();
    for n in 0..200 {
        let ran = home.caisson(["run", "-l", "python", "-c", "print(1)"]).exited(0);
        assert_eq!((ran.out().as_str(), ran.err().as_str()), ("1\n", ""), "run {n}");
    }
    home.finish();
}

/// Each tidies up what launchers that are gone have left; none may take what another is just making.
#[test]
fn runs_side_by_side_do_not_disturb_one_another() {
    let home = Home::new();
    thread::scope(|scope| {
        for n in 0..60 {
            let home = &home;
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(75 * n));
                let ran = home.caisson(["run", "--", "sleep", "3.5"]).exited(0);
                assert_eq!(ran.err(), "", "run {n}");
            });
        }
    });
    home.finish();
}

#[test]
fn the_server_stays_as_it_is_over_many_one_shots() {
    let server = Server::start();
    let figures = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
        let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count();
        (server.process().resident() >> 20, descriptors, threads, server.below().len())
    };
    let round = |count: usize| {
        for _ in 0..count {
            assert_eq!(server.run(&json!({"cmd": ["true"]}))["exit_code"], 0);
        }
    };
    round(100);
    let before = figures();
    round(300);
    thread::sleep(Duration::from_secs(1));
    let after = figures();
    assert!(after.0 < before.0 + 16, "memory in MiB: {before:?} {after:?}");
    assert!(after.1 < before.1 + 20, "descriptors: {before:?} {after:?}");
    // Threads for blocking work come and go.
    assert!(after.2 < before.2 + 20, "threads: {before:?} {after:?}");
    assert!(after.3 < before.3 + 5, "processes: {before:?} {after:?}");
    server.finish();
}

#[test]
fn the_api_answers_while_sandboxes_come_and_go() {
    let server = Server::start();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while begin.elapsed() < Duration::from_secs(4) {
                    let _result = server.run(&json!({"shell": "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done"}));
                }
            });
        }
        while begin.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            server.get("/healthz").expect(200);
            server.get("/v1/sandboxes?limit=10").expect(200);
            assert!(asked.elapsed() < allowed(Duration::from_secs(2)), "{:?} for two small questions", asked.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
    });
    server.finish();
}
