//! Contexts whose code is run by a Jupyter kernel of the image: as our own drivers do it, and whatever a kernel does instead.

use std::time::Duration;

use caisson_tests::{BASE64, Base64Engine, Context, Sandbox, Server, Value, error, eventually, json, needs, text};

const SPECS: &str = "/usr/share/jupyter/kernels";

fn needs_kernels() {
    needs(&format!("{SPECS}/python3/kernel.json"), "python3-ipykernel");
    needs(&format!("{SPECS}/ir/kernel.json"), "r-cran-irkernel");
}

/// The first thing of this media type that a run has shown, as a value or on the way.
#[track_caller]
fn shown(result: &Value, media: &str) -> String {
    assert_eq!(result["status"], "ok", "{result:#}");
    let found = result["results"].as_array().unwrap().iter().find_map(|shown| shown["data"][media].as_str());
    found.unwrap_or_else(|| panic!("nothing of {media} in {result:#}")).to_owned()
}

#[test]
fn python_has_the_same_results_with_a_kernel_and_without() {
    needs_kernels();
    needs("/usr/lib/python3/dist-packages/pandas", "python3-pandas");
    needs("/usr/lib/python3/dist-packages/matplotlib", "python3-matplotlib");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for (driver, kernel) in [("builtin", Value::Null), ("jupyter", json!("python3")), ("auto", json!("python3"))] {
        let python = Context::with(&sandbox, "python", driver);
        let state = python.state();
        assert_eq!(state["kernel"], kernel, "{driver}: {state:#}");
        assert!(text(&state["version"]).starts_with("Python 3."), "{driver}: {state:#}");
        for (code, stdout, value) in [
            ("x = 41", "", None),
            ("print('a')\nx += 1\nx", "a\n", Some("42")),
            ("x;", "", None),
            ("_ + 1", "", Some("43")),
            ("import asyncio\nawait asyncio.sleep(0)\n5", "", Some("5")),
            ("import os\nos.getcwd()", "", Some("'/workspace'")),
            ("try:\n    input()\nexcept EOFError:\n    read = 'nothing'\nread", "", Some("'nothing'")),
            ("import sys\nsys.stdin.read()", "", Some("''")),
            ("import subprocess\nsubprocess.run(['echo', 'child']).returncode", "child\n", Some("0")),
            ("os.system('echo shell; cat')", "shell\n", Some("0")),
            ("'ä\\U0001F980'", "", Some("'ä\u{1f980}'")),
        ] {
            assert_eq!(python.says(code), (stdout.to_owned(), value.map(str::to_owned)), "{driver}: {code}");
        }
        let result = python.run("print('err', file=sys.stderr)\nos.write(1, b'a\\xff\\x00b')");
        assert_eq!(
            (&result["stdout_base64"], &result["stderr"]),
            (&json!(BASE64.encode(b"a\xff\0b")), &json!("err\n")),
            "{driver}: {result:#}"
        );
        let table = python.run("import pandas\npandas.DataFrame({'a': [1]})");
        assert!(shown(&table, "text/html").contains("<table") && shown(&table, "text/plain").contains("0  1"), "{driver}: {table:#}");
        let result = python.run(
            "class P:\n    def _repr_png_(self): return b'\\x89PNG'\n    def __repr__(self): return 'P'\n\
             display(P())\nP()",
        );
        let data = json!({"image/png": BASE64.encode(b"\x89PNG"), "text/plain": "P"});
        let expect = json!([{"type": "display", "data": data}, {"type": "value", "data": data}]);
        assert_eq!(result["results"], expect, "{driver}: {result:#}");
        // The real library, which knows nothing of us.
        let figure = python.run("import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()");
        let image = BASE64.decode(shown(&figure, "image/png")).unwrap();
        assert!(image.starts_with(b"\x89PNG\r\n\x1a\n") && image.len() > 5000, "{driver}: {} bytes", image.len());
        assert_eq!(
            figure["results"].as_array().unwrap().iter().filter(|shown| shown["data"]["image/png"].is_string()).count(),
            1,
            "{driver}"
        );
        let result = python.run("def h():\n    1 / 0\nprint('before')\nh()");
        let failed = error(&result, "ZeroDivisionError");
        assert_eq!((&failed["message"], &result["stdout"]), (&json!("division by zero"), &json!("before\n")), "{driver}");
        let traceback = text(&failed["traceback"]);
        assert!(traceback.contains("1 / 0") && !traceback.contains('\u{1b}'), "{driver}: {traceback}");
        error(&python.run("x ="), "SyntaxError");
        error(&python.run("raise SystemExit(3)"), "SystemExit");
        let result =
            python.run("class Big:\n    def _repr_html_(self): return 'x' * (9 << 20)\n    def __repr__(self): return 'Big'\nBig()");
        assert_eq!(
            result["results"],
            json!([{"type": "value", "data": {"text/plain": "Big"}, "omitted": {"text/html": 9 << 20}}]),
            "{driver}"
        );
        let result = python.run("for n in range(100): print(str(n) * 10000)");
        assert_eq!((&result["status"], &result["stdout_bytes"]), (&json!("ok"), &json!(10 * 10_001 + 90 * 20_001)), "{driver}");
        let incomplete = |code: &str| text(&python.try_run(&json!({"code": code, "interactive": true})).expect(200).json()["status"]);
        assert_eq!(
            ["if x:\n", "if x:\n    y = 1\n\n", "def f():\n    y = 1", "def f():\n    y = 1\n", "(1,", "x ="].map(incomplete),
            ["incomplete", "ok", "incomplete", "ok", "incomplete", "error"],
            "{driver}"
        );

        for code in [
            "print('ready', flush=True)\nwhile True: pass",
            "import time\nprint('ready', flush=True)\ntime.sleep(100)",
            "print('ready', flush=True)\nsubprocess.run(['sleep', '100'])",
            "print('ready', flush=True)\nawait asyncio.sleep(100)",
        ] {
            let events = python.begin(code);
            python.interrupt();
            let (events, _, _) = events.to_the_end();
            assert_eq!(events.last().unwrap().data["status"], "interrupted", "{driver}: {code}");
            assert_eq!(python.value("x"), "42", "{driver}: {code}");
        }
        let result = python.try_run(&json!({"code": "while True: pass", "timeout_s": 0.3})).expect(200).json();
        assert_eq!(
            (&result["status"], &result["message"]),
            (&json!("timed_out"), &json!("timed_out: limit 0.3 s")),
            "{driver}: {result:#}"
        );
        // What a kernel has been given to print it sends by itself, and code that ends it at once may be faster.
        for (code, exit_code, signal) in [
            ("os.write(1, b'last\\n')\nos._exit(3)", json!(3), Value::Null),
            ("os.write(1, b'last\\n')\nos.kill(os.getpid(), 9)", Value::Null, json!(9)),
            ("os.write(1, b'last\\n')\nimport ctypes; ctypes.string_at(0)", Value::Null, json!(11)),
        ] {
            let result = python.run(code);
            let how = (&result["status"], &result["exit_code"], &result["signal"]);
            assert_eq!(how, (&json!("context_ended"), &exit_code, &signal), "{driver}: {code}: {result:#}");
            assert_eq!(result["stdout"], "last\n", "{driver}: {code}");
            python.try_run(&json!({"code": "1"})).refused(409, "context_ended");
            python.restart();
            assert_eq!(python.says("import os, subprocess\n6 * 7").1.as_deref(), Some("42"), "{driver}: after {code}");
        }
        // What was started in the background goes with it.
        let _ = python.says("p = subprocess.Popen(['sleep', '4711'])");
        python.restart();
        eventually("the end of what it had started", Duration::from_secs(5), || (!sandbox.others().contains("sleep")).then_some(()));
        sandbox.request("DELETE", &python.target("")).send().expect(204);
    }
    sandbox.is_empty_of_others();
    server.finish();
}

#[test]
fn r_has_the_same_results_with_a_kernel_and_without() {
    needs_kernels();
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for (driver, kernel) in [("builtin", Value::Null), ("jupyter", json!("ir"))] {
        let r = Context::with(&sandbox, "r", driver);
        let state = r.state();
        assert_eq!(state["kernel"], kernel, "{driver}: {state:#}");
        assert!(text(&state["version"]).starts_with("R 4."), "{driver}: {state:#}");
        assert_eq!(r.says("x <- 41"), (String::new(), None), "{driver}");
        let result = r.run("cat('a\\n')\nx <- x + 1\nx");
        assert_eq!((shown(&result, "text/plain"), text(&result["stdout"])), ("[1] 42".to_owned(), "a\n".to_owned()), "{driver}");
        let several = r.run("1\ninvisible(2)\n'ä\"\\\\'\n");
        let all: Vec<String> = several["results"].as_array().unwrap().iter().map(|shown| text(&shown["data"]["text/plain"])).collect();
        assert_eq!(all, ["[1] 1", "[1] \"ä\\\"\\\\\""], "{driver}: {several:#}");
        assert!(shown(&r.run("data.frame(a = 1:2)"), "text/plain").contains('2'), "{driver}");
        let png = BASE64.decode(shown(&r.run("plot(1:3)"), "image/png")).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.ends_with(b"IEND\xaeB`\x82"), "{driver}: {} bytes", png.len());
        let result = r.run("f <- function() stop('boom ä')\ncat('before\\n')\nf()");
        assert_eq!((&result["status"], &result["stdout"]), (&json!("error"), &json!("before\n")), "{driver}: {result:#}");
        assert!(text(&result["error"]["message"]).contains("boom ä"), "{driver}: {result:#}");
        assert!(text(&result["error"]["traceback"]).contains("f()"), "{driver}: {result:#}");
        assert_eq!(r.run("x <-")["status"], "error", "{driver}");
        let result = r.run("message('told'); warning('warned'); 1");
        assert!(["told", "warned"].iter().all(|said| text(&result["stderr"]).contains(said)), "{driver}: {result:#}");
        assert_eq!(shown(&r.run("readLines('stdin')"), "text/plain"), "character(0)", "{driver}");
        assert_eq!(r.run("system('echo child; cat')")["stdout"], "child\n", "{driver}");
        let incomplete = |code: &str| text(&r.try_run(&json!({"code": code, "interactive": true})).expect(200).json()["status"]);
        assert_eq!(["if (TRUE) {", "'a", "1 + 1", ")"].map(incomplete), ["incomplete", "incomplete", "ok", "error"], "{driver}");
        for code in ["cat('ready\\n')\nflush(stdout())\nSys.sleep(100)", "cat('ready\\n')\nflush(stdout())\nwhile (TRUE) {}"] {
            let events = r.begin(code);
            r.interrupt();
            let (events, _, _) = events.to_the_end();
            assert_eq!(events.last().unwrap().data["status"], "interrupted", "{driver}: {code}");
            assert_eq!(shown(&r.run("x"), "text/plain"), "[1] 42", "{driver}: {code}");
        }
        let result = r.try_run(&json!({"code": "while (TRUE) {}", "timeout_s": 0.3})).expect(200).json();
        assert_eq!(result["status"], "timed_out", "{driver}: {result:#}");
        let large = format!("y <- {:?}\nnchar(y)", "x".repeat(2 << 20));
        assert_eq!(shown(&r.run(&large), "text/plain"), format!("[1] {}", 2 << 20), "{driver}");
        let result = r.run("tools::pskill(Sys.getpid(), 9)\nSys.sleep(100)");
        assert_eq!((&result["status"], &result["signal"]), (&json!("context_ended"), &json!(9)), "{driver}: {result:#}");
        r.restart();
        assert_eq!(r.run("x")["status"], "error", "{driver}");
        let result = r.run("quit('no', 3)");
        assert_eq!(result["status"], "context_ended", "{driver}: {result:#}");
        sandbox.request("DELETE", &r.target("")).send().expect(204);
    }
    let r = Context::new(&sandbox, "r");
    let result = r.run("1; 2");
    let kinds: Vec<&Value> = result["results"].as_array().unwrap().iter().map(|shown| &shown["type"]).collect();
    assert_eq!(kinds, ["display", "value"], "only the last is the value: {result:#}");
    assert_eq!(error(&r.run("stop('x')"), "simpleError")["traceback"], "Error: x\n  at stop(\"x\")");
    assert_eq!(r.run("quit('no', 3)")["exit_code"], 3);
    r.restart();
    let result = r.run("closeAllConnections(); 1");
    assert_eq!(result["status"], "context_ended", "{result:#}");
    server.finish();
}

/// A sandbox whose kernels are ours: `spec` goes into its `kernel.json`.
#[track_caller]
fn install(sandbox: &Sandbox<'_>, name: &str, spec: &[u8]) {
    let path = format!("jupyter/kernels/{name}/kernel.json");
    let _ = sandbox.shell(&format!("mkdir -p jupyter/kernels/{name}"));
    assert!(sandbox.write(path.as_bytes(), spec).status < 300, "{path}");
}

fn fake(how: &str) -> Vec<u8> {
    json!({"argv": ["/usr/bin/python3", "{resource_dir}/../../../kernel.py", "{connection_file}", how], "language": how})
        .to_string()
        .into_bytes()
}

fn server_with_kernels(server: &Server) -> Sandbox<'_> {
    needs_kernels();
    let sandbox = server.sandbox(&json!({"env": {"JUPYTER_PATH": "/workspace/jupyter"}}));
    assert!(sandbox.write(b"kernel.py", include_bytes!("../probes/kernel.py")).status < 300);
    sandbox
}

#[test]
fn r5_4_a_kernel_may_say_what_it_likes() {
    let server = Server::start();
    let sandbox = server_with_kernels(&server);
    install(&sandbox, "fake", &fake("fake"));
    let fake = Context::with(&sandbox, "fake", "auto");
    let state = fake.state();
    assert_eq!((&state["kernel"], &state["version"]), (&json!("fake"), &json!("Fake \u{fffd}[1m2")), "{state:#}");
    let (witness, _) = (Context::new(&sandbox, "python"), ());
    let _ = witness.says("x = 'still here'");
    for odd in [
        "tell('stream', {'name': 5, 'text': 'a'})",
        "tell('stream', {'text': ['a']}); tell('stream', {})",
        "tell('display_data', {'data': 5}); tell('display_data', {'data': {}}); tell('display_data', {})",
        "tell('nonsense', {}); tell('', {}); send(shell, [identity], 'nonsense', {})",
        "tell('status', {'execution_state': 5})",
        "send(stdin, [identity], 'input_request', {'prompt': 5})",
        "send(control, [identity], 'interrupt_reply', {})",
        "reply = {'status': 'ok', 'payload': [5, {'source': 'page', 'data': 5}, {'source': []}]}",
    ] {
        let result = fake.run(odd);
        assert_eq!((&result["status"], &result["error"]), (&json!("ok"), &Value::Null), "{odd}: {result:#}");
    }
    let result = fake.run("tell('display_data', {'data': {'a/json': {'x': 1}, 'text/plain': ['a', '\\x1b[1mb'], 'image/png': 'AA\\nAA\\n', 'n/n': None, 'u/u': '\\ud800'}})");
    let data = json!({"a/json": "{\"x\": 1}", "text/plain": "ab", "image/png": "AAAA", "u/u": "\\ud800"});
    assert_eq!(result["results"], json!([{"type": "display", "data": data}]), "{result:#}");
    let result = fake.run("tell('error', {'ename': 5, 'evalue': None, 'traceback': [5, 'line']}); reply = {'status': 'error'}");
    assert_eq!(result["error"], json!({"name": "", "message": "", "traceback": "line"}), "{result:#}");
    // No more of it is passed on than the host takes.
    let result = fake.run("tell('display_data', {'data': {'x' * 201: '', '\\U0001f600' * 50: '', **{str(n): '' for n in range(100)}}})");
    assert_eq!(result["results"][0]["data"].as_object().map(serde_json::Map::len), Some(32), "{result:#}");
    let result = fake.run("tell('display_data', {'data': {'a': '\\U0001f600' * (1 << 20), 'b': 'small'}})");
    assert_eq!(result["results"], json!([{"type": "display", "data": {"b": "small"}, "omitted": {"a": 1 << 20}}]), "{result:.500}");
    let result = fake.run("reply = {'status': []}");
    assert_eq!(result["status"], "error", "{result:#}");

    for (code, why) in [
        ("tell('stream', {'text': 'x'}, key='another')", "a wrong signature"),
        ("iopub.send_multipart([b'topic', b'x'])", "no message of Jupyter's"),
        ("shell.send_multipart([identity, b'<IDS|MSG>', b'', b'{}'])", "no message of Jupyter's"),
        ("send_raw(iopub, [b'topic'], [b'{', b'{}', b'{}', b'{}'])", "not JSON"),
        ("send_raw(iopub, [b'topic'], [b'[' * 100000, b'{}', b'{}', b'{}'])", "not JSON"),
        ("send_raw(iopub, [b'topic'], [b'\\xff', b'{}', b'{}', b'{}'])", "not JSON"),
        ("send_raw(iopub, [b'topic'], [b'[]', b'{}', b'{}', b'{}'])", "wrong shape"),
        ("iopub.send_multipart([b'x'] * 2000)", "parts at once"),
        ("iopub.close(linger=0); shell.close(linger=0); time.sleep(1000)", "closed its sockets"),
        ("os._exit(4)", "exit code 4"),
        ("os.kill(os.getpid(), 15)", "signal 15"),
        ("os.kill(os.getppid(), 9)", "signal 9"),
        ("os.kill(os.getppid(), 19); os.killpg(0, 9)", "signal 9"),
        ("reply = {'status': 'ok', 'payload': [{'source': 'ask_exit'}]}", "exit code 0"),
    ] {
        let result = fake.run(code);
        assert!(result["status"] == "context_ended" && text(&result["message"]).contains(why), "{code}: {result:#}");
        fake.try_run(&json!({"code": "1"})).refused(409, "context_ended");
        fake.restart();
        assert_eq!(fake.says("tell('execute_result', {'data': {'text/plain': '42'}})").1.as_deref(), Some("42"), "after {code}");
        assert_eq!(witness.value("x"), "'still here'", "beside {code}");
    }
    // It neither ends nor listens.
    for endless in [
        "while True: time.sleep(1)",
        "while True: tell('stream', {'text': 'x' * 65536})",
        "while True: tell('display_data', {'data': {'a': 'x' * 65536}})",
    ] {
        let result = fake.try_run(&json!({"code": endless, "timeout_s": 0.5})).expect(200).json();
        assert_eq!(result["status"], "timed_out", "{endless}: {result:.1000}");
        fake.try_run(&json!({"code": "1"})).refused(409, "context_ended");
        fake.restart();
    }
    // Ends while nothing runs.
    let _ = fake.says("import threading; threading.Timer(0.1, lambda: os._exit(5)).start()");
    eventually("its end", Duration::from_secs(5), || (fake.state()["state"] == "ended").then_some(()));
    assert!(text(&fake.state()["message"]).contains("exit code 5"));
    server.finish();
}

#[test]
fn a_kernel_that_does_not_come_up_leaves_nothing() {
    let server = Server::start();
    let sandbox = server_with_kernels(&server);
    for (name, spec, code, why) in [
        ("garbage", fake("garbage"), "context_failed", "does not speak ZMTP"),
        ("huge", fake("huge"), "context_failed", "more than 256 MiB"),
        ("odd", fake("odd"), "context_failed", "no known kind"),
        ("mute", fake("mute"), "context_failed", "did not answer within 25 s"),
        ("deaf", br#"{"argv": ["sh", "-c", "sleep 4712 & sleep 4713"], "language": "deaf"}"#.to_vec(), "context_failed", "does not listen"),
        (
            "ends",
            br#"{"argv": ["sh", "-c", "echo last words >&2; exit 3"], "language": "ends"}"#.to_vec(),
            "context_failed",
            "exit code 3: last words",
        ),
        ("gone", br#"{"argv": ["/no/such"], "language": "gone"}"#.to_vec(), "unknown_language", "no Jupyter kernel for it"),
        ("empty", br#"{"argv": [], "language": "empty"}"#.to_vec(), "unknown_language", "no Jupyter kernel for it"),
        ("words", br#"{"argv": [["a"]], "language": "words"}"#.to_vec(), "unknown_language", "no Jupyter kernel for it"),
        ("shape", br#"["shape"]"#.to_vec(), "unknown_language", "no Jupyter kernel for it"),
        ("text", b"{\"language\": \"text\", \xff".to_vec(), "unknown_language", "no Jupyter kernel for it"),
        ("deep", "[".repeat(60_000).into_bytes(), "unknown_language", "no Jupyter kernel for it"),
        (
            "large",
            [br#"{"argv": ["true"], "language": "large"}"#.to_vec(), vec![b' '; 64 << 10]].concat(),
            "unknown_language",
            "no Jupyter kernel",
        ),
    ] {
        install(&sandbox, name, &spec);
        let answer = sandbox.request("POST", "/contexts").json(&json!({"language": name})).send();
        let told = &answer.json()["error"];
        assert!(told["code"] == code && text(&told["message"]).contains(why), "{name}: {told:#}");
        assert_eq!(sandbox.request("GET", "/contexts").send().expect(200).json()["data"], json!([]), "{name}");
        eventually("the end of all that it had started", Duration::from_secs(5), || {
            let others = sandbox.others();
            (!others.contains("kernel.py") && !others.contains("sleep")).then_some(())
        });
    }
    server.finish();
}

#[test]
fn a_request_says_whether_it_wants_a_kernel() {
    needs_kernels();
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let refused = |body: Value, code: &str| {
        let answer = sandbox.request("POST", "/contexts").json(&body).send();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(code)), "{body}");
        text(&answer.json()["error"]["message"])
    };
    assert!(refused(json!({"language": "bash", "driver": "kernel"}), "invalid_driver").contains("`builtin`"));
    assert!(refused(json!({"language": "bash", "driver": "jupyter"}), "kernel_missing").contains("Jupyter"));
    assert!(refused(json!({"language": "julia", "driver": "builtin"}), "unknown_language").contains("python, node, bash, r"));
    assert!(refused(json!({"language": "julia"}), "unknown_language").contains("no Jupyter kernel"));
    // Where there is none, it is our own, and as if nothing had been there before it.
    let bash = Context::with(&sandbox, "bash", "auto");
    assert_eq!(bash.state()["kernel"], Value::Null);
    assert_eq!(bash.says("yes | head -c 4; ls /proc/self/fd | wc -l").0, "y\ny\n4\n", "broken pipes end programs, and nothing is open");
    needs("node", "nodejs");
    let node = Context::with(&sandbox, "node", "auto");
    assert_eq!((node.value("6 * 7"), &node.state()["kernel"]), ("42".to_owned(), &Value::Null));
    // Several kernels side by side, each with its own ports.
    let many: Vec<_> = (0..4).map(|_| Context::with(&sandbox, "python", "jupyter")).collect();
    for (n, python) in many.iter().enumerate() {
        let _ = python.says(&format!("x = {n}"));
    }
    for (n, python) in many.iter().enumerate() {
        assert_eq!(python.value("x"), n.to_string());
    }
    assert_eq!(sandbox.shell("ls /tmp"), "", "no files of ours stay");
    // What a kernel is told to be is not for others to read, and its environment is that of the context.
    let answer =
        sandbox.request("POST", "/contexts").json(&json!({"language": "python", "env": {"A": "b"}, "cwd": "/tmp"})).send().expect(201);
    let target = format!("/contexts/{}/run", text(&answer.json()["id"]));
    let body = json!({"code": "import os\nos.environ['A'] + os.getcwd()"});
    let result = sandbox.request("POST", &target).json(&body).send().expect(200).json();
    assert_eq!(result["results"][0]["data"]["text/plain"], "'b/tmp'", "{result:#}");
    server.finish();
}
