//! `caisson run`: no server, no configuration, and nothing left whatever becomes of it.

use std::{
    fs,
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use caisson_tests::{Home, Process, Ran, Value, allowed, eventually, json, program, signal};
use rustix::process::Signal;

#[track_caller]
fn said(ran: Ran, stdout: &str) {
    let ran = ran.exited(0);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), (stdout, ""));
}

#[test]
fn a_program_is_given_in_many_ways() {
    let home = Home::new();
    fs::write(home.path().join("hello.py"), "import sys\nprint('hello', sys.argv[1:])\n").unwrap();
    fs::write(home.path().join("hello.sh"), "echo $0 $#\n").unwrap();
    said(home.caisson(["run", "hello.py"]), "hello []\n");
    said(home.caisson(["run", "hello.py", "a b", "--flag"]), "hello ['a b', '--flag']\n");
    said(home.caisson(["run", "-l", "python", "-c", "print(6 * 7)"]), "42\n");
    said(home.caisson(["run", "--lang", "bash", "-c", "printf %s \"$1\"", "--", "-n"]), "-n");
    said(home.caisson(["run", "-l", "node", "-c", "console.log(1)"]), "1\n");
    said(home.caisson_with(["run", "-l", "python", "-"], b"print('from stdin')"), "from stdin\n");
    said(home.caisson(["run", "--image", "host", "--", "echo", "-n", "x"]), "x");
    said(home.caisson(["run", "--", "sh", "-c", "pwd; id -un"]), "/workspace\nuser\n");
    home.finish();
}

#[test]
fn outputs_stay_apart_and_input_is_passed() {
    let home = Home::new();
    let ran = home.caisson(["run", "-l", "bash", "-c", "echo out; echo err >&2; exit 3"]).exited(3);
    assert_eq!((ran.out().as_str(), ran.err().as_str()), ("out\n", "err\n"));
    let bytes: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
    let ran = home.caisson_with(["run", "--", "cat"], &bytes).exited(0);
    assert!(ran.stdout == bytes, "{} bytes came back", ran.stdout.len());
    said(home.caisson_with(["run", "-l", "bash", "-c", "read a; echo got $a"], b"one\ntwo\n"), "got one\n");
    home.finish();
}

#[test]
fn input_and_output_flow_while_the_program_runs() {
    let home = Home::new();
    let mut child =
        home.start(home.command(["run", "-l", "bash", "-c", "while read a; do echo got $a; done; echo end"]).stdin(Stdio::piped()));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut expect = |text: &str| {
        let mut buffer = vec![0; text.len()];
        stdout.read_exact(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer), text);
    };
    for word in ["one", "two"] {
        std::io::Write::write_all(&mut stdin, format!("{word}\n").as_bytes()).unwrap();
        expect(&format!("got {word}\n"));
    }
    drop(stdin);
    expect("end\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    home.finish();
}

#[test]
fn exit_codes_are_the_programs_own_or_say_what_happened() {
    let home = Home::new();
    for code in [0, 1, 77, 255] {
        let _ran = home.caisson(["run", "-l", "bash", "-c", &format!("exit {code}")]).exited(code);
    }
    for number in [9, 11, 15] {
        let _ran = home.caisson(["run", "-l", "bash", "-c", &format!("kill -{number} $$")]).exited(128 + number);
    }
    let begin = Instant::now();
    let ran = home.caisson(["run", "--timeout", "0.5", "--", "sleep", "1000"]).exited(124);
    assert!(ran.err().contains("0.5 s"), "{}", ran.err());
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)));
    let hungry = "b = []\nwhile True: b.append(b'x' * 1000000)";
    let ran = home.caisson(["run", "--memory", "64M", "-l", "python", "-c", hungry]).exited(137);
    assert!(ran.err().contains("64 MiB"), "{}", ran.err());
    home.finish();
}

#[test]
fn failures_of_its_own_are_125_and_say_what_to_do() {
    let home = Home::new();
    for (arguments, words) in [
        (&["run", "-l", "klingon", "-c", "x"][..], &["klingon", "python"][..]),
        (&["run", "nothing.py"], &["nothing.py"]),
        (&["run", "--", "no-such-program"], &["no-such-program"]),
        (&["run", "--image", "debian", "--pull", "never", "--", "true"], &["debian", "host"]),
        (&["run", "--memory", "1K", "--", "true"], &["memory", "16 MiB"]),
        (&["run", "--pids", "2", "--", "true"], &["pids", "8"]),
        (&["run", "--timeout", "never", "--", "true"], &["timeout", "none"]),
        (&["run", "--no-such-flag", "--", "true"], &["--no-such-flag"]),
        (&["run", "--file", "missing.txt", "--", "true"], &["missing.txt"]),
        (&["run", "-c", "print(1)"], &["--lang"]),
        (&["run"], &["run"]),
    ] {
        let ran = home.caisson(arguments).exited(125);
        assert_eq!(ran.out(), "", "{arguments:?}");
        for word in words {
            assert!(ran.err().contains(word), "{arguments:?}: `{word}` is not in {}", ran.err());
        }
    }
    home.finish();
}

#[test]
fn files_variables_directories_and_limits_are_given_by_flags() {
    let home = Home::new();
    fs::write(home.path().join("data.csv"), "a,b\n").unwrap();
    fs::write(home.path().join("raw"), b"\xff\x00").unwrap();
    said(
        home.caisson(["run", "--file", "data.csv", "--file", "raw:/tmp/there", "--", "sh", "-c", "cat data.csv; wc -c < /tmp/there"]),
        "a,b\n2\n",
    );
    said(home.caisson(["run", "--env", "A=x y", "--env", "B=", "--", "sh", "-c", "echo \"$A|${B-unset}|${HOME}\""]), "x y||/home/user\n");
    said(home.caisson(["run", "--cwd", "/tmp", "--", "pwd"]), "/tmp\n");
    let line = "n=0; while [ $n -lt 40 ]; do sleep 5 & n=$((n+1)); done";
    let ran = home.caisson(["run", "--pids", "16", "-l", "bash", "-c", line]);
    assert!(ran.err().contains("fork"), "{ran:?}");
    let ran = home.caisson(["run", "--disk", "2M", "-l", "bash", "-c", "head -c 5000000 /dev/zero > f"]).exited(1);
    assert!(ran.err().contains("No space left"), "{}", ran.err());
    home.finish();
}

#[test]
fn json_is_the_result_as_the_api_has_it() {
    let home = Home::new();
    let ran = home.caisson(["run", "--json", "-l", "bash", "-c", "echo out; echo err >&2; echo x > made; exit 4"]).exited(4);
    let result: Value = serde_json_of(&ran);
    for (field, expect) in [("status", json!("exited")), ("exit_code", json!(4)), ("stdout", json!("out\n")), ("stderr", json!("err\n"))] {
        assert_eq!(result[field], expect, "{result:#}");
    }
    assert_eq!((&result["files"][0]["path"], &result["files"][0]["content"]), (&json!("/workspace/made"), &json!("x\n")), "{result:#}");
    assert_eq!(ran.err(), "", "nothing beside the object");
    let timed_out = home.caisson(["run", "--json", "--timeout", "0.3", "--", "sleep", "100"]).exited(124);
    assert_eq!(serde_json_of(&timed_out)["status"], "timed_out");
    home.finish();
}

#[track_caller]
fn serde_json_of(ran: &Ran) -> Value {
    ran.out().trim().parse().unwrap_or_else(|error| panic!("{error} in {}", ran.out()))
}

/// A run whose program and daemon are there.
fn begun(home: &Home, mark: &str) -> Child {
    let line = format!("trap '' INT TERM HUP; setsid sleep {mark} & echo on; while :; do sleep 0.1; done");
    // Also where whoever started the tests ignores signals, as `nohup` does: a run keeps to that.
    let mut command = home.clean("env");
    command.arg("--default-signal=HUP,INT,TERM").arg(program()).args(["run", "--timeout", "none", "-l", "bash", "-c", &line]);
    let mut child = home.start(&mut command);
    let mut on = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut on).unwrap();
    eventually("the daemon", Duration::from_secs(5), || Process::with_argument(mark));
    child
}

#[test]
fn r7_8_a_run_that_gets_a_signal_leaves_nothing() {
    let home = Home::new();
    for (sent, mark) in [(Signal::INT, "70001"), (Signal::TERM, "70002"), (Signal::HUP, "70003")] {
        let mut child = begun(&home, mark);
        let begin = Instant::now();
        signal(child.id(), sent);
        let status = child.wait().unwrap();
        let number = sent.as_raw();
        assert!(status.code() == Some(128 + number) || status.signal() == Some(number), "signal {number}: {status}");
        assert!(begin.elapsed() < allowed(Duration::from_secs(3)), "signal {number}: {:?}", begin.elapsed());
        assert!(Process::with_argument(mark).is_none(), "signal {number}: its end is the end of everything");
    }
    home.finish();
}

#[test]
fn r7_8_a_run_that_is_killed_leaves_nothing() {
    let home = Home::new();
    for mark in ["70011", "70012", "70013"] {
        let mut child = begun(&home, mark);
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the end of the daemon", Duration::from_secs(2), || Process::with_argument(mark).is_none().then_some(()));
    }
    // What it kept in memory and on disk of its own goes with the next run at the latest.
    said(home.caisson(["run", "--", "echo", "x"]), "x\n");
    home.finish();
}

/// As under `nohup`, whose programs would otherwise ignore it as well.
#[test]
fn what_its_own_parent_made_it_ignore_programs_do_not() {
    let home = Home::new();
    let mut command = home.clean("sh");
    command.args(["-c", "trap '' HUP INT QUIT TERM USR1 USR2; exec \"$0\" \"$@\""]).arg(program());
    let output = command.args(["run", "--", "grep", "SigIgn", "/proc/self/status"]).output().unwrap();
    said(output.into(), "SigIgn:\t0000000000000000\n");
    home.finish();
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let home = Home::new();
    let mut child = home.start(&mut home.command(["run", "--timeout", "none", "--", "yes"]));
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [0; 4];
    stdout.read_exact(&mut some).unwrap();
    assert_eq!(&some, b"y\ny\n");
    drop(stdout);
    let status = eventually("its end", Duration::from_secs(5), || child.try_wait().unwrap());
    assert!(status.code() == Some(141) || status.signal() == Some(13), "{status}");
    home.finish();
}
