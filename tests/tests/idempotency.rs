//! `Idempotency-Key`: what is repeated is not done again, and is answered as the first time.

use std::{collections::BTreeSet, sync::mpsc, thread, time::Duration};

use caisson_tests::{Answer, Client, Server, Value, allowed, eventually, json};

#[track_caller]
fn post(server: &Server, target: &str, key: &str, body: &Value) -> Answer {
    server.request("POST", target).header("idempotency-key", key).json(body).send()
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// Those that are alive.
fn sandboxes(server: &Server) -> usize {
    server.get("/v1/sandboxes?state=running").expect(200).json()["data"].as_array().unwrap().len()
}

#[test]
fn what_is_repeated_is_answered_as_the_first_time() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let exec = sandbox.target("/exec");
    let random = json!({"shell": "echo once >> log; cat /proc/sys/kernel/random/uuid"});
    for (target, body, status) in [
        ("/v1/sandboxes", json!({"metadata": {"k": "v"}}), 201),
        ("/v1/run", random.clone(), 200),
        (&exec, random, 200),
        (&exec, json!({"shell": "echo once >> log", "background": true}), 202),
        // Of nothing that happens here.
        ("/v1/webhooks", json!({"url": "http://127.0.0.1:1/", "types": ["sandbox.updated"]}), 201),
    ] {
        let key = format!("key {status} {target}");
        let first = post(&server, target, &key, &body).expect(status);
        assert!(!replayed(&first), "{target}");
        for _ in 0..3 {
            let again = post(&server, target, &key, &body).expect(status);
            assert_eq!((again.text(), replayed(&again)), (first.text(), true), "{target}");
            assert_eq!(again.header("content-type"), first.header("content-type"), "{target}");
        }
        let other = post(&server, target, &format!("{key}'"), &body).expect(status);
        assert_ne!(other.json()["id"], first.json()["id"], "another key is another request: {target}");
    }
    assert_eq!(server.get("/v1/webhooks").expect(200).json()["data"].as_array().unwrap().len(), 2, "one for each of two keys");
    assert_eq!(sandboxes(&server), 3, "the one at the beginning, and one for each of two keys");
    let log = || (sandbox.shell("cat log") == "once\n".repeat(4)).then_some(());
    eventually("one line for each key", allowed(Duration::from_secs(10)), log);
    server.finish();
}

#[test]
fn another_request_with_the_same_key_is_refused() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    post(&server, "/v1/sandboxes", "k", &json!({"metadata": {"a": "1"}})).expect(201);
    for (target, body) in [
        ("/v1/sandboxes", json!({"metadata": {"a": "2"}})),
        ("/v1/run", json!({"metadata": {"a": "1"}})),
        (&sandbox.target("/exec"), json!({"shell": "true"})),
    ] {
        let message = post(&server, target, "k", &body).refused(422, "idempotency_key_reused");
        assert!(message.contains("new key"), "{message}");
    }
    assert_eq!(sandboxes(&server), 2);
    server.finish();
}

#[test]
fn keys_are_each_tenants_own() {
    let server = Server::start();
    let body = json!({"metadata": {"a": "1"}});
    let mine = post(&server, "/v1/sandboxes", "k", &body).expect(201).json();
    let key = server.post("/v1/keys", &json!({"tenant": "other"})).expect(201).json();
    let other = Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let theirs = other.request("POST", "/v1/sandboxes").header("idempotency-key", "k").json(&body).send().expect(201);
    assert_ne!(theirs.json()["id"], mine["id"]);
    server.finish();
}

#[test]
fn many_at_once_are_one() {
    let server = Server::start();
    let body = json!({"shell": "sleep 0.5; cat /proc/sys/kernel/random/uuid"});
    let answers: Vec<Answer> = thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| post(&server, "/v1/run", "k", &body).expect(200))).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let texts: BTreeSet<String> = answers.iter().map(Answer::text).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(answers.iter().filter(|answer| !replayed(answer)).count(), 1, "one of them was carried out");
    server.finish();
}

#[test]
fn whoever_hangs_up_gets_the_answer_later() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let body = json!({"shell": "echo begun >> log; until [ -e go ]; do sleep 0.05; done; echo done >> log; echo answer"});
    let text = body.to_string();
    let target = sandbox.target("/exec");
    let request = server.request("POST", &target).header("idempotency-key", "k").header("content-type", "application/json");
    let connection = request.begin(text.len(), text.as_bytes());
    eventually("its beginning", allowed(Duration::from_secs(10)), || {
        (sandbox.shell("cat log 2>/dev/null || true") == "begun\n").then_some(())
    });
    drop(connection);
    let answer = thread::scope(|scope| {
        let again = scope.spawn(|| post(&server, &target, "k", &body).expect(200));
        assert_eq!(sandbox.shell("touch go"), "");
        again.join().unwrap()
    });
    assert_eq!((answer.json()["stdout"].as_str(), replayed(&answer)), (Some("answer\n"), true));
    assert_eq!(sandbox.shell("cat log"), "begun\ndone\n", "it was carried out once");
    server.finish();
}

#[test]
fn another_request_does_not_wait_for_the_first() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let target = sandbox.target("/exec");
    let body = json!({"shell": "touch begun; until [ -e go ]; do sleep 0.05; done"});
    thread::scope(|scope| {
        let first = scope.spawn(|| post(&server, &target, "k", &body).expect(200));
        eventually("its beginning", allowed(Duration::from_secs(10)), || (sandbox.shell("ls") == "begun\n").then_some(()));
        post(&server, &target, "k", &json!({"shell": "true"})).refused(422, "idempotency_key_reused");
        // With the first there are 41, and no more than 32 may wait.
        let (answered, answers) = mpsc::channel();
        for _ in 0..40 {
            let (answered, server, target, body) = (answered.clone(), &server, &target, &body);
            scope.spawn(move || answered.send(post(server, target, "k", body)).unwrap());
        }
        for _ in 0..9 {
            answers.recv_timeout(allowed(Duration::from_secs(20))).unwrap().refused(409, "idempotency_key_busy");
        }
        assert_eq!(sandbox.shell("touch go"), "");
        first.join().unwrap();
        drop(answered);
        let others: Vec<_> = answers.iter().map(|answer| replayed(&answer.expect(200))).collect();
        assert_eq!(others, [true; 31]);
    });
    server.finish();
}

#[test]
fn of_long_answers_it_is_kept_where_to_look() {
    let server = Server::start();
    let body = json!({"shell": "head -c 6000000 /dev/zero > big", "max_file_bytes": 8_000_000});
    let first = post(&server, "/v1/run", "k", &body).expect(200).json();
    assert_eq!(first["files"][0]["size"], 6_000_000, "{:.300}", first.to_string());
    for _ in 0..2 {
        let message = post(&server, "/v1/run", "k", &body).refused(409, "answer_not_kept");
        assert!(message.contains(first["id"].as_str().unwrap()), "{message}");
    }
    assert_eq!(server.get("/v1/events?type=execution.started").expect(200).json()["data"].as_array().unwrap().len(), 1, "it ran once");
    server.finish();
}

#[test]
fn what_has_failed_is_tried_again() {
    let server = Server::start();
    let gone = server.sandbox(&json!({}));
    gone.request("DELETE", "").send().expect(200);
    for _ in 0..2 {
        post(&server, &gone.target("/exec"), "k", &json!({"shell": "true"})).refused(410, "gone");
        post(&server, "/v1/sandboxes", "k", &json!({"nonsense": 1})).refused(400, "invalid_request");
    }
    assert!(!replayed(&post(&server, "/v1/sandboxes", "k", &json!({})).expect(201)));
    assert!(replayed(&post(&server, "/v1/sandboxes", "k", &json!({})).expect(201)));
    server.finish();
}

#[test]
fn answers_survive_the_server() {
    let mut server = Server::start();
    let body = json!({"shell": "cat /proc/sys/kernel/random/uuid"});
    let first = post(&server, "/v1/run", "k", &body).expect(200);
    server.kill();
    server.start_again();
    let again = post(&server, "/v1/run", "k", &body).expect(200);
    assert_eq!((again.text(), replayed(&again)), (first.text(), true));
    server.finish();
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for key in ["", "\u{e4}", &"k".repeat(256)] {
        post(&server, "/v1/sandboxes", key, &json!({})).refused(400, "invalid_idempotency_key");
    }
    let streamed = server.request("POST", "/v1/run").header("idempotency-key", "k").header("accept", "text/event-stream");
    assert!(streamed.json(&json!({"shell": "true"})).send().refused(400, "invalid_request").contains("event stream"));
    for (method, target) in [
        ("GET", "/v1/sandboxes".to_owned()),
        ("DELETE", sandbox.target("")),
        ("POST", "/v1/keys".to_owned()),
        ("PUT", sandbox.target("/files?path=x")),
    ] {
        let answer = server.request(method, &target).header("idempotency-key", "k").send();
        assert!(answer.refused(400, "unsupported").contains("Idempotency-Key"), "{method} {target}");
    }
    assert_eq!(sandboxes(&server), 1, "nothing was made, and nothing deleted");
    server.finish();
}
