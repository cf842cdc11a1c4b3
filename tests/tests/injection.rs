//! Text that wants to be more than text: lines of a log, headers of an answer, commands for a terminal.

use std::{fs, time::Duration};

use caisson_tests::{Answer, Ran, Server, Setup, Value, encode_path, eventually, json, kill_nine, needs, program, raw};

/// A line break with something that looks like a line of a log, and what terminals obey: clear, title, colour, in seven bits and in eight.
const HOSTILE: &str = "\r\n2026-01-01T00:00:00.000000Z ERROR forged\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\u{8}";
/// What reorders the text around it.
const REORDER: &str = "abc\u{202e}fdp.exe";

/// Fails when a terminal would obey something of it.
#[track_caller]
fn is_harmless(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let harmful = text.chars().find(|c| c.is_control() && *c != '\n' || ('\u{202a}'..='\u{202e}').contains(c));
    assert!(harmful.is_none(), "{what}: {harmful:?} is in {text:?}");
}

#[track_caller]
fn message_is_harmless(answer: &Answer) {
    let body = answer.json();
    let message = body["error"]["message"].as_str().expect("an error has a message");
    assert!((400..500).contains(&answer.status), "{} {message}", answer.status);
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.len() < 8 << 10, "a message of {} bytes", message.len());
}

/// Requests that put the text wherever a client can put text. All are refused.
fn refusals(server: &Server, text: &str) -> Vec<Answer> {
    let sandbox = server.sandbox(&json!({"metadata": {"label": text}, "env": {"A": text.replace('\0', "")}}));
    let encoded = encode_path(text.as_bytes());
    let mut answers: Vec<Answer> = [
        json!({"language": text, "code": "x"}),
        json!({"cmd": [text]}),
        json!({"shell": "true", "cwd": text}),
        json!({"shell": "true", "image": text}),
        json!({"shell": "true", "network": text}),
        json!({"shell": "true", "storage": text}),
        json!({"shell": "true", "user": text}),
        json!({"shell": "true", "env": {format!("{text}=\0"): "x"}}),
        json!({"shell": "true", "env": {format!("CAISSON_{text}"): "x"}}),
        json!({"shell": "true", "files": [{"path": format!("/proc/{text}"), "content": ""}]}),
        json!({"shell": "true", "files": [{"path": text, "content": ""}, {"path": text, "content": ""}]}),
        json!({"shell": "true", "files": [{"path": "a", "content_base64": text}]}),
        json!({"shell": "true", "files": [{"path": "a", "content": "", "mode": text}]}),
        json!({"shell": "true", text: 1}),
        json!({"shell": "true", "limits": {text: 1}}),
        json!({"shell": "true", "timeout_s": text}),
        json!({text: text}),
        json!(text),
    ]
    .iter()
    .map(|body| server.post("/v1/run", body))
    .collect();
    answers.extend([
        server.post("/v1/sandboxes", &json!({"name": text})),
        server.post("/v1/sandboxes", &json!({"hostname": text})),
        server.get(&format!("/v1/sandboxes/{encoded}")),
        server.get(&format!("/v1/executions/{encoded}/output")),
        server.get(&format!("/{encoded}")),
        server.get(&format!("/v1/sandboxes?{encoded}=1")),
        server.get(&format!("/v1/sandboxes?state={encoded}")),
        server.get(&format!("/v1/sandboxes?limit={encoded}")),
        sandbox.read(text.as_bytes()),
        sandbox.read(format!("/dev/null/{text}").as_bytes()),
        sandbox.write(format!("/proc/{text}").as_bytes(), b""),
        sandbox.request("GET", &format!("/files/list?path={encoded}")).send(),
        sandbox.request("DELETE", &format!("/files?path={encoded}")).send(),
        sandbox.request("PUT", &format!("/files?path=a&mode={encoded}")).bytes("").send(),
        sandbox.request("POST", "/exec").bytes(text).send(),
    ]);
    answers
}

#[test]
fn r6_5_messages_are_harmless_and_no_header_is_added() {
    let server = Server::start();
    for text in [HOSTILE, REORDER, "a\r\nset-cookie: owned=1\r\n\r\n<script>", &HOSTILE.repeat(500)] {
        for answer in refusals(&server, text) {
            // What is too long for an address does not come far.
            if answer.status == 414 || answer.status == 431 {
                continue;
            }
            message_is_harmless(&answer);
            assert!(answer.header("set-cookie").is_none(), "{:?}", answer.headers);
        }
    }
    // The one header that a client may choose.
    for (id, kept) in [("mine-1.2_3", true), ("a b", false), ("\u{9b}31m", false), ("a;b", false), (&"x".repeat(1000), false)] {
        let answer = server.request("GET", "/healthz").header("x-request-id", id).send().expect(200);
        assert_eq!(answer.header("x-request-id") == Some(id), kept, "{id}");
    }
    // Names of files come back as headers nowhere, and in bodies as JSON.
    let sandbox = server.sandbox(&json!({}));
    let name = "a\r\nset-cookie: owned=1\r\n\r\n";
    sandbox.write(name.as_bytes(), b"0123456789").expect(200);
    for range in ["", "bytes=2-4", "bytes=100-"] {
        let target = format!("/files?path={}", encode_path(name.as_bytes()));
        let answer = sandbox.request("GET", &target).header("range", range).send();
        assert!(answer.header("set-cookie").is_none(), "{:?}", answer.headers);
    }
    let listed = sandbox.request("GET", "/files/list?path=.").send().expect(200).json();
    assert_eq!(listed["data"][0]["path"], format!("/workspace/{name}"));
    server.finish();
}

#[test]
fn r6_5_no_line_of_the_log_is_forged() {
    for format in ["text", "json"] {
        let mut server = Setup::default().env("CAISSON_LOG", "debug").env("CAISSON_LOG_FORMAT", format).start();
        drop(refusals(&server, HOSTILE));
        let address = server.client.address;
        let key = server.client.key.clone().unwrap();
        for bytes in [
            format!("GET /\u{9b}31m\u{202e} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"),
            format!("F\u{1b}RGED /v1/run HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"),
            format!(
                "FORGED%0A /v1/run HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nx-request-id: {key}\u{1b}[2J\r\nconnection: close\r\n\r\n"
            ),
            format!("GET /v1/run%0d%0a2026-01-01%20ERROR%20forged HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"),
        ] {
            drop(raw(address, bytes.as_bytes()));
        }
        // What sandboxes themselves say: programs, and an agent that dies in the middle.
        let sandbox = server.sandbox(&json!({}));
        drop(sandbox.exec(&json!({"cmd": ["sh", "-c", "printf \"$0\"; printf \"$0\" >&2; exit 3", HOSTILE]})));
        kill_nine(sandbox.agent().pid);
        eventually("its end", Duration::from_secs(10), || (sandbox.get().status == 410).then_some(()));
        assert!(server.stop().success());
        let log = fs::read_to_string(server.home().path().join("log")).expect("a log is UTF-8");
        is_harmless("the log", log.as_bytes());
        assert!(log.contains("was answered with 404") && log.lines().count() > 20, "the log tells nothing: {log}");
        for line in log.lines() {
            let ours = line.starts_with("caisson: ");
            let whole = match format {
                "json" => line.parse::<Value>().is_ok_and(|value| value["timestamp"].is_string()),
                _ => {
                    line.len() > 30
                        && line.as_bytes()[10] == b'T'
                        && line[19..].starts_with('.')
                        && ["Z  INFO ", "Z DEBUG ", "Z  WARN ", "Z ERROR "].iter().any(|level| line[26..].starts_with(level))
                }
            };
            assert!(ours || whole, "a line that is not ours: {line}");
            assert!(!line.starts_with("2026-01-01T00:00:00.000000Z"), "a forged line: {line}");
        }
        server.finish();
    }
}

/// A command against the server, its output in pipes.
fn caisson(server: &Server, arguments: &[&str]) -> Ran {
    let mut command = server.home().command(arguments);
    command.env("CAISSON_SERVER", format!("http://{}", server.client.address)).env("CAISSON_API_KEY", server.client.key.clone().unwrap());
    command.output().unwrap().into()
}

/// The same with its output at a terminal. The words go by way of the environment, so that none of them has to be quoted.
fn at_terminal(server: &Server, arguments: &[&str]) -> String {
    needs("script", "bsdutils");
    let words: Vec<String> = (0..arguments.len()).map(|n| format!("\"$WORD{n}\"")).collect();
    let mut command = server.home().clean("script");
    command.args(["--quiet", "--return", "--command", &format!("exec \"$PROGRAM\" {}", words.join(" ")), "/dev/null"]);
    command.env("PROGRAM", program()).env("SHELL", "/bin/sh").env("TERM", "xterm-256color");
    command.env("CAISSON_SERVER", format!("http://{}", server.client.address)).env("CAISSON_API_KEY", server.client.key.clone().unwrap());
    command.envs(arguments.iter().enumerate().map(|(n, word)| (format!("WORD{n}"), word)));
    String::from_utf8_lossy(&command.output().expect("script can be started").stdout).into_owned()
}

#[test]
fn r6_5_the_command_line_passes_nothing_on_to_a_terminal() {
    let server = Server::start();
    let hostile = HOSTILE.trim_start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    // Names that a program has chosen.
    let make = "import os, sys\nos.makedirs('tree')\nfor name in sys.argv[1:]:\n  os.symlink('x', 'tree/' + name)\n  os.mkfifo('tree/fifo' + name)";
    let made = sandbox.exec(&json!({"language": "python", "code": make, "args": [hostile, REORDER]}));
    assert_eq!(made["exit_code"], 0, "{made:#}");
    let here = server.home().path().join("copy").display().to_string();
    let in_box = format!("box:{hostile}");
    let cases: Vec<Vec<&str>> = vec![
        vec!["exec", "box", "--", hostile],
        vec!["exec", hostile, "--", "true"],
        vec!["exec", "box", "-l", hostile, "-c", "x"],
        vec!["exec", "box", "--cwd", hostile, "--", "true"],
        vec!["rm", hostile, REORDER],
        vec!["logs", hostile],
        vec!["ls", "--name", hostile],
        vec!["ls", "--metadata", hostile],
        vec!["ls", "--limit", hostile],
        vec!["new", "--name", hostile],
        vec!["new", "--image", hostile],
        vec!["new", "--memory", hostile],
        vec!["new", "--user", REORDER],
        vec!["cp", &in_box, "-"],
        vec!["cp", "box:tree", &here],
        vec!["cp", hostile, "box:x"],
        vec!["cp", hostile, REORDER],
        vec!["run", "--image", hostile, "--", "true"],
        vec!["run", "-l", hostile, "-c", "x"],
        vec!["run", "--", hostile],
        vec!["run", hostile],
        vec!["run", "--file", hostile, "--", "true"],
        vec!["run", "--timeout", hostile, "--", "true"],
        vec!["ls", "--server", hostile],
        vec!["ls", "--key-file", hostile],
        vec!["serve", "--listen", hostile],
        vec!["serve", "--config", hostile],
        vec!["serve", "--log", hostile],
        vec![hostile],
        vec!["ls", hostile],
        vec!["--forged", hostile],
    ];
    for arguments in &cases {
        let ran = caisson(&server, arguments);
        assert!(!ran.status.success() || arguments.contains(&"--name"), "{arguments:?}: {}{}", ran.out(), ran.err());
        is_harmless(&format!("{arguments:?}"), &ran.stdout);
        is_harmless(&format!("{arguments:?}"), &ran.stderr);
        // At a terminal there may be colours of our own, and a carriage return in front of each line break.
        let shown = at_terminal(&server, arguments);
        assert!(
            ran.status.success() || shown.contains("caisson") || shown.contains("error"),
            "{arguments:?} says nothing at a terminal: {shown:?}"
        );
        for obeyed in
            ["\u{1b}[2J", "\u{1b}]0;", "\u{9b}31m", "\u{7}", "\u{7f}", "\u{8}", "\u{202e}", "\n2026-01-01T00:00:00.000000Z ERROR forged"]
        {
            assert!(!shown.contains(obeyed), "{arguments:?}: {obeyed:?} is in {shown:?}");
        }
    }
    // What is printed as JSON has the text, in a form that no terminal obeys.
    for text in [hostile, REORDER] {
        let ran = caisson(&server, &["exec", "box", "--json", "--", "printf", "%s", text]).exited(0);
        is_harmless("JSON", &ran.stdout);
        assert_eq!(ran.out().trim().parse::<Value>().unwrap()["stdout"], text);
    }
    let _made = server.sandbox(&json!({"metadata": {"label": format!("{hostile}{REORDER}")}}));
    let listed = caisson(&server, &["ls", "--json"]).exited(0);
    is_harmless("JSON", &listed.stdout);
    assert!(listed.out().contains("fdp.exe"));
    server.finish();
}
