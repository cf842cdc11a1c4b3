//! Webhooks: what happens arrives, signed, in order, whatever becomes of the server and of whoever listens.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{
    BASE64, Base64Engine, Client, Home, Message, Receiver, Reply, Server, Setup, Value, allowed, eventually, fewer, json, make_certificates,
};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn add(server: &Server, body: &Value) -> Value {
    server.post("/v1/webhooks", body).expect(201).json()
}

#[track_caller]
fn hook(server: &Server, receiver: &Receiver) -> Value {
    add(server, &json!({"url": receiver.url()}))
}

fn target(webhook: &Value) -> String {
    format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())
}

#[track_caller]
fn state(server: &Server, webhook: &Value) -> Value {
    server.get(&target(webhook)).expect(200).json()
}

#[track_caller]
fn remove(server: &Server, webhook: &Value) {
    server.request("DELETE", &target(webhook)).send().expect(204);
}

/// Four events.
#[track_caller]
fn one_shot(server: &Server) {
    assert_eq!(server.run(&json!({"shell": "true"}))["status"], "exited");
}

/// Every event there is, once there are so many.
#[track_caller]
fn events(server: &Server, count: usize) -> Vec<Value> {
    eventually("the events", SOON, || {
        let page = server.get("/v1/events?limit=1000").expect(200).json();
        Some(page["data"].as_array().unwrap().clone()).filter(|events| events.len() >= count)
    })
}

#[track_caller]
fn arrived(receiver: &Receiver, count: usize) -> Vec<Message> {
    eventually(&format!("{count} messages"), Duration::from_secs(60), || Some(receiver.messages()).filter(|seen| seen.len() >= count))
}

fn numbers(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.json()["id"].as_str().unwrap().parse().unwrap()).collect()
}

/// What the signature has to be, by an implementation that is not ours.
fn signature(home: &Home, secret: &str, message: &Message) -> String {
    let code = "import base64, hashlib, hmac, sys\n\
                key = base64.b64decode(sys.argv[1].removeprefix('whsec_'))\n\
                said = f'{sys.argv[2]}.{sys.argv[3]}.'.encode() + sys.stdin.buffer.read()\n\
                print('v1,' + base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode(), end='')";
    let mut command = home.clean("python3");
    command.args(["-c", code, secret, message.header("webhook-id"), message.header("webhook-timestamp")]);
    let mut child = home.start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(&message.body).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn what_happens_is_told_in_order_and_signed() {
    let server = Server::start();
    let (all, some) = (Receiver::fine(), Receiver::fine());
    one_shot(&server);
    events(&server, 4);
    let made = add(&server, &json!({"url": all.url(), "description": "everything"}));
    let ends = add(&server, &json!({"url": some.url(), "types": ["sandbox.ended", "execution.ended", "sandbox.ended"]}));
    let secret = made["secret"].as_str().unwrap();
    assert_eq!(BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap().len(), 32);
    assert_ne!(ends["secret"], made["secret"]);
    assert_eq!(
        (&made["state"], &made["last_event"], &ends["types"]),
        (&json!("active"), &Value::Null, &json!(["sandbox.ended", "execution.ended"]))
    );
    one_shot(&server);
    let told = events(&server, 8);
    let messages = arrived(&all, 4);
    assert_eq!(messages.len(), 4, "what was before is not told");
    for (message, event) in messages.iter().zip(&told[4..]) {
        assert_eq!(message.json(), *event, "as the list has it");
        let fields: Vec<String> = message.json().as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, event.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
        assert_eq!(message.line, "POST /hook HTTP/1.1");
        assert_eq!(message.header("content-type"), "application/json");
        assert_eq!(message.header("host"), all.address.to_string());
        let id = format!("{}_{}_", made["id"].as_str().unwrap(), event["id"].as_str().unwrap());
        assert!(message.header("webhook-id").starts_with(&id), "{}", message.header("webhook-id"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(message.header("webhook-timestamp").parse().unwrap()) < 60);
        assert_eq!(message.header("webhook-signature"), signature(server.home(), secret, message));
        assert!(!message.headers.iter().any(|(name, _)| ["authorization", "cookie", "referer"].contains(&name.as_str())), "{message:?}");
    }
    let types: BTreeSet<String> = arrived(&some, 2).iter().map(|message| message.json()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(types, BTreeSet::from(["execution.ended".to_owned(), "sandbox.ended".to_owned()]));
    let known = eventually("its success", SOON, || Some(state(&server, &made)).filter(|known| known["last_event"] == "8"));
    assert_eq!((&known["state"], &known["failures"], &known["missed"]), (&json!("active"), &json!(0), &json!(0)));
    assert!(known["last_success_at"].is_string() && known["last_failure"].is_null() && known["description"] == "everything", "{known}");
    let listed = server.get("/v1/webhooks").expect(200);
    assert_eq!(listed.json()["data"][1]["id"], ends["id"], "the oldest first");
    assert!(!listed.text().contains("whsec_") && !known.to_string().contains("whsec_"), "the secret is told once");
    server.finish();
}

#[test]
fn what_fails_is_tried_again_and_redirects_are_not_followed() {
    let server = Server::start();
    let elsewhere = Receiver::fine();
    let location = format!("location: {}\r\n", elsewhere.url());
    let receiver = Receiver::start(move |before, _| match before {
        0 => Reply::With(500, String::new()),
        1 => Reply::With(307, location.clone()),
        2 => Reply::Raw(b"not HTTP at all\r\n\r\n".to_vec()),
        _ => Reply::Status(204),
    });
    let webhook = hook(&server, &receiver);
    one_shot(&server);
    for reason in
        ["answered with 500", "answered with 307; redirects are not followed", "the connection broke off, or what came back is no HTTP"]
    {
        let known = eventually(reason, SOON, || Some(state(&server, &webhook)).filter(|known| known["last_failure"]["reason"] == reason));
        assert!(known["state"] == "failing" && known["next_attempt_at"].is_string() && known["last_event"].is_null(), "{known}");
        assert!(!known.to_string().contains("SECRETIVE"), "what came back is nobody's business: {known}");
    }
    let messages = arrived(&receiver, 7);
    assert_eq!(numbers(&messages), [1, 1, 1, 1, 2, 3, 4]);
    assert!(messages[..4].iter().all(|message| message.header("webhook-id") == messages[0].header("webhook-id")), "the same each time");
    let stamps: Vec<u64> = messages.iter().map(|message| message.header("webhook-timestamp").parse().unwrap()).collect();
    assert!(stamps[3] > stamps[0], "each attempt has its own time: {stamps:?}");
    let known = eventually("its success", SOON, || Some(state(&server, &webhook)).filter(|known| known["last_event"] == "4"));
    assert_eq!((&known["state"], &known["failures"], &known["next_attempt_at"]), (&json!("active"), &json!(0), &Value::Null));
    assert!(known["last_failure"]["reason"].is_string(), "what was wrong can still be read: {known}");
    assert_eq!(elsewhere.count(), 0);
    server.finish();
}

#[test]
fn r7_2_nothing_is_lost_over_a_crash() {
    let mut server = Server::start();
    let receiver = Receiver::fine();
    let address = receiver.address;
    let webhook = hook(&server, &receiver);
    let secret = webhook["secret"].as_str().unwrap().to_owned();
    one_shot(&server);
    arrived(&receiver, 4);
    eventually("its success", SOON, || (state(&server, &webhook)["last_event"] == "4").then_some(()));
    drop(receiver);
    let sandbox = server.sandbox(&json!({}));
    let _execution = sandbox.background(json!({"shell": "sleep 1000"}));
    let known = eventually("a failure", SOON, || Some(state(&server, &webhook)).filter(|known| known["state"] == "failing"));
    assert_eq!(known["last_failure"]["reason"], "the connection was refused");
    server.kill();
    server.start_again();
    assert_eq!(state(&server, &webhook)["state"], "failing", "that is known still");
    let receiver = Receiver::start_at(address, |_, _| Reply::Status(200));
    let messages = arrived(&receiver, 4);
    assert_eq!(numbers(&messages), [5, 6, 7, 8], "from where it was, with what the crash has ended");
    assert_eq!(messages[0].header("webhook-signature"), signature(server.home(), &secret, &messages[0]));
    // Killed in the midst of many, and again.
    let line = json!({"shell": "true"});
    for _ in 0..3 {
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                while server.client.request("POST", "/v1/run").json(&line).try_send().is_ok_and(|answer| answer.status == 200) {}
            });
            let so_far = receiver.count();
            eventually("some more", SOON, || (receiver.count() > so_far + 10).then_some(()));
            caisson_tests::kill_nine(server.pid());
            busy.join().unwrap();
        });
        server.kill();
        server.start_again();
    }
    let last = events(&server, 1).last().unwrap()["id"].as_str().unwrap().parse::<u64>().unwrap();
    eventually("the rest", SOON, || (numbers(&receiver.messages()).last() == Some(&last)).then_some(()));
    let told = numbers(&receiver.messages());
    assert!(told.windows(2).all(|pair| pair[1] == pair[0] + 1 || pair[1] == pair[0]), "in order, without a gap: {told:?}");
    assert!(told.len() - (last as usize - 4) <= 3, "at most one comes twice each time: {told:?}");
    server.finish();
}

#[test]
fn whoever_is_gone_is_left_alone() {
    let mut server = Server::start();
    let gone = Receiver::start(|_, _| Reply::With(410, String::new()));
    let witness = Receiver::fine();
    let (webhook, _) = (hook(&server, &gone), hook(&server, &witness));
    one_shot(&server);
    let known = eventually("its end", SOON, || Some(state(&server, &webhook)).filter(|known| known["state"] == "disabled"));
    assert!(known["next_attempt_at"].is_null() && known["last_failure"]["reason"].as_str().unwrap().contains("410"), "{known}");
    assert!(server.stop().success());
    server.start_again();
    one_shot(&server);
    arrived(&witness, 8);
    assert_eq!((gone.count(), &state(&server, &webhook)["state"]), (1, &json!("disabled")));
    remove(&server, &webhook);
    server.finish();
}

#[test]
fn what_is_removed_is_told_nothing_more_also_in_the_midst_of_it() {
    let server = Server::start();
    let silent = Receiver::start(|_, _| Reply::Silence);
    let webhook = hook(&server, &silent);
    one_shot(&server);
    arrived(&silent, 1);
    let begin = Instant::now();
    remove(&server, &webhook);
    assert!(begin.elapsed() < allowed(Duration::from_secs(3)), "nobody waits for the receiver");
    eventually("the end of the connection", SOON, || (silent.open() == 0).then_some(()));
    let witness = Receiver::fine();
    let _witness = hook(&server, &witness);
    one_shot(&server);
    arrived(&witness, 4);
    assert_eq!(silent.count(), 1);
    server.get(&target(&webhook)).refused(404, "not_found");
    server.request("DELETE", &target(&webhook)).send().refused(404, "not_found");
    server.finish();
}

#[test]
fn r6_6_who_does_not_answer_keeps_no_other_waiting() {
    let mut server = Server::start();
    let (silent, fine) = (Receiver::start(|_, _| Reply::Silence), Receiver::fine());
    let stuck = hook(&server, &silent);
    let _others: Vec<_> = (0..18).map(|_| hook(&server, &silent)).collect();
    let _fine = hook(&server, &fine);
    let message = server.post("/v1/webhooks", &json!({"url": fine.url()})).refused(409, "too_many_webhooks");
    assert!(message.contains("20"), "{message}");
    let rounds = fewer(250);
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..rounds.div_ceil(4)).for_each(|_| one_shot(&server)));
        }
    });
    let runs = begin.elapsed();
    let count = rounds.div_ceil(4) * 16;
    let told = numbers(&arrived(&fine, count));
    println!("{count} events in {runs:?}, all told after {:?}", begin.elapsed());
    assert_eq!(told, (1..=count as u64).collect::<Vec<_>>(), "each once, in order");
    let known = eventually("a failure", SOON, || Some(state(&server, &stuck)).filter(|known| known["failures"] != 0));
    assert_eq!(known["last_failure"]["reason"], "no answer within 10 s");
    let begin = Instant::now();
    assert!(server.stop().success());
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)), "nor the server, when it stops: {:?}", begin.elapsed());
    server.start_again();
    for webhook in server.get("/v1/webhooks").expect(200).json()["data"].as_array().unwrap() {
        remove(&server, webhook);
    }
    server.finish();
}

#[test]
fn r6_3_hostile_answers_are_bounded() {
    let server = Server::start();
    let endless = Receiver::start(|_, _| Reply::Endless(200));
    let mut huge = b"HTTP/1.1 200 OK\r\n".to_vec();
    (0..200_000).for_each(|n| huge.extend_from_slice(format!("x-{n}: {}\r\n", "y".repeat(50)).as_bytes()));
    let huge = Receiver::start(move |_, _| Reply::Raw(huge.clone()));
    let informed = Receiver::start(|_, _| Reply::Raw(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000)));
    let patient = Receiver::start(|before, _| match before {
        0 => Reply::With(503, "retry-after: 3\r\n".to_owned()),
        _ => Reply::Status(200),
    });
    let (first, second, third) = (hook(&server, &endless), hook(&server, &huge), hook(&server, &informed));
    let _fourth = hook(&server, &patient);
    one_shot(&server);
    arrived(&endless, 4);
    let known = eventually("its success", SOON, || Some(state(&server, &first)).filter(|known| known["last_event"] == "4"));
    assert_eq!(known["failures"], 0, "the status has said everything: {known}");
    eventually("the end of the connections", SOON, || (endless.open() == 0).then_some(()));
    for webhook in [&second, &third] {
        let known = eventually("its failure", SOON, || Some(state(&server, webhook)).filter(|known| known["failures"] != 0));
        assert_eq!(known["last_failure"]["reason"], "the connection broke off, or what came back is no HTTP", "{known}");
    }
    let messages = arrived(&patient, 2);
    let stamps: Vec<u64> = messages.iter().take(2).map(|message| message.header("webhook-timestamp").parse().unwrap()).collect();
    assert!(stamps[1] >= stamps[0] + 2, "as long as it has asked for: {stamps:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak: u64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok()).unwrap();
    assert!(peak < 300 << 10, "the server has used {peak} KiB");
    for webhook in [&first, &second, &third] {
        remove(&server, webhook);
    }
    server.finish();
}

#[test]
fn what_is_not_kept_any_more_is_counted() {
    let mut server = Server::start();
    let receiver = Receiver::fine();
    let address = receiver.address;
    let some = add(&server, &json!({"url": receiver.url(), "types": ["sandbox.updated"]}));
    let dead = add(&server, &json!({"url": "http://127.0.0.1:1/"}));
    one_shot(&server);
    events(&server, 4);
    let known = eventually("a failure", SOON, || Some(state(&server, &dead)).filter(|known| known["failures"] != 0));
    assert_eq!(known["missed"], 0);
    // What nobody asked for is soon known to be passed over, also to the next server.
    let passed_over = format!("select told_until from webhooks where id = '{}'", some["id"].as_str().unwrap());
    eventually("a record of it", SOON, || (server.sql(&passed_over) == "4").then_some(()));
    assert!(server.stop().success());
    // As it is after a week.
    let _nothing = server.sql("delete from events");
    server.start_again();
    let known = eventually("the count", SOON, || Some(state(&server, &dead)).filter(|known| known["missed"] != 0));
    assert_eq!(known["missed"], 4);
    assert_eq!(state(&server, &some)["missed"], 0);
    let _more = add(&server, &json!({"url": format!("http://{address}/more")}));
    one_shot(&server);
    assert_eq!(numbers(&arrived(&receiver, 4)), [5, 6, 7, 8]);
    for webhook in server.get("/v1/webhooks").expect(200).json()["data"].as_array().unwrap() {
        remove(&server, webhook);
    }
    server.finish();
}

#[test]
fn r6_1_webhooks_are_for_admins_and_each_tenants_own() {
    let server = Server::start();
    let key = |tenant: &str, scope: &str| {
        let made = server.post("/v1/keys", &json!({"tenant": tenant, "scope": scope})).expect(201).json();
        Client { key: Some(made["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
    };
    let (read, run, admin, other) = (key("team", "read"), key("team", "run"), key("team", "admin"), key("other", "admin"));
    let receiver = Receiver::fine();
    let body = json!({"url": receiver.url()});
    let made = admin.request("POST", "/v1/webhooks").json(&body).send().expect(201).json();
    assert_eq!(made["tenant"], "team");
    let target = target(&made);
    for client in [&read, &run] {
        client.request("POST", "/v1/webhooks").json(&body).send().refused(403, "forbidden");
        for (method, target) in [("GET", "/v1/webhooks"), ("GET", &target), ("DELETE", &target)] {
            client.request(method, target).send().refused(403, "forbidden");
        }
    }
    for method in ["GET", "DELETE"] {
        other.request(method, &target).send().refused(404, "not_found");
        server.request(method, &format!("{target}?tenant=other")).send().refused(404, "not_found");
        server.request(method, &format!("{target}?tenant=nobody")).send().refused(404, "not_found");
    }
    assert_eq!(other.request("GET", "/v1/webhooks").send().expect(200).json()["data"], json!([]));
    assert_eq!(server.get("/v1/webhooks?tenant=team").expect(200).json()["data"][0]["id"], made["id"], "an admin may name the tenant");
    let theirs = Receiver::fine();
    let named = add(&server, &json!({"url": theirs.url(), "tenant": "other"}));
    assert_eq!(named["tenant"], "other");
    run.request("POST", "/v1/run").json(&json!({"shell": "true"})).send().expect(200);
    one_shot(&server);
    assert_eq!(numbers(&arrived(&receiver, 4)), [1, 2, 3, 4]);
    other.request("POST", "/v1/run").json(&json!({"shell": "true"})).send().expect(200);
    let sandboxes: BTreeSet<String> =
        arrived(&theirs, 4).iter().map(|message| message.json()["sandbox_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((sandboxes.len(), receiver.count()), (1, 4), "each is told of its own");
    admin.request("DELETE", &target).send().expect(204);
    server.finish();
}

#[test]
fn the_command_line_makes_lists_and_removes_them() {
    let server = Server::start();
    let receiver = Receiver::fine();
    let caisson = |arguments: &[&str]| {
        let mut command = server.home().command(arguments);
        command
            .env("CAISSON_SERVER", format!("http://{}", server.client.address))
            .env("CAISSON_API_KEY", server.client.key.clone().unwrap());
        caisson_tests::Ran::from(command.output().unwrap())
    };
    let made = caisson(&["webhook", "add", &receiver.url(), "--type", "sandbox.ended", "--description", "robots"]).exited(0);
    assert!(made.out().starts_with("whsec_") && made.out().lines().count() == 1, "{}", made.out());
    let listed: Value = caisson(&["webhook", "ls", "--json"]).exited(0).out().trim().parse().unwrap();
    let id = listed["data"][0]["id"].as_str().unwrap();
    assert!(made.err().contains(id), "{}", made.err());
    one_shot(&server);
    assert_eq!(arrived(&receiver, 1)[0].json()["type"], "sandbox.ended");
    eventually("its success", SOON, || caisson(&["webhook", "ls"]).exited(0).out().contains(" 4 ").then_some(()));
    let table = caisson(&["webhook", "ls", "--tenant", "default"]).exited(0).out();
    assert!(
        table.contains(id) && table.contains("active") && table.contains(&receiver.url()) && table.contains("sandbox.ended"),
        "{table}"
    );
    let refused = caisson(&["webhook", "add", "ftp://example.com"]).exited(1);
    assert!(refused.err().contains("https"), "{}", refused.err());
    let secret = made.out().trim().to_owned();
    let refused = caisson(&["webhook", "rm", &secret]).exited(1);
    assert!(!refused.err().contains(&secret), "{}", refused.err());
    assert_eq!(caisson(&["webhook", "rm", id]).exited(0).out().trim(), id);
    assert_eq!(server.get("/v1/webhooks").expect(200).json()["data"], json!([]));
    server.finish();
}

/// With TLS, certificates are what the machine trusts, and nothing else.
#[test]
fn certificates_are_checked() {
    let place = Home::new();
    make_certificates(&place);
    let code = "import http.server, ssl, sys\n\
        class Handler(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_POST(self):\n\
        \x20       print(self.rfile.read(int(self.headers['content-length'])).decode(), flush=True)\n\
        \x20       self.send_response(200); self.end_headers()\n\
        \x20   def log_message(self, *_): pass\n\
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n\
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.load_cert_chain('cert.pem', 'key.pem')\n\
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)\n\
        print(server.server_port, flush=True)\n\
        server.serve_forever()";
    let mut receiver = place.start(place.clean("python3").args(["-c", code]));
    let mut said = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap();

    let trusting = Setup::default().env("SSL_CERT_FILE", place.path().join("ca.pem")).env("HTTPS_PROXY", "http://127.0.0.1:1").start();
    let webhook = add(&trusting, &json!({"url": format!("https://localhost:{port}/hook"), "types": ["sandbox.ended"]}));
    one_shot(&trusting);
    let event: Value = said.next().unwrap().unwrap().parse().unwrap();
    assert_eq!(event["type"], "sandbox.ended", "no proxy was asked");
    eventually("its success", SOON, || (state(&trusting, &webhook)["last_event"] == "4").then_some(()));
    trusting.finish();

    let server = Server::start();
    let webhook = add(&server, &json!({"url": format!("https://localhost:{port}/hook")}));
    one_shot(&server);
    let known = eventually("its failure", SOON, || Some(state(&server, &webhook)).filter(|known| known["failures"] != 0));
    assert_eq!(known["last_failure"]["reason"], "its certificate is not one that this server trusts");
    remove(&server, &webhook);
    server.finish();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    place.finish();
}
