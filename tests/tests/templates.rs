//! Templates: named recipes for sandboxes, by file and by API, and what is made from them.

use std::{fs, time::Duration};

use caisson_tests::{Client, Context, Home, Ran, Server, Value, eventually, json};

/// The operator's file of this name.
fn write(home: &Home, name: &str, text: &str) {
    let directory = home.data().join("templates");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{name}.toml")), text).unwrap();
}

#[track_caller]
fn put(server: &Server, name: &str, recipe: &Value) -> u16 {
    let answer = server.request("PUT", &format!("/v1/templates/{name}")).json(recipe).send();
    assert!(answer.status < 300, "{}", answer.text());
    answer.status
}

#[track_caller]
fn refused(server: &Server, target: &str, body: &Value, status: u16, code: &str) -> String {
    server.post(target, body).refused(status, code)
}

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|template| template["name"].as_str().unwrap()).collect()
}

/// Those that have not ended.
fn living(server: &Server) -> Vec<Value> {
    let list = server.get("/v1/sandboxes?state=creating&state=running&state=stopping").expect(200).json();
    list["data"].as_array().unwrap().clone()
}

#[track_caller]
fn command(server: &Server, arguments: &[&str]) -> Ran {
    server.command(arguments).output().unwrap().into()
}

#[test]
fn sandboxes_are_made_as_their_template_says() {
    let server = Server::start();
    let recipe = json!({
        "description": "the whole of it", "user": "root", "hostname": "made", "work_dir": "/srv/work", "env": {"A": "t", "B": "t"},
        "limits": {"memory_bytes": 128 << 20, "pids": 50}, "metadata": {"from": "t"}, "lifetime_s": 600, "idle_timeout_s": null,
        "setup": ["echo $A > a; pwd > where", ["sh", "-c", "id -un > who"], {"shell": "hostname > host", "timeout_s": 10}],
    });
    assert_eq!((put(&server, "whole", &recipe), put(&server, "whole", &recipe)), (201, 200));
    let sandbox =
        server.sandbox(&json!({"template": "whole", "env": {"B": "r", "C": "r"}, "limits": {"pids": 60}, "metadata": {"x": "y"}}));
    assert_eq!(sandbox.shell("cat a where who host; pwd; echo $A$B$C"), "t\n/srv/work\nroot\nmade\n/srv/work\ntrr\n");
    let record = sandbox.get().expect(200).json();
    assert_eq!((&record["template"], &record["user"], &record["work_dir"]), (&json!("whole"), &json!("root"), &json!("/srv/work")));
    assert_eq!((&record["limits"]["memory_bytes"], &record["limits"]["pids"]), (&json!(128 << 20), &json!(60)));
    assert_eq!((&record["lifetime_s"], &record["idle_timeout_s"]), (&json!(600), &Value::Null));
    assert_eq!(record["metadata"], json!({"from": "t", "x": "y"}));
    let executions = server.get(&sandbox.target("/executions")).expect(200).json();
    assert_eq!(executions["data"].as_array().unwrap().len(), 1, "set-up is no execution: {executions:#}");
    let plain = server.sandbox(&json!({}));
    assert_eq!(plain.get().expect(200).json().get("template"), None);
    server.finish();
}

#[test]
fn one_shots_are_made_alike_and_set_up_takes_nothing_of_their_time() {
    let server = Server::start();
    put(&server, "slow", &json!({"timeout_s": 1, "env": {"A": "t", "B": "t"}, "setup": ["sleep 2; echo made > before"]}));
    let ran = server.run(&json!({"template": "slow", "shell": "cat before; echo $A$B; echo new > after", "env": {"B": "r"}}));
    assert_eq!((&ran["status"], &ran["stdout"]), (&json!("exited"), &json!("made\ntr\n")), "{ran:#}");
    let files = ran["files"].as_array().unwrap();
    assert!(
        files.len() == 1 && files[0]["path"] == "/workspace/after",
        "what set-up has made is nothing that the program changed: {files:?}"
    );
    let ran = server.run(&json!({"template": "slow", "shell": "sleep 60"}));
    assert_eq!(ran["status"], "timed_out");
    let ran = server.run(&json!({"template": "slow", "shell": "sleep 1.5", "timeout_s": 30}));
    assert_eq!(ran["status"], "exited", "the request comes first");
    let records = server.get("/v1/sandboxes").expect(200).json();
    let records = records["data"].as_array().unwrap();
    assert!(records.len() == 3 && records.iter().all(|record| record["template"] == "slow"), "{records:#?}");
    server.finish();
}

#[test]
fn set_up_that_fails_is_told_and_leaves_nothing() {
    let server = Server::start();
    put(&server, "bad", &json!({"setup": ["true", "echo to stdout; echo why >&2; exit 3", "touch /workspace/never"]}));
    for (target, body) in [("/v1/sandboxes", json!({"template": "bad"})), ("/v1/run", json!({"template": "bad", "shell": "true"}))] {
        let message = refused(&server, target, &body, 409, "setup_failed");
        for part in ["command 2 of 3", "`bad`", "exit code 3", "to stdout", "why"] {
            assert!(message.contains(part), "no `{part}` in {message}");
        }
    }
    put(&server, "missing", &json!({"setup": [["no-such-program", "x"]]}));
    assert!(refused(&server, "/v1/sandboxes", &json!({"template": "missing"}), 409, "setup_failed").contains("no-such-program"));
    put(&server, "endless", &json!({"setup": [{"shell": "echo begun; sleep 1000", "timeout_s": 0.5}]}));
    let message = refused(&server, "/v1/sandboxes", &json!({"template": "endless"}), 409, "setup_failed");
    assert!(message.contains("not done within 0.5 s") && message.contains("begun"), "{message}");
    put(&server, "greedy", &json!({"limits": {"memory_bytes": 64 << 20}, "setup": [["tail", "/dev/zero"]]}));
    assert!(refused(&server, "/v1/sandboxes", &json!({"template": "greedy"}), 409, "setup_failed").contains("template `greedy`"));
    put(&server, "mortal", &json!({"lifetime_s": 1, "setup": ["sleep 1000"]}));
    let message = refused(&server, "/v1/sandboxes", &json!({"template": "mortal"}), 410, "gone");
    assert!(message.contains("lifetime"), "{message}");
    eventually("nothing that lives", Duration::from_secs(10), || living(&server).is_empty().then_some(()));
    let ended = server.get("/v1/sandboxes?state=ended").expect(200).json();
    let told = ended["data"].as_array().unwrap().iter().filter(|one| one["tombstone"]["message"].as_str().unwrap().contains("exit code 3"));
    let reasons: Vec<&str> = told.map(|one| one["tombstone"]["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["finished", "setup_failed"], "records say why: {ended:#}");
    // A name is free again.
    for _ in 0..2 {
        refused(&server, "/v1/sandboxes", &json!({"template": "bad", "name": "box"}), 409, "setup_failed");
    }
    server.finish();
}

#[test]
fn nobody_gets_in_before_set_up_is_done() {
    let server = Server::start();
    put(&server, "waits", &json!({"setup": ["until [ -e /tmp/go ]; do sleep 0.05; [ $SECONDS -lt 3 ] || touch /tmp/go; done"]}));
    std::thread::scope(|scope| {
        let making = scope.spawn(|| server.post("/v1/sandboxes", &json!({"template": "waits", "name": "box"})).expect(201));
        let id = eventually("its record", Duration::from_secs(10), || {
            let found = server.get("/v1/sandboxes?name=box").expect(200).json();
            Some(found["data"].as_array()?.first()?["id"].as_str()?.to_owned())
        });
        let seen = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
        assert_eq!(seen["state"], "creating");
        let said = server.post(&format!("/v1/sandboxes/{id}/exec"), &json!({"shell": "ls /tmp/go"})).expect(200).json();
        assert_eq!(said["stdout"], "/tmp/go\n", "it waited for the end of set-up");
        assert_eq!(making.join().unwrap().json()["state"], "running");
    });
    server.finish();
}

#[test]
fn interpreters_are_those_of_the_template() {
    let server = Server::start();
    let recipe = json!({
        "setup": ["mkdir bin; printf '#!/bin/sh\\necho mine: \"$@\"; exec python3 \"$@\"' > bin/py; chmod +x bin/py"],
        "interpreters": {"py": ["/workspace/bin/py", "-X", "dev"], "sh": ["sh", "{file}", "first"], "ruby": ["/no/such/ruby"]},
    });
    put(&server, "own", &recipe);
    let sandbox = server.sandbox(&json!({"template": "own"}));
    let code = |language: &str, code: &str| json!({"language": language, "code": code, "args": ["last"]});
    for name in ["python", "py", "python3"] {
        let said = sandbox.exec(&code(name, "import sys; print(sys.argv[1], sys.flags.dev_mode)"))["stdout"].as_str().unwrap().to_owned();
        assert!(said.starts_with("mine: -X dev /") && said.ends_with(".py last\nlast True\n"), "{said}");
    }
    assert_eq!(sandbox.exec(&code("sh", "echo $1 $2"))["stdout"], "first last\n");
    assert_eq!(sandbox.exec(&code("bash", "echo $1"))["stdout"], "last\n", "others are as ever");
    let message = sandbox.try_exec(&code("ruby", "1")).refused(400, "interpreter_missing");
    assert!(message.contains("/no/such/ruby"), "{message}");
    let run = server.run(&json!({"template": "own", "language": "python", "code": "print(1)"}));
    assert!(run["stdout"].as_str().unwrap().ends_with("1\n") && run["stdout"].as_str().unwrap().starts_with("mine:"), "{run:#}");

    let context = Context::with(&sandbox, "python", "auto");
    assert_eq!(context.says("import sys; sys.flags.dev_mode").1.as_deref(), Some("True"));
    server.finish();
}

#[test]
fn the_operators_files_are_for_everybody_and_hold_as_they_are() {
    let mut server = Server::start();
    let home = server.home();
    write(home, "shared", "env.A = \"one\"\n");
    write(home, "broken", "image = \n");
    let shell = || server.run(&json!({"template": "shared", "shell": "echo $A"}))["stdout"].as_str().unwrap().to_owned();
    assert_eq!(shell(), "one\n", "there was not even a directory when the server was started");
    write(home, "shared", "env.A = \"two\"\n");
    assert_eq!(shell(), "two\n", "the next request has it, also when it is as long");

    let list = server.get("/v1/templates").expect(200).json();
    assert_eq!(names(&list), ["broken", "shared"]);
    assert_eq!((&list["data"][0]["whose"], &list["data"][0]["recipe"]), (&json!("everybody"), &Value::Null));
    assert!(list["data"][0]["problem"].as_str().unwrap().contains("line 1"), "{list:#}");
    let message = refused(&server, "/v1/run", &json!({"template": "broken", "shell": "true"}), 409, "template_broken");
    assert!(message.contains("line 1"), "{message}");
    let message = refused(&server, "/v1/run", &json!({"template": "nothing", "shell": "true"}), 400, "unknown_template");
    assert!(message.contains("broken, shared"), "{message}");
    assert!(server.log().contains("broken.toml cannot be used"), "{}", server.log());

    let message = server.request("PUT", "/v1/templates/shared").json(&json!({})).send().refused(409, "template_of_operator");
    assert!(message.contains("another name"), "{message}");
    let message = server.request("DELETE", "/v1/templates/shared").send().refused(409, "template_of_operator");
    assert!(message.contains("templates/shared.toml"), "{message}");

    put(&server, "late", &json!({"env": {"A": "tenant"}}));
    write(home, "late", "env.A = \"operator\"\n");
    assert_eq!(server.run(&json!({"template": "late", "shell": "echo $A"}))["stdout"], "operator\n");
    server.request("DELETE", "/v1/templates/late").send().expect(204);
    server.request("DELETE", "/v1/templates/late").send().refused(409, "template_of_operator");

    put(&server, "kept", &json!({"env": {"A": "kept"}}));
    let before = server.get("/v1/templates").expect(200).json();
    assert!(server.stop().success());
    server.start_again();
    assert_eq!(server.get("/v1/templates").expect(200).json(), before);
    assert_eq!(server.run(&json!({"template": "kept", "shell": "echo $A"}))["stdout"], "kept\n");
    assert_eq!(server.log().matches("broken.toml cannot be used").count(), 2, "once by each: {}", server.log());
    server.finish();
}

#[test]
fn r6_2_a_tenants_own_are_its_own() {
    let server = Server::start();
    write(server.home(), "shared", "description = \"for all\"\n");
    let tenant = |name: &str, scope: &str| {
        let key = server.post("/v1/keys", &json!({"tenant": name, "scope": scope})).expect(201).json();
        Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..server.client.clone() }
    };
    let (a, b, runs) = (tenant("a", "admin"), tenant("b", "admin"), tenant("a", "run"));
    let put = |client: &Client, text: &str| client.request("PUT", "/v1/templates/mine").json(&json!({"env": {"A": text}})).send();
    let (_, _) = (put(&a, "of a").expect(201), put(&b, "of b").expect(201));
    put(&runs, "x").refused(403, "forbidden");
    let says = |client: &Client| {
        let run = client.request("POST", "/v1/run").json(&json!({"template": "mine", "shell": "echo $A"})).send().expect(200).json();
        run["stdout"].as_str().unwrap().to_owned()
    };
    assert_eq!((says(&a), says(&b), says(&runs)), ("of a\n".to_owned(), "of b\n".to_owned(), "of a\n".to_owned()));
    b.request("DELETE", "/v1/templates/mine").send().expect(204);
    let list = |client: &Client| client.request("GET", "/v1/templates").send().expect(200).json();
    assert_eq!((names(&list(&a)), names(&list(&b))), (vec!["mine", "shared"], vec!["shared"]));
    b.request("GET", "/v1/templates/mine").send().refused(404, "not_found");
    let message = b.request("POST", "/v1/sandboxes").json(&json!({"template": "mine"})).send().refused(400, "unknown_template");
    assert!(message.ends_with("there are shared"), "{message}");
    server.get("/v1/templates/mine").refused(404, "not_found");
    server.finish();
}

#[test]
fn clients_of_boxed_may_name_one() {
    let server = Server::start();
    put(&server, "mine", &json!({"limits": {"pids": 77}, "env": {"A": "t"}, "setup": ["echo made > /workspace/f"]}));
    put(&server, "bad", &json!({"setup": ["false"]}));
    let key = server.client.key.clone().unwrap();
    let make = |template: &str| {
        let request = Client { key: None, ..server.client.clone() }.request("POST", "/v1/sandbox");
        request.header("x-boxed-api-key", &key).json(&json!({"template": template})).send()
    };
    let id = make("mine").expect(201).json()["sandbox_id"].as_str().unwrap().to_owned();
    let record = server.get(&format!("/v1/sandboxes/{id}")).expect(200).json();
    assert_eq!(
        (&record["template"], &record["limits"]["pids"], &record["limits"]["memory_bytes"]),
        (&json!("mine"), &json!(77), &json!(512 << 20))
    );
    let said = server.post(&format!("/v1/sandboxes/{id}/exec"), &json!({"shell": "cat f; echo $A"})).expect(200).json();
    assert_eq!(said["stdout"], "made\nt\n");
    let refused = make("bad");
    assert!(refused.status >= 400 && refused.text().contains("set-up command 1 of 1"), "{} {}", refused.status, refused.text());
    server.finish();
}

#[test]
fn the_command_line_without_a_server() {
    let home = Home::new();
    let recipe = "# why\ndescription = \"small\"\ntimeout_s = \"none\"\nsetup = [\"echo made > f\"]\nenv.A = \"t\"\n";
    let ran = home.caisson_with(["template", "add", "small", "-"], recipe.as_bytes()).exited(0);
    assert_eq!(ran.out(), "small\n");
    assert_eq!(fs::read_to_string(home.data().join("templates/small.toml")).unwrap(), recipe, "as it was written");
    assert_eq!(home.caisson(["run", "--template", "small", "-l", "bash", "-c", "cat f; echo $A"]).exited(0).out(), "made\nt\n");
    assert_eq!(home.caisson(["run", "--template", "small", "-e", "A=r", "-l", "bash", "-c", "echo $A"]).exited(0).out(), "r\n");

    let shown = home.caisson(["template", "show", "small"]).exited(0).out();
    fs::write(home.path().join("again.toml"), &shown).unwrap();
    let _added = home.caisson(["template", "add", "again", "again.toml"]).exited(0);
    assert_eq!(home.caisson(["template", "show", "again"]).exited(0).out(), shown);
    let json: Value = home.caisson(["template", "show", "small", "--json"]).exited(0).out().parse().unwrap();
    assert_eq!((&json["name"], &json["recipe"]["timeout_s"]), (&json!("small"), &Value::Null));
    fs::write(home.path().join("recipe.json"), json["recipe"].to_string()).unwrap();
    let _added = home.caisson(["template", "add", "json", "recipe.json"]).exited(0);
    assert_eq!(home.caisson(["template", "show", "json"]).exited(0).out(), shown);

    write(&home, "broken", "limits.pids = 1\n");
    let listed = home.caisson(["template", "ls"]).exited(0).out();
    assert!(listed.lines().count() == 5 && listed.contains("small") && listed.contains("BROKEN: field `limits.pids` is 1"), "{listed}");
    let ran = home.caisson(["run", "--template", "broken", "--", "true"]).exited(125);
    assert!(ran.err().contains("limits.pids"), "{}", ran.err());
    let ran = home.caisson(["run", "--template", "nowhere", "--", "true"]).exited(125);
    assert!(ran.err().contains("there are again, broken, json, small"), "{}", ran.err());
    let ran = home.caisson(["doctor", "--json"]);
    let report: Value = ran.out().parse().unwrap();
    assert!(report["warnings"].to_string().contains("broken.toml"), "{:#}", report["warnings"]);

    let _removed = home.caisson(["template", "rm", "again", "broken", "json"]).exited(0);
    assert!(home.caisson(["template", "rm", "again"]).exited(1).err().contains("no template `again`"));
    let ran = home.caisson_with(["template", "add", "bad", "-"], b"min_warm = 2000\n").exited(1);
    assert!(ran.err().contains("field `min_warm` is 2000"), "{}", ran.err());
    let _usage = home.caisson(["template", "add", "Bad", "-"]).exited(2);
    let _added = home.caisson_with(["template", "add", "fails", "-"], b"setup = [\"echo why; false\"]").exited(0);
    let ran = home.caisson(["run", "--template", "fails", "--", "true"]).exited(125);
    assert!(ran.err().contains("exit code 1") && ran.err().contains("why"), "{}", ran.err());
    home.finish();
}

#[test]
fn the_command_line_with_a_server() {
    let server = Server::start();
    write(server.home(), "shared", "description = \"for all\"\n");
    fs::write(server.home().path().join("own.toml"), "lifetime_s = \"none\"\nenv.A = \"t\"\n").unwrap();
    assert_eq!(command(&server, &["template", "add", "own", "own.toml"]).exited(0).out(), "own\n");
    let listed = command(&server, &["template", "ls"]).exited(0).out();
    assert!(listed.contains("own ") && listed.contains("everybody") && listed.contains("for all"), "{listed}");
    let id = command(&server, &["new", "--template", "own", "--env", "B=r"]).exited(0).out();
    assert_eq!(command(&server, &["exec", id.trim(), "--", "sh", "-c", "echo $A$B"]).exited(0).out(), "tr\n");
    let record = server.get(&format!("/v1/sandboxes/{}", id.trim())).expect(200).json();
    assert_eq!((&record["template"], &record["lifetime_s"]), (&json!("own"), &Value::Null));
    let shown = command(&server, &["template", "show", "own"]).exited(0).out();
    assert!(shown.contains("lifetime_s = \"none\""), "{shown}");
    let ran = command(&server, &["template", "rm", "shared", "own"]).exited(1);
    assert_eq!(ran.out(), "own\n");
    assert!(ran.err().contains("remove the file"), "{}", ran.err());
    let ran = command(&server, &["new", "--template", "own"]).exited(1);
    assert!(ran.err().contains("there are shared"), "{}", ran.err());
    assert!(server.home().data().join("templates/shared.toml").exists() && !server.home().data().join("templates/own.toml").exists());
    server.finish();
}
