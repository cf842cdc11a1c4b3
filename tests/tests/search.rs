//! Finding files by name and by content.

use caisson_tests::{BASE64, Base64Engine, Sandbox, Server, Value, json};

fn paths(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().replace("/workspace/", "")).collect()
}

fn glob(sandbox: &Sandbox<'_>, query: &str) -> Vec<String> {
    paths(&sandbox.request("GET", &format!("/files/glob?{query}")).send().expect(200).json())
}

fn grep(sandbox: &Sandbox<'_>, query: &str) -> Value {
    sandbox.request("GET", &format!("/files/grep?{query}")).send().expect(200).json()
}

#[test]
fn patterns_find_names_at_any_depth() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir -p src/deep/er .git; touch a.py src/b.py src/deep/c.rs src/deep/er/d.py .git/e.py; ln -s src loop; ln -s / root; mkdir no; chmod 0 no");
    assert_eq!(glob(&sandbox, "pattern=*.py"), ["a.py"]);
    assert_eq!(glob(&sandbox, "pattern=**/*.py"), [".git/e.py", "a.py", "src/b.py", "src/deep/er/d.py"]);
    assert_eq!(glob(&sandbox, "path=src&pattern=**/*.%7Brs,py%7D"), ["src/b.py", "src/deep/c.rs", "src/deep/er/d.py"]);
    assert_eq!(glob(&sandbox, "pattern=*oop/*"), [""; 0], "links are not followed");
    assert_eq!(glob(&sandbox, "path=loop&pattern=b*"), ["loop/b.py"], "but where a path leads, it leads");
    let first = sandbox.request("GET", "/files/glob?pattern=**/*.py&limit=3").send().expect(200).json();
    assert_eq!((paths(&first).len(), &first["unreadable"]), (3, &json!(1)));
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(glob(&sandbox, &format!("pattern=**/*.py&limit=3&cursor={cursor}")), ["src/deep/er/d.py"]);
    for bad in ["/a", "..", "[a", "a%7Bb"] {
        sandbox.request("GET", &format!("/files/glob?pattern={bad}")).send().refused(400, "invalid_pattern");
    }
    sandbox.request("GET", "/files/glob?path=a.py&pattern=a").send().refused(409, "not_a_directory");
    sandbox.request("GET", "/files/glob?path=nothing&pattern=a").send().refused(404, "not_found");
    server.finish();
}

#[test]
fn contents_are_found_with_lines_spans_and_context() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"a/one.txt", b"zero\nfirst needle\nsecond needle needle\nthird\n").expect(200);
    sandbox.write(b"a/two.bin", b"needle\0").expect(200);
    sandbox.write(b"a/\xff.txt", b"n\xe4\xf6 needle\r\n").expect(200);
    sandbox.write(b"b/three.py", "NEEDLE ä+b".as_bytes()).expect(200);
    let _made = sandbox.shell("mkdir no; echo needle > no/x; chmod 0 no; ln -s a link; mkfifo a/fifo");
    let found = grep(&sandbox, "pattern=need%2Ble&context=1");
    assert_eq!(
        (found["data"].as_array().unwrap().len(), &found["files"], &found["binary_files"], &found["unreadable"]),
        (3, &json!(3), &json!(1), &json!(1))
    );
    assert_eq!((&found["truncated"], &found["stopped_by"]), (&json!(false), &json!(null)));
    let second = &found["data"][1];
    assert_eq!(
        (&second["path"], &second["line"], &second["text"]),
        (&json!("/workspace/a/one.txt"), &json!(3), &json!("second needle needle"))
    );
    assert_eq!(second["spans"], json!([[7, 13], [14, 20]]));
    assert_eq!(
        (&second["before"], &second["after"]),
        (&json!([{"line": 2, "text": "first needle"}]), &json!([{"line": 4, "text": "third"}]))
    );
    let bytes = &found["data"][2];
    assert_eq!(
        (&bytes["path_base64"], &bytes["text_base64"]),
        (&json!(BASE64.encode(b"/workspace/a/\xff.txt")), &json!(BASE64.encode(b"n\xe4\xf6 needle")))
    );
    for (query, count) in [
        ("pattern=needle&ignore_case=true", 4),
        ("pattern=needle&include=*.py&ignore_case=true", 1),
        ("pattern=needle&exclude=a&ignore_case=true", 1),
        ("pattern=needle&include=a/*&exclude=one*", 1),
        ("pattern=%C3%A4%2Bb&literal=true", 1),
        ("pattern=%C3%A4%2Bb", 0),
        ("pattern=^zero$", 1),
        ("path=a/one.txt&pattern=e", 3),
        ("path=link/one.txt&pattern=zero", 1),
    ] {
        assert_eq!(grep(&sandbox, query)["data"].as_array().unwrap().len(), count, "{query}");
    }
    for bad in ["(", "a%7B1000%7D%7B1000%7D%7B1000%7D", "%5Cp%7BGreek%7D"] {
        sandbox.request("GET", &format!("/files/grep?pattern={bad}")).send().refused(400, "invalid_pattern");
    }
    sandbox.request("GET", "/files/grep?pattern=%FF").send().refused(400, "invalid_parameter");
    sandbox.request("GET", "/files/grep?path=/proc/self&pattern=a").send().refused(409, "not_a_file");
    sandbox.request("GET", "/files/grep?path=a/fifo&pattern=a").send().refused(409, "not_a_file");
    server.finish();
}

#[test]
fn a_large_file_is_searched_within_limits_that_are_told() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("seq 100000 > lines; head -c 3000000 /dev/zero | tr '\\0' x > long; echo needle >> long; seq 20000 | awk '{printf \"%s %0300d\\n\", $1, 0}' > wide");
    let found = grep(&sandbox, "path=lines&pattern=^99999$");
    assert_eq!((&found["data"][0]["line"], &found["files"], &found["bytes"]), (&json!(99_999), &json!(1), &json!(588_895)));
    let found = grep(&sandbox, "path=lines&pattern=1&max_matches=5");
    assert_eq!(
        (found["data"].as_array().unwrap().len(), &found["stopped_by"], &found["truncated"]),
        (5, &json!("max_matches"), &json!(true))
    );
    let found = grep(&sandbox, "path=lines&pattern=^100000$&max_bytes=1000");
    assert_eq!((found["data"].as_array().unwrap().len(), &found["stopped_by"], &found["bytes"]), (0, &json!("max_bytes"), &json!(1000)));
    let found = grep(&sandbox, "path=lines&pattern=(x%2B%2B)%2By&max_seconds=0.000001");
    assert_eq!(found["stopped_by"], "max_seconds", "{found:#}");
    let found = grep(&sandbox, "path=long&pattern=needle");
    assert_eq!((found["data"].as_array().unwrap().len(), &found["long_lines"]), (0, &json!(1)), "what was not searched is told");
    let found = grep(&sandbox, "path=wide&pattern=$&max_matches=10000&context=20");
    assert_eq!(found["stopped_by"], "answer_size", "the answer is bounded too");
    // Patterns over which others take for ever.
    let _made = sandbox.shell("head -c 100000 /dev/zero | tr '\\0' a > as");
    for pattern in ["(a*)*b", "(a|a)*b", "(a|aa)%2Bb"] {
        let found = grep(&sandbox, &format!("path=as&pattern={pattern}"));
        assert_eq!((&found["stopped_by"], &found["files"]), (&json!(null), &json!(1)), "{pattern}");
    }
    for (query, code) in [
        ("pattern=a&max_matches=0", "invalid_parameter"),
        ("pattern=a&max_bytes=0", "limit_out_of_range"),
        ("pattern=a&max_seconds=51", "invalid_parameter"),
        ("pattern=", "invalid_pattern"),
        ("pattern=a&regex=b", "invalid_parameter"),
    ] {
        sandbox.request("GET", &format!("/files/grep?{query}")).send().refused(400, code);
    }
    server.finish();
}
