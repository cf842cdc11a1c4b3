//! The running server against its own description, by a program that makes requests of it: good ones, bad ones, and sequences of them.

use std::{fs, path::Path, thread, time::Duration};

use caisson_tests::{Setup, Value, eventually, json};

const DIRECTORY: &str = env!("CARGO_MANIFEST_DIR");
/// Of all APIs together.
const OPERATIONS: u64 = 152;
/// As long as all of it may take.
const WITHIN: Duration = Duration::from_secs(240);

#[test]
fn r6_3_schemathesis_finds_no_failure_and_no_answer_that_is_not_described() {
    let program = Path::new(DIRECTORY).join("../target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "there is no {}; run `tools/schemathesis`", program.display());
    let server = Setup::default().env("CAISSON_MAX_SANDBOXES", "200").env("CAISSON_EGRESS", "on").start();
    let sandbox = server.sandbox(&json!({"idle_timeout_s": null}));
    let updated = server.sandbox(&json!({}));
    let deleted = server.sandbox(&json!({}));
    let execution =
        sandbox.background(json!({"shell": "trap '' HUP INT TERM QUIT USR1 USR2 PIPE ALRM; echo out; sleep 300", "timeout_s": null}));
    let context = server.request("POST", &sandbox.target("/contexts")).json(&json!({"language": "python"})).send().expect(201).json();
    let report = server.home().path().join("report.json");
    let mut command = server.home().clean(&program);
    command.arg("--config-file").arg(Path::new(DIRECTORY).join("schemathesis/schemathesis.toml"));
    command.args(["run", &format!("http://{}/openapi.json", server.client.address), "--report-json-path"]).arg(&report);
    command
        .env("KEY", server.client.key.clone().unwrap())
        .env("SANDBOX", &sandbox.id)
        .env("UPDATED", &updated.id)
        .env("DELETED", &deleted.id)
        .env("EXECUTION", &execution)
        .env("CONTEXT", context["id"].as_str().unwrap());
    let mut child = server.home().start(&mut command);
    // Read as it comes: what it says may be more than a pipe holds.
    let mut stdout = child.stdout.take().unwrap();
    let said = thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap_or_default());
    let ended = eventually("its end", WITHIN, || child.try_wait().unwrap());
    let said = said.join().unwrap();
    println!("{said}");
    assert!(ended.success(), "it found something");

    let report: Value = fs::read_to_string(&report).unwrap().parse().unwrap();
    let operations = &report["operations"];
    assert_eq!(
        (&operations["total"], &operations["tested"]),
        (&json!(OPERATIONS), &json!(76)),
        "all but the doctor, the watch, ports, new webhooks, images that come or are made and the dialects: {operations}"
    );
    assert_eq!((&report["complete"], &report["errors"], &report["failures"]), (&json!(true), &json!([]), &json!([])));
    assert!(report["test_cases"]["generated"].as_u64().unwrap() > 1000, "{}", report["test_cases"]);
    assert_eq!(server.python("print(1)"), "1\n", "the server goes on");
    assert_eq!(sandbox.shell("echo fine"), "fine\n", "what it was to be tried on was there to the end");
    let log = fs::read_to_string(server.home().path().join("log")).unwrap();
    let failures: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    server.finish();
}
