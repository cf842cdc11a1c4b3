//! Records in other places than the data directory: what a server does when its database goes and comes back, and whom it lets in.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use caisson_tests::{Answer, Home, Server, Setup, allowed, eventually, json, postgres::Cluster};

/// No answer takes longer because the database is away.
const BOUNDED: Duration = Duration::from_secs(7);

fn server_on(cluster: &mut Cluster) -> Server {
    Setup::default().env("CAISSON_DATABASE_URL", cluster.new_database()).start()
}

#[track_caller]
fn unavailable(answer: &Answer) {
    answer.refused(503, "unavailable");
    assert!(answer.header("retry-after").is_some(), "it is said when to come back");
}

#[track_caller]
fn in_bounded_time<T>(ask: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = ask();
    assert!(begun.elapsed() < allowed(BOUNDED), "{:?}", begun.elapsed());
    answer
}

/// The ids of what ran in a sandbox, with their states.
fn executions(server: &Server, sandbox: &str) -> Vec<(String, String)> {
    let list = server.get(&format!("/v1/sandboxes/{sandbox}/executions")).expect(200).json();
    let text = |value: &caisson_tests::Value| value.as_str().unwrap().to_owned();
    list["data"].as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["status"]))).collect()
}

#[test]
fn records_are_kept_in_postgres_and_tell_the_truth_after_kill_nine() {
    let mut cluster = Cluster::start();
    let mut server = server_on(&mut cluster);
    assert_eq!(server.python("print('kept')"), "kept\n");
    let sandbox = server.sandbox(&json!({"name": "box", "metadata": {"user": "1", "a\"b": "ü'"}}));
    assert_eq!(sandbox.shell("echo hello"), "hello\n");
    let going_on = sandbox.background(json!({"shell": "sleep 1000", "timeout_s": null}));
    let id = sandbox.id.clone();
    let found = server.get("/v1/sandboxes?metadata.user=1").expect(200).json();
    assert_eq!(found["data"].as_array().unwrap().len(), 1, "{found:#}");
    let key = server.post("/v1/keys", &json!({"tenant": "team", "scope": "run"})).expect(201).json();
    // Of a one-shot, of a sandbox, and of what ran in it.
    let events = || server.get("/v1/events?limit=100").expect(200).json()["data"].as_array().unwrap().len();
    eventually("all events", Duration::from_secs(10), || (events() == 4 + 1 + 3).then_some(()));
    assert!(!server.home().data().join("caisson.db").exists(), "there is no other database");
    server.kill();
    server.start_again();
    server.get(&format!("/v1/sandboxes/{id}")).refused(410, "gone");
    assert_eq!(server.execution(&going_on)["status"], "lost");
    assert_eq!(server.python("print('again')"), "again\n");
    let theirs = server.request("GET", "/v1/sandboxes").header("authorization", &format!("Bearer {}", key["key"].as_str().unwrap()));
    assert_eq!(theirs.send().expect(200).json()["data"], json!([]), "keys are kept, and see their own alone");
    let log = server.log();
    assert!(log.contains("Records are kept in postgres://caisson@127.0.0.1:"), "{log}");
    assert!(!log.contains("pass"), "no password is shown: {log}");
    server.finish();
}

#[test]
fn what_ran_while_the_database_was_away_is_neither_lost_nor_run_twice() {
    let mut cluster = Cluster::start();
    let server = server_on(&mut cluster);
    let sandbox = server.sandbox(&json!({}));
    let begun = |id: &str| {
        let read = || server.get(&format!("/v1/executions/{id}/output")).expect(200).text();
        eventually("its first words", Duration::from_secs(10), || read().starts_with("begun").then_some(()));
    };
    let slow = sandbox.background(json!({"shell": "echo begun; sleep 3; echo done; exit 7"}));
    begun(&slow);
    let one_shot = json!({"shell": "echo begun; sleep 3; echo done", "metadata": {"which": "one"}});
    let ask = || server.request("POST", "/v1/run").header("idempotency-key", "one").json(&one_shot).send();
    thread::scope(|scope| {
        let answer = scope.spawn(ask);
        let found = || server.get("/v1/sandboxes?metadata.which=one").expect(200).json()["data"][0]["id"].as_str().map(str::to_owned);
        let its_sandbox = eventually("its sandbox", Duration::from_secs(10), found);
        let runs = || executions(&server, &its_sandbox).pop();
        let (id, _) = eventually("its execution", Duration::from_secs(10), runs);
        begun(&id);
        cluster.stop();

        unavailable(&in_bounded_time(|| server.get("/v1/sandboxes")));
        unavailable(&in_bounded_time(|| server.post("/v1/run", &json!({"shell": "true"}))));
        unavailable(&in_bounded_time(|| server.post("/v1/sandboxes", &json!({"name": "away"}))));
        assert_eq!(in_bounded_time(|| server.get("/readyz")).status, 503);
        server.get("/healthz").expect(200);
        let told = answer.join().unwrap().refused(503, "unrecorded");
        assert!(told.contains(&id), "{told}");

        cluster.start_again();
        eventually("its record", Duration::from_secs(20), || (server.execution(&id)["status"] == "exited").then_some(()));
        assert_eq!(server.get(&format!("/v1/executions/{id}/output")).expect(200).text(), "begun\ndone\n");
        assert_eq!(executions(&server, &its_sandbox), [(id.clone(), "exited".to_owned())], "it ran once");
        // Whoever repeats it is told so.
        let told = ask().refused(409, "answer_not_kept");
        assert!(told.contains(&id), "{told}");
        assert_eq!(executions(&server, &its_sandbox).len(), 1);
        eventually("its end", Duration::from_secs(20), || {
            let answer = server.get(&format!("/v1/sandboxes/{its_sandbox}"));
            (answer.status == 410 && answer.text().contains("finished")).then_some(())
        });
    });
    let record = server.ended(&slow, Duration::from_secs(20));
    assert_eq!((&record["status"], &record["exit_code"]), (&json!("exited"), &json!(7)), "{record:#}");
    eventually("readiness", Duration::from_secs(10), || (server.get("/readyz").status == 200).then_some(()));
    // The name was asked for while nobody could keep it; it is free.
    let named = eventually("the name", Duration::from_secs(20), || {
        let answer = server.post("/v1/sandboxes", &json!({"name": "away"}));
        (answer.status == 201).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    });
    assert!(!named.is_empty());
    assert_eq!(sandbox.shell("echo still there"), "still there\n");
    assert_eq!(server.python("print(1)"), "1\n");
    // Numbers without gaps, and one start and one end of everything that ran.
    let events = server.get("/v1/events?limit=1000").expect(200).json();
    let numbers: Vec<u64> = events["data"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    server.finish();
}

#[test]
fn a_database_that_restarts_is_hardly_noticed() {
    let mut cluster = Cluster::start();
    let server = server_on(&mut cluster);
    thread::scope(|scope| {
        let asking = scope.spawn(|| (0..30).map(|n| server.python(&format!("print({n})"))).collect::<Vec<_>>());
        for _ in 0..2 {
            thread::sleep(allowed(Duration::from_millis(300)));
            cluster.kill();
            cluster.start_again();
        }
        let said = asking.join().unwrap();
        assert_eq!(said, (0..30).map(|n| format!("{n}\n")).collect::<Vec<_>>());
    });
    let list = server.get("/v1/sandboxes?limit=1000").expect(200).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 30, "each ran once");
    server.finish();
}

#[test]
fn a_server_that_dies_without_its_database_calls_lost_what_was_not_recorded() {
    let mut cluster = Cluster::start();
    let mut server = server_on(&mut cluster);
    let sandbox = server.sandbox(&json!({}));
    let id = sandbox.background(json!({"shell": "sleep 0.5"}));
    cluster.stop();
    thread::sleep(allowed(Duration::from_secs(2)));
    server.kill();
    cluster.start_again();
    server.start_again();
    assert_eq!(server.execution(&id)["status"], "lost", "it is never said that it completed");
    server.finish();
}

#[test]
fn a_database_has_one_server_and_the_next_one_when_that_is_gone() {
    let mut cluster = Cluster::start();
    let url = cluster.new_database();
    let mut server = Setup::default().env("CAISSON_DATABASE_URL", &url).start();
    let home = Home::new();
    let pid = format!("process {}", server.pid());
    home.refuses_to_serve(&[("CAISSON_DATABASE_URL", &url)], &["is used by another server", &pid, "a database of its own"]);
    assert_eq!(server.python("print(1)"), "1\n", "the first goes on");
    for _ in 0..2 {
        server.kill();
        server.start_again();
    }
    drop(home);
    server.finish();
}

#[test]
fn what_cannot_be_a_database_is_refused_with_the_remedy() {
    let mut cluster = Cluster::start();
    let url = cluster.new_database();
    let wrong = url.replacen("pass%3A", "sesame", 1);
    let home = Home::new();
    for (value, word) in [
        (wrong.as_str(), "correct user and password"),
        (&cluster.url("nowhere"), "createdb"),
        ("postgres://u:sesame@127.0.0.1:1/d", "start it"),
        ("postgres://u:sesame@h/d?pool=1", "`pool`"),
        ("mysql://u:sesame@h/d", "expected postgres://"),
        ("sqlite:///dev/null/records.db", "cannot"),
    ] {
        home.refuses_to_serve(&[("CAISSON_DATABASE_URL", value)], &[word]);
    }
    home.refuses_to_serve(
        &[("CAISSON_DATABASE_URL", &url), ("DATABASE_URL", &wrong)],
        &["CAISSON_DATABASE_URL and DATABASE_URL", "disagree"],
    );
    // Whoever runs something by hand is not meant by other programs' variables.
    let ran = home.command(["run", "-l", "bash", "-c", "echo hello"]).env("DATABASE_URL", "nonsense").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello\n", "{}", String::from_utf8_lossy(&ran.stderr));
    fs::remove_dir_all(home.data()).unwrap();
    home.finish();
    let server = Setup::default().env("DATABASE_URL", &url).start();
    assert!(server.log().contains("DATABASE_URL of the environment is used"), "{}", server.log());
    server.finish();
}

#[test]
fn a_file_elsewhere_has_one_server() {
    let place = Home::new();
    let url = format!("sqlite://{}", place.path().join("elsewhere/records.db").display());
    let mut server = Setup::default().env("CAISSON_DATABASE_URL", &url).start();
    let sandbox = server.sandbox(&json!({})).id;
    let other = Home::new();
    other.refuses_to_serve(&[("CAISSON_DATABASE_URL", &url)], &["another `caisson serve`", "records.db"]);
    drop(other);
    server.kill();
    server.start_again();
    server.get(&format!("/v1/sandboxes/{sandbox}")).refused(410, "gone");
    assert!(!server.home().data().join("caisson.db").exists());
    server.finish();
    place.finish();
}

#[test]
fn ended_sandboxes_are_counted_where_that_is_asked_for() {
    let mut cluster = Cluster::start();
    for setup in [Setup::default(), Setup::default().env("CAISSON_DATABASE_URL", cluster.new_database())] {
        let mut server = setup.env("CAISSON_RETENTION_SANDBOXES", "2").start();
        let ran: Vec<String> =
            (0..4).map(|n| server.run(&json!({"shell": format!("echo {n}")}))["id"].as_str().unwrap().to_owned()).collect();
        assert!(server.stop().success());
        server.start_again();
        eventually("the oldest to go", Duration::from_secs(10), || {
            (server.get(&format!("/v1/executions/{}", ran[1])).status == 404).then_some(())
        });
        server.get(&format!("/v1/executions/{}", ran[0])).refused(404, "not_found");
        for (n, kept) in ran.iter().enumerate().skip(2) {
            assert_eq!(server.get(&format!("/v1/executions/{kept}/output")).expect(200).text(), format!("{n}\n"));
        }
        server.finish();
    }
}
