//! The API of boxbox, as its clients use it: what the wire contract says, row by row, and the chat tool of its README.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Answer, Client, Fault, FaultyLine, Home, Ran, Request, Server, Setup, Value, eventually, json, signal, with_s3};
use rustix::process::Signal;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const KEY: &str = "key-of-boxbox-0123456789";

fn boxbox() -> Setup {
    Setup::default().env("API_KEY", KEY)
}

/// A user's chat of its own, so that no test meets the rate of another's.
struct Chat<'a> {
    server: &'a Server,
    user: String,
    chat: String,
}

impl<'a> Chat<'a> {
    fn new(server: &'a Server) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self::of(server, &format!("user-{}", NUMBER.fetch_add(1, Ordering::Relaxed)), "chat")
    }

    fn of(server: &'a Server, user: &str, chat: &str) -> Self {
        Self { server, user: user.to_owned(), chat: chat.to_owned() }
    }

    fn ask(&self, method: &str, target: &str) -> Request {
        let request = bare(self.server).request(method, target).header("x-api-key", KEY);
        request.header("x-user-id", &self.user).header("x-chat-id", &self.chat)
    }

    fn post(&self, body: &Value) -> Answer {
        self.ask("POST", "/execute").json(body).send()
    }

    fn look(&self, id: &str) -> Answer {
        self.ask("GET", &format!("/executions/{id}")).send()
    }

    /// The execution as soon as it is that far.
    #[track_caller]
    fn comes_to(&self, id: &str, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), Duration::from_secs(40), || {
            // Whoever asks too often is told so.
            thread::sleep(Duration::from_millis(120));
            Some(self.look(id)).filter(|answer| answer.status == 200).map(|answer| answer.json()).filter(|found| found["status"] == status)
        })
    }

    /// How a program ended, whose answer has all fields and no others.
    #[track_caller]
    fn run(&self, body: &Value) -> Value {
        let answer = self.post(body).expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.text().ends_with("}\n"), "{}", answer.text());
        let result = answer.json();
        let mut names: Vec<&String> = result.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["execution_id", "execution_time_ms", "exit_code", "output_files", "status", "stderr", "stdout"]);
        assert!(result["output_files"].is_array() && result["execution_time_ms"].is_u64(), "{result}");
        result
    }

    #[track_caller]
    fn bash(&self, code: &str) -> Value {
        self.run(&json!({"language": "bash", "path": "script.sh", "code": code}))
    }

    #[track_caller]
    fn python(&self, code: &str) -> Value {
        self.run(&json!({"language": "python", "path": "main.py", "code": code}))
    }

    /// What a program prints that ends well.
    #[track_caller]
    fn says(&self, code: &str) -> String {
        let result = self.bash(code);
        assert_eq!(
            (&result["status"], &result["exit_code"], &result["stderr"]),
            (&json!("completed"), &json!(0), &json!("")),
            "{result:#}"
        );
        result["stdout"].as_str().unwrap().to_owned()
    }

    fn place(&self) -> PathBuf {
        self.server.home().data().join("blobs/files").join(&self.user).join(&self.chat)
    }

    /// Puts a file where the chat's files are, as an application does.
    fn store(&self, name: &str, content: &str) {
        let path = self.place().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[track_caller]
    fn stored(&self, name: &str) -> String {
        fs::read_to_string(self.place().join(name)).unwrap_or_else(|error| panic!("{name} is not stored: {error}"))
    }

    fn is_stored(&self, name: &str) -> bool {
        self.place().join(name).exists()
    }
}

fn bare(server: &Server) -> Client {
    Client { key: None, ..server.client.clone() }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, message: &str) {
    assert_eq!((answer.status, answer.json()), (status, json!({"error": code, "message": message})));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    of_every_answer(answer);
}

#[track_caller]
fn of_every_answer(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, OPTIONS"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("Content-Type, X-API-Key, X-User-ID, X-Chat-ID, Authorization"));
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
}

fn outputs(result: &Value) -> Vec<&str> {
    result["output_files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect()
}

#[test]
fn the_door_is_as_the_contract_says() {
    let server = boxbox().start();
    let chat = Chat::new(&server);
    let health = bare(&server).request("GET", "/health").send().expect(200);
    of_every_answer(&health);
    let time = health.json()["time"].as_str().unwrap().to_owned();
    assert_eq!((health.json()["status"].as_str(), time.len()), (Some("ok"), "2026-01-07T08:24:26Z".len()), "{time}");
    assert_eq!(bare(&server).request("HEAD", "/health").send().status, 200);
    let uuid = health.header("x-request-id").unwrap();
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
    for target in ["/execute", "/executions/x", "/execute/none", "/health"] {
        let answer = bare(&server).request("OPTIONS", target).send();
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{target}");
        of_every_answer(&answer);
    }
    let none = bare(&server).request("GET", "/executions").send();
    assert_eq!((none.status, none.text().as_str()), (404, "404 page not found\n"));
    assert_eq!(none.header("content-type"), Some("text/plain; charset=utf-8"));
    let wrong = bare(&server).request("GET", "/execute").send();
    assert_eq!((wrong.status, wrong.body.len(), wrong.header("allow")), (405, 0, Some("POST")));
    let execute = || bare(&server).request("POST", "/execute");
    for request in [execute(), execute().header("x-api-key", "wrong"), execute().header("authorization", "Bearer wrong")] {
        refused(&request.send(), 401, "unauthorized", "invalid or missing API key");
    }
    let by_operator = server.client.key.clone().unwrap();
    for (name, value) in [
        ("x-api-key", KEY.to_owned()),
        ("authorization", format!("Bearer {KEY}")),
        ("authorization", KEY.to_owned()),
        ("x-api-key", by_operator),
    ] {
        refused(&execute().header(name, &value).send(), 400, "bad_request", "X-User-ID header is required");
        let with_user = execute().header(name, &value).header("x-user-id", "u").send();
        refused(&with_user, 400, "bad_request", "X-Chat-ID header is required");
    }
    // The key is for this API alone.
    let client = Client { key: Some(KEY.to_owned()), ..server.client.clone() };
    client.request("GET", "/v1/sandboxes").send().refused(401, "unauthorized");
    let named = chat.ask("POST", "/execute").header("x-request-id", "mine-1").bytes("{").send();
    refused(&named, 400, "invalid_request", "failed to parse request body");
    assert_eq!(named.header("x-request-id"), Some("mine-1"));
    server.finish();
}

#[test]
fn a_user_has_twenty_requests_and_then_ten_a_second() {
    let server = boxbox().start();
    let chat = Chat::new(&server);
    let begin = Instant::now();
    let mut admitted = 0;
    let over = loop {
        let other = Chat::of(&server, &chat.user, if admitted % 2 == 0 { "one" } else { "two" });
        let answer = other.ask("GET", "/executions/x").send();
        if answer.status == 429 {
            break answer;
        }
        refused(&answer, 400, "invalid_request", "invalid execution id");
        admitted += 1;
        assert!(admitted < 1000, "there is no end");
    };
    let most = 20 + begin.elapsed().as_millis() / 100 + 1;
    assert!(admitted >= 20 && admitted <= most, "{admitted} in {:?}", begin.elapsed());
    refused(&over, 429, "rate_limit_exceeded", "too many requests");
    assert_eq!(over.header("retry-after"), Some("1"));
    refused(&Chat::new(&server).post(&json!({})), 400, "invalid_request", "language is required");
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(chat.ask("GET", "/executions/x").send().status, 400, "it fills again");
    server.finish();
}

#[test]
fn programs_are_answered_with_what_they_really_did() {
    let server = boxbox().start();
    let chat = Chat::new(&server);
    let hello = chat.python("import sys\nprint('hello')\nprint('oops', file=sys.stderr)");
    assert_eq!((&hello["status"], &hello["exit_code"]), (&json!("completed"), &json!(0)), "{hello:#}");
    assert_eq!((&hello["stdout"], &hello["stderr"], &hello["output_files"]), (&json!("hello\n"), &json!("oops\n"), &json!([])));
    let id = hello["execution_id"].as_str().unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
    assert_eq!(chat.says("id -un; id -u; pwd; echo $HOME; python -c 'print(6 * 7)'"), "daytona\n1000\n/home/daytona\n/home/daytona\n42\n");
    let shell = chat.run(&json!({"language": "shell", "path": "x", "code": "exit 3", "unknown": [1], "timeout_seconds": -1}));
    assert_eq!((&shell["status"], &shell["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(chat.python("1/0")["exit_code"], 1);
    assert_eq!(chat.bash("kill -9 $$")["exit_code"], 137);
    assert_eq!(chat.bash("exec no-such-program")["exit_code"], 127);
    assert_eq!(chat.bash("cat; printf '\\377a'")["stdout"], "\u{fffd}a", "no input");
    let chat = Chat::new(&server);
    let named = |path: &str, code: &str| chat.run(&json!({"language": "python", "path": path, "code": code}))["stdout"].clone();
    let own_name = "import sys, os; print(sys.argv, os.path.exists(sys.argv[0]), os.getcwd())";
    for path in ["deep/er/a b.py", "$(touch x).py", "-c", "'\"\n;.py", "./main.py"] {
        let shown = if path == "-c" { "./-c" } else { path };
        let expect = chat.python(&format!("print([{}], True, '/home/daytona')", json!(shown)))["stdout"].clone();
        assert_eq!(named(path, own_name), expect, "{path}");
    }
    // A place where no file can be is a result, as whoever runs the program sees it.
    let below = chat.run(&json!({"language": "bash", "path": ".local/bin/python/x", "code": "true"}));
    assert!(below["status"] == "failed" && below["exit_code"] == 1 && below["stderr"] != "", "{below}");
    server.finish();
}

#[test]
fn time_is_over_for_the_whole_tree() {
    let server = boxbox().env("EXECUTION_TIMEOUT", "1500ms").start();
    let chat = Chat::new(&server);
    let code = "echo begun; echo partial >&2; setsid sleep 77771 & sleep 77772";
    let body = json!({"language": "bash", "path": "x", "code": code, "timeout_seconds": 2});
    let slow = chat.run(&body);
    assert_eq!((&slow["status"], &slow["exit_code"], &slow["stdout"]), (&json!("timeout"), &json!(124), &json!("begun\n")), "{slow}");
    assert_eq!(slow["stderr"], "partial\nexecution killed after 2 seconds");
    let time = slow["execution_time_ms"].as_u64().unwrap();
    assert!((2000..30_000).contains(&time), "{time}");
    // Of the default whole seconds count.
    let default = chat.run(&json!({"language": "bash", "path": "x", "code": "touch a.txt; sleep 60", "timeout_seconds": 0}));
    assert_eq!((&default["status"], &default["stderr"]), (&json!("timeout"), &json!("execution killed after 1 seconds")));
    assert_eq!(outputs(&default), ["a.txt"], "files come out all the same");
    server.finish();
}

#[test]
fn output_is_cut_between_characters() {
    let server = boxbox().env("CAISSON_INLINE_OUTPUT", "4K").start();
    let chat = Chat::new(&server);
    let cut = "\n... (output truncated)";
    let just = chat.python("import sys; sys.stdout.write('x' * 100_000); sys.stderr.write('y' * 100_001)");
    assert_eq!(just["stdout"].as_str().unwrap(), "x".repeat(100_000));
    assert_eq!(just["stderr"].as_str().unwrap(), "y".repeat(100_000) + cut);
    let wide = chat.python("print('a' + '\\U0001f980' * 1_000_000, end='')");
    let kept = wide["stdout"].as_str().unwrap().strip_suffix(cut).unwrap();
    assert_eq!((kept.len(), kept.chars().nth(1)), (1 + 4 * 24_999, Some('\u{1f980}')));
    let body =
        json!({"language": "python", "path": "x", "code": "print('x' * 200_000, flush=True)\nwhile True: pass", "timeout_seconds": 1});
    let flood = chat.run(&body);
    assert_eq!(
        (flood["stdout"].as_str().unwrap().len(), &flood["stderr"]),
        (100_000 + cut.len(), &json!("execution killed after 1 seconds"))
    );
    server.finish();
}

#[test]
fn requests_are_checked_in_order() {
    let server = boxbox().start();
    let chat = Chat::new(&server);
    for (body, message) in [
        (json!([]), "failed to parse request body"),
        (json!({"timeout_seconds": 60.5}), "failed to parse request body"),
        (json!({"timeout_seconds": "60"}), "failed to parse request body"),
        (json!({"path": 5}), "failed to parse request body"),
        (json!({"language": ""}), "language is required"),
        (json!({"language": "ruby"}), "language must be 'python' or 'bash'"),
        (json!({"language": "bash"}), "path is required"),
        (json!({"language": "bash", "path": "/x", "code": ""}), "code is required"),
        (json!({"language": "bash", "path": "/x", "code": "y"}), "path must be relative to the work directory"),
        (json!({"language": "bash", "path": "a/../../x", "code": "y"}), "path must not leave the work directory through '..'"),
        (json!({"language": "bash", "path": "x".repeat(256), "code": "y"}), "path must not be longer than 255 characters"),
    ] {
        refused(&chat.post(&body), 400, "invalid_request", message);
    }
    let chat = Chat::new(&server);
    let large = |size: usize| json!({"language": "bash", "path": "x", "code": format!("exit 7 #{}", "x".repeat(size))}).to_string();
    let just = large((10 << 20) - large(0).len());
    assert_eq!(just.len(), 10 << 20);
    assert_eq!(chat.ask("POST", "/execute").header("content-type", "text/plain").bytes(just).send().expect(200).json()["exit_code"], 7);
    let over = chat.ask("POST", "/execute").bytes(large((10 << 20) - large(0).len() + 1)).send();
    refused(&over, 400, "invalid_request", "failed to parse request body");
    for (user, chat) in
        [("..", "c"), ("u", ".."), ("a/b", "c"), ("u", "../other"), (&"x".repeat(256), "c"), ("u", "a\tb"), ("_caisson", "c")]
    {
        let answer = Chat::of(&server, user, chat).post(&json!({"language": "bash", "path": "x", "code": "true"}));
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_request")), "{user:.20} {chat}: {}", answer.text());
    }
    server.finish();
}

#[test]
fn files_of_the_chat_go_in_when_they_are_named() {
    let server = boxbox().start();
    let chat = Chat::new(&server);
    chat.store("data.csv", "1,2\n");
    chat.store("sub/deep.txt", "deep\n");
    chat.store("other.txt", "other\n");
    let run = |files: Value, code: &str| chat.run(&json!({"language": "bash", "path": "s.sh", "code": code, "files": files}));
    assert_eq!(run(json!(null), "find . -type f ! -path './.*'")["stdout"], "./s.sh\n", "nothing by itself");
    let in_it =
        run(json!(["data.csv", "sub/deep.txt", "data.csv"]), "cat data.csv sub/deep.txt; test ! -e other.txt && stat -c %U data.csv");
    assert_eq!(in_it["stdout"], "1,2\ndeep\ndaytona\n", "{in_it:#}");
    assert_eq!(in_it["output_files"], json!([]), "untouched inputs stay");
    let missing =
        run(json!(["none.txt", "data.csv", "", "../x", "*", "sub", "sub/", "a\nb", "x".repeat(4096)]), "ls data.csv; cat none.txt");
    assert_eq!((&missing["status"], &missing["exit_code"], &missing["stdout"]), (&json!("failed"), &json!(1), &json!("data.csv\n")));
    assert!(missing["stderr"].as_str().unwrap().contains("No such file"), "{missing}");
    // Nobody else's.
    let other = Chat::of(&server, &chat.user, "another");
    let elsewhere = other.run(&json!({"language": "bash", "path": "s.sh", "code": "ls data.csv", "files": ["data.csv"]}));
    assert_eq!(elsewhere["status"], "failed");
    // What is touched has not changed; what is changed in any way has.
    let touched = run(json!(["data.csv", "other.txt"]), "touch data.csv; cat other.txt > x; cat x > other.txt; rm x");
    assert_eq!(touched["output_files"], json!([]));
    let changed = run(json!(["data.csv"]), "t=$(stat -c %Y data.csv); printf '2,1\\n' > data.csv; touch -d @$t data.csv");
    assert_eq!(changed["output_files"], json!([{"path": "data.csv", "media_type": "text/csv", "size": 4}]));
    assert_eq!(chat.stored("data.csv"), "2,1\n");
    server.finish();
}

#[test]
fn new_and_changed_files_come_out() {
    let server = boxbox().env("MAX_FILE_SIZE_MB", "1").start();
    let chat = Chat::new(&server);
    let code = "
import os
for path in ['chart.PNG', 'b.txt', 'sub/er/a.json', '/tmp/t.md', '/tmp/sub/no.md', '.hidden.txt', '.config/x.txt', '__pycache__/c.txt', 'no.bin', 'noext', 'b.csv.bak', 'line\\nbreak.txt', 'both.csv', '/tmp/both.csv']:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    open(path, 'w').write(path)
os.symlink('/etc/passwd', 'link.txt')
os.symlink('/etc', 'etc.txt')
os.mkfifo('fifo.txt')
os.mkdir('directory.txt')
open('large.txt', 'w').write('x' * (1 << 20 | 1))
open('just.txt', 'w').write('x' * (1 << 20))
";
    let made = chat.python(code);
    assert_eq!(made["status"], "completed", "{made:#}");
    // A name with a line break in it is none that a store has.
    assert_eq!(outputs(&made), ["b.txt", "both.csv", "chart.PNG", "just.txt", "sub/er/a.json", "t.md"], "{made:#}");
    let file = |name: &str| made["output_files"].as_array().unwrap().iter().find(|file| file["path"] == name).unwrap().clone();
    assert_eq!(file("chart.PNG"), json!({"path": "chart.PNG", "media_type": "image/png", "size": 9}));
    assert_eq!(file("t.md"), json!({"path": "t.md", "media_type": "text/markdown", "size": 9}));
    assert_eq!((chat.stored("both.csv"), chat.stored("sub/er/a.json")), ("both.csv".to_owned(), "sub/er/a.json".to_owned()));
    assert_eq!(chat.stored("t.md"), "/tmp/t.md");
    for name in ["link.txt", "etc.txt", "fifo.txt", "large.txt", ".hidden.txt", "no.bin", "main.py", "no.md", "sub/no.md"] {
        assert!(!chat.is_stored(name), "{name}");
    }
    // The code is an output where its kind is one.
    let page = chat.run(&json!({"language": "bash", "path": "./pages//page.html", "code": "true"}));
    assert_eq!(page["output_files"], json!([{"path": "pages/page.html", "media_type": "text/html", "size": 4}]));
    // The next one starts from nothing, and replaces what is there.
    let again = chat.bash("ls; ls /tmp; echo new > b.txt");
    assert_eq!((&again["stdout"], outputs(&again)), (&json!("script.sh\n"), vec!["b.txt"]));
    assert_eq!(chat.stored("b.txt"), "new\n");
    // Files that fail programs have made are kept as well.
    assert_eq!(outputs(&chat.bash("echo x > f.txt; exit 9")), ["f.txt"]);
    server.finish();
}

#[test]
fn executions_are_remembered_for_their_chat_alone() {
    let mut server = boxbox().start();
    let chat = Chat::new(&server);
    chat.store("in.csv", "1\n");
    let body = json!({"language": "python", "path": "main.py", "code": "open('out.txt', 'w').write('x')\nprint(6 * 7)", "files": ["in.csv"], "timeout_seconds": 700});
    let ran = chat.run(&body);
    let id = ran["execution_id"].as_str().unwrap().to_owned();
    let found = chat.ask("GET", &format!("/executions/{id}")).send().expect(200);
    of_every_answer(&found);
    let found = found.json();
    for (name, value) in [
        ("id", json!(id)),
        ("execution_id", json!(id)),
        ("user_id", json!(chat.user)),
        ("chat_id", json!("chat")),
        ("language", json!("python")),
        ("path", json!("main.py")),
        ("code", body["code"].clone()),
        ("timeout_seconds", json!(600)),
        ("input_files", json!([{"path": "in.csv", "media_type": "text/csv", "size": 2}])),
        ("stdout", json!("42\n")),
    ] {
        assert_eq!(found[name], value, "{name} of {found:#}");
    }
    for name in ["status", "exit_code", "stdout", "stderr", "execution_time_ms", "output_files"] {
        assert_eq!(found[name], ran[name], "{name}");
    }
    assert_eq!(found["sandbox_id"].as_str().unwrap().len(), 36);
    let times: Vec<&str> = ["created_at", "started_at", "completed_at"].map(|name| found[name].as_str().unwrap()).into();
    assert!(times.is_sorted() && times.iter().all(|time| time.ends_with('Z')), "{times:?}");
    for (user, other) in [(chat.user.as_str(), "another"), ("another", "chat")] {
        let answer = Chat::of(&server, user, other).ask("GET", &format!("/executions/{id}")).send();
        refused(&answer, 404, "not_found", "execution not found");
    }
    // Another tenant's user of that name is somebody else.
    let key = server.post("/v1/keys", &json!({"tenant": "other", "scope": "run"})).expect(201).json();
    let theirs = chat.ask("GET", &format!("/executions/{id}")).header("x-api-key", key["key"].as_str().unwrap()).send();
    refused(&theirs, 404, "not_found", "execution not found");
    for (id, status, code) in [("8f8b1c1e-7a52-4c6e-9d53-0c7a5a2f4e10", 404, "not_found"), ("x", 400, "invalid_request")] {
        let answer = chat.ask("GET", &format!("/executions/{id}")).send();
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(code)), "{id}");
    }
    drop(chat);
    server.stop();
    server.start_again();
    let chat = Chat::of(&server, found["user_id"].as_str().unwrap(), "chat");
    assert_eq!(chat.ask("GET", &format!("/executions/{id}")).send().expect(200).json(), found, "a restart changes nothing");
    server.finish();
}

/// The sandbox of the one execution that runs, as an operator finds it.
fn running(server: &Server) -> Value {
    let key = server.post("/v1/keys", &json!({"tenant": "boxbox", "scope": "read"})).expect(201).json();
    let client = Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let list = || client.request("GET", "/v1/sandboxes?state=running&metadata.caisson.dialect=boxbox").send().expect(200).json();
    eventually("a sandbox that runs", Duration::from_secs(20), || {
        Some(list()["data"][0].clone()).filter(|sandbox| sandbox["id"].is_string())
    })
}

/// An id that no other request has.
fn uuid() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("8f8b1c1e-7a52-4c6e-9d53-{:012x}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn a_server_that_dies_leaves_executions_that_have_failed() {
    let mut server = boxbox().env("CAISSON_MAX_SANDBOXES", "1").start();
    let body = json!({"language": "bash", "path": "x", "code": "echo begun; sleep 300"}).to_string();
    let ids = [uuid(), uuid()];
    let mut connections = Vec::new();
    for (id, status) in ids.iter().zip(["executing", "pending"]) {
        let chat = Chat::of(&server, "u", "c");
        connections.push(chat.ask("POST", "/execute").header("x-request-id", id).begin(body.len(), body.as_bytes()));
        let now = chat.comes_to(id, status);
        assert_eq!((now.get("exit_code"), now.get("completed_at")), (None, None), "{now:#}");
    }
    server.kill();
    drop(connections);
    server.start_again();
    for id in ids {
        let then = Chat::of(&server, "u", "c").look(&id).expect(200).json();
        assert_eq!((&then["status"], &then["exit_code"]), (&json!("failed"), &json!(1)), "{then:#}");
        assert_eq!(then["stderr"], "the server that ran it died");
        assert!(then["completed_at"].is_string(), "{then:#}");
    }
    server.finish();
}

#[test]
fn an_execution_is_seen_from_its_begin_on() {
    // Storage that answers nothing as long as it is to be so.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let line = FaultyLine::to(nobody.local_addr().unwrap());
    let server = with_s3(boxbox(), line.address).env("CAISSON_MAX_SANDBOXES", "1").env("SYNC_CONCURRENCY", "2").start();
    let holder = server.sandbox(&json!({}));
    let (chat, id) = (Chat::new(&server), uuid());
    let files: Vec<String> = (0..6).map(|n| format!("{n}.csv")).collect();
    let code = "echo out > out.txt; sleep 4";
    let body = json!({"language": "bash", "path": "script.sh", "code": code, "files": files});
    line.set(Fault::Silent);
    let before = line.asked();
    thread::scope(|scope| {
        let asking = scope.spawn(|| chat.ask("POST", "/execute").header("x-request-id", &id).json(&body).send());
        let known = |found: &Value| ["sandbox_id", "started_at", "completed_at", "exit_code"].map(|name| found.get(name).is_some());
        let pending = chat.comes_to(&id, "pending");
        assert_eq!(known(&pending), [false; 4], "{pending:#}");
        assert_eq!((&pending["code"], &pending["timeout_seconds"]), (&json!(code), &json!(300)));
        refused(&Chat::of(&server, &chat.user, "another").look(&id), 404, "not_found", "execution not found");
        holder.delete().expect(200);
        let syncing_in = chat.comes_to(&id, "syncing_in");
        assert_eq!(known(&syncing_in), [true, false, false, false], "{syncing_in:#}");
        thread::sleep(Duration::from_millis(700));
        assert_eq!(line.asked() - before, 2, "as many files at one time as are allowed");
        line.set(Fault::Status(404));
        let executing = chat.comes_to(&id, "executing");
        assert_eq!(known(&executing), [true, true, false, false], "{executing:#}");
        assert_eq!((&executing["sandbox_id"], &executing["created_at"]), (&syncing_in["sandbox_id"], &pending["created_at"]));
        line.set(Fault::Silent);
        let syncing_out = chat.comes_to(&id, "syncing_out");
        assert_eq!(known(&syncing_out), [true, true, false, false], "{syncing_out:#}");
        line.set(Fault::Refused);
        let answer = asking.join().unwrap().expect(200);
        assert_eq!(answer.header("x-request-id"), Some(id.as_str()));
        let ended = answer.json();
        assert_eq!((&ended["execution_id"], &ended["status"], outputs(&ended)), (&json!(id), &json!("completed"), vec!["out.txt"]));
        let completed = chat.look(&id).expect(200).json();
        assert_eq!(known(&completed), [true; 4], "{completed:#}");
        assert_eq!((&completed["status"], &completed["output_files"]), (&ended["status"], &ended["output_files"]));
    });
    drop(chat);
    server.finish();
}

#[test]
fn an_execution_that_gets_no_sandbox_is_kept() {
    let mut server = boxbox().env("CAISSON_MAX_SANDBOXES", "1").env("CAISSON_QUEUE_WAIT", "1").start();
    let holder = server.sandbox(&json!({}));
    let (chat, id) = (Chat::new(&server), uuid());
    let ask = || chat.ask("POST", "/execute").header("x-request-id", &id);
    let body = json!({"language": "bash", "path": "x", "code": "echo fine"});
    let none = ask().json(&body).send();
    refused(&none, 503, "no_sandbox_available", "no sandbox available, please retry");
    assert!(none.header("retry-after").is_some());
    let kept = chat.look(&id).expect(200).json();
    for (name, value) in
        [("status", json!("failed")), ("exit_code", json!(1)), ("stderr", json!("no sandbox available")), ("execution_time_ms", json!(0))]
    {
        assert_eq!(kept[name], value, "{name} of {kept:#}");
    }
    assert!(kept["completed_at"].is_string() && kept.get("started_at").is_none() && kept.get("sandbox_id").is_none(), "{kept:#}");
    holder.delete().expect(200);
    // Trying again is another execution, whatever the request is called.
    let again = ask().json(&body).send().expect(200).json();
    assert_eq!((&again["stdout"], again["execution_id"] == json!(id)), (&json!("fine\n"), false), "{again:#}");
    assert_eq!(chat.look(again["execution_id"].as_str().unwrap()).expect(200).json()["status"], "completed");
    // What cannot be written is kept with its sandbox.
    let below = chat.run(&json!({"language": "bash", "path": ".local/bin/python/x", "code": "true"}));
    let found = chat.look(below["execution_id"].as_str().unwrap()).expect(200).json();
    assert_eq!((&found["status"], &found["stderr"]), (&json!("failed"), &below["stderr"]), "{found:#}");
    assert!(found["sandbox_id"].is_string() && found.get("started_at").is_none(), "{found:#}");
    let user = chat.user.clone();
    drop(chat);
    server.stop();
    server.start_again();
    assert_eq!(Chat::of(&server, &user, "chat").look(&id).expect(200).json(), kept, "a restart changes nothing");
    server.finish();
}

/// A figure of the server's.
fn figure(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").expect(200).text();
    let name = format!("caisson_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}in {text}")).parse().unwrap()
}

#[test]
fn sandboxes_and_interpreters_are_ready_and_nothing_shows_that() {
    let cold = boxbox().start();
    let server = boxbox().env("CAISSON_POOL", "auto").env("POOL_MIN_WARM", "2").env("POOL_MAX_WARM", "3").start();
    let warm = || {
        eventually("two are warm", Duration::from_secs(30), || (figure(&server, "pool_warm") >= 2).then_some(()));
        assert!(figure(&server, "pool_target") <= 3);
    };
    let python = "import os, sys\nprint(sys.argv, sys.orig_argv, sys.flags, __file__, sorted(os.environ.items()), os.getcwd())\n\
                  print(sorted(os.listdir()), sorted(os.listdir('/tmp')), open(__file__).read() == open(sys.argv[0]).read(), os.getuid())\n\
                  print(1 / 0)";
    let bash = "echo $0 $BASH_SOURCE $# $PWD; env | sort; ls -A . /tmp; cat script.sh; python -c 'print(1)'; no-such-program";
    let data = json!(["data.csv"]);
    let mut ready = 0;
    for (n, (is_ready, body)) in [
        (true, json!({"language": "python", "path": "main.py", "code": python})),
        (true, json!({"language": "bash", "path": "script.sh", "code": bash})),
        (true, json!({"language": "shell", "path": "script.sh", "code": "echo x > made.txt; exit 3"})),
        (false, json!({"language": "python", "path": "other.py", "code": python})),
        (false, json!({"language": "python", "path": "main.py", "code": python, "files": data})),
    ]
    .into_iter()
    .enumerate()
    {
        warm();
        let seen = [&cold, &server].map(|server| {
            let chat = Chat::new(server);
            chat.store("data.csv", "1\n");
            let result = chat.run(&body);
            let id = result["execution_id"].as_str().unwrap().to_owned();
            assert_eq!(chat.look(&id).expect(200).json()["stdout"], result["stdout"]);
            ["status", "exit_code", "stdout", "stderr", "output_files"].map(|name| result[name].clone())
        });
        assert_eq!(seen[0], seen[1], "{body}");
        ready += u64::from(is_ready);
        assert_eq!((figure(&server, "pool_hits_total"), figure(&server, "pool_ready_total")), (n as u64 + 1, ready), "{body}");
    }
    cold.finish();
    server.finish();
}

#[test]
fn who_finds_no_slot_waits_and_is_told() {
    let mut server = boxbox().env("QUEUE_MAX_CONCURRENT", "1").env("QUEUE_WAIT_TIMEOUT", "2s").start();
    let long = json!({"language": "bash", "path": "x", "code": "sleep 4.5; echo done"});
    let short = json!({"language": "bash", "path": "x", "code": "echo quick"});
    thread::scope(|scope| {
        let first = scope.spawn(|| Chat::new(&server).post(&long));
        running(&server);
        let full = Chat::new(&server).post(&short);
        refused(&full, 503, "queue_timeout", "execution queue is full, please retry later");
        assert!(full.header("retry-after").is_some());
        // The door and what was are open meanwhile.
        assert_eq!(Chat::new(&server).ask("GET", "/executions/x").send().status, 400);
        thread::sleep(Duration::from_millis(900));
        assert_eq!(Chat::new(&server).post(&short).expect(200).json()["stdout"], "quick\n", "it came to its turn");
        assert_eq!(first.join().unwrap().expect(200).json()["stdout"], "done\n");
    });
    // Whoever waits when the server stops is told so; what runs is answered.
    let body = json!({"language": "bash", "path": "x", "code": "sleep 3; echo done"});
    thread::scope(|scope| {
        let runs = scope.spawn(|| Chat::new(&server).post(&body));
        running(&server);
        let waits = scope.spawn(|| Chat::new(&server).post(&short));
        thread::sleep(Duration::from_millis(300));
        signal(server.pid(), Signal::TERM);
        refused(&waits.join().unwrap(), 503, "server_shutting_down", "server is shutting down, please retry");
        assert_eq!(runs.join().unwrap().expect(200).json()["stdout"], "done\n");
    });
    // A second signal would stop it at once.
    let status = format!("/proc/{}/stat", server.pid());
    eventually("its end", Duration::from_secs(20), || fs::read_to_string(&status).unwrap().contains(") Z ").then_some(()));
    assert!(server.stop().success());
    server.finish();
}

#[test]
fn names_in_the_environment_are_taken_as_upstream_takes_them() {
    let server = boxbox()
        .env("DAYTONA_API_URL", "")
        .env("DAYTONA_IMAGE", "host")
        .env("DAYTONA_API_KEY", "dtn_x")
        .env("SANDBOX_CPU", "2")
        .env("SANDBOX_MEMORY", "2")
        .env("QUEUE_MAX_CONCURRENT", "many")
        .env("EXECUTION_TIMEOUT", "")
        .env("QUEUE_WAIT_TIMEOUT", "1h30m")
        .env("MAX_FILE_SIZE_MB", "-1")
        .env("POOL_MIN_WARM", "1")
        .env("SYNC_CONCURRENCY", "0")
        .start();
    let log = server.log();
    for line in [
        "API_KEY of the environment is used",
        "DAYTONA_IMAGE of the environment is used",
        "DAYTONA_API_KEY is not needed: sandboxes are made on this machine",
        "QUEUE_MAX_CONCURRENT is `many`, which is no number from 1 to 10000; the default is used",
        "QUEUE_WAIT_TIMEOUT of the environment is used",
        "MAX_FILE_SIZE_MB is `-1`",
        "POOL_MIN_WARM of the environment is used",
        "SYNC_CONCURRENCY is `0`, which is no number from 1 to 100",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!log.contains(KEY) && !log.contains("dtn_x") && !log.contains("EXECUTION_TIMEOUT"), "{log}");
    thread::scope(|scope| {
        let ended = scope.spawn(|| Chat::new(&server).bash("sleep 2"));
        let sandbox = running(&server);
        assert_eq!((&sandbox["limits"]["memory_bytes"], &sandbox["limits"]["cpus"]), (&json!(2_u64 << 30), &json!(2)), "{sandbox:#}");
        assert_eq!(ended.join().unwrap()["exit_code"], 0);
    });
    server.finish();
    // Another image than is here is nobody's sandbox.
    let server = boxbox().env("DAYTONA_IMAGE", "localhost/no-such-image:1").start();
    let answer = Chat::new(&server).post(&json!({"language": "bash", "path": "x", "code": "true"}));
    refused(&answer, 500, "internal_error", "failed to claim sandbox");
    server.finish();
}

#[test]
fn a_port_of_its_own_is_one_more_listener() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = boxbox().env("API_PORT", port.to_string()).start();
    let there = Client { address: ([127, 0, 0, 1], port).into(), key: None };
    assert_eq!(there.request("GET", "/health").send().status, 200);
    assert!(server.log().contains(&format!("Listening on http://0.0.0.0:{port}")), "{}", server.log());
    server.finish();
    // Without a key of boxbox's it is for this machine.
    let server = Setup::default().without_key().env("API_PORT", port.to_string()).start();
    assert!(server.log().contains(&format!("Listening on http://127.0.0.1:{port}")), "{}", server.log());
    server.finish();
}

#[test]
fn without_keys_no_page_of_another_origin_may_ask() {
    let server = Setup::default().without_key().env("CAISSON_AUTH", "none").start();
    let ask = |method: &str, target: &str| bare(&server).request(method, target).header("x-user-id", "u").header("x-chat-id", "c");
    let ran = ask("POST", "/execute").json(&json!({"language": "bash", "path": "x", "code": "echo fine"})).send().expect(200);
    assert_eq!(ran.json()["stdout"], "fine\n");
    for answer in [ran, ask("OPTIONS", "/execute").send(), ask("GET", "/health").send()] {
        assert!(answer.header("access-control-allow-origin").is_none(), "{:?}", answer.headers);
    }
    let page = ask("POST", "/execute").header("origin", "https://evil.example").json(&json!({})).send();
    assert_eq!(page.status, 403);
    server.finish();
}

#[test]
fn the_image_is_built_at_the_start_and_anew_when_it_was_edited() {
    let home = Home::new();
    let busybox = home.path().join("root");
    for directory in ["bin", "etc", "tmp", "usr/bin"] {
        fs::create_dir_all(busybox.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", busybox.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in ["sh", "cat", "mkdir"] {
        symlink("busybox", busybox.join("bin").join(name)).unwrap();
    }
    fs::write(busybox.join("bin/bash"), "#!/bin/sh\nexec /bin/sh \"$@\"\n").unwrap();
    fs::set_permissions(busybox.join("bin/bash"), fs::Permissions::from_mode(0o755)).unwrap();
    let tar = home.clean("tar").arg("-C").arg(&busybox).args(["--numeric-owner", "-cf", "-", "."]).output().unwrap().stdout;
    let directory = home.path().join("image");
    fs::create_dir(&directory).unwrap();
    let dockerfile = directory.join("Dockerfile");
    let write = |content: &str| {
        fs::write(&dockerfile, format!("FROM scratch\nADD root.tar /\nCOPY said /said\nWORKDIR /home/daytona\nENV SAID={content}\n"))
            .unwrap();
        fs::write(directory.join("said"), format!("{content}\n")).unwrap();
    };
    fs::write(directory.join("root.tar"), tar).unwrap();
    write("first");
    let mut server = boxbox().env("CAISSON_BOXBOX_DOCKERFILE", dockerfile.as_os_str()).start();
    let says = |server: &Server, expect: &str| {
        eventually("the image", Duration::from_secs(120), || {
            let result = Chat::new(server).run(&json!({"language": "bash", "path": "x", "code": "cat /said; echo $SAID; echo"}));
            (result["stdout"] == format!("{expect}\n{expect}\n\n")).then_some(())
        });
    };
    says(&server, "first");
    let log = server.log();
    assert!(log.contains("is being built; sandboxes are made of `host` until then") && log.contains("is built"), "{log}");
    server.stop();
    write("second");
    server.start_again();
    says(&server, "second");
    server.stop();
    // What cannot be built is told, and what was built before goes on.
    fs::write(&dockerfile, "FROM scratch\nVOLUME /x\n").unwrap();
    server.start_again();
    eventually("the failure", Duration::from_secs(60), || {
        server.log().contains("so sandboxes are made of what was built before").then_some(())
    });
    says(&server, "second");
    server.finish();
    home.finish();
}

#[test]
fn the_chat_tool_of_its_readme_runs() {
    let directory = Path::new(TOP).join("target/tools/ai-tool");
    assert!(directory.join("installed").exists(), "there is no {}; run `tools/ai-tool`", directory.display());
    let server = boxbox().start();
    let mut check = server.home().clean("node");
    check.current_dir(&directory).args(["node_modules/typescript/bin/tsc", "--noEmit"]);
    let _types_are_right = Ran::from(check.output().expect("it can be started")).exited(0);
    let mut command = server.home().clean("node");
    command.current_dir(&directory).args(["--test", "dist/test/tool.test.js"]);
    command.env("SANDBOX_URL", format!("http://{}", server.client.address)).env("SANDBOX_API_KEY", KEY);
    let ran = command.output().expect("it can be started");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(
        ran.status.success() && out.contains("# fail 0") && out.contains("# pass 5"),
        "{:?}\n{out}\n{err}\n{}",
        ran.status,
        server.log()
    );
    server.finish();
}
