//! All APIs of one server at the same time: each client with its own key, as if it were alone.

use std::{
    path::Path,
    process::Command,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use caisson_tests::{BASE64, Base64Engine, Client, MULTIPART_FORM, Ran, Request, Server, Setup, json, multipart_form};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const BOXBOX: &str = "key-of-boxbox-0123456789";
const BOXED: &str = "key-of-boxed-0123456789";
const MODBOX: &str = "key-of-modbox-0123456789";
const DAIV: &str = "key-of-daiv-0123456789";
const CLIENTS: usize = 5;

/// Somebody who shows a key in a header, or none.
fn with_key(server: &Server, header: &str, key: &str, method: &str, target: &str) -> Request {
    let client = Client { key: None, ..server.client.clone() };
    client.request(method, target).header(header, key)
}

/// Runs somebody else's client to its end.
#[track_caller]
fn client_says(server: &Server, mut command: Command, word: &str) {
    let ran = Ran::from(command.output().expect("it can be started"));
    assert!(ran.status.success() && ran.out().contains(word), "{:?}\n{}\n{}\n{}", ran.status, ran.out(), ran.err(), server.log());
}

fn native(server: &Server, round: usize) {
    let said = server.python(&format!("print({round} * 2)"));
    assert_eq!(said, format!("{}\n", round * 2));
    let sandbox = server.sandbox(&json!({}));
    let content = format!("of round {round}");
    sandbox.write(b"/workspace/own", content.as_bytes()).expect(200);
    assert_eq!(sandbox.shell("cat own; ls -A"), format!("{content}own\n"));
    let ran =
        Ran::from(server.command(["exec", &sandbox.id, "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).output().unwrap()).exited(3);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), ("out\n", "err\n"));
    sandbox.delete().expect(200);
}

/// The chat tool of its README.
fn boxbox(server: &Server) {
    let mut command = server.home().clean("node");
    command.current_dir(Path::new(TOP).join("target/tools/ai-tool")).args(["--test", "dist/test/tool.test.js"]);
    command.env("SANDBOX_URL", format!("http://{}", server.client.address)).env("SANDBOX_API_KEY", BOXBOX);
    client_says(server, command, "# pass 5");
}

fn boxed(server: &Server, round: usize) {
    let ask = |method: &str, target: &str| with_key(server, "x-boxed-api-key", BOXED, method, target);
    let made = ask("POST", "/v1/sandbox").json(&json!({"template": "python:3.10-slim"})).send().expect(201).json();
    let path = format!("/v1/sandbox/{}", made["sandbox_id"].as_str().unwrap());
    let content = format!("of round {round}");
    let form = multipart_form(&[("file", Some("own"), content.as_bytes()), ("path", None, b"/workspace")]);
    let sent = ask("POST", &format!("{path}/files")).header("content-type", MULTIPART_FORM).bytes(form).send();
    assert_eq!(sent.status / 100, 2, "{}", sent.text());
    let exec = json!({"language": "bash", "code": "id -u; cat /workspace/own; echo"});
    let ran = ask("POST", &format!("{path}/exec")).json(&exec).send().expect(200).json();
    assert_eq!((&ran["exit_code"], &ran["stdout"]), (&json!(0), &json!(format!("0\n{content}\n"))), "{ran}");
    ask("DELETE", &path).send().expect(204);
}

/// The newest client as it is published, with the keys that its users have.
fn modbox(server: &Server, round: usize) {
    // It counts its sandboxes, and so is somebody else in each round.
    let mates_address = format!("mate-{round}@example.com");
    let key_of = |tenant: &str, scope: &str, note: &str| {
        let made =
            server.post("/v1/keys", &json!({"tenant": format!("{tenant}-{round}"), "scope": scope, "note": note})).expect(201).json();
        made["key"].as_str().unwrap().to_owned()
    };
    let (mine, mates) = (key_of("me", "admin", &format!("me-{round}@example.com")), key_of("mate", "run", &mates_address));
    let me = Client { key: Some(mine.clone()), ..server.client.clone() };
    let token = me.request("POST", "/api-tokens/").json(&json!({"description": "for a client"})).send().expect(201).json();
    let python = Path::new(TOP).join("target/modbox/0.0.21/bin/python");
    assert!(python.exists(), "there is no {}; run `tools/modbox-clients`", python.display());
    let url = format!("http://{}", server.client.address);
    let mut command = server.home().clean(&python);
    command.arg("-I").arg(Path::new(TOP).join("tests/modbox/new.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("URL", &url).env("MODBOX_BASE_URL", &url).env("SANDBOX_API_KEY", MODBOX);
    command.env("TOKEN", mine).env("MODBOX_API_KEY", token["token"].as_str().unwrap());
    command.env("TEAMMATE", mates_address).env("TEAMMATES_TOKEN", mates);
    client_says(server, command, "all calls of 0.0.21 went well");
}

fn daiv(server: &Server, round: usize) {
    let mut command = server.home().clean("python3");
    command.arg(Path::new(TOP).join("examples/daiv.py"));
    command.env("DAIV_SANDBOX_URL", format!("http://{}", server.client.address)).env("DAIV_SANDBOX_API_KEY", DAIV);
    client_says(server, command, "-hello\n+goodbye\n");
    let ask = |method: &str, target: &str| with_key(server, "x-api-key", DAIV, method, target);
    let body = json!({"base_image": "python:3.12", "extract_patch": true});
    let made = ask("POST", "/api/v1/session/").json(&body).send().expect(200).json();
    let path = format!("/session/{}/", made["session_id"].as_str().unwrap());
    let command = json!({"commands": [format!("echo of round {round} > own; cat own")]});
    let ran = ask("POST", &path).json(&command).send().expect(200).json();
    assert_eq!(ran["results"][0]["output"], format!("of round {round}\n"), "{ran}");
    let patch = ran["patch"].as_str().map(|patch| BASE64.decode(patch).unwrap()).unwrap_or_default();
    let added = format!("+of round {round}\n");
    assert!(patch.windows(added.len()).any(|part| part == added.as_bytes()), "{ran}");
    ask("DELETE", &path).send().expect(204);
}

/// Each key opens the API that it belongs to and no other.
fn keys_open_their_own_doors_alone(server: &Server) {
    let doors = [
        ("GET", "/v1/sandboxes", server.client.key.as_deref().unwrap()),
        ("GET", "/executions/unknown", BOXBOX),
        ("GET", "/v1/sandbox", BOXED),
        ("GET", "/sandboxes", MODBOX),
        ("GET", "/api/v1/session/unknown/", DAIV),
    ];
    // Ours is for all of them.
    for (method, target, _) in &doors[1..] {
        for (_, _, key) in doors[1..].iter().filter(|(_, of, _)| of != target) {
            for header in ["x-api-key", "x-boxed-api-key"] {
                let status = with_key(server, header, key, method, target).send().status;
                assert!([401, 403].contains(&status), "{status}: {method} {target} with {key}");
            }
            let bearer = with_key(server, "authorization", &format!("Bearer {key}"), method, target).send().status;
            assert!([401, 403].contains(&bearer), "{bearer}: {method} {target} with {key}");
        }
    }
    for (_, _, key) in &doors[1..] {
        with_key(server, "x-api-key", key, "GET", "/v1/sandboxes").send().refused(401, "unauthorized");
    }
}

/// Counts one more when it goes.
struct AtTheEnd<'a>(&'a AtomicUsize);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn all_apis_serve_their_clients_at_the_same_time() {
    let server = Setup::default()
        .env("API_KEY", BOXBOX)
        .env("BOXED_API_KEY", BOXED)
        .env("SANDBOX_API_KEY", MODBOX)
        .env("DAIV_SANDBOX_API_KEY", DAIV)
        .env("CAISSON_IMAGE_ALIASES", "python:3.12=host")
        .start();
    keys_open_their_own_doors_alone(&server);
    let (begun, done) = (Barrier::new(CLIENTS), AtomicUsize::new(0));
    // Each makes rounds until all others have made one, so that none is ever alone.
    let rounds = |name: &str, client: &dyn Fn(usize)| {
        begun.wait();
        // Also when it fails, as others would wait for it.
        let mut first = Some(AtTheEnd(&done));
        for round in 0.. {
            client(round);
            drop(first.take());
            if done.load(Ordering::SeqCst) == CLIENTS {
                println!("{name}: {} rounds", round + 1);
                break;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| rounds("native", &|round| native(&server, round)));
        scope.spawn(|| rounds("boxbox", &|_| boxbox(&server)));
        scope.spawn(|| rounds("boxed", &|round| boxed(&server, round)));
        scope.spawn(|| rounds("modbox", &|round| modbox(&server, round)));
        scope.spawn(|| rounds("daiv", &|round| daiv(&server, round)));
    });
    keys_open_their_own_doors_alone(&server);
    server.finish();
}
