//! What people run: interpreters, compilers, just-in-time compilers, many threads, package tools. All of it under the one filter (1.8).

use std::{env, fs, thread};

use caisson_tests::{Sandbox, Server, json, needs};

/// Where programs lie; Go beside where everything else does.
const PATH: &str = "/usr/local/go/bin:/usr/lib/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that must do something in a sandbox.
struct Case {
    what: &'static str,
    /// A program that shows that it is there, and the package that a host without it lacks.
    needs: (&'static str, &'static str),
    files: &'static [(&'static str, &'static str)],
    line: &'static str,
    prints: &'static str,
}

const FOR_USERS: [Case; 13] = [
    Case {
        what: "CPython with threads, processes, TLS, a database and libffi",
        needs: ("python3", "python3"),
        files: &[(
            "a.py",
            "import concurrent.futures as c, ctypes, multiprocessing as m, socket, sqlite3, ssl, tempfile\nif __name__ == '__main__':\n  s = socket.socketpair(); s[0].send(b'x')\n  print(sum(c.ThreadPoolExecutor(8).map(int, range(10))), m.get_context('fork').Pool(2).map(abs, [-1, -2]), m.get_context('spawn').Manager().list([3])[0], s[1].recv(1), sqlite3.connect(tempfile.mktemp()).execute('select 1').fetchone(), ssl.create_default_context() is not None, ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)())",
        )],
        line: "python3 a.py",
        prints: "45 [1, 2] 3 b'x' (1,) True 7\n",
    },
    Case {
        what: "a virtual environment",
        needs: ("python3", "python3"),
        files: &[],
        line: "python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'",
        prints: "/workspace/v\n",
    },
    Case {
        what: "Node with just-in-time compiled code and worker threads",
        needs: ("node", "nodejs"),
        files: &[(
            "a.js",
            "const { Worker, isMainThread, parentPort } = require('worker_threads');\nconst hot = n => { let s = 0; for (let i = 0; i < n; i++) s = (s + i * i) % 1000003; return s; };\nif (isMainThread) {\n  let left = 4;\n  const all = new Set();\n  for (let i = 0; i < 4; i++) new Worker(__filename).on('message', m => { all.add(m); if (--left === 0) console.log(all.size, [...all][0] === hot(5e6)); });\n} else parentPort.postMessage(hot(5e6));",
        )],
        line: "node a.js",
        prints: "1 true\n",
    },
    Case {
        what: "Node with WebAssembly",
        needs: ("node", "nodejs"),
        files: &[],
        line: "node -e 'WebAssembly.instantiate(Uint8Array.from([0,97,115,109,1,0,0,0,1,5,1,96,0,1,127,3,2,1,0,7,5,1,1,102,0,0,10,6,1,4,0,65,42,11])).then(m => console.log(m.instance.exports.f()))'",
        prints: "42\n",
    },
    Case {
        what: "Go, compiled and with a thousand goroutines",
        needs: ("go", "golang-go"),
        files: &[
            ("g/go.mod", "module g\n"),
            (
                "g/main.go",
                "package main\n\nimport (\n\t\"fmt\"\n\t\"os/exec\"\n\t\"sync\"\n)\n\nfunc main() {\n\tvar wait sync.WaitGroup\n\tsums := make(chan int, 1000)\n\tfor i := 0; i < 1000; i++ {\n\t\twait.Add(1)\n\t\tgo func(i int) { defer wait.Done(); sums <- i }(i)\n\t}\n\twait.Wait()\n\tclose(sums)\n\tsum := 0\n\tfor n := range sums {\n\t\tsum += n\n\t}\n\tout, err := exec.Command(\"echo\", \"child\").Output()\n\tfmt.Print(sum, \" \", string(out), err, \"\\n\")\n}\n",
            ),
        ],
        line: "cd g && go build -o ../program . && ../program",
        prints: "499500 child\n<nil>\n",
    },
    Case {
        what: "Go, as a server that would rather speak MPTCP and a client",
        needs: ("go", "golang-go"),
        files: &[
            ("g/go.mod", "module g\n"),
            (
                "g/main.go",
                "package main\n\nimport (\n\t\"fmt\"\n\t\"io\"\n\t\"net\"\n)\n\nfunc main() {\n\tlistener, err := net.Listen(\"tcp\", \"127.0.0.1:0\")\n\tif err != nil {\n\t\tpanic(err)\n\t}\n\tgo func() {\n\t\tconnection, _ := listener.Accept()\n\t\tfmt.Fprint(connection, \"served\")\n\t\tconnection.Close()\n\t}()\n\tconnection, err := net.Dial(\"tcp\", listener.Addr().String())\n\tif err != nil {\n\t\tpanic(err)\n\t}\n\tsaid, err := io.ReadAll(connection)\n\tfmt.Println(string(said), err)\n}\n",
            ),
        ],
        // Both ends try it; without `go` in go.mod neither would.
        line: "cd g && go build -o ../program . && GODEBUG=multipathtcp=1 ../program",
        prints: "served <nil>\n",
    },
    Case {
        what: "Java with just-in-time compiled code and threads",
        needs: ("javac", "default-jdk-headless"),
        files: &[(
            "A.java",
            "class A {\n  public static void main(String[] a) throws Exception {\n    long[] sum = {0};\n    Thread[] all = new Thread[8];\n    for (int i = 0; i < 8; i++) { all[i] = new Thread(() -> { for (int j = 0; j < 200000; j++) synchronized (sum) { sum[0] += j % 7; } }); all[i].start(); }\n    for (Thread one : all) one.join();\n    System.out.println(sum[0]);\n  }\n}\n",
        )],
        line: "java -Xmx128m A.java",
        prints: "4799952\n",
    },
    Case {
        what: "a C program with threads",
        needs: ("gcc", "gcc"),
        files: &[(
            "a.c",
            "#include <pthread.h>\n#include <stdio.h>\nstatic void *f(void *x) { return x; }\nint main() { pthread_t t[50]; long sum = 0; for (long i = 0; i < 50; i++) pthread_create(&t[i], 0, f, (void *)i); for (int i = 0; i < 50; i++) { void *r; pthread_join(t[i], &r); sum += (long)r; } printf(\"%ld\\n\", sum); }\n",
        )],
        line: "gcc -O2 -pthread a.c -o a && ./a",
        prints: "1225\n",
    },
    Case {
        what: "Perl with a child",
        needs: ("perl", "perl"),
        files: &[],
        line: "perl -e 'my $out = `echo child`; if (!fork) { exit 3 } wait; print $out, $? >> 8, \"\\n\"'",
        prints: "child\n3\n",
    },
    Case {
        what: "git: a commit, a branch, a merge, a clone and a collection",
        needs: ("git", "git"),
        files: &[],
        line: "git init -q -b main r && cd r && git config user.name a && git config user.email a@b && echo x > f && git add f && git commit -qm one && git switch -qc side && echo y > g && git add g && git commit -qm two && git switch -q main && git merge -q --no-ff -m three side && cd .. && git clone -q r c && cd c && git gc -q && git fsck 2>&1 && git log --format=%s | sort",
        prints: "one\nthree\ntwo\n",
    },
    Case {
        what: "pip: a wheel is installed and used",
        needs: ("pip3", "python3-pip"),
        files: &[(
            "make.py",
            "import zipfile\nwith zipfile.ZipFile('hello-1-py3-none-any.whl', 'w') as w:\n  w.writestr('hello.py', 'print(\"from a wheel\")')\n  w.writestr('hello-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1\\n')\n  w.writestr('hello-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n  w.writestr('hello-1.dist-info/RECORD', '')",
        )],
        line: "python3 make.py && python3 -m pip install -q --no-index --no-deps --target t ./hello-1-py3-none-any.whl && PYTHONPATH=t python3 -m hello",
        prints: "from a wheel\n",
    },
    Case {
        what: "npm: a package is installed and used, a script is run",
        needs: ("npm", "npm"),
        files: &[
            ("m/package.json", "{\"name\": \"m\", \"version\": \"1.0.0\", \"main\": \"i.js\"}"),
            ("m/i.js", "module.exports = 'from a package';"),
            ("a/package.json", "{\"name\": \"a\", \"version\": \"1.0.0\", \"scripts\": {\"say\": \"node -p 'require(\\\"m\\\")'\"}}"),
        ],
        line: "cd a && npm install --silent --offline --no-audit --no-fund ../m && npm run --silent say",
        prints: "from a package\n",
    },
    Case {
        what: "tar, gzip, awk, sort and pipes",
        needs: ("gzip", "gzip"),
        files: &[],
        line: "mkdir d && seq 1000 | tee d/n | sort -rn | head -1 && tar czf d.tgz d && rm -r d && tar xzf d.tgz && awk '{ s += $1 } END { print s }' d/n",
        prints: "1000\n500500\n",
    },
];

/// Those that want to be root.
const FOR_ROOT: [Case; 2] = [
    Case {
        what: "dpkg: a package is built, installed, listed and removed",
        needs: ("dpkg-deb", "dpkg"),
        files: &[("pkg/DEBIAN/control", CONTROL), ("pkg/opt/hi", "from a package\n")],
        line: "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers && touch /var/lib/dpkg/status && dpkg-deb --build pkg hello.deb > /dev/null && dpkg -i hello.deb > /dev/null && cat /opt/hi && dpkg-query -W -f '${Status}\\n' hello && dpkg -r hello > /dev/null && ls /opt 2> /dev/null | wc -l",
        prints: "from a package\ninstall ok installed\n0\n",
    },
    Case {
        what: "apt-get: a package from a file is installed",
        needs: ("apt-get", "apt"),
        files: &[("pkg/DEBIAN/control", CONTROL), ("pkg/opt/hi", "from a package\n")],
        line: "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log/apt /etc/apt/apt.conf.d /etc/apt/preferences.d && touch /var/lib/dpkg/status /etc/apt/sources.list && dpkg-deb --build pkg hello.deb > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 install ./hello.deb > /dev/null && cat /opt/hi",
        prints: "from a package\n",
    },
];

const CONTROL: &str = "Package: hello\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: says hello\n";

#[track_caller]
fn runs(sandbox: &Sandbox<'_>, case: &Case) {
    let (program, package) = case.needs;
    needs(program, package);
    for (path, content) in case.files {
        sandbox.write(path.as_bytes(), content.as_bytes()).expect(200);
    }
    let result = sandbox.exec(&json!({"shell": case.line, "timeout_s": 600, "env": {"PATH": PATH, "LC_ALL": "C.UTF-8"}}));
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!(case.prints), &json!(0)), "{}: {result:#}", case.what);
}

#[test]
fn r1_8_programs_of_all_kinds_run_under_the_filter() {
    let server = Server::start();
    for case in &FOR_USERS {
        let sandbox = server.sandbox(&json!({"limits": {"cpus": 2, "memory_bytes": 2_u64 << 30, "disk_bytes": 1_u64 << 30}}));
        runs(&sandbox, case);
        sandbox.delete().expect(200);
    }
    server.finish();
}

#[test]
fn r1_8_package_tools_run_for_root_inside() {
    let server = Server::start();
    for case in &FOR_ROOT {
        let sandbox = server.sandbox(&json!({"user": "root", "limits": {"cpus": 2}}));
        runs(&sandbox, case);
        sandbox.delete().expect(200);
    }
    server.finish();
}

/// This very program, which is written in Rust: inside, it runs the test below.
#[test]
fn r1_8_a_program_in_rust_runs_under_the_filter() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"cpus": 2}}));
    let program = fs::read(env::current_exe().unwrap()).unwrap();
    sandbox.request("PUT", "/files?path=program&mode=755").bytes(program).send().expect(200);
    let result = sandbox.exec(&json!({"cmd": ["./program", "--exact", "threads_files_and_children_in_rust", "--nocapture"]}));
    let said = result["stdout"].as_str().unwrap();
    assert!(result["exit_code"] == 0 && said.contains("1 passed"), "{result:#}");
    server.finish();
}

#[test]
fn threads_files_and_children_in_rust() {
    let sums: Vec<u64> = (0..50_u64).map(|n| thread::spawn(move || (0..n).sum())).map(|thread| thread.join().unwrap()).collect();
    assert_eq!(sums.iter().sum::<u64>(), 19_600);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "content").unwrap();
    let output = std::process::Command::new("cat").arg(&path).output().unwrap();
    assert_eq!(output.stdout, b"content");
}
