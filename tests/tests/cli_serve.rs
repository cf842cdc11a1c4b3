//! `caisson serve`: keys, configuration, and what it refuses to do.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use caisson_tests::{Home, Server, Setup, eventually, json};

#[track_caller]
fn refused(home: &Home, environment: &[(&str, &str)], words: &[&str]) {
    let mut command = home.command(["serve"]);
    command.envs(environment.iter().copied());
    let mut child = home.start(&mut command);
    let ended = eventually("its end", Duration::from_secs(10), || child.try_wait().unwrap());
    let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned();
    assert!(!ended.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn r6_1_a_key_is_made_once_shown_once_and_kept_from_others() {
    let mut server = Setup::default().without_key().start();
    let file = server.home().data().join("api-key");
    let key = fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(server.home().data()).unwrap().permissions().mode() & 0o077, 0, "the data directory is nobody else's");
    assert!(key.len() >= 26, "{} characters", key.len());
    assert_eq!(server.log().matches(&key).count(), 1, "shown once");
    server.get("/v1/sandboxes").refused(401, "unauthorized");
    server.client.key = Some(key.clone());
    assert_eq!(server.python("print(1)"), "1\n");
    let _stopped = server.stop();
    server.start_again();
    assert_eq!(server.log().matches(&key).count(), 1, "not shown again");
    server.get("/v1/sandboxes").expect(200);
    server.finish();
}

#[test]
fn r6_7_without_a_key_it_listens_for_this_machine_alone() {
    let home = Home::new();
    refused(&home, &[("CAISSON_LISTEN", "0.0.0.0:0")], &["CAISSON_API_KEY", "127.0.0.1"]);
    refused(&home, &[("CAISSON_LISTEN", "[::]:0")], &["CAISSON_API_KEY"]);
    refused(&home, &[("CAISSON_LISTEN", "0.0.0.0:0"), ("CAISSON_AUTH", "none")], &["none", "127.0.0.1"]);
    home.finish();
}

#[test]
fn one_server_for_one_data_directory() {
    let server = Server::start();
    let pid = server.pid().to_string();
    refused(server.home(), &[("CAISSON_LISTEN", "127.0.0.1:0"), ("CAISSON_API_KEY", "k")], &["data directory", &pid, "--data-dir"]);
    assert_eq!(server.python("print(1)"), "1\n", "the first goes on");
    server.finish();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let server = Server::start();
    let home = Home::new();
    let address = server.client.address.to_string();
    refused(&home, &[("CAISSON_LISTEN", &address), ("CAISSON_API_KEY", "k")], &[&address, "--listen"]);
    drop(home);
    server.finish();
}

#[test]
fn every_problem_of_the_configuration_is_told_at_once() {
    let home = Home::new();
    let file = home.path().join("caisson.toml");
    fs::write(&file, "listn = 'x'\nlog_format = 'xml'\nretention = true\n").unwrap();
    let environment = [("CAISSON_NONSENSE", "1"), ("CAISSON_MAX_SANDBOXES", "none"), ("CAISSON_LISTEN", "8080")];
    refused(&home, &environment, &["listn", "log_format", "retention", "CAISSON_NONSENSE", "CAISSON_MAX_SANDBOXES", "CAISSON_LISTEN"]);
    assert!(!home.data().exists(), "nothing was begun");
    fs::remove_file(file).unwrap();
    home.finish();
}

#[test]
fn configuration_takes_effect() {
    let server =
        Setup::default().env("CAISSON_MAX_SANDBOXES", "2").env("CAISSON_INLINE_OUTPUT", "1K").env("CAISSON_LOG_FORMAT", "json").start();
    let one = server.sandbox(&json!({}));
    let _two = server.sandbox(&json!({}));
    let answer = server.post("/v1/sandboxes", &json!({}));
    assert!([429, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
    assert!(answer.text().contains('2'), "{}", answer.text());
    let result = one.exec(&json!({"shell": "head -c 5000 /dev/zero | tr '\\0' x"}));
    assert!(result["stdout"].as_str().unwrap().len() < 1200 && result["truncated"]["stdout"] == true, "{result:#}");
    one.delete().expect(200);
    server.post("/v1/sandboxes", &json!({})).expect(201);
    let log = server.log();
    let line = log.lines().find(|line| line.contains("was answered with 201")).expect("requests are logged");
    assert!(line.parse::<caisson_tests::Value>().is_ok(), "{line}");
    server.finish();
}

#[test]
fn a_second_signal_is_not_needed_and_the_lock_is_free_again() {
    let mut server = Server::start();
    let _sandbox = server.sandbox(&json!({}));
    for _ in 0..3 {
        assert!(server.stop().success());
        server.start_again();
    }
    server.finish();
}
