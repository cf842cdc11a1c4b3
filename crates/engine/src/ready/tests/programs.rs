//! What is run both ways.

pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) language: &'static str,
    pub(super) code: &'static str,
    pub(super) args: &'static [&'static str],
    pub(super) env: &'static [(&'static str, &'static str)],
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Whether it writes nothing.
    pub(super) is_silent: bool,
}

const fn program(language: &'static str, name: &'static str, code: &'static str) -> Program {
    Program { name, language, code, args: &[], env: &[], files: &[], is_silent: false }
}

const fn python(name: &'static str, code: &'static str) -> Program {
    program("python", name, code)
}

const fn node(name: &'static str, code: &'static str) -> Program {
    program("node", name, code)
}

const fn bash(name: &'static str, code: &'static str) -> Program {
    program("bash", name, code)
}

pub(super) const PROGRAMS: &[Program] = &[
    python("hello", "print('hello')"),
    python("traceback", "def f(x):\n    return 1 / x\n\nprint('before')\nf(0)\n"),
    python("chained tracebacks", "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e\n"),
    python("recursion", "def f(n):\n    return f(n + 1)\nf(0)\n"),
    python("depth", "import sys\nd = 0\nf = sys._getframe()\nwhile f:\n    d += 1\n    f = f.f_back\nprint(d, sys.getrecursionlimit())"),
    python("syntax error", "print('never')\nif True\n    pass\n"),
    python("indentation error", "def f():\npass\n"),
    python("null byte", "print(1)\0\n"),
    python("encoding", "# -*- coding: latin-1 -*-\nprint(ascii('ä'))"),
    python("bad encoding", "# -*- coding: nowhere -*-\nprint(1)"),
    Program { is_silent: true, ..python("exit code", "raise SystemExit(7)") },
    python("exit message", "import sys\nsys.exit('a message')"),
    Program { is_silent: true, ..python("exit none", "import sys\nsys.exit()") },
    python("exit large", "import sys\nprint('x', end='')\nsys.exit(256 + 5)"),
    Program { is_silent: true, ..python("os._exit", "import os\nprint('lost?')\nos._exit(3)") },
    python("atexit", "import atexit\natexit.register(print, 'last')\nprint('first')"),
    python("interrupt", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(5)"),
    Program { is_silent: true, ..python("terminated", "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)") },
    Program { is_silent: true, ..python("killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)") },
    Program { is_silent: true, ..python("aborted", "import os\nos.abort()") },
    python(
        "broken pipe",
        "import sys, os\nr, w = os.pipe()\nos.close(r)\ntry:\n    os.write(w, b'x')\nexcept BrokenPipeError as e:\n    print(e)",
    ),
    python(
        "main",
        "import sys\nprint(__name__, __file__, __doc__, __spec__, __package__, __loader__.__class__, __builtins__, sorted(globals()))",
    ),
    python(
        "main module",
        "import __main__, sys\nprint(__main__.__file__, sys.modules['__main__'] is __main__, __main__.__dict__ is globals())",
    ),
    Program { args: &["one", "two words", "", "ü\u{1F600}", "-x"], ..python("arguments", "import sys\nprint(sys.argv, sys.orig_argv)") },
    Program {
        args: &["-v", "--name=x"],
        ..python(
            "argparse",
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('-v', action='store_true')\np.add_argument('--name')\nprint(p.parse_args(), p.prog)",
        )
    },
    python("usage", "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()"),
    python("directory", "import os, sys\nprint(os.getcwd(), os.listdir('.'), sorted(os.listdir(sys.path[0])))"),
    python("environment", "import os\nprint(list(os.environ.items()))\nos.system('/usr/bin/env')"),
    Program {
        env: &[("B", "b=c\nd"), ("A", "ä"), ("LANG", "C.UTF-8"), ("EMPTY", "")],
        ..python(
            "more environment",
            "import os, subprocess\nprint(list(os.environ.items()), flush=True)\nsubprocess.run(['/usr/bin/env'])\nos.system('/usr/bin/env')\nprint(os.getenv('A'), os.environb[b'B'])",
        )
    },
    python(
        "path",
        "import sys, site\nprint(sys.path, sorted(sys.path_importer_cache), sys.prefix, sys.executable, site.ENABLE_USER_SITE, len(sys.meta_path), len(sys.path_hooks))",
    ),
    python("flags", "import sys\nprint(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix)"),
    python("modules", "import sys\nprint(sorted(sys.modules))"),
    python("customization", "import sys\nm = sys.modules.get('sitecustomize')\nprint(m, getattr(m, '__file__', None))"),
    python(
        "streams",
        "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr):\n    print(s, s.isatty(), s.line_buffering, s.write_through, s.errors, s.buffer, s.fileno())",
    ),
    python("no input", "print(input('prompt '))"),
    python("input", "import sys\nprint(repr(sys.stdin.read()), sys.stdin.seekable(), sys.stdin.buffer.tell())"),
    python("order", "import sys\nprint('one')\nprint('two', file=sys.stderr)\nsys.stdout.flush()\nprint('three', file=sys.stderr)"),
    python("unflushed", "import os, sys\nsys.stdout.write('half')\nos.write(1, b'whole\\n')"),
    python(
        "descriptors",
        "import os\nprint([(f, os.readlink('/proc/self/fd/' + f).split(':')[0]) for f in sorted(os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd/' + f)])\nprint(os.open('/', 0))",
    ),
    python(
        "inherited",
        "import subprocess\nprint(subprocess.run(['ls', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout)",
    ),
    python(
        "signals",
        "import signal\nprint([(s.name, str(signal.getsignal(s))) for s in sorted(signal.valid_signals()) if isinstance(s, signal.Signals)], signal.pthread_sigmask(signal.SIG_BLOCK, []))\nprint([l for l in open('/proc/self/status') if l.startswith(('Sig', 'Shd', 'Cap', 'NoNewPrivs', 'Seccomp', 'Threads', 'Uid', 'Gid', 'Groups', 'Umask'))])",
    ),
    python(
        "limits",
        "import resource\nprint([(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n.startswith('RLIMIT')])\nprint(open('/proc/self/limits').read(), open('/proc/self/oom_score_adj').read())",
    ),
    python(
        "session",
        "import os\nprint(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.getppid(), os.nice(0), os.sched_getscheduler(0))",
    ),
    python("command line", "print(open('/proc/self/cmdline').read().split('\\0'), open('/proc/self/comm').read())"),
    python(
        "locale",
        "import locale, sys, time\nprint(locale.setlocale(locale.LC_ALL), locale.getlocale(), sys.getfilesystemencoding(), sys.getdefaultencoding(), time.tzname)",
    ),
    python("unicode", "print('ü 漢字 \\U0001F600')\nprint(ascii(open(__file__, encoding='utf-8').read()))"),
    python("surrogates", "print('\\udc80')"),
    python("much", "for i in range(20000):\n    print(i, 'x' * 50)"),
    python(
        "warnings",
        "import warnings\nwarnings.warn('mine')\nwarnings.warn('old', DeprecationWarning)\nassert (1, 'x')\nprint(warnings.filters)",
    ),
    python(
        "hooks",
        "import sys\nprint(sys.excepthook, sys.displayhook, sys.breakpointhook, sys.unraisablehook, sys.gettrace(), sys.getprofile(), sys.exc_info(), hasattr(sys, 'last_value'))",
    ),
    python("collector", "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.garbage, gc.get_debug())"),
    python(
        "threads",
        "import threading\nt = threading.Thread(target=print, args=('in thread',))\nt.start()\nt.join()\nprint(threading.main_thread().name, threading.current_thread().name, threading.active_count())",
    ),
    python("failing thread", "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()"),
    python("fork", "import os\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n    os.waitpid(pid, 0)\n    print('parent')"),
    python(
        "spawn",
        "import multiprocessing as m\ndef f(x):\n    return x * x\nif __name__ == '__main__':\n    m.set_start_method('spawn')\n    p = m.Process(target=print, args=(f(3),))\n    p.start()\n    p.join()\n    print(p.exitcode)",
    ),
    python(
        "itself",
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys, os; print(sys.path, sorted(os.environ))'], capture_output=True, text=True).stdout)",
    ),
    python("asyncio", "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    print('slept')\nasyncio.run(f())"),
    python("files", "open('new.txt', 'w').write('abc')\nimport os\nos.mkdir('d')\nopen('d/x', 'w').close()\nprint('ok')"),
    Program {
        files: &[("data.csv", "1,2\n"), ("mine.py", "value = 5\n"), ("json.py", "raise Exception('shadowed')\n")],
        ..python(
            "files that come late",
            "import mine\nprint(mine.value, mine.__file__, open('data.csv').read())\nopen('data.csv', 'a').write('3')\nimport json",
        )
    },
    python(
        "its own file",
        "import os, stat\ns = os.stat(__file__)\nprint(oct(s.st_mode), s.st_size, s.st_nlink)\nos.remove(__file__)\n1 / 0",
    ),
    python("inspect", "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f), inspect.getfile(f))"),
    python("pickle", "import pickle\nclass C: pass\nprint(pickle.dumps(C())[:40])"),
    python("temporary files", "import os\nprint(os.listdir('/tmp'))"),
    python("interactive", "import code\ntry:\n    code.interact(banner='b', local={})\nexcept SystemExit:\n    pass\nprint('end')"),
    python(
        "mapped",
        "import re\nprint(sorted({l.split(None, 5)[5].strip() for l in open('/proc/self/maps') if re.search('[.]so|python', l)}))",
    ),
    node("hello", "console.log('hello')"),
    node("arguments", "console.log(process.argv, process.execArgv, process.argv0, process.title)"),
    node("environment", "console.log(process.env, require('child_process').execSync('/usr/bin/env').toString())"),
    Program { env: &[("LANG", "C.UTF-8")], ..node("same environment", "console.log(process.env.LANG)") },
    node(
        "main",
        "console.log(require.main === module, __filename, __dirname, module.id, module.paths, Object.keys(require.cache), module.children)",
    ),
    node("throw", "function f() { throw new TypeError('x') }\nconsole.log('before')\nf()"),
    node("syntax error", "console.log(1)\nlet let = 5 +\n"),
    node("module syntax", "import fs from 'fs'\nconsole.log(typeof fs.readFileSync)"),
    node("rejection", "Promise.reject(new Error('r'))"),
    Program { is_silent: true, ..node("exit code", "process.exitCode = 9") },
    Program { is_silent: true, ..node("exit", "process.on('exit', () => {}); process.exit(4)") },
    Program { is_silent: true, ..node("terminated", "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 5000)") },
    node(
        "input",
        "console.log(JSON.stringify(require('fs').readFileSync(0, 'utf8')))\nprocess.stdin.on('end', () => console.log('end')).resume()",
    ),
    node("descriptors", "console.log(require('fs').readdirSync('/proc/self/fd').length, require('fs').openSync('/', 'r'))"),
    node(
        "directory",
        "console.log(process.cwd(), require('fs').readdirSync('.'), require('fs').statSync(__filename).isFile(), require('fs').statSync(__filename).size)",
    ),
    node(
        "worker",
        "const { Worker, isMainThread } = require('worker_threads')\nif (isMainThread) new Worker(__filename).on('exit', code => console.log('worker', code))\nelse console.log('in it')",
    ),
    node(
        "child",
        "const { fork } = require('child_process')\nif (process.send) process.send('hi')\nelse fork(__filename).on('message', m => console.log(m))",
    ),
    node("much", "console.log('x'.repeat(100) + '\\n'.repeat(10)); process.stdout.write('y'.repeat(1000000))"),
    Program {
        files: &[("lib.js", "exports.x = 5"), ("d.json", "[1]")],
        ..node(
            "files that come late",
            "console.log(require('./lib').x, require('./d.json'))\nrequire('fs').writeFileSync('new', 'abc')\nrequire('./absent')",
        )
    },
    node("unicode", "console.log('ü 漢字 \u{1F600}', new Intl.DateTimeFormat().resolvedOptions().locale)"),
    node(
        "signals",
        "console.log(require('fs').readFileSync('/proc/self/status', 'utf8').split('\\n').filter(l => /^(Sig|Shd|Cap|Umask|Threads)/.test(l)))",
    ),
    bash("hello", "echo hello"),
    bash("names", "echo \"$0\" \"$@\" $# $- $SHLVL $? \"$!\" \"$_\" $BASH_SOURCE $LINENO \"${FUNCNAME[@]}\""),
    bash("last argument", "echo \"$_\""),
    bash("options", "shopt; set -o; echo $SHELLOPTS $BASHOPTS; umask; ulimit -a | head -20; trap"),
    bash("variables", "compgen -v | grep -v PIPESTATUS; env; declare -x; alias; declare -F"),
    bash("undefined", "echo \"[$BASH_ENV]\" \"${BASH_ENV-unset}\" \"${FOO-unset}\" \"$SECONDS\""),
    Program { is_silent: true, ..bash("exit", "exit 5") },
    bash("errors end it", "set -e\necho one\nfalse\necho two"),
    bash("unset ends it", "set -u\necho $nothing\necho two"),
    bash("traps", "trap 'echo bye $?' EXIT\ntrap 'echo err at $LINENO' ERR\nfalse\necho x\nexit 3"),
    bash("syntax error", "echo one\nif true; then\n"),
    bash("no command", "nowhere-to-be-found\necho $?"),
    bash("input", "read -r x; echo \"$? [$x]\"; cat; echo done"),
    bash("descriptors", "ls /proc/$$/fd > list; cat list; readlink /proc/$$/fd/255"),
    bash("itself", "cat \"$0\"; wc -c < \"$0\"; ls"),
    bash("jobs", "sleep 0.1 & wait $!; echo $?; (exit 4); echo $?; echo a | cat; echo ${PIPESTATUS[@]}"),
    // Read by the shell itself: while it waits for another program, signals are blocked now and then.
    bash("signals", "while read -r line; do case $line in Sig*|Shd*|Cap*|Umask*) echo \"$line\" ;; esac; done </proc/$$/status"),
    Program { is_silent: true, ..bash("killed", "kill -9 $$") },
    bash("here document", "cat <<E\n$HOME ü\nE\necho $'\\u00fc'"),
    Program {
        files: &[("lib.sh", "f() { echo \"f $1 ${BASH_SOURCE[0]}\"; }")],
        ..bash("files that come late", ". ./lib.sh; f x; echo y > new")
    },
];
