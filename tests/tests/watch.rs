//! What happens to files, as it happens.

use std::time::Duration;

use caisson_tests::{Event, Events, Sandbox, Server, eventually, json};

fn watch(sandbox: &Sandbox<'_>, query: &str) -> Events {
    let mut events = sandbox.request("GET", &format!("/files/watch?{query}")).events();
    let first = events.next().expect("a watch says that it is ready");
    assert_eq!(first.name, "ready", "{first:?}");
    events
}

/// An event in short: what, where below the work dir, and where to.
fn short(event: &Event) -> String {
    let path = |name: &str| event.data[name].as_str().map(|path| path.replace("/workspace/", ""));
    let to = path("to").map(|to| format!(" -> {to}")).unwrap_or_default();
    let slash = if event.data["directory"] == true { "/" } else { "" };
    format!("{} {}{slash}{to}", event.name, path("path").unwrap_or_default())
}

/// Events up to and with this one. Several of the same in a row count once.
fn until(events: &mut Events, last: &str) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for event in events.by_ref() {
        let text = short(&event);
        if seen.last() != Some(&text) {
            seen.push(text);
        }
        if seen.last().is_some_and(|text| text == last) {
            return seen;
        }
    }
    panic!("the stream ended after {seen:?}");
}

#[test]
fn a_directory_tells_what_happens_in_it() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir -p d/sub elsewhere; echo x > d/old; echo y > d/sub/deep; echo z > elsewhere/z");
    let mut events = watch(&sandbox, "path=d");
    let _happened = sandbox.shell("cd d; echo 1 > new; echo 2 >> old; chmod 600 old; mv old renamed; rm new; mv renamed ../elsewhere/");
    let expect = ["created d/new", "modified d/new", "modified d/old", "moved d/old -> d/renamed", "deleted d/new", "deleted d/renamed"];
    assert_eq!(until(&mut events, "deleted d/renamed"), expect);
    // What lies deeper was not asked for.
    let _happened = sandbox.shell("cd d; mv ../elsewhere/z here; echo more > sub/deep; mkdir dir; rmdir dir; echo > end");
    assert_eq!(until(&mut events, "created d/end"), ["created d/here", "created d/dir/", "deleted d/dir/", "created d/end"]);
    server.finish();
}

#[test]
fn a_whole_tree_tells_what_happens_in_it_also_in_what_is_new() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir -p d/sub; echo y > d/sub/deep");
    let mut events = watch(&sandbox, "path=d&recursive=true");
    let mut seen = Vec::new();
    for (happens, last) in [
        ("echo more > sub/deep", "modified d/sub/deep"),
        ("mkdir -p a/b/c; echo x > a/b/c/x", "created d/a/b/c/x"),
        ("echo y > a/b/c/y", "created d/a/b/c/y"),
        ("mv a sub/a", "moved d/a/ -> d/sub/a"),
        ("echo z > sub/a/b/c/z", "created d/sub/a/b/c/z"),
        ("mv sub/a ..", "deleted d/sub/a/"),
        ("echo > ../a/unseen; mv ../a .", "created d/a/b/c/z"),
        ("rm -r a", "deleted d/a/"),
    ] {
        let _happened = sandbox.shell(&format!("cd d; {happens}"));
        seen.extend(until(&mut events, last));
    }
    for wanted in ["created d/a/b/c/x", "created d/sub/a/b/c/z", "deleted d/sub/a/", "created d/a/unseen", "deleted d/a/b/c/"] {
        assert_eq!(
            seen.iter().filter(|text| *text == wanted).count(),
            1 + usize::from(wanted == "created d/a/b/c/x"),
            "{wanted} in {seen:#?}"
        );
    }
    assert!(!seen.iter().any(|text| text.contains("elsewhere") || text.contains("../")), "{seen:#?}");
    server.finish();
}

#[test]
fn names_of_any_bytes_and_single_files_are_watched() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"f", b"x").expect(200);
    let mut events = watch(&sandbox, "path=f");
    let _happened = sandbox.shell("echo more >> f; rm f");
    assert_eq!(short(&events.next().unwrap()), "modified f");
    let last = events.last().unwrap();
    assert_eq!(last.name, "gone");
    let mut events = watch(&sandbox, "path=.");
    sandbox.write(b"\xff\n", b"x").expect(200);
    // A file that is uploaded appears whole: it is moved into its place.
    let told = events.by_ref().find(|event| event.name == "moved").unwrap();
    assert_eq!(told.data["to_base64"], "L3dvcmtzcGFjZS//Cg==");
    sandbox.request("GET", "/files/watch?path=nothing").send().refused(404, "not_found");
    sandbox.request("GET", "/files/watch?path=/proc/self").send().refused(400, "permission_denied");
    server.finish();
}

#[test]
fn what_is_watched_may_go_and_so_may_the_sandbox() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir -p d/e");
    let events = watch(&sandbox, "path=d&recursive=true");
    let _removed = sandbox.shell("rm -r d");
    let seen: Vec<String> = events.map(|event| short(&event)).collect();
    assert_eq!(seen, ["deleted d/e/", "gone d/"]);
    let events = watch(&sandbox, "path=.");
    sandbox.delete().expect(200);
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["error"]["code"]), ("error", &json!("gone")), "{last:?}");
    server.finish();
}

#[test]
fn what_is_missed_is_told() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir d");
    let mut events = watch(&sandbox, "path=d");
    // Far more than the kernel keeps, while nobody reads.
    let _flood = sandbox.python("import os\nfor n in range(150000):\n    p = f'd/{n % 50}'\n    open(p, 'w').close()\n    os.unlink(p)");
    let overflow = events.until("overflow");
    assert_eq!(overflow.data["path"], "/workspace/d");
    let _later = sandbox.shell("echo > d/end");
    assert!(events.any(|event| short(&event) == "created d/end"), "and the watch goes on");
    server.finish();
}

#[test]
fn watches_are_few_and_end_with_who_reads_them() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let open = || sandbox.request("GET", "/files/watch?path=.").open();
    for _ in 0..3 {
        // Those of the round before may still be about to end.
        let room = || eventually("room for another watch", Duration::from_secs(5), || Some(open()).filter(|watch| watch.status == 200));
        let all: Vec<_> = (0..8).map(|_| room()).collect();
        let said = sandbox.request("GET", "/files/watch?path=.").send().refused(429, "quota_exceeded");
        assert!(said.contains("watches"), "{said}");
        drop(all);
    }
    let wide = sandbox.request("GET", "/files/watch?path=.&recursive=true");
    let _made = sandbox.python("import os\nfor n in range(8200): os.mkdir(f'{n}')");
    let said = wide.send().refused(429, "quota_exceeded");
    assert!(said.contains("8192"), "{said}");
    server.finish();
}
