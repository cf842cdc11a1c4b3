//! The commands that talk to a server: `new`, `exec`, `ls`, `rm`, `cp`, `logs`, `version`.

use std::{fs, io::Write, process::Stdio};

use caisson_tests::{Ran, Server, Value, json};

/// A command against this server.
#[track_caller]
fn caisson(server: &Server, arguments: &[&str]) -> Ran {
    with(server, arguments, b"")
}

#[track_caller]
fn with(server: &Server, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = server.home().start(server.command(arguments).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output.into()
}

#[track_caller]
fn new(server: &Server, arguments: &[&str]) -> String {
    let id = caisson(server, &[&["new"], arguments].concat()).exited(0).out().trim().to_owned();
    assert!(id.starts_with("sbx") && id.len() == 28, "{id}");
    id
}

#[test]
fn sandboxes_are_made_used_listed_and_removed() {
    let server = Server::start();
    let id = new(&server, &["--name", "box"]);
    let other = new(&server, &[]);
    let ran = caisson(&server, &["exec", &id, "--", "sh", "-c", "echo out; echo err >&2; exit 6"]).exited(6);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), ("out\n", "err\n"));
    assert_eq!(caisson(&server, &["exec", &id, "-l", "python", "-c", "print(2 + 2)"]).exited(0).out(), "4\n");
    assert_eq!(caisson(&server, &["exec", "box", "--", "hostname"]).exited(0).out(), "sandbox\n", "by name as well");

    let listed = caisson(&server, &["ls"]).exited(0).out();
    assert!(listed.contains(&id) && listed.contains("box") && listed.contains(&other) && listed.contains("running"), "{listed}");
    let page: Value = caisson(&server, &["ls", "--json"]).exited(0).out().trim().parse().unwrap();
    assert!(page.to_string().contains(&id), "{page:#}");

    let _removed = caisson(&server, &["rm", &id, &other]).exited(0);
    for id in [&id, &other] {
        server.get(&format!("/v1/sandboxes/{id}")).refused(410, "gone");
    }
    assert!(!caisson(&server, &["ls"]).exited(0).out().contains(&id));
    let ran = caisson(&server, &["exec", &id, "--", "true"]).exited(125);
    assert!(ran.err().contains("deleted"), "{}", ran.err());
    let ran = caisson(&server, &["rm", "no-such"]).exited(1);
    assert!(ran.err().contains("no-such"), "{}", ran.err());
    server.finish();
}

#[test]
fn exec_passes_input_and_tells_how_it_ended() {
    let server = Server::start();
    let id = new(&server, &[]);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1_000_000).collect();
    assert!(with(&server, &["exec", &id, "--", "cat"], &bytes).exited(0).stdout == bytes);
    let _timed_out = caisson(&server, &["exec", "--timeout", "0.3", &id, "--", "sleep", "100"]).exited(124);
    let _signalled = caisson(&server, &["exec", &id, "--", "sh", "-c", "kill -SEGV $$"]).exited(139);
    // More than a log keeps, as fast as it can be made: what is passed on waits for whoever takes it.
    let flood = caisson(&server, &["exec", &id, "--", "head", "-c", "150000000", "/dev/zero"]).exited(0);
    assert_eq!(flood.stdout.len(), 150_000_000);
    let result: Value = caisson(&server, &["exec", "--json", &id, "--", "echo", "x"]).exited(0).out().trim().parse().unwrap();
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("x\n"), &json!(0)));
    server.finish();
}

#[test]
fn files_are_copied_both_ways() {
    let server = Server::start();
    let id = new(&server, &[]);
    let home = server.home().path().to_owned();
    let bytes: Vec<u8> = (0..=255u8).cycle().take(5_000_000).collect();
    fs::write(home.join("there"), &bytes).unwrap();
    let _there = caisson(&server, &["cp", home.join("there").to_str().unwrap(), &format!("{id}:sub/copy")]).exited(0);
    assert_eq!(caisson(&server, &["exec", &id, "--", "sh", "-c", "wc -c < sub/copy"]).exited(0).out(), "5000000\n");
    let _back = caisson(&server, &["cp", &format!("{id}:/workspace/sub/copy"), home.join("back").to_str().unwrap()]).exited(0);
    assert!(fs::read(home.join("back")).unwrap() == bytes);
    for (arguments, word) in [
        (["cp".to_owned(), format!("{id}:nothing"), home.join("x").display().to_string()], "nothing"),
        (["cp".to_owned(), home.join("missing").display().to_string(), format!("{id}:x")], "missing"),
    ] {
        let ran = caisson(&server, &arguments.each_ref().map(String::as_str)).exited(1);
        assert!(ran.err().contains(word), "{}", ran.err());
    }
    assert!(!home.join("x").exists(), "nothing half-made");
    server.finish();
}

#[test]
fn logs_shows_what_a_program_said() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let result = sandbox.exec(&json!({"shell": "echo out; echo err >&2"}));
    let id = result["id"].as_str().unwrap();
    let ran = caisson(&server, &["logs", id]).exited(0);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), ("out\n", "err\n"));
    let ran = caisson(&server, &["logs", "exe0000000000000000000000000"]).exited(1);
    assert!(ran.err().contains("does not exist"), "{}", ran.err());
    server.finish();
}

#[test]
fn a_server_that_is_not_there_or_does_not_know_the_key_is_said() {
    let server = Server::start();
    let mut command = server.home().command(["ls"]);
    let ran: Ran = command.env("CAISSON_SERVER", "http://127.0.0.1:9").env("CAISSON_API_KEY", "k").output().unwrap().into();
    assert!(ran.status.code() == Some(1) && ran.err().contains("127.0.0.1:9") && ran.err().contains("caisson serve"), "{}", ran.err());
    let mut command = server.home().command(["ls"]);
    let ran: Ran =
        command.env("CAISSON_SERVER", format!("http://{}", server.client.address)).env("CAISSON_API_KEY", "wrong").output().unwrap().into();
    assert!(ran.status.code() == Some(1) && ran.err().contains("key"), "{}", ran.err());
    server.finish();
}

#[test]
fn the_version_is_told() {
    let server = Server::start();
    let text = caisson(&server, &["version"]).exited(0).out();
    assert!(text.starts_with("caisson ") && text.contains('.'), "{text}");
    let object: Value = caisson(&server, &["version", "--json"]).exited(0).out().trim().parse().unwrap();
    assert_eq!(object["name"], "caisson");
    let _help = caisson(&server, &["--help"]).exited(0);
    let _usage = caisson(&server, &["no-such-command"]).exited(2);
    server.finish();
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let server = Server::start();
    let made = caisson(&server, &["key", "add", "--tenant", "team", "--note", "robots"]).exited(0);
    let key = made.out().trim().to_owned();
    let id = made.err().split_whitespace().find(|word| word.starts_with("key0") || word.len() == 28).unwrap().to_owned();
    assert!(key.starts_with("caisson_") && made.err().contains("team") && !made.err().contains(&key), "{}", made.err());
    let client = caisson_tests::Client { key: Some(key.clone()), ..server.client.clone() };
    assert_eq!(client.request("GET", "/v1/whoami").send().expect(200).json()["tenant"]["name"], "team");
    let listed = caisson(&server, &["key", "ls"]).exited(0).out();
    assert!(listed.contains(&id) && listed.contains("robots") && !listed.contains(&key), "{listed}");
    let page: Value = caisson(&server, &["key", "ls", "--tenant", "other", "--json"]).exited(0).out().trim().parse().unwrap();
    assert_eq!(page["data"], json!([]));

    let set = caisson(&server, &["tenant", "set", "team", "--sandboxes", "5", "--memory", "2G"]).exited(0).out();
    assert!(set.contains("0 / 5") && set.contains("0 bytes / 2 GiB"), "{set}");
    assert!(caisson(&server, &["tenant", "ls"]).exited(0).out().contains("0 / 5"));

    let ran = caisson(&server, &["key", "rm", &key]).exited(1);
    assert!(!ran.err().contains(&key), "a key given by mistake is not shown: {}", ran.err());
    assert_eq!(caisson(&server, &["key", "rm", &id]).exited(0).out().trim(), id);
    client.request("GET", "/v1/whoami").send().refused(401, "unauthorized");
    let ran = caisson(&server, &["key", "add", "--scope", "root"]).exited(1);
    assert!(ran.err().contains("read, run, admin"), "{}", ran.err());
    server.finish();
}

#[test]
fn without_a_server_key_says_what_to_do() {
    let home = caisson_tests::Home::new();
    let mut command = home.command(["key", "ls"]);
    let ran = Ran::from(command.env("CAISSON_SERVER", "http://127.0.0.1:1").output().unwrap()).exited(1);
    assert!(ran.err().contains("caisson serve") && ran.err().contains("CAISSON_SERVER"), "{}", ran.err());
    home.finish();
}

#[test]
fn shells_can_complete_the_command_line() {
    let home = caisson_tests::Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.caisson(["completion", shell]).exited(0).out();
        for word in ["serve", "key", "memory"] {
            assert!(script.contains(word), "no {word} for {shell}");
        }
    }
    let script = home.path().join("caisson.bash");
    fs::write(&script, home.caisson(["completion", "bash"]).exited(0).out()).unwrap();
    let words = "source caisson.bash; COMP_WORDS=(caisson ke); COMP_CWORD=1; _caisson caisson ke caisson; echo ${COMPREPLY[@]}";
    let ran = Ran::from(home.clean("bash").args(["-c", words]).output().unwrap()).exited(0);
    assert_eq!(ran.out(), "key\n", "{}", ran.err());
    fs::remove_file(script).unwrap();
    home.finish();
}
