//! Events: everything that happens is told, once, in order, whatever happens to whoever listens.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    thread,
    time::Duration,
};

use caisson_tests::{Client, Server, Value, eventually, json};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn listed(client: &Client, query: &str) -> Vec<Value> {
    client.request("GET", &format!("/v1/events{query}")).send().expect(200).json()["data"].as_array().unwrap().clone()
}

/// Four events: a sandbox and an execution, the beginning and the end of each.
#[track_caller]
fn one_shot(server: &Server, line: &str) {
    let ran = server.run(&json!({"shell": line}));
    assert_eq!(ran["status"], "exited");
    // It is answered before its sandbox is gone.
    let of_it = format!("?sandbox_id={}", ran["sandbox_id"].as_str().unwrap());
    eventually("its end", SOON, || (listed(&server.client, &of_it).len() == 4).then_some(()));
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_life_is_told_in_order() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let ran = sandbox.try_exec(&json!({"shell": "exit 3"})).expect(200).json();
    let killed = sandbox.background(json!({"shell": "sleep 1000"}));
    server.post(&format!("/v1/executions/{killed}/kill"), &json!({})).expect(204);
    sandbox.request("PATCH", "").json(&json!({"metadata": {"a": "b"}})).send().expect(200);
    sandbox.request("DELETE", "").send().expect(200);
    let told = eventually("the end", SOON, || Some(listed(&server.client, "")).filter(|events| events.len() == 7));
    assert_eq!(
        types(&told),
        [
            "sandbox.created",
            "execution.started",
            "execution.ended",
            "execution.started",
            "execution.ended",
            "sandbox.updated",
            "sandbox.ended"
        ]
    );
    for (index, event) in told.iter().enumerate() {
        assert_eq!((&event["id"], &event["sandbox_id"]), (&json!((index + 1).to_string()), &json!(sandbox.id)), "{event}");
        assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    assert_eq!(told[0]["name"], "box");
    let ended = &told[2];
    assert_eq!((&ended["execution_id"], &ended["status"], &ended["exit_code"]), (&ran["id"], &json!("exited"), &json!(3)));
    assert_eq!((&told[4]["execution_id"], &told[4]["status"]), (&json!(killed), &json!("killed")));
    assert_eq!(told[6]["reason"], "deleted");
    // Pages and choices.
    assert_eq!(listed(&server.client, "?limit=2&cursor=1"), told[1..3]);
    assert_eq!(types(&listed(&server.client, "?type=sandbox.ended&type=sandbox.created")), ["sandbox.created", "sandbox.ended"]);
    one_shot(&server, "true");
    assert_eq!(listed(&server.client, &format!("?sandbox_id={}", sandbox.id)), told);
    let next = server.get("/v1/events?limit=3").expect(200).json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(listed(&server.client, &format!("?limit=1&cursor={next}")), told[3..4]);
    server.finish();
}

#[test]
fn streams_are_resumed_where_they_broke_off_also_over_a_crash() {
    let mut server = Server::start();
    let mut seen: Vec<u64> = Vec::new();
    one_shot(&server, "true");
    // From now on: what was before is not told.
    let mut stream = server.request("GET", "/v1/events").events();
    let ready = stream.next().unwrap();
    assert_eq!(ready.name, "ready");
    assert_eq!(ready.data["cursor"], "4");
    for round in 0..3 {
        one_shot(&server, "true");
        // Not to the end: two of four.
        for _ in 0..2 {
            let event = stream.next().unwrap();
            assert_eq!(event.data["id"], event.id.unwrap().to_string());
            seen.push(event.id.unwrap());
        }
        drop(stream);
        if round == 1 {
            let living = server.sandbox(&json!({}));
            let _execution = living.background(json!({"shell": "sleep 1000"}));
            server.kill();
            server.start_again();
        }
        stream = server.request("GET", "/v1/events").header("last-event-id", &seen.last().unwrap().to_string()).events();
        assert_eq!(stream.next().unwrap().name, "ready");
    }
    // Three one-shots with four events each, and one sandbox with an execution that the crash ended.
    let mut lost = Vec::new();
    while seen.len() < 16 {
        let event = stream.next().unwrap();
        seen.push(event.id.unwrap());
        if event.data["status"] == "lost" || event.data["reason"] == "server_lost" {
            lost.push(event.name);
        }
    }
    assert_eq!(seen, (5..=20).collect::<Vec<u64>>(), "each once, in order");
    lost.sort();
    assert_eq!(lost, ["execution.ended", "sandbox.ended"]);
    drop(stream);
    server.finish();
}

#[test]
fn many_who_listen_to_much_hear_it_all() {
    const LISTENERS: usize = 20;
    const RUNS: usize = 60;
    let server = Server::start();
    thread::scope(|scope| {
        let listening: Vec<_> = (0..LISTENERS)
            .map(|_| {
                let mut stream = server.request("GET", "/v1/events?cursor=0").events();
                assert_eq!(stream.next().unwrap().name, "ready");
                scope.spawn(move || (0..RUNS * 4).map(|_| stream.next().unwrap().id.unwrap()).collect::<Vec<_>>())
            })
            .collect();
        for _ in 0..4 {
            scope.spawn(|| (0..RUNS / 4).for_each(|_| one_shot(&server, "true")));
        }
        for listener in listening {
            assert_eq!(listener.join().unwrap(), (1..=RUNS as u64 * 4).collect::<Vec<_>>());
        }
    });
    server.finish();
}

#[test]
fn r6_2_events_are_each_tenants_own() {
    let server = Server::start();
    let key = server.post("/v1/keys", &json!({"tenant": "other", "scope": "read"})).expect(201).json();
    let other = Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let sandbox = server.sandbox(&json!({}));
    assert_eq!(listed(&other, ""), Vec::<Value>::new());
    assert_eq!(listed(&other, &format!("?sandbox_id={}", sandbox.id)), Vec::<Value>::new());
    assert_eq!(listed(&server.client, "").len(), 1);
    // Not even how much there was.
    let mut stream = other.request("GET", "/v1/events").header("accept", "text/event-stream").open();
    server.request("DELETE", &format!("/v1/keys/{}", key["id"].as_str().unwrap())).send().expect(204);
    let mut told = Vec::new();
    assert!(stream.body.read_to_end(&mut told).is_err(), "the key is gone, and so is its stream");
    assert_eq!(String::from_utf8_lossy(&told), "id: 0\nevent: ready\ndata: {\"cursor\":\"0\"}\n\n");
    server.finish();
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = Server::start();
    for query in ["?type=sandbox.exploded", "?cursor=abc", "?cursor=-1", "?limit=0", "?sandbox_id=x", "?nonsense=1"] {
        server.get(&format!("/v1/events{query}")).refused(400, "invalid_parameter");
    }
    // Numbers that were never handed out: whoever comes from another data directory must not wait for ever.
    for accept in ["application/json", "text/event-stream"] {
        server.get("/v1/events?cursor=0").expect(200);
        let ahead = server.request("GET", "/v1/events?cursor=1").header("accept", accept).send();
        ahead.refused(400, "invalid_cursor");
    }
    let bad = server.request("GET", "/v1/events").header("accept", "text/event-stream").header("last-event-id", "x").send();
    bad.refused(400, "invalid_parameter");
    server.finish();
}

#[test]
fn the_command_shows_them_over_a_restart() {
    let mut server = Server::start();
    one_shot(&server, "exit 7");
    let environment = |command: &mut std::process::Command| {
        command.env("CAISSON_SERVER", format!("http://{}", server.client.address));
        command.env("CAISSON_API_KEY", server.client.key.clone().unwrap());
    };
    let mut all = server.home().command(["events", "--all", "--no-follow"]);
    environment(&mut all);
    let shown = String::from_utf8(all.output().unwrap().stdout).unwrap();
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(shown.contains("execution.ended") && shown.contains("exited 7"), "{shown}");

    let mut follow = server.home().command(["events", "--json", "--since", "4", "--type", "execution.ended"]);
    environment(&mut follow);
    let mut child = server.home().start(follow.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let read = thread::spawn(move || stdout.lines().take(2).map(Result::unwrap).collect::<Vec<_>>());
    one_shot(&server, "exit 1");
    server.kill();
    server.start_again();
    one_shot(&server, "exit 2");
    // It comes back within a second or two, and shows what it has missed.
    let shown = read.join().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let codes: Vec<Value> = shown.iter().map(|line| line.parse::<Value>().unwrap()["exit_code"].clone()).collect();
    assert_eq!(codes, [json!(1), json!(2)], "{shown:?}");
    server.finish();
}
