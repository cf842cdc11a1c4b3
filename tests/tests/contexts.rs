//! Contexts: interpreters that live in a sandbox, and whatever the code that they run does to them.

use std::{io::Write, process::Stdio, thread, time::Duration};

use caisson_tests::{BASE64, Base64Engine, Context, Ran, Server, Value, error, eventually, fewer, json, needs, text};

#[test]
fn python_keeps_what_was_before_and_tells_values_output_and_errors() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let python = Context::new(&sandbox, "python");
    assert!(text(&python.state()["version"]).starts_with("Python 3."));
    assert_eq!(python.says("x = 41"), (String::new(), None));
    assert_eq!(python.says("print('a')\nx += 1\nx"), ("a\n".to_owned(), Some("42".to_owned())));
    assert_eq!(python.value("_ + 1"), "43");
    assert_eq!(python.says("x;"), (String::new(), None), "a semicolon hides it");
    assert_eq!(python.says("from __future__ import annotations").1, None);
    assert_eq!(python.value("def f(a: no_such_type): return a\nf(7)"), "7", "and that lasts");
    assert_eq!(python.value("import asyncio\nasync def g():\n    await asyncio.sleep(0)\n    return 5\nawait g()"), "5");
    assert_eq!(python.value("import pickle\nclass C: pass\ntype(pickle.loads(pickle.dumps(C()))).__module__"), "'__main__'");
    assert_eq!(python.value("import os; os.getcwd()"), "'/workspace'");
    assert_eq!(python.value("try:\n    input()\nexcept EOFError:\n    read = 'nothing'\nread"), "'nothing'");

    let result = python.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\ndef h():\n    1 / 0\nh()");
    let failed = error(&result, "ZeroDivisionError");
    assert_eq!(failed["message"], "division by zero");
    let traceback = text(&failed["traceback"]);
    assert!(
        traceback.starts_with("Traceback (most recent call last):\n  File \"<input ") && traceback.contains("    1 / 0\n"),
        "{traceback}"
    );
    assert!(!traceback.contains("evaluate"), "none of the driver's own frames: {traceback}");
    assert_eq!((&result["stdout"], &result["stderr"], &result["exit_code"]), (&json!("out\n"), &json!("err\n"), &json!(1)));
    assert!(text(&error(&python.run("x ="), "SyntaxError")["traceback"]).contains("x =\n"));
    error(&python.run("raise SystemExit(3)"), "SystemExit");
    error(&python.run("def r(): r()\nr()"), "RecursionError");
    error(&python.run("class Bad(Exception):\n    def __str__(self): 1/0\nraise Bad"), "Bad");
    error(&python.run("class V:\n    def __repr__(self): raise KeyError('k')\nV()"), "KeyError");
    assert_eq!(python.value("x"), "42", "after all of that");

    let result = python.run("import os\nos.write(1, b'a\\xff\\x00b')");
    assert_eq!((&result["stdout"], &result["stdout_base64"]), (&json!("a\u{fffd}\u{0}b"), &json!(BASE64.encode(b"a\xff\0b"))));
    // A run is an execution like others.
    let record = server.execution(&text(&result["id"]));
    assert_eq!((&record["status"], &record["exit_code"], &record["cmd"]), (&json!("exited"), &json!(0), &json!(["python", python.id()])));
    let output = server.get(&format!("/v1/executions/{}/output", text(&result["id"]))).expect(200);
    assert_eq!(output.body, b"a\xff\0b");
    let of_root = server.sandbox(&json!({"user": "root"}));
    assert_eq!(Context::new(&of_root, "python").value("import os; os.getuid()"), "0");
    server.finish();
}

/// Libraries as the conventions have them, as far as a context looks at them.
const PYPLOT: &str = "import sys, types
class Figure:
    number = 1
    def savefig(self, buffer, format, bbox_inches): buffer.write(b'\\x89PNG' + bytes([self.number]))
    def __repr__(self): return '<Figure>'
figures = {}
def figure(number=None):
    number = number or len(figures) + 1
    if number not in figures:
        figures[number] = Figure()
        figures[number].number = number
    return figures[number]
pyplot = types.ModuleType('matplotlib.pyplot')
pyplot.get_fignums = lambda: list(figures)
pyplot.figure = figure
pyplot.close = lambda figure: figures.pop(figure.number, None)
module = types.ModuleType('matplotlib.figure')
module.Figure = Figure
sys.modules.update({'matplotlib': types.ModuleType('matplotlib'), 'matplotlib.pyplot': pyplot, 'matplotlib.figure': module})
import os
os.environ['MPLBACKEND']";

#[test]
fn rich_values_come_by_media_type() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let python = Context::new(&sandbox, "python");
    let result = python.run(
        "class Table:\n    def _repr_html_(self): return '<b>1</b>'\n    def _repr_png_(self): return b'\\x89PNG'\n    def __repr__(self): return 'Table'\n\
         display(Table(), 5)\nprint('between')\ndisplay({'text/markdown': '*x*'}, raw=True)\nTable()",
    );
    let table = json!({"text/html": "<b>1</b>", "image/png": BASE64.encode(b"\x89PNG"), "text/plain": "Table"});
    let expect = json!([
        {"type": "display", "data": table},
        {"type": "display", "data": {"text/plain": "5"}},
        {"type": "display", "data": {"text/markdown": "*x*"}},
        {"type": "value", "data": table},
    ]);
    assert_eq!((&result["results"], &result["stdout"]), (&expect, &json!("between\n")), "{result:#}");
    let result = python.run("class M:\n    def _repr_mimebundle_(self, include=None, exclude=None): return {'x/y': 'z'}, {}\n    def _repr_html_(self): 1/0\nM()");
    assert_eq!(result["results"][0]["data"]["x/y"], "z");
    assert!(text(&result["stderr"]).contains("ZeroDivisionError"), "what cannot be shown is told, and the rest is shown: {result:#}");

    assert_eq!(python.value(PYPLOT), "'Agg'");
    let result = python.run("import matplotlib.pyplot as plt\nplt.figure(); plt.figure(2);");
    let figure = |number: u8| json!({"type": "display", "data": {"image/png": BASE64.encode([b"\x89PNG", &[number][..]].concat()), "text/plain": "<Figure>"}});
    assert_eq!(result["results"], json!([figure(1), figure(2)]));
    assert_eq!(python.run("1")["results"].as_array().unwrap().len(), 1, "each figure once");
    let result = python.run("plt.figure()");
    assert_eq!(result["results"].as_array().unwrap().len(), 1, "nor twice as the last value: {result:#}");

    let result = python.run("class Big:\n    def _repr_html_(self): return 'x' * (9 << 20)\n    def __repr__(self): return 'Big'\nBig()");
    assert_eq!(result["results"], json!([{"type": "value", "data": {"text/plain": "Big"}, "omitted": {"text/html": 9 << 20}}]));
    let result = python.run("for n in range(1100): display(n)");
    assert_eq!((result["results"].as_array().unwrap().len(), &result["results_dropped"]), (1000, &json!(100)));
    let result = python.run("for n in range(5): display('x' * (5 << 20))");
    let told: Vec<bool> = result["results"].as_array().unwrap().iter().map(|shown| shown["data"]["text/plain"].is_string()).collect();
    assert_eq!(told, [true, true, true, false, false], "16 MiB in all");

    needs("node", "nodejs");
    let node = Context::new(&sandbox, "node");
    let result = node.run(
        "display({_repr_html_() { return '<i>' }}); ({[Symbol.for('Jupyter.display')]() { return {'image/png': new Uint8Array([1, 2])} }})",
    );
    assert_eq!(result["results"][0]["data"]["text/html"], "<i>", "{result:#}");
    assert_eq!(result["results"][1]["data"]["image/png"], "AQI=", "{result:#}");
    server.finish();
}

#[test]
fn node_runs_code_as_its_own_repl_does() {
    needs("node", "nodejs");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let node = Context::new(&sandbox, "node");
    assert_eq!(node.says("const a = 6; let b = 7; var c = a * b"), (String::new(), None));
    assert_eq!(node.says("console.log('out'); console.error('err'); a * b"), ("out\n".to_owned(), Some("42".to_owned())));
    assert_eq!(node.value("const later = await new Promise(done => setTimeout(() => done(5), 10)); later + 1"), "6");
    assert_eq!(node.value("later"), "5", "what was awaited lasts");
    assert_eq!(node.value("Promise.resolve([1, {x: 2}])"), "[ 1, { x: 2 } ]");
    assert_eq!(node.value("require('path').basename('/a/b')"), "'b'");
    assert_eq!(node.value("(await import('node:os')).EOL"), "'\\n'");
    assert_eq!(node.value("process.cwd()"), "'/workspace'");
    assert_eq!(node.says("require('fs').readFileSync(0, 'utf8').length").1.as_deref(), Some("0"), "standard input is empty");

    let result = node.run("function f() { throw new RangeError('too far') }\nf()");
    let failed = error(&result, "RangeError");
    assert_eq!(failed["message"], "too far");
    let traceback = text(&failed["traceback"]);
    assert!(traceback.contains("at f (<input ") && !traceback.contains("[eval]") && !traceback.contains("node:"), "{traceback}");
    error(&node.run("const a = 1"), "SyntaxError");
    error(&node.run("function ("), "SyntaxError");
    error(&node.run("await Promise.reject(new TypeError('later'))"), "TypeError");
    assert_eq!(error(&node.run("throw 5"), "thrown")["message"], "5");
    // Nobody's own error is told, and ends nothing.
    let said = node.run("setTimeout(() => { throw new Error('stray') }, 1); await new Promise(done => setTimeout(done, 100)); 1");
    assert_eq!(said["status"], "ok", "{said:#}");
    assert!(text(&said["stderr"]).contains("stray"), "{said:#}");
    assert_eq!(node.value("a"), "6");
    let result = node.run("process.exit(4)");
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("context_ended"), &json!(4)), "{result:#}");
    server.finish();
}

#[test]
fn bash_is_one_shell_all_along() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let bash = Context::new(&sandbox, "bash");
    assert_eq!(bash.says("x=5; declare -A m=([k]=v); f() { echo \"f $1\"; }; set -- a b; cd /tmp; exec 7>kept"), (String::new(), None));
    assert_eq!(bash.says("f $x; echo ${m[k]} $# $2; pwd; echo to >&7; cat kept").0, "f 5\nv 2 b\n/tmp\nto\n");
    let result = bash.run("echo out; echo err >&2; false");
    assert_eq!((&result["status"], &result["exit_code"], &result["error"]), (&json!("ok"), &json!(1), &Value::Null), "{result:#}");
    assert_eq!((&result["stdout"], &result["stderr"]), (&json!("out\n"), &json!("err\n")));
    assert_eq!(bash.says("echo $?").0, "1\n", "the status of the run before");
    assert_eq!(bash.says("cat; read line; echo \"<$line>\"; echo 'ä\u{1f980}'").0, "<>\nä\u{1f980}\n", "standard input is empty");
    let result = bash.run("if true");
    assert!(result["exit_code"] != json!(0) && text(&result["stderr"]).contains("syntax error"), "{result:#}");
    assert_eq!(bash.says("ls /proc/self/fd | wc -l").0, "5\n", "0, 1, 2, the user's 7, and the one of `ls` itself");
    assert_eq!(bash.says("yes | head -c 200000 | wc -c; seq 3 | while read n; do echo n$n; done").0, "200000\nn1\nn2\nn3\n");
    let result = bash.run("echo last; exit 3");
    assert_eq!((&result["status"], &result["exit_code"], &result["stdout"]), (&json!("context_ended"), &json!(3), &json!("last\n")));
    bash.try_run(&json!({"code": "true"})).refused(409, "context_ended");
    bash.restart();
    assert_eq!(bash.says("echo \"<$x>\"; pwd").0, "<>\n/workspace\n");
    server.finish();
}

#[test]
fn what_runs_is_interrupted_and_the_context_goes_on() {
    needs("node", "nodejs");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    for (language, before, codes, after, value) in [
        (
            "python",
            "x = 1",
            &[
                "print('ready')\nwhile True: pass",
                "import time\nprint('ready')\ntime.sleep(100)",
                "import subprocess\nprint('ready')\nsubprocess.run(['sleep', '100'])",
                "import asyncio\nprint('ready')\nawait asyncio.sleep(100)",
            ][..],
            "print(x)",
            "1\n",
        ),
        (
            "node",
            "let x = 1",
            &["console.log('ready'); while (true);", "console.log('ready'); await new Promise(() => setTimeout(() => {}, 1e6))"],
            "console.log(x)",
            "1\n",
        ),
        (
            "bash",
            "x=1",
            &[
                "echo ready; sleep 100; echo after",
                "echo ready; while :; do :; done",
                "f() { echo ready; sleep 100; echo after; }; f; g() { f; }; g; echo end",
                "echo ready; for i in 1 2 3; do sleep 100; done; x=2",
                "echo ready; (sleep 100; sleep 100); x=3",
            ],
            "echo $x",
            "1\n",
        ),
    ] {
        let context = Context::new(&sandbox, language);
        let _ = context.says(before);
        for code in codes {
            let events = context.begin(code);
            assert_eq!(context.state()["state"], "busy");
            context.interrupt();
            let (events, stdout, _) = events.to_the_end();
            let end = events.last().unwrap();
            assert_eq!((end.name.as_str(), &end.data["status"]), ("result", &json!("interrupted")), "{language}: {code}: {}", end.data);
            assert!(stdout.is_empty(), "{code}: {stdout:?}");
            assert_eq!(context.says(after).0, value, "{code}");
        }
        sandbox.request("POST", &context.target("/interrupt")).send().refused(409, "context_idle");
        // A time-out is an interrupt as well.
        let endless = match language {
            "bash" => "while :; do :; done",
            "node" => "while (true);",
            _ => "while True: pass",
        };
        let result = context.try_run(&json!({"code": endless, "timeout_s": 0.3})).expect(200).json();
        assert_eq!((&result["status"], &result["message"]), (&json!("timed_out"), &json!("timed_out: limit 0.3 s")), "{result:#}");
        assert_eq!(server.execution(&text(&result["id"]))["status"], "timed_out");
        assert_eq!(context.says(after).0, value);
    }
    // What does not heed it ends with its context.
    let python = Context::new(&sandbox, "python");
    let deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    let result = python.try_run(&json!({"code": deaf, "timeout_s": 0.2})).expect(200).json();
    assert_eq!(result["status"], "timed_out", "{result:#}");
    python.try_run(&json!({"code": "1"})).refused(409, "context_ended");
    python.restart();
    assert_eq!(python.value("6 * 7"), "42");
    server.finish();
}

#[test]
fn several_live_side_by_side_and_are_ended() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let (one, two, shell) = (Context::new(&sandbox, "python"), Context::new(&sandbox, "python"), Context::new(&sandbox, "bash"));
    let _ = (one.says("x = 'one'"), two.says("x = 'two'"), shell.says("x=three"));
    let busy = one.begin("import time\nprint('ready')\ntime.sleep(1000)");
    assert_eq!((two.value("x"), shell.says("echo $x").0), ("'two'".to_owned(), "three\n".to_owned()), "while the first is busy");
    let listed = sandbox.request("GET", "/contexts").send().expect(200).json();
    let states: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|context| &context["state"]).collect();
    assert_eq!(states, ["busy", "idle", "idle"]);
    // Runs wait for those before them, up to a number.
    let waiting: Vec<_> = (0..16)
        .map(|n| {
            let body = json!({"code": format!("print({n})")}).to_string();
            let request = sandbox.request("POST", &one.target("/run")).header("content-type", "application/json");
            request.begin(body.len(), body.as_bytes())
        })
        .collect();
    eventually("a full queue", Duration::from_secs(5), || (one.state()["waiting"] == 16).then_some(()));
    one.try_run(&json!({"code": "1"})).refused(429, "quota_exceeded");
    one.interrupt();
    drop(busy);
    drop(waiting);
    eventually("an empty queue", Duration::from_secs(5), || (one.state()["waiting"] == 0).then_some(()));
    assert_eq!(one.value("x"), "'one'");
    assert_eq!(one.state()["runs"], 19, "whoever hangs up has it run all the same");

    // Restarted while it runs: the run is told, all that it started is gone.
    let events = one.begin("import subprocess, time\np = subprocess.Popen(['sleep', '4711'])\nprint('ready')\ntime.sleep(1000)");
    one.restart();
    let (events, _, _) = events.to_the_end();
    let end = &events.last().unwrap().data;
    assert_eq!(
        (&end["status"], &end["message"]),
        (&json!("context_ended"), &json!("it was restarted on request; killed on request")),
        "{end:#}"
    );
    error(&one.run("x"), "NameError");
    eventually("the end of what it had started", Duration::from_secs(5), || (!sandbox.others().contains("sleep")).then_some(()));

    let events = two.begin("import time\nprint('ready')\ntime.sleep(1000)");
    sandbox.request("DELETE", &two.target("")).send().expect(204);
    let (events, _, _) = events.to_the_end();
    assert_eq!(events.last().unwrap().data["status"], "context_ended");
    for (method, rest) in [("GET", ""), ("DELETE", ""), ("POST", "/restart"), ("POST", "/interrupt")] {
        sandbox.request(method, &two.target(rest)).send().refused(404, "not_found");
    }
    two.try_run(&json!({"code": "1"})).refused(404, "not_found");

    // Killed as the execution that its run is.
    let mut events = sandbox.request("POST", &one.target("/run")).json(&json!({"code": "import time; time.sleep(1000)"})).events();
    let id = text(&events.until("start").data["id"]);
    server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
    assert_eq!(server.execution(&id)["status"], "killed");
    one.try_run(&json!({"code": "1"})).refused(409, "context_ended");

    let others: Vec<_> = (0..14).map(|_| Context::new(&sandbox, "bash")).collect();
    sandbox.request("POST", "/contexts").json(&json!({"language": "bash", "driver": "builtin"})).send().refused(429, "quota_exceeded");
    sandbox.request("DELETE", &others[0].target("")).send().expect(204);
    let _another = Context::new(&sandbox, "bash");
    let events = shell.begin("echo ready; sleep 1000");
    let _ = sandbox.delete().expect(200);
    let (events, _, _) = events.to_the_end();
    let end = &events.last().unwrap().data;
    assert_eq!(end["status"], "context_ended", "{end:#}");
    assert!(text(&end["message"]).contains("deleted"), "{end:#}");
    shell.try_run(&json!({"code": "1"})).refused(410, "gone");
    sandbox.request("GET", "/contexts").send().refused(410, "gone");
    server.finish();
}

#[test]
fn what_there_is_no_interpreter_for_is_refused_and_leaves_nothing() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let refused = |body: Value, code: &str| {
        let answer = sandbox.request("POST", "/contexts").json(&body).send();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(code)), "{body}");
        text(&answer.json()["error"]["message"])
    };
    assert!(refused(json!({"language": "cobol"}), "unknown_language").contains("python, node, bash"));
    let missing = refused(json!({"language": "node", "driver": "builtin", "env": {"PATH": "/nowhere"}}), "program_not_found");
    assert!(missing.contains("`sh`"), "{missing}");
    let _ = refused(json!({"language": "bash", "cwd": "/no/such"}), "invalid_path");
    let _ = refused(json!({"language": "bash", "env": {"CAISSON_X": "1"}}), "reserved_env");
    // An interpreter that does not come up.
    let failed = sandbox.request("POST", "/contexts").json(&json!({"language": "python", "env": {"PYTHONHOME": "/nowhere"}})).send();
    failed.refused(409, "context_failed");
    assert_eq!(sandbox.request("GET", "/contexts").send().expect(200).json()["data"], json!([]));
    sandbox.is_empty_of_others();
    server.finish();
}

#[test]
fn r5_4_contexts_survive_their_code_or_say_why_not() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 256 << 20}}));
    let (witness, python) = (Context::new(&sandbox, "python"), Context::new(&sandbox, "python"));
    let _ = witness.says("x = 'still here'");
    // Garbage on the outputs is output.
    let result = python.run("import os\nfor n in range(20):\n    os.write(1, b'\\xff\\x00{\"type\":\"done\",\"status\":\"ok\"}\\n' * 1000)\n    os.write(2, b'\\xfe' * 1000)\n'fine'");
    assert_eq!(
        (&result["status"], &result["stdout_bytes"], &result["stderr_bytes"]),
        (&json!("ok"), &json!(20 * 1000 * 32), &json!(20_000)),
        "{result:.400}"
    );
    // Children that print, end, and outlive the run.
    let forks = "import os, time\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n    os.waitpid(pid, 0)\n    print('parent')";
    assert_eq!(python.says(forks).0, "child\nparent\n");
    let late = "import os, time\nif os.fork() == 0:\n    time.sleep(0.3)\n    os.write(1, b'late')\n    os._exit(0)";
    assert_eq!(python.says(late).0, "");
    thread::sleep(Duration::from_millis(800));
    assert_eq!(python.says("print('next')").0, "latenext\n", "what comes between two runs belongs to the next");
    // More than is kept is counted.
    assert_eq!(python.says("import threading\nt = threading.Timer(0.1, lambda: os.write(1, b'x' * 200000))\nt.start()").0, "");
    thread::sleep(Duration::from_millis(800));
    let result = python.run("t.join()");
    assert_eq!(result["stdout_bytes"], 64 << 10, "{result:.300}");
    assert!(text(&result["message"]).starts_with(&format!("{} bytes", 200_000 - (64 << 10))), "{result:.300}");
    // More output than is told is told to be.
    let result = python.run("for n in range(300): os.write(1, b'x' * 65536)");
    assert_eq!((&result["stdout_bytes"], &result["truncated"]["stdout"]), (&json!(300 * 65536), &json!(true)));

    for (code, message) in [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("x = []\nwhile True: x.append(bytearray(10 << 20))", "out_of_memory: limit 256 MiB"),
        ("import os\nfor n in range(3, 1000):\n    try: os.write(n, b'garbage\\n')\n    except OSError: pass", "control channel"),
        (
            "import os\nfor n in range(3, 1000):\n    try: os.write(n, b'{\"type\":\"ready\",\"version\":\"x\"}\\n')\n    except OSError: pass",
            "ready",
        ),
        (
            "import os\nfor n in range(3, 1000):\n    try:\n        while True: os.write(n, b'x' * 65536)\n    except OSError: pass",
            "more than 8 MiB",
        ),
        ("import os; os.closerange(3, 1000)", "control channel was closed|exit code 70"),
    ] {
        let result = python.run(code);
        let told = text(&result["message"]);
        assert!(result["status"] == "context_ended" && message.split('|').any(|message| told.contains(message)), "{code}: {result:.1000}");
        let state = python.state();
        assert_eq!(state["state"], "ended", "{code}: {state}");
        python.try_run(&json!({"code": "1"})).refused(409, "context_ended");
        python.restart();
        assert_eq!(python.value("6 * 7"), "42", "after {code}");
        assert_eq!(witness.value("x"), "'still here'", "beside {code}");
    }
    // Ends while nothing runs.
    let _ = python.says("import os, threading\nthreading.Timer(0.1, lambda: os._exit(5)).start()");
    eventually("its end", Duration::from_secs(5), || (python.state()["state"] == "ended").then_some(()));
    assert!(text(&python.state()["message"]).contains("exit code 5"));
    assert_eq!(witness.value("x"), "'still here'");
    server.finish();
}

/// Each of these is ordinary text or ordinary use, however odd, and none may cost the context its state.
#[test]
fn odd_texts_and_floods_end_no_context() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let python = Context::new(&sandbox, "python");
    assert_eq!(python.says("kept = 1"), (String::new(), None));
    // Two escapes each in JSON: more than a line may hold.
    let large = python.run("'\u{1f600}' * 1_000_000");
    assert_eq!((&large["status"], &large["results"][0]["omitted"]["text/plain"]), (&json!("ok"), &json!(1_000_002)), "{large:.500}");
    // What a name of a file in no encoding is in Python.
    assert_eq!(python.value("'a\\udcffb'"), "'a\\udcffb'");
    assert_eq!(python.value("class Odd:\n    def __repr__(self): return '\\udcff'\nOdd()"), "\\udcff");
    let shown = python.run("display({'x/%d' % n: 'y' for n in range(50)} | {'z' * 300: 'long', 'a/\\udcff': '\\udcff'}, raw=True)");
    assert_eq!(shown["results"][0]["data"].as_object().unwrap().len(), 32, "{shown:#}");
    assert_eq!(python.value("kept"), "1");

    let node = Context::new(&sandbox, "node");
    assert_eq!(node.says("var kept = 1").0, "");
    assert_eq!(error(&node.run("throw new Error('\\ud800')"), "Error")["message"], "\u{fffd}");
    let long = node.run("throw new Error('\u{1f600}x'.repeat(100_000))");
    assert!(text(&error(&long, "Error")["message"]).contains("characters left out"), "{long:.500}");
    assert_eq!(node.value("kept"), "1");

    // What it writes all the time does not keep it unheard.
    let bash = Context::new(&sandbox, "bash");
    let flood = bash.try_run(&json!({"code": "yes & flood=$!; echo begun", "timeout_s": 20})).expect(200).json();
    assert_eq!(flood["status"], "ok", "{flood:.500}");
    let after = bash.try_run(&json!({"code": "kill $flood; wait; echo over", "timeout_s": 20})).expect(200).json();
    assert_eq!(after["status"], "ok", "{after:.500}");
    assert_eq!(bash.says("echo quiet").0.lines().last(), Some("quiet"));
    server.finish();
}

#[test]
fn many_small_runs_cost_no_memory() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let python = Context::new(&sandbox, "python");
    let runs = fewer(1000);
    let mut early = 0;
    for n in 0..runs {
        assert_eq!(python.value(&format!("'{n}' * 3")), format!("'{n}{n}{n}'"));
        if n == runs / 5 {
            early = server.process().resident();
        }
    }
    let late = server.process().resident();
    assert!(late < early + (8 << 20), "{early} bytes after a fifth of the runs, {late} after all");
    assert_eq!(python.state()["runs"], runs);
    server.finish();
}

#[test]
fn a_stream_tells_in_order_and_code_runs_on_without_its_client() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let python = Context::new(&sandbox, "python");
    let events = sandbox
        .request("POST", &python.target("/run"))
        .json(&json!({"code": "print('a')\ndisplay(1)\nimport time; time.sleep(0.3)\nprint('b')\n2"}))
        .events();
    let (events, _, _) = events.to_the_end();
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["start", "stdout", "display", "stdout", "value", "result"]);
    let (start, end) = (&events[0].data, &events[5].data);
    assert_eq!((&start["context_id"], &start["id"]), (&json!(python.id()), &end["id"]));
    assert_eq!((&end["status"], end.get("stdout"), end.get("results")), (&json!("ok"), None, None));
    drop(python.begin("import time\nprint('ready')\ntime.sleep(0.5)\nx = 5"));
    assert_eq!(python.value("x"), "5");
    // Large code gets through, larger than anything that waits anywhere.
    let large = format!("y = {:?}\nlen(y)", "x".repeat(6 << 20));
    assert_eq!(python.value(&large), (6 << 20).to_string());
    let incomplete = |context: &Context<'_>, code: &str| {
        text(&context.try_run(&json!({"code": code, "interactive": true})).expect(200).json()["status"])
    };
    assert_eq!((incomplete(&python, "if x:\n"), incomplete(&python, "if x:\n    y = 1\n\n")), ("incomplete".into(), "ok".into()));
    // As it is typed: lines with breaks between them, and an empty one at the end of a block.
    let typed =
        ["def f():\n    y = 1", "def f():\n    y = 1\n", "if x:\n    y = 1\nelse:\n    y = 2"].map(|code| incomplete(&python, code));
    assert_eq!(typed, ["incomplete", "ok", "incomplete"]);
    assert_eq!((incomplete(&python, "x ="), incomplete(&python, "(1,")), ("error".into(), "incomplete".into()));
    let bash = Context::new(&sandbox, "bash");
    assert_eq!(
        (incomplete(&bash, "if true; then\n"), incomplete(&bash, "echo 'a\n"), incomplete(&bash, "fi")),
        ("incomplete".into(), "incomplete".into(), "ok".into())
    );
    server.finish();
}

#[track_caller]
fn caisson(server: &Server, arguments: &[&str], input: &str) -> Ran {
    let mut command = server.home().command(arguments);
    command.env("CAISSON_SERVER", format!("http://{}", server.client.address)).env("CAISSON_API_KEY", server.client.key.clone().unwrap());
    let mut child = server.home().start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn the_command_line_runs_what_is_piped_in_and_tidies_up() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let ran = caisson(&server, &["repl", "-l", "python"], "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7\n").exited(0);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), ("out\n42\n", "err\n"));
    let ran = caisson(&server, &["repl", "box", "-l", "python", "-e", "A=b"], "import os\nos.environ['A'] + 1").exited(1);
    assert!(ran.err().contains("TypeError"), "{}", ran.err());
    let _ = caisson(&server, &["repl", "box", "-l", "bash"], "exit 7").exited(7);
    let ran = caisson(&server, &["repl", "box", "-l", "cobol"], "1").exited(1);
    assert!(ran.err().contains("python, node, bash"), "{}", ran.err());
    assert_eq!(sandbox.request("GET", "/contexts").send().expect(200).json()["data"], json!([]));
    let living = server.get("/v1/sandboxes?state=running").expect(200).json();
    assert_eq!(living["data"].as_array().unwrap().len(), 1, "the new ones are gone: {living:#}");
    server.finish();
}
