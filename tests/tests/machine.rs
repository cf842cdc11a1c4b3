//! What programs see of the machine they run on: the limits of their sandbox, whichever way they ask.

use std::thread::available_parallelism;

use caisson_tests::{Server, json, meant_to_lack, needs, on_host, probe_in};

/// What can be seen of machine and neighbours.
const SIGHT: &str = include_str!("../probes/sight.py");

const MIB: u64 = 1 << 20;

/// Which of the limits an answer is.
#[derive(Debug, Clone, Copy)]
enum Figure {
    Processors,
    MemoryKib,
    MemoryBytes,
}

/// Who is asked, or what comes with it, the package that has it, the question, and what the answer is.
const QUESTIONS: [(&str, &str, &str, Figure); 20] = [
    ("nproc", "coreutils", "nproc", Figure::Processors),
    ("nproc", "coreutils", "nproc --all", Figure::Processors),
    ("getconf", "libc-bin", "getconf _NPROCESSORS_ONLN", Figure::Processors),
    ("getconf", "libc-bin", "getconf _NPROCESSORS_CONF", Figure::Processors),
    ("grep", "grep", "grep -c '^processor' /proc/cpuinfo", Figure::Processors),
    ("grep", "grep", "grep -c '^cpu[0-9]' /proc/stat", Figure::Processors),
    ("lscpu", "util-linux", "LC_ALL=C lscpu | sed -n 's/^CPU(s): *//p'", Figure::Processors),
    ("python3", "python3", "python3 -c 'import os; print(os.cpu_count())'", Figure::Processors),
    ("python3", "python3", "python3 -c 'import os; print(len(os.sched_getaffinity(0)))'", Figure::Processors),
    ("python3", "python3", "python3 -c 'import multiprocessing as m; print(m.cpu_count())'", Figure::Processors),
    ("node", "nodejs", "node -p 'require(\"os\").cpus().length'", Figure::Processors),
    ("node", "nodejs", "node -p 'const os = require(\"os\"); (os.availableParallelism || (() => os.cpus().length))()'", Figure::Processors),
    ("node", "nodejs", "node -p 'require(\"os\").totalmem()'", Figure::MemoryBytes),
    ("perl", "perl", "perl -ne 'print $1 if /^MemTotal: +(\\d+) kB/' /proc/meminfo", Figure::MemoryKib),
    ("free", "procps", "free -k | awk '/^Mem/ { print $2 }'", Figure::MemoryKib),
    ("free", "procps", "free -b | awk '/^Mem/ { print $2 }'", Figure::MemoryBytes),
    (
        "python3",
        "python3",
        "python3 -c \"print(next(l.split()[1] for l in open('/proc/meminfo') if l.startswith('CommitLimit')))\"",
        Figure::MemoryKib,
    ),
    ("go", "golang-go", "cd go && go run . processors", Figure::Processors),
    ("go", "golang-go", "cd go && go run . threads", Figure::Processors),
    ("javac", "default-jdk-headless", "cd java && java -Xmx64m Processors.java", Figure::Processors),
];

const GO: &str = "package main\nimport (\"fmt\"; \"os\"; \"runtime\")\nfunc main() {\n\tif os.Args[1] == \"processors\" { fmt.Println(runtime.NumCPU()) } else { fmt.Println(runtime.GOMAXPROCS(0)) }\n}\n";
const JAVA: &str =
    "class Processors { public static void main(String[] a) { System.out.println(Runtime.getRuntime().availableProcessors()); } }\n";

#[test]
fn r2_7_programs_see_the_limits_of_their_sandbox() {
    let server = Server::start();
    let there = available_parallelism().expect("the host says how many").get() as u64;
    for (cpus, memory_bytes) in [(1.0_f64, 512 * MIB), (0.1, 777 * MIB), (1.5, 1024 * MIB), (2.0, 2048 * MIB)] {
        let limits = json!({"cpus": cpus, "memory_bytes": memory_bytes, "disk_bytes": 400 * MIB});
        let sandbox = server.sandbox(&json!({"limits": limits}));
        for (path, content) in [("go/main.go", GO), ("go/go.mod", "module ask\n"), ("java/Processors.java", JAVA)] {
            sandbox.write(path.as_bytes(), content.as_bytes()).expect(200);
        }
        let expected = |figure| match figure {
            Figure::Processors => (cpus.ceil() as u64).min(there),
            Figure::MemoryKib => memory_bytes / 1024,
            Figure::MemoryBytes => memory_bytes,
        };
        for (program, package, line, figure) in QUESTIONS {
            let whole = cpus >= 1.0;
            // Compilers on a tenth of a processor take their time and would show nothing new.
            if !whole && ["go", "javac", "node"].contains(&program) {
                continue;
            }
            if meant_to_lack(program) {
                continue;
            }
            needs(program, package);
            let result = sandbox.exec(&json!({"shell": line, "timeout_s": 300, "env": {"PATH": PATH}}));
            let said = result["stdout"].as_str().expect("text").trim();
            let figure = expected(figure).to_string();
            assert_eq!((said, &result["exit_code"]), (figure.as_str(), &json!(0)), "{line} with {limits}: {result:#}");
        }
    }
    server.finish();
}

#[test]
fn r2_7_the_host_cannot_be_recognised() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 1, "memory_bytes": 256 * MIB}}));
    let (found, host) = (probe_in(&sandbox, SIGHT, &[]), on_host(SIGHT));
    for name in ["boot_id", "btime", "loadavg"] {
        assert_ne!(found["machine"][name], host["machine"][name], "{name}");
    }
    for path in ["/sys/class/dmi", "/sys/class/net", "/sys/block", "/dev/kmsg", "/sys/firmware", "/sys/kernel"] {
        assert!(found["exists"].get(path).is_none(), "{path} is there");
    }
    server.finish();
}

/// Where Go lies beside where everything else does.
const PATH: &str = "/usr/local/go/bin:/usr/lib/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel has no place where these could be told otherwise, which `docs/threat-model.md` says.
#[test]
fn what_is_said_not_to_be_hidden_is_what_is_not() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"memory_bytes": 256 * MIB}}));
    let sysinfo = "import os; print(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') > 300 << 20)";
    let host = std::fs::read_to_string("/proc/meminfo").expect("it can be read");
    let kib: u64 = host.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("MemTotal is the first");
    assert_eq!(sandbox.python(sysinfo).trim() == "True", kib > 300 << 10, "sysinfo(2) tells the host's memory");
    let documented = include_str!("../../docs/threat-model.md");
    assert!(documented.contains("sysinfo(2)"));
    server.finish();
}
