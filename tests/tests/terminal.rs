//! Terminals in sandboxes: over WebSockets, and on a real one.

use std::{fs, process::Stdio, thread, time::Duration};

use caisson_tests::{
    Heard, Process, Proxy, Sandbox, Screen, Server, Typist, allowed, eventually, json, kill_nine, needs, on_host, program, signal,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::tcgetattr,
};

#[track_caller]
fn open(sandbox: &Sandbox<'_>, query: &str) -> Typist {
    Typist::new(sandbox.server.socket(&sandbox.target(&format!("/pty{query}"))))
}

#[track_caller]
fn attach(server: &Server, id: &str, offset: usize) -> Typist {
    let mut typist = Typist::new(server.socket(&format!("/v1/executions/{id}/stream?stdout_offset={offset}")));
    typist.shown = vec![0; offset];
    typist
}

/// The last message and the close.
#[track_caller]
fn ends(typist: &mut Typist, status: &str, exit_code: Option<i32>) {
    let end = typist.socket.control("end");
    assert_eq!((&end["status"], &end["exit_code"]), (&json!(status), &json!(exit_code)), "{end:#}");
    assert_eq!(typist.socket.hear(), Heard::Closed(1000, String::new()));
}

/// Says when it is continued. One process and no children: a shell that is just starting one with `vfork` cannot be stopped.
const STOPS: &str = "python3 -c \"import os, signal, time; signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'ba' + b'ck')); \
                     os.write(1, b'in fr' + b'ont'); [time.sleep(1) for _ in iter(int, 1)]\"";

#[test]
fn a_shell_has_a_terminal_with_job_control() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let mut typist = open(&sandbox, "?cols=90&rows=30");
    typist.sees("user@sandbox:/workspace$ ");
    // What is typed shows as well, so what is waited for is not in it.
    typist.types("stty size; tty; echo \"<$TERM>\"; ps -o tty= $$; ls /proc/$$/fd | xargs echo fd:\r");
    typist.sees("30 90\r\n/dev/pts/0\r\n<xterm-256color>\r\npts/0\r\nfd: 0 1 2 255\r\n");
    typist.types("sh -c 'echo in fr''ont; exec sleep 1000'\r");
    typist.sees("in front");
    typist.types("\u{3}");
    typist.sees("$ ");
    typist.types("echo ended with $?\r");
    typist.sees("ended with 130");
    typist.types(&format!("{STOPS}\r"));
    typist.sees("in front");
    typist.types("\u{1a}");
    typist.sees("Stopped");
    typist.types("fg\r");
    typist.sees("back");
    typist.types("\u{1a}");
    typist.sees("Stopped");
    typist.types("bg; kill %1; wait; echo left: $(jobs -p | wc -l)\r");
    typist.sees("left: 0");
    typist.types("sh -c 'trap \"echo now \\$(stty size)\" WINCH; echo re\"\"ady; while :; do sleep 0.05; done'\r");
    typist.sees("ready");
    typist.resizes(132, 43);
    typist.sees("now 43 132");
    server.request("POST", &format!("/v1/executions/{}/resize", typist.id)).json(&json!({"cols": 70, "rows": 20})).send().expect(204);
    typist.sees("now 20 70");
    typist.types("\u{3}");
    typist.sees("$ ");
    // Characters are erased whole, and any bytes pass.
    typist.types("stty -echo; echo lis''tens; cat > typed\r");
    typist.sees("listens");
    typist.types("aä🦀\u{7f}\u{7f}ł\u{16}\u{3}x\r\u{4}");
    typist.types("stty echo; od -An -tx1 typed\r");
    typist.sees("61 c5 82 03 78 0a");
    typist.types("exit 3\r");
    ends(&mut typist, "exited", Some(3));
    let mut typist = open(&sandbox, "?cmd=sh&cmd=-c&cmd=echo+$TERM+$A+$PWD;exit+4&env.TERM=dumb&env.A=b+c&cwd=/tmp");
    typist.sees("dumb b c /tmp\r\n");
    ends(&mut typist, "exited", Some(4));
    server.finish();
}

#[test]
fn programs_that_fill_the_screen_work() {
    needs("vi", "vim-tiny");
    needs("htop", "htop");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let mut typist = open(&sandbox, "?cols=80&rows=24&cmd=vi&cmd=-u&cmd=NONE&cmd=-N&cmd=note");
    typist.sees("\"note\"");
    typist.types("ifirst ä🦀\rsecond\u{1b}");
    typist.sees("second");
    typist.resizes(60, 12);
    // It draws itself anew.
    typist.sees("second");
    typist.types(":set lines? columns?\r");
    typist.sees("lines=12");
    typist.types("\r:wq\r");
    ends(&mut typist, "exited", Some(0));
    assert_eq!(sandbox.read(b"note").expect(200).text(), "first ä🦀\nsecond\n");
    // It draws itself anew at every size, and is asked by single keys.
    let mut typist = open(&sandbox, "?cols=80&rows=24&cmd=top&cmd=-d&cmd=100");
    typist.sees("top - ");
    typist.sees("COMMAND");
    typist.resizes(50, 10);
    typist.sees("top - ");
    typist.types("q");
    ends(&mut typist, "exited", Some(0));
    // With colours and function keys, of which the last one ends it.
    let mut typist = open(&sandbox, "?cols=100&rows=30&cmd=htop");
    typist.sees("Load average");
    typist.sees("F10");
    typist.resizes(60, 20);
    typist.sees("Load average");
    typist.types("\u{1b}[21~");
    ends(&mut typist, "exited", Some(0));
    server.finish();
}

#[test]
fn several_look_on_type_leave_and_come_back() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let mut first = open(&sandbox, "");
    first.sees("$ ");
    let mut second = attach(&server, &first.id, 0);
    second.sees("$ ");
    second.types("echo by the sec''ond\r");
    first.sees("by the second");
    second.sees("by the second");
    // One hangs up without a word, and the program goes on.
    let (id, seen) = (first.id.clone(), first.shown.len());
    drop(first);
    second.types("sleep 0.3; echo mean''while\r");
    second.sees("meanwhile");
    let mut third = attach(&server, &id, seen);
    third.sees("meanwhile");
    assert!(second.shown[seen..].starts_with(&third.shown[seen..]) || third.shown[seen..].starts_with(&second.shown[seen..]));
    drop(second);
    drop(third);
    assert_eq!(server.execution(&id)["status"], "running");
    let mut fourth = attach(&server, &id, 0);
    fourth.types("exit\r");
    ends(&mut fourth, "exited", Some(0));
    // Whoever comes after the end sees all of it, and how it ended; there is nobody to type to.
    let mut late = server.socket(&format!("/v1/executions/{id}/stream"));
    assert_eq!(late.control("start")["terminal"], false);
    late.send("too late\r");
    late.say(r#"{"type": "resize", "cols": 10, "rows": 10}"#);
    let (shown, _, end, code) = late.to_the_end();
    let total = usize::try_from(end["stdout_bytes"].as_u64().unwrap()).unwrap();
    assert_eq!((shown.len(), &end["exit_code"], code), (total, &json!(0), 1000));
    assert!(String::from_utf8_lossy(&shown).contains("meanwhile"));
    server.finish();
}

#[test]
fn what_ends_a_terminal() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let mut typist = open(&sandbox, "?timeout_s=1.5");
    typist.sees("$ ");
    ends(&mut typist, "timed_out", None);
    let mut typist = open(&sandbox, "");
    typist.sees("$ ");
    server.request("POST", &format!("/v1/executions/{}/kill", typist.id)).send().expect(204);
    ends(&mut typist, "killed", None);
    let mut typist = open(&sandbox, "");
    typist.sees("$ ");
    // Bash hears nothing between its prompt and the moment when it reads.
    thread::sleep(allowed(Duration::from_millis(200)));
    typist.socket.say(r#"{"type": "signal", "signal": "SIGHUP"}"#);
    ends(&mut typist, "killed", None);
    // Nothing of a flood is left over once it is told to stop, and the shell is there again.
    let mut typist = open(&sandbox, "?wait_for_readers=true");
    typist.sees("$ ");
    typist.types("yes\r");
    typist.sees("y\r\ny\r\n");
    typist.types("\u{3}");
    typist.sees("^C");
    typist.sees("$ ");
    typist.types("echo st''ill\r");
    typist.sees("still");
    drop(typist);
    sandbox.delete().expect(200);

    // A terminal that nobody looks at does not keep its sandbox.
    let sandbox = server.sandbox(&json!({"idle_timeout_s": 1}));
    let mut typist = open(&sandbox, "");
    typist.sees("$ ");
    thread::sleep(Duration::from_secs(2));
    typist.types("echo he''re\r");
    typist.sees("here");
    let id = typist.id.clone();
    drop(typist);
    // To look at it would be use.
    let ended = eventually("its end", Duration::from_secs(10), || {
        let listed = server.get("/v1/sandboxes?state=ended").expect(200).json();
        listed["data"].as_array().unwrap().iter().find(|ended| ended["id"] == sandbox.id.as_str()).cloned()
    });
    assert_eq!(ended["tombstone"]["reason"], "idle_timeout", "{ended:#}");
    let record = server.execution(&id);
    assert!(record["status"] == "killed" && record["message"].as_str().unwrap().contains("idle_timeout"), "{record:#}");
    server.finish();
}

/// Guarantee 1.5 on a terminal of the sandbox: it is the sandbox's own, and not even there anybody else's keys can be typed.
const ON_A_TERMINAL: &str = r"
import ctypes, errno, fcntl, json, os, stat
libc = ctypes.CDLL(None, use_errno=True)
def wide(request, argument):
    done = libc.syscall(16, ctypes.c_long(0), ctypes.c_long(request | 1 << 32), ctypes.c_char_p(argument))
    return errno.errorcode[ctypes.get_errno()] if done == -1 else 'done'
def tried(request, argument):
    try: fcntl.ioctl(0, request, argument); return 'done'
    except OSError as error: return errno.errorcode[error.errno]
device = os.stat(os.ttyname(0))
found = {
    'tty': os.ttyname(0),
    'mount': os.stat('/dev/pts').st_dev,
    'owner': [device.st_uid, stat.S_IMODE(device.st_mode)],
    'others': sorted(os.listdir('/dev/pts')),
    'controlling': os.tcgetpgrp(os.open('/dev/tty', os.O_RDWR)) == os.getpgrp(),
    'leader': os.getsid(0) == os.getpid(),
    'TIOCSTI': tried(0x5412, b'x'), 'TIOCLINUX': tried(0x541C, b'\0'), 'TIOCCONS': tried(0x541D, 0), 'TIOCSETD': tried(0x5423, b'\x02\0\0\0'),
    'wide TIOCSTI': wide(0x5412, b'x'),
}
print('FOUND' + json.dumps(found) + 'DNUOF')
";

#[test]
fn r1_5_a_terminal_is_the_sandboxes_own_and_types_nothing() {
    let server = Server::start();
    for user in ["user", "root"] {
        let sandbox = server.sandbox(&json!({"user": user}));
        sandbox.write(b"look.py", ON_A_TERMINAL.as_bytes()).expect(200);
        let mut typist = open(&sandbox, "?cmd=python3&cmd=look.py&cols=2000");
        typist.sees("DNUOF");
        let shown = String::from_utf8_lossy(&typist.shown).into_owned();
        let found: caisson_tests::Value = shown.split("FOUND").nth(1).unwrap().split("DNUOF").next().unwrap().parse().unwrap();
        let uid = if user == "root" { 0 } else { 1000 };
        assert_eq!(found["tty"], "/dev/pts/0", "{found:#}");
        assert_eq!(found["others"], json!(["0", "ptmx"]), "no terminal of anybody else is there");
        assert_eq!(found["owner"], json!([uid, 0o620]), "{found:#}");
        assert_eq!((&found["controlling"], &found["leader"]), (&json!(true), &json!(true)), "{found:#}");
        for call in ["TIOCSTI", "wide TIOCSTI", "TIOCLINUX", "TIOCCONS", "TIOCSETD"] {
            assert_eq!(found[call], "EPERM", "{call}");
        }
        let host = on_host("import os\nprint(os.stat('/dev/pts').st_dev)");
        assert_ne!(found["mount"], host, "a devpts of its own");
    }
    server.finish();
}

/// A window in which `caisson sh` runs, and how its terminal was set before.
struct Window {
    screen: Screen,
    before: String,
}

impl Window {
    fn open(server: &Server, through: Option<&Proxy>) -> Self {
        let address = through.map_or(server.client.address, |proxy| proxy.address);
        let key = server.client.key.clone().unwrap();
        let variables = [("CAISSON_SERVER", format!("http://{address}")), ("CAISSON_API_KEY", key)];
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let screen = Screen::open(server.home(), 100, 30, &variables);
        let window = Self { screen, before: String::new() };
        let before = window.setting(server);
        Self { before, ..window }
    }

    fn setting(&self, server: &Server) -> String {
        let file = server.home().path().join("setting");
        drop(fs::remove_file(&file));
        self.screen.line(&format!("stty -g > {}", file.display()));
        eventually("the settings", Duration::from_secs(10), || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')))
    }

    fn caisson(&self, arguments: &str) {
        self.screen.line(&format!("{} {arguments}; echo left with $?", program().display()));
    }

    /// Back at its own shell, as before.
    #[track_caller]
    fn is_back(&self, server: &Server, code: &str) {
        self.screen.shows(&format!("left with {code}"));
        self.screen.comes_to("alternate_on", "0");
        self.screen.comes_to("cursor_flag", "1");
        assert_eq!(self.setting(server), self.before, "the terminal is as it was");
    }
}

#[test]
fn a_real_terminal_is_a_terminal_there_and_itself_again_afterwards() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let window = Window::open(&server, None);
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    window.screen.line("stty size; echo in $((6 * 7))");
    window.screen.shows("30 100");
    window.screen.shows("in 42");
    window.screen.resize(120, 40);
    window.screen.line("sleep 0.2; stty size");
    window.screen.shows("40 120");
    window.screen.line("sh -c 'echo in fr''ont; exec sleep 1000'");
    window.screen.shows("in front");
    window.screen.keys(&["C-c"]);
    window.screen.line("echo $((100 + 30))-$?");
    window.screen.shows("130-130");
    window.screen.line("exit 5");
    window.is_back(&server, "5");

    window.screen.line("clear");
    window.caisson("exec -it box -- sh -c 'test -t 0 && echo a terminal; exit 6'");
    window.screen.shows("a terminal");
    window.is_back(&server, "6");

    // Left, found again, and come back to.
    window.screen.line("clear");
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    window.screen.line("echo rem''ember");
    window.screen.shows("remember");
    window.screen.keys(&["Enter", "~", "."]);
    window.is_back(&server, "0");
    let listed = server.get(&sandbox.target("/executions?limit=1")).expect(200).json();
    let id = listed["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["data"][0]["status"], "running");
    window.screen.line("clear");
    window.caisson(&format!("sh {id}"));
    window.screen.shows("remember");
    window.screen.line("echo a''gain");
    window.screen.shows("again");
    // Asked to end by a signal.
    let found = eventually("caisson sh", Duration::from_secs(10), || Process::with_argument(&id));
    signal(found.pid, Signal::TERM);
    window.is_back(&server, "143");
    drop(window);
    server.finish();
}

#[test]
fn whoever_ends_caisson_sh_by_a_signal_has_the_terminal_back() {
    needs("vi", "vim-tiny");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let window = Window::open(&server, None);
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    window.screen.line("vi -u NONE -N note");
    window.screen.comes_to("alternate_on", "1");
    let listed = server.get(&sandbox.target("/executions?limit=1")).expect(200).json();
    let id = listed["data"][0]["id"].as_str().unwrap().to_owned();
    let find = |argument: &str| eventually("caisson sh", Duration::from_secs(10), || Process::with_argument(argument)).pid;
    // The program itself is left, and whoever comes back finds the editor.
    let (mut pid, mut last) = (find("box"), Signal::HUP);
    for (next, code) in [(Signal::TERM, "129"), (Signal::INT, "143"), (Signal::QUIT, "130"), (Signal::HUP, "131")] {
        signal(pid, last);
        window.is_back(&server, code);
        window.screen.line("clear");
        window.caisson(&format!("sh {id}"));
        window.screen.comes_to("alternate_on", "1");
        (pid, last) = (find(&id), next);
    }
    // Stopped, the terminal is the shell's; continued, it is the editor's again.
    signal(pid, Signal::TSTP);
    window.screen.comes_to("pane_current_command", "sh");
    assert_eq!(window.setting(&server), window.before);
    window.screen.line("fg");
    window.screen.comes_to("pane_current_command", "caisson");
    window.screen.line("isaid\u{1b}:wq");
    eventually("the note", Duration::from_secs(10), || (sandbox.read(b"note").status == 200).then_some(()));
    assert_eq!(sandbox.read(b"note").expect(200).text(), "said\n");
    window.screen.shows("user@sandbox:/workspace$");
    window.screen.line("exit");
    // Its shell has forgotten what was to come next when it was stopped.
    window.screen.comes_to("pane_current_command", "sh");
    assert_eq!(window.setting(&server), window.before);
    drop(window);
    server.finish();
}

/// A terminal that takes nothing, as one behind a line that is down: whoever wants `caisson sh` to end need not wait for it.
#[test]
fn a_terminal_that_stands_still_keeps_nobody() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    unlockpt(&screen).unwrap();
    let terminal = ioctl_tiocgptpeer(&screen, flags).unwrap();
    let setting = || format!("{:?}", tcgetattr(&terminal).unwrap());
    let before = setting();
    let id = sandbox.background(json!({"shell": "yes", "terminal": {}}));
    let mut child = server
        .home()
        .command(["sh", &id])
        .env("CAISSON_SERVER", format!("http://{}", server.client.address))
        .env("CAISSON_API_KEY", server.client.key.clone().unwrap())
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It is full when it takes nothing more at once.
    let full = || {
        let mut wanted = [PollFd::new(&terminal, PollFlags::OUT)];
        poll(&mut wanted, Some(&Timespec::default())).unwrap() == 0
    };
    eventually("the terminal to be full", Duration::from_secs(10), || full().then_some(()));
    assert_ne!(setting(), before);
    signal(child.id(), Signal::TERM);
    let status = eventually("its end", Duration::from_secs(10), || child.try_wait().unwrap());
    assert_eq!((status.code(), setting()), (Some(143), before));
    server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
    drop(screen);
    server.finish();
}

#[test]
fn an_interpreter_is_talked_to_line_by_line() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let window = Window::open(&server, None);
    window.caisson("repl box -l python");
    window.screen.shows("; Ctrl-D leaves");
    window.screen.line("x = 6 * 7");
    window.screen.line("f'<{x}>'");
    window.screen.shows("'<42>'");
    window.screen.line("for n in range(2):");
    window.screen.shows("\n...");
    window.screen.line("    print('n', n + 40)");
    window.screen.keys(&["Enter"]);
    window.screen.shows("n 41");
    // A block has as many lines as it likes: an empty one ends it.
    for line in ["def twice(n):", "    m = n", "    m += n", "    return m", ""] {
        window.screen.line(line);
    }
    window.screen.line("'<', twice(50), '>'");
    window.screen.shows("('<', 100, '>')");
    window.screen.line("print('sle' + 'eps'); import time; time.sleep(1000)");
    window.screen.shows("sleeps");
    window.screen.keys(&["C-c"]);
    window.screen.shows("KeyboardInterrupt");
    window.screen.line("1 / 0");
    window.screen.shows("ZeroDivisionError: division by zero");
    // What was begun is given up.
    window.screen.line("print('never',");
    window.screen.keys(&["C-c"]);
    window.screen.line("x + 1");
    window.screen.shows("43");
    window.screen.keys(&["C-d"]);
    window.is_back(&server, "0");
    assert_eq!(sandbox.request("GET", "/contexts").send().expect(200).json()["data"], json!([]));
    window.screen.line("clear");
    window.caisson("repl -l bash");
    window.screen.shows("; Ctrl-D leaves");
    window.screen.line("cd /tmp; echo in $PWD");
    window.screen.shows("in /tmp");
    for line in ["cat <<END", "one $((1 + 1))", "END"] {
        window.screen.line(line);
    }
    window.screen.shows("one 2");
    window.screen.line("exit");
    window.is_back(&server, "0");
    drop(window);
    server.finish();
}

#[test]
fn a_broken_line_is_taken_up_where_it_broke() {
    let server = Server::start();
    let _sandbox = server.sandbox(&json!({"name": "box"}));
    let proxy = Proxy::to(server.client.address);
    let window = Window::open(&server, Some(&proxy));
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    window.screen.line("for i in $(seq 1 3000); do echo line-$i; [ $((i % 10)) != 0 ] || sleep 0.01; done; echo do''ne");
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        proxy.cut();
    }
    window.screen.shows("done");
    let text = window.screen.all_text();
    assert!(text.contains("the connection broke"), "it was cut");
    let lines: Vec<usize> = text.lines().filter_map(|line| line.trim().strip_prefix("line-")?.parse().ok()).collect();
    assert_eq!(lines, (1..=3000).collect::<Vec<_>>(), "every line once");
    window.screen.line("exit");
    window.is_back(&server, "0");
    drop((window, proxy));
    server.finish();
}

#[test]
fn a_server_that_is_killed_leaves_the_terminal_as_it_was() {
    needs("vi", "vim-tiny");
    let mut server = Server::start();
    let _sandbox = server.sandbox(&json!({"name": "box"}));
    let window = Window::open(&server, None);
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    // In the middle of a program that has changed a lot about the screen.
    window.screen.line("vi -u NONE -N note");
    window.screen.comes_to("alternate_on", "1");
    server.kill();
    window.screen.shows("the connection broke");
    window.is_back(&server, "125");

    // One that comes back says what became of the program.
    server.start_again();
    let _sandbox = server.sandbox(&json!({"name": "box"}));
    // The prompt of the last one must not be taken for that of the next.
    window.screen.line("clear; echo on''ce");
    window.screen.shows("once");
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    server.kill();
    window.screen.shows("the connection broke");
    server.start_again();
    window.is_back(&server, "125");

    // Nobody has to wait.
    let _sandbox = server.sandbox(&json!({"name": "box"}));
    // The prompt of the last one must not be taken for that of the next.
    window.screen.line("clear; echo twi''ce");
    window.screen.shows("twice");
    window.caisson("sh box");
    window.screen.shows("user@sandbox:/workspace$");
    server.kill();
    window.screen.shows("the connection broke");
    window.screen.keys(&["C-c"]);
    window.is_back(&server, "0");
    drop(window);
    server.start_again();
    server.finish();
}

#[test]
fn programs_are_run_in_the_background_fed_and_listed() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"name": "box"}));
    let command = |arguments: &[&str]| {
        let mut command = server.home().command(arguments);
        command
            .env("CAISSON_SERVER", format!("http://{}", server.client.address))
            .env("CAISSON_API_KEY", server.client.key.clone().unwrap());
        command
    };
    let run = |arguments: &[&str]| caisson_tests::Ran::from(command(arguments).output().unwrap());
    let id = run(&["exec", "-d", "box", "--", "sh", "-c", "echo on; sleep 0.3; echo off; exit 7"]).exited(0).out().trim().to_owned();
    assert_eq!(server.execution(&id)["status"], "running");
    assert!(run(&["ps", "box", "--running", "-q"]).exited(0).out().contains(&id));
    assert_eq!(run(&["logs", "-f", &id]).exited(0).out(), "on\noff\n");
    let listed = run(&["ps", "box"]).exited(0).out();
    assert!(listed.contains(&id) && listed.contains("exited 7"), "{listed}");
    assert_eq!(run(&["ps", "box", "--running", "-q"]).exited(0).out(), "");

    // Input as it comes: the program answers before there is an end.
    let mut child = command(&["exec", "-i", "box", "--", "sh", "-c", "while read line; do echo got $line; done; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), std::io::BufReader::new(child.stdout.take().unwrap()));
    for word in ["one", "two"] {
        std::io::Write::write_all(&mut stdin, format!("{word}\n").as_bytes()).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, format!("got {word}\n"));
    }
    drop(stdin);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("end\n", Some(0)));
    // Much of it, and a program that takes only some.
    let much: Vec<u8> = (0..=255u8).cycle().take(30_000_000).collect();
    sandbox.write(b"same", &much).expect(200);
    let home = server.home();
    fs::write(home.path().join("much"), &much).unwrap();
    let from_file = |arguments: &[&str]| {
        let mut command = command(arguments);
        caisson_tests::Ran::from(command.stdin(fs::File::open(home.path().join("much")).unwrap()).output().unwrap())
    };
    assert_eq!(from_file(&["exec", "-i", "box", "--", "cmp", "-", "same"]).exited(0).out(), "");
    assert_eq!(from_file(&["exec", "-i", "box", "--", "head", "-c", "3"]).exited(0).stdout, [0, 1, 2]);
    let ran = run(&["sh", "box"]).exited(125);
    assert!(ran.err().contains("terminal"), "{}", ran.err());
    // Killed in the middle of it.
    let child = command(&["exec", "-i", "box", "--", "sleep", "1002"]).stdin(Stdio::piped()).spawn().unwrap();
    let running = eventually("the program", Duration::from_secs(10), || {
        let listed = run(&["ps", "box", "--running", "-q"]).exited(0).out();
        (!listed.is_empty()).then(|| listed.trim().to_owned())
    });
    kill_nine(child.id());
    drop(child.wait_with_output());
    assert_eq!(server.execution(&running)["status"], "running");
    server.finish();
}
