//! The commands that mirror the API: `kill`, `stdin`, `update`, `fs`, `context`.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Write},
    os::unix::ffi::OsStringExt,
    process::{Child, Stdio},
    time::Duration,
};

use caisson_tests::{Ran, Server, Value, eventually, json};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn caisson<S: AsRef<OsStr>>(server: &Server, arguments: &[S]) -> Ran {
    server.command(arguments).output().unwrap().into()
}

/// What a command prints with `--json`.
#[track_caller]
fn object(server: &Server, arguments: &[&str]) -> Value {
    caisson(server, &[arguments, &["--json"]].concat()).exited(0).out().trim().parse().unwrap()
}

/// The same with something on standard input.
#[track_caller]
fn fed(server: &Server, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = server.home().start(server.command(arguments).stdin(Stdio::piped()));
    // Whether the program takes it all is its own affair.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap().into()
}

#[track_caller]
fn refused<S: AsRef<OsStr>>(server: &Server, arguments: &[S], word: &str) {
    let ran = caisson(server, arguments).exited(1);
    assert!(ran.out().is_empty() && ran.err().starts_with("caisson: ") && ran.err().contains(word), "{}{}", ran.out(), ran.err());
}

/// A program that has said that it is ready.
#[track_caller]
fn ready(server: &Server, shell: &str) -> String {
    let id = caisson(server, &["exec", "-d", "box", "--", "sh", "-c", shell]).exited(0).out().trim().to_owned();
    let output = format!("/v1/executions/{id}/output");
    eventually("the program to be ready", SOON, || Some(()).filter(|()| server.get(&output).expect(200).text().contains("ready")));
    id
}

#[test]
fn signals_are_sent() {
    let server = Server::start();
    let _made = caisson(&server, &["new", "--name", "box"]).exited(0);
    let waits = "echo ready; while :; do sleep 0.1; done";

    let (first, second) = (ready(&server, waits), ready(&server, waits));
    assert_eq!(caisson(&server, &["kill", &first, &second]).exited(0).out(), format!("{first}\n{second}\n"));
    for id in [&first, &second] {
        let record = server.ended(id, SOON);
        assert_eq!((&record["status"], &record["signal"]), (&json!("killed"), &json!(15)), "{record}");
    }
    for (signal, code) in [("INT", 7), ("sigusr1", 8), ("12", 9)] {
        let id = ready(&server, &format!("trap 'exit 7' INT; trap 'exit 8' USR1; trap 'exit 9' USR2; {waits}"));
        let _sent = caisson(&server, &["kill", "-s", signal, &id]).exited(0);
        assert_eq!(server.ended(&id, SOON)["exit_code"], json!(code), "{signal}");
    }
    let id = ready(&server, &format!("trap '' TERM; {waits}"));
    let _sent = caisson(&server, &["kill", "--all", &id]).exited(0);
    let record = server.ended(&id, SOON);
    assert_eq!((&record["status"], &record["signal"]), (&json!("killed"), &json!(9)), "{record}");

    refused(&server, &["kill", &id], "ended");
    refused(&server, &["kill", "exe0000000000000000000000000"], "does not exist");
    refused(&server, &["kill", "nonsense"], "caisson ps");
    let last = ready(&server, waits);
    let ran = caisson(&server, &["kill", "nonsense", &last]).exited(1);
    assert_eq!(ran.out(), format!("{last}\n"), "the others have their turn");
    let ran = caisson(&server, &["kill", "-s", "NOPE", &id]).exited(2);
    assert!(ran.err().contains("SIGTERM"), "{}", ran.err());
    server.finish();
}

#[test]
fn directories_are_made_listed_and_changed() {
    let server = Server::start();
    let _made = caisson(&server, &["new", "--name", "box"]).exited(0);
    let sandbox = "box";
    assert_eq!(caisson(&server, &["fs", "mkdir", "-p", sandbox, "out/a"]).exited(0).out(), "");
    let _again = caisson(&server, &["fs", "mkdir", "-p", sandbox, "out/a"]).exited(0);
    refused(&server, &["fs", "mkdir", sandbox, "out/a"], "out/a");
    let made = object(&server, &["fs", "mkdir", "-m", "700", sandbox, "out/b"]);
    assert_eq!((&made["path"], &made["mode"]), (&json!("/workspace/out/b"), &json!(0o700)));

    let _written = caisson(&server, &["exec", sandbox, "--", "sh", "-c", "printf hello > out/a/f; ln -s a/f out/link"]).exited(0);
    let listed = caisson(&server, &["fs", "ls", sandbox, "out"]).exited(0).out();
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["MODE", "OWNER", "SIZE", "MODIFIED", "PATH"]);
    let shown: Vec<_> = lines[1..].iter().map(|line| (line[0], line[4..].join(" "))).collect();
    let expect = [("drwxr-xr-x", "/workspace/out/a"), ("drwx------", "/workspace/out/b"), ("lrwxrwxrwx", "/workspace/out/link -> a/f")];
    assert_eq!(shown, expect.map(|(mode, path)| (mode, path.to_owned())));
    let all = "/workspace/out/a\n/workspace/out/a/f\n/workspace/out/b\n/workspace/out/link\n";
    assert_eq!(caisson(&server, &["fs", "ls", sandbox, "out", "-r", "-q"]).exited(0).out(), all);
    let ran = caisson(&server, &["fs", "ls", sandbox, "out", "-r", "-q", "--limit", "2"]).exited(0);
    assert_eq!(ran.out(), "/workspace/out/a\n/workspace/out/a/f\n");
    assert!(ran.err().contains("--limit"), "{}", ran.err());
    assert_eq!(object(&server, &["fs", "ls", sandbox, "out"])["data"].as_array().unwrap().len(), 3);

    let stat = object(&server, &["fs", "stat", sandbox, "out/a/f"]);
    assert_eq!((&stat["kind"], &stat["size"]), (&json!("file"), &json!(5)));
    assert!(caisson(&server, &["fs", "stat", sandbox, "out/a/f"]).exited(0).out().contains("/workspace/out/a/f"));
    refused(&server, &["fs", "stat", sandbox, "out/nothing"], "out/nothing");

    let _copied = caisson(&server, &["fs", "cp", sandbox, "out", "copy"]).exited(0);
    assert_eq!(caisson(&server, &["exec", sandbox, "--", "cat", "copy/link"]).exited(0).out(), "hello");
    let _moved = caisson(&server, &["fs", "mv", sandbox, "copy/a/f", "deep/er/g"]).exited(0);
    refused(&server, &["fs", "mv", sandbox, "out/a/f", "deep/er/g"], "deep/er/g");
    let moved = object(&server, &["fs", "mv", "--replace", sandbox, "out/a/f", "deep/er/g"]);
    assert_eq!(moved["path"], "/workspace/deep/er/g");

    refused(&server, &["fs", "rm", sandbox, "deep"], "deep");
    let ran = caisson(&server, &["fs", "rm", "-r", sandbox, "nothing", "deep", "copy"]).exited(1);
    assert_eq!(ran.out(), "deep\ncopy\n");
    assert!(ran.err().contains("nothing"), "{}", ran.err());
    assert_eq!(caisson(&server, &["fs", "ls", sandbox, "-q"]).exited(0).out(), "/workspace/out\n");
    refused(&server, &["fs", "ls", "no-such"], "no-such");
    server.finish();
}

#[test]
fn files_are_found_by_names_and_contents() {
    let server = Server::start();
    let _made = caisson(&server, &["new", "--name", "box"]).exited(0);
    let files = "mkdir -p src/deep; printf 'one\\nTwo\\nthree\\n' > src/a.c; echo 'two[0]' > src/deep/b.c; echo two > src/c.txt";
    let _written = caisson(&server, &["exec", "box", "--", "sh", "-c", files]).exited(0);
    assert_eq!(caisson(&server, &["fs", "glob", "box", "**/*.c", "-q"]).exited(0).out(), "/workspace/src/a.c\n/workspace/src/deep/b.c\n");
    assert_eq!(caisson(&server, &["fs", "glob", "box", "*.c", "src", "-q"]).exited(0).out(), "/workspace/src/a.c\n");
    refused(&server, &["fs", "glob", "box", "[", "-q"], "pattern");

    let found = |arguments: &[&str]| caisson(&server, &[&["fs", "grep", "box"][..], arguments].concat()).exited(0).out();
    assert_eq!(found(&["two", "--include", "*.c"]), "/workspace/src/deep/b.c:1:two[0]\n");
    assert_eq!(found(&["-i", "^two$", "--exclude", "*.txt"]), "/workspace/src/a.c:2:Two\n");
    assert_eq!(found(&["-F", "o[0]"]), "/workspace/src/deep/b.c:1:two[0]\n");
    let around = "/workspace/src/a.c-1-one\n/workspace/src/a.c:2:Two\n/workspace/src/a.c-3-three\n";
    assert_eq!(found(&["Two", "-C", "1", "src/a.c"]), around);
    assert_eq!(found(&["nowhere"]), "");
    let ran = caisson(&server, &["fs", "grep", "box", "t", "--max-matches", "1"]).exited(0);
    assert!(ran.out().lines().count() == 1 && ran.err().contains("max_matches"), "{}", ran.err());
    assert_eq!(object(&server, &["fs", "grep", "box", "wo"])["data"].as_array().unwrap().len(), 3);
    server.finish();
}

#[test]
fn r6_5_names_and_texts_do_not_reach_the_terminal_as_more_than_text() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let name = b"bad\xff\x1b[2J";
    sandbox.write(name, b"find \x1b]0;me\x07\n").expect(200);
    let shown = "/workspace/bad\\xff\\u{1b}[2J";
    assert_eq!(caisson(&server, &["fs", "ls", &sandbox.id, "-q"]).exited(0).out(), format!("{shown}\n"));
    assert!(caisson(&server, &["fs", "ls", &sandbox.id]).exited(0).out().ends_with(&format!("  {shown}\n")));
    let found = caisson(&server, &["fs", "grep", &sandbox.id, "find"]).exited(0).out();
    assert_eq!(found, format!("{shown}:1:find \\u{{1b}}]0;me\\u{{7}}\n"));

    let path = OsString::from_vec(name.to_vec());
    let arguments = [OsStr::new("fs"), OsStr::new("rm"), OsStr::new(&sandbox.id), &path];
    assert_eq!(caisson(&server, &arguments).exited(0).out(), "bad\\xff\\u{1b}[2J\n", "the bytes are those of the file");
    let ran = caisson(&server, &arguments).exited(1);
    assert!(!ran.stderr.contains(&0x1b), "{}", ran.err());
    assert_eq!(caisson(&server, &["fs", "ls", &sandbox.id, "-q"]).exited(0).out(), "");
    server.finish();
}

#[test]
fn what_happens_to_files_is_told() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = caisson(&server, &["fs", "mkdir", &sandbox.id, "w"]).exited(0);
    let watch = |arguments: &[&str]| -> (Child, BufReader<_>) {
        let mut child = server.home().start(&mut server.command([&["fs", "watch", "-r", &sandbox.id, "w"][..], arguments].concat()));
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains("ready") && first.contains("/workspace/w"), "{first}");
        (child, lines)
    };
    let (mut plain, plain_lines) = watch(&[]);
    let (mut objects, object_lines) = watch(&["--json"]);
    sandbox.write(b"w/x", b"x").expect(200);
    let _moved = caisson(&server, &["fs", "mv", &sandbox.id, "w/x", "w/y"]).exited(0);
    let _removed = caisson(&server, &["fs", "rm", "-r", &sandbox.id, "w"]).exited(0);
    let told: Vec<String> = plain_lines.lines().map(Result::unwrap).collect();
    for line in ["moved     /workspace/w/x -> /workspace/w/y", "deleted   /workspace/w/y"] {
        assert!(told.iter().any(|told| told == line), "no `{line}` in {told:#?}");
    }
    assert_eq!(told.last().unwrap(), "gone      /workspace/w");
    let told: Vec<Value> = object_lines.lines().map(|line| line.unwrap().parse().unwrap()).collect();
    let moved = json!({"event": "moved", "path": "/workspace/w/x", "to": "/workspace/w/y", "directory": false});
    assert!(told.contains(&moved), "{told:#?}");
    assert_eq!(told.last().unwrap()["event"], "gone");
    assert!(plain.wait().unwrap().success() && objects.wait().unwrap().success());
    refused(&server, &["fs", "watch", &sandbox.id, "w"], "w");
    server.finish();
}

#[test]
fn contexts_are_made_used_and_ended() {
    let server = Server::start();
    let _made = caisson(&server, &["new", "--name", "box"]).exited(0);
    let id =
        caisson(&server, &["context", "new", "box", "-l", "python", "--driver", "builtin", "-e", "A=b"]).exited(0).out().trim().to_owned();
    assert!(id.starts_with("ctx"), "{id}");
    let run = |code: &str| caisson(&server, &["context", "run", "box", &id, "-c", code]);
    assert_eq!(run("import os; x = 6; print(os.environ['A'])").exited(0).out(), "b\n");
    assert_eq!(run("x * 7").exited(0).out(), "42\n", "what was before is there");
    assert_eq!(fed(&server, &["context", "run", "box", &id], b"x + 1").exited(0).out(), "7\n");
    let ran = run("1 / 0").exited(1);
    assert!(ran.err().contains("ZeroDivisionError"), "{}", ran.err());
    let result = object(&server, &["context", "run", "box", &id, "-c", "x"]);
    assert_eq!((&result["status"], &result["results"][0]["data"]["text/plain"]), (&json!("ok"), &json!("6")));
    let listed = caisson(&server, &["context", "ls", "box"]).exited(0).out();
    assert!(listed.starts_with("CONTEXT ") && listed.contains(&id) && listed.contains("idle"), "{listed}");

    let sleeps = ["context", "run", "box", &id, "-c", "import time; time.sleep(1000)", "--json", "--timeout", "none"];
    let sleeping = server.home().start(&mut server.command(sleeps));
    eventually("the code to run", SOON, || Some(()).filter(|()| object(&server, &["context", "ls", "box"])["data"][0]["state"] == "busy"));
    assert_eq!(caisson(&server, &["context", "interrupt", "box", &id]).exited(0).out(), format!("{id}\n"));
    let slept: Value = Ran::from(sleeping.wait_with_output().unwrap()).exited(0).out().trim().parse().unwrap();
    assert_eq!(slept["status"], "interrupted");

    assert_eq!(caisson(&server, &["context", "restart", "box", &id]).exited(0).out(), format!("{id}\n"));
    assert!(run("x").exited(1).err().contains("NameError"));
    assert_eq!(caisson(&server, &["context", "rm", "box", &id]).exited(0).out(), format!("{id}\n"));
    assert_eq!(object(&server, &["context", "ls", "box"]), json!({"data": []}));
    refused(&server, &["context", "rm", "box", &id], "does not exist");
    refused(&server, &["context", "interrupt", "box", "nonsense"], "caisson context ls");
    refused(&server, &["context", "new", "box", "-l", "../sh"], "language");
    server.finish();
}

#[test]
fn sandboxes_get_other_times_and_labels() {
    let server = Server::start();
    let id = caisson(&server, &["new", "--name", "box", "--metadata", "old=1"]).exited(0).out().trim().to_owned();
    let now = || server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    assert_eq!(caisson(&server, &["update", "box", "--lifetime", "none", "--idle-timeout", "1h"]).exited(0).out(), format!("{id}\n"));
    let sandbox = now();
    assert_eq!((&sandbox["lifetime_s"], &sandbox["idle_timeout_s"]), (&Value::Null, &json!(3600)));
    assert_eq!(sandbox["metadata"], json!({"old": "1"}), "what is not named stays");
    let changed = object(&server, &["update", &id, "--metadata", "a=1", "--metadata", "b=2"]);
    assert_eq!((&changed["metadata"], &changed["idle_timeout_s"]), (&json!({"a": "1", "b": "2"}), &json!(3600)));
    assert_eq!(now()["metadata"], changed["metadata"]);
    let _nothing = caisson(&server, &["update", "box"]).exited(2);
    refused(&server, &["update", "no-such", "--lifetime", "1h"], "no-such");
    server.finish();
}

#[test]
fn programs_in_the_background_get_input() {
    let server = Server::start();
    let _made = caisson(&server, &["new", "--name", "box"]).exited(0);
    let start =
        |program: &[&str]| caisson(&server, &[&["exec", "-d", "-i", "box", "--"][..], program].concat()).exited(0).out().trim().to_owned();
    let id = start(&["sort"]);
    let _first = fed(&server, &["stdin", &id, "--keep-open"], b"c\na\n").exited(0);
    assert_eq!(server.execution(&id)["status"], "running");
    let _last = fed(&server, &["stdin", &id], b"b\n").exited(0);
    assert_eq!(caisson(&server, &["logs", &id, "--follow"]).exited(0).out(), "a\nb\nc\n");
    refused(&server, &["stdin", &id], "ended");

    let id = start(&["sha256sum"]);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1_000_003).collect();
    let _fed = fed(&server, &["stdin", &id], &bytes).exited(0);
    let there = caisson(&server, &["logs", &id, "--follow"]).exited(0).out();
    let here = server.home().path().join("bytes");
    std::fs::write(&here, &bytes).unwrap();
    let sum = Ran::from(server.home().clean("sha256sum").stdin(std::fs::File::open(&here).unwrap()).output().unwrap()).exited(0);
    assert_eq!(there, sum.out());
    std::fs::remove_file(here).unwrap();

    let deaf = ready(&server, "echo ready; sleep 1000");
    refused(&server, &["stdin", &deaf], "standard input");
    refused(&server, &["stdin", "nonsense"], "caisson exec -d -i");
    server.finish();
}
