//! Checkpoints and patches of living sandboxes: the real git applies each patch to the old tree, and has the new one then.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use caisson_tests::{BASE64, Base64Engine, Sandbox, Server, Value, eventually, fewer, json, run_tool};

const MIB: u64 = 1 << 20;

/// A file with its execute bit, or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Vec<u8>, bool),
    Link(Vec<u8>),
}

type Nodes = BTreeMap<Vec<u8>, Node>;

/// A repository on the host that has a sandbox's directory as it was at the last checkpoint, made of nothing but patches.
struct Copy {
    directory: PathBuf,
}

impl Copy {
    /// Of what is in the directory now, which has just become a checkpoint.
    #[track_caller]
    fn new(sandbox: &Sandbox<'_>, path: &str, name: &str) -> Self {
        let copy = Self { directory: sandbox.server.home().path().join(name) };
        fs::create_dir(&copy.directory).unwrap();
        unpack(sandbox, path, &copy.directory);
        // Git knows of no directory that is empty, and would not put a file in its place.
        let _gone = run_tool("find", &[copy.directory.to_str().unwrap(), "-mindepth", "1", "-type", "d", "-empty", "-delete"]);
        copy.git(&["init", "-q", "--template="], b"");
        // The copy's git is not to heed what the sandbox says to its own.
        fs::create_dir(copy.directory.join(".git/info")).unwrap();
        fs::write(copy.directory.join(".git/info/attributes"), "* !text !eol !filter !diff !whitespace !ident !working-tree-encoding\n")
            .unwrap();
        copy.git(&["add", "-Af"], b"");
        copy
    }

    #[track_caller]
    fn apply(&self, patch: &[u8]) {
        if !patch.is_empty() {
            self.git(&["apply", "--index", "--whitespace=nowarn", "-"], patch);
        }
    }

    #[track_caller]
    fn git(&self, arguments: &[&str], input: &[u8]) {
        let mut child = Command::new("git")
            .current_dir(&self.directory)
            .args(["-c", "core.fileMode=true", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false", "-c", "gc.auto=0"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CEILING_DIRECTORIES", self.directory.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{error}; install the package git"));
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // One that says no before it has read all leaves the rest.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {said}\n{}", input.escape_ascii().to_string().replace("\\n", "\n"));
    }

    fn nodes(&self) -> Nodes {
        read(&self.directory)
    }

    /// Whether the patches have led to what the sandbox has.
    #[track_caller]
    fn is_like(&self, sandbox: &Sandbox<'_>, path: &str) {
        let theirs = now(sandbox, path);
        let ours = self.nodes();
        let differs = ours.keys().chain(theirs.keys()).find(|path| ours.get(*path) != theirs.get(*path));
        if let Some(path) = differs {
            panic!("{}: {:?} of the patches is {:?} in the sandbox", path.escape_ascii(), ours.get(path), theirs.get(path));
        }
    }
}

/// The directory as it is, without what is called `.git`.
fn now(sandbox: &Sandbox<'_>, path: &str) -> Nodes {
    let directory = sandbox.server.home().path().join("now");
    fs::create_dir(&directory).unwrap();
    unpack(sandbox, path, &directory);
    let nodes = read(&directory);
    fs::remove_dir_all(&directory).unwrap();
    nodes
}

#[track_caller]
fn unpack(sandbox: &Sandbox<'_>, path: &str, into: &Path) {
    let tar = sandbox.request("GET", &format!("/files/archive?path={path}&format=tar")).send().expect(200).body;
    let mut child = Command::new("tar").arg("-C").arg(into).args(["--exclude=.git", "-xf", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
}

fn read(root: &Path) -> Nodes {
    let mut nodes = Nodes::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if path.file_name() == Some(OsStr::new(".git")) {
            } else if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_symlink() {
                nodes.insert(below, Node::Link(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else {
                nodes.insert(below, Node::File(fs::read(&path).unwrap(), metadata.permissions().mode() & 0o100 != 0));
            }
        }
    }
    nodes
}

/// A checkpoint, with the patch since the one before.
#[track_caller]
fn checkpoint(sandbox: &Sandbox<'_>, path: &str) -> (Value, Vec<u8>) {
    let made = sandbox.request("POST", "/checkpoint").json(&json!({"path": path, "patch": true})).send().expect(200).json();
    let patch = made["patch"].as_str().map(|text| BASE64.decode(text).unwrap()).unwrap_or_default();
    (made, patch)
}

/// The patch since the checkpoint, which stays.
#[track_caller]
fn patch(sandbox: &Sandbox<'_>, path: &str) -> Vec<u8> {
    sandbox.request("GET", &format!("/patch?path={path}")).send().expect(200).body
}

#[track_caller]
fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it is a text")
}

const BEFORE: &str = r"
import os
def put(path, content=b'', mode=0o644):
    os.makedirs(os.path.dirname(path) or b'.', exist_ok=True)
    with open(path, 'wb') as f: f.write(content)
    os.chmod(path, mode)
put(b'text', b'one\ntwo\nthree\n'); put(b'crlf', b'a\r\nb\r\nc'); put(b'no end', b'x'); put(b'binary', bytes(range(256)) * 40)
put(b'run', b'#!/bin/sh\n'); put(b'plain', b'#!/bin/sh\n', 0o755); put(b'gone', b'gone\n'); put(b'empty gone'); put(b'becomes empty', b'full\n')
put(b'd/moves', b''.join(b'line %d\n' % n for n in range(50))); put(b'd/moves whole', os.urandom(3000)); put(b'file', b'f\n'); put(b'dir/f', b'f\n')
put(b'latin \xe4', b'\xe4\xf6\xfc\n'); put(b'new\nline', b'1\n'); put(b'q\x22uote\\', b'1\n'); put(b'nested/.git/config', b'[core]\n'); put(b'nested/in', b'1\n')
put(b'.git/config', b'[core]\n'); put(b'.gitignore', b'*.o\n/out/\n'); put(b'a.o', b'object'); put(b'out/x', b'1'); put(b'same', b'same\n')
os.symlink('text', 'link'); os.symlink('text', 'link gone'); os.symlink('/nowhere', 'becomes file'); os.mkfifo('fifo'); os.makedirs('empty/dir')
";

const AFTER: &str = r"
import os, shutil
def put(path, content=b'', mode=0o644):
    os.makedirs(os.path.dirname(path) or b'.', exist_ok=True)
    with open(path, 'wb') as f: f.write(content)
    os.chmod(path, mode)
put(b'text', b'one\n2\nthree\nfour\n'); put(b'crlf', b'a\r\nB\r\nc\r\n'); put(b'no end', b'y'); put(b'binary', bytes(range(255, -1, -1)) * 40)
os.chmod('run', 0o755); os.chmod('plain', 0o644); os.unlink('gone'); os.unlink('empty gone'); put(b'becomes empty'); put(b'empty new')
os.makedirs('e'); os.rename('d/moves', 'e/moved'); open('e/moved', 'ab').write(b'more\n'); os.rename('d/moves whole', 'e/moved whole')
os.unlink('file'); put(b'file/in', b'f\n'); shutil.rmtree('dir'); put(b'dir', b'f\n')
put(b'latin \xe4', b'\xe4\n\xdf\n'); put(b'new\nline', b'2\n'); put(b'q\x22uote\\', b'2\n'); put(b'nested/.git/config', b'[evil]\n'); put(b'nested/in', b'2\n')
put(b'.git/hooks/x', b'x'); put(b'b.o', b'object'); put(b'a.o', b'other'); put(b'out/y', b'1'); put(b' lead and trail ', b'x\n'); put(b'new \xff\xfe', b'\0\n')
os.unlink('link'); os.symlink('crlf', 'link'); os.unlink('link gone'); os.unlink('becomes file'); put(b'becomes file', b'f\n'); os.symlink('a b\xe4', 'new link')
put(b'deep/er/and/deep/er', b'x\n'); os.unlink('fifo')
";

#[test]
fn git_has_the_new_tree_when_it_has_applied_the_patch_to_the_old_one() {
    let server = Server::start();
    for storage in ["memory", "disk"] {
        let sandbox = server.sandbox(&json!({"storage": storage}));
        let _made = sandbox.python(&format!("import os; os.mkdir('t'); os.chdir('t')\n{BEFORE}"));
        let (made, first) = checkpoint(&sandbox, "t");
        assert_eq!((&made["patch"], first.len(), &made["files"], &made["changed"]), (&json!(null), 0, &json!(22), &json!(22)));
        let copy = Copy::new(&sandbox, "t", storage);
        let _made = sandbox.python(&format!("import os; os.chdir('t')\n{AFTER}"));
        let looked = patch(&sandbox, "t");
        assert!(
            !looked.is_empty() && looked == patch(&sandbox, "/workspace//t/."),
            "looking changes nothing, and a directory has one name"
        );
        let (made, patched) = checkpoint(&sandbox, "t");
        assert_eq!(looked, patched);
        assert!(made["changed"].as_u64().unwrap() > 25, "{made:.200}");
        for left_out in ["a/out/y", "b.o", "evil", "hooks", "a/same", "fifo"] {
            assert!(!patched.windows(left_out.len()).any(|part| part == left_out.as_bytes()), "{left_out}");
        }
        copy.apply(&patched);
        let (mut ours, mut theirs) = (copy.nodes(), now(&sandbox, "t"));
        // Ignored, as they were, and as they are.
        for ignored in [&b"a.o"[..], b"b.o", b"out/x", b"out/y"] {
            ours.remove(ignored);
            theirs.remove(ignored);
        }
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        assert!(ours == theirs);
        let (made, nothing) = checkpoint(&sandbox, "t");
        assert_eq!((&made["changed"], nothing.len(), patch(&sandbox, "t").len()), (&json!(0), 0, 0), "{made}");
    }
    server.finish();
}

/// Edits of a tree at random; `SEED` is put in front.
const EDITS: &str = r"
import os, random, shutil
r = random.Random(SEED)
os.makedirs('t', exist_ok=True); os.chdir(b't')
NAMES = [b'a', b'b', b'c d', b'e\xff', b'f\n', b'g\x22', b'h.txt', b'\xc3\xbc', b'A', b'-x', b' y ', b'=>']
LINES = [b'', b'one', b'two', b'}', b'\ttab ', b'crlf\r', b'--- a/a', b'@@ -1 +1 @@', b'latin \xe4', b'diff --git a/a b/a']
def have():
    return sorted(os.path.join(at, name)[2:] for at, dirs, files in os.walk(b'.') for name in files + [d for d in dirs if os.path.islink(os.path.join(at, d))])
def path():
    return b'/'.join(r.choice(NAMES) for _ in range(r.randint(1, 3)))
def room(path):
    parts = path.split(b'/')
    for n in range(1, len(parts)):
        part = b'/'.join(parts[:n])
        if os.path.lexists(part) and (os.path.islink(part) or not os.path.isdir(part)): os.unlink(part)
    if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)
    elif os.path.lexists(path): os.unlink(path)
    if len(parts) > 1: os.makedirs(b'/'.join(parts[:-1]), exist_ok=True)
def content():
    kind = r.randint(0, 9)
    if kind == 0: return b''
    if kind == 1: return r.randbytes(r.randint(0, 300))
    if kind == 2: return r.randbytes(8) * r.randint(1, 20000)
    if kind == 3: return b'the same everywhere\nand long enough\nto be taken for one\n'
    return b'\n'.join(r.choice(LINES) for _ in range(r.randint(0, 30))) + r.choice([b'', b'\n'])
def put(path):
    room(path)
    if r.randint(0, 6) == 0: os.symlink(b'target-%d' % r.randint(0, 9), path)
    else:
        with open(path, 'wb') as f: f.write(content())
        os.chmod(path, r.choice([0o644, 0o755, 0o600]))
for _ in range(r.randint(1, 12)):
    files, edit = have(), r.randint(0, 9)
    one = r.choice(files) if files else None
    if one is None or edit < 3: put(path())
    elif edit == 3: os.unlink(one)
    elif edit == 4:
        to = path()
        if to != one and not to.startswith(one + b'/') and not one.startswith(to + b'/'):
            room(to)
            if os.path.lexists(one): os.rename(one, to)
    elif os.path.islink(one): pass
    elif edit == 5: os.chmod(one, os.stat(one).st_mode ^ 0o111)
    else:
        with open(one, 'rb') as f: lines = f.read().split(b'\n')
        at = r.randrange(len(lines))
        if edit < 8: lines.insert(at, r.choice(LINES))
        else: del lines[at]
        with open(one, 'r+b') as f: f.truncate(0); f.write(b'\n'.join(lines))
";

#[test]
fn any_edits_one_after_the_other() {
    let given = std::env::var("CAISSON_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed: u64 = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("CAISSON_TEST_SEED={seed}");
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let edit = |round: u64| drop(sandbox.python(&format!("SEED = {}\n{EDITS}", seed.wrapping_mul(1000) + round)));
    edit(0);
    let (_, nothing) = checkpoint(&sandbox, "t");
    assert!(nothing.is_empty());
    let copy = Copy::new(&sandbox, "t", "copy");
    for round in 1..=fewer(300) as u64 {
        println!("round {round}");
        edit(round);
        let looked = (round % 3 == 0).then(|| patch(&sandbox, "t"));
        let (_, patched) = checkpoint(&sandbox, "t");
        assert!(looked.is_none_or(|looked| looked == patched));
        copy.apply(&patched);
        copy.is_like(&sandbox, "t");
    }
    server.finish();
}

/// As many files as a directory has to have so that it becomes a lower layer, some of them in directories.
const MANY: &str = r"
import os
os.makedirs('t/many', exist_ok=True); os.chdir('t')
for n in range(40):
    os.makedirs(f'many/{n % 20}/{n}')
    for m in range(130):
        with open(f'many/{n % 20}/{n}/{m}', 'w') as f: f.write('' if m > 20 else f'{n} and {m}\n' * 5)
";

/// What is done to whole directories; `SEED` is put in front.
const MOVES: &str = r"
import os, random, shutil
r = random.Random(SEED); os.chdir('t')
for _ in range(r.randint(1, 4)):
    os.makedirs('again', exist_ok=True)
    dirs = sorted(os.path.join(at, d) for at, ds, _ in os.walk('.') for d in ds if not os.path.islink(os.path.join(at, d)))
    one, to = r.choice(dirs), os.path.join(r.choice(dirs), r.choice(['x', 'y', '3', 'many']))
    what = r.randint(0, 5)
    try:
        if what < 2: os.rename(one, to)
        elif what == 2: shutil.rmtree(one); os.mkdir(one)
        elif what == 3:
            # So that the tree does not grow without end.
            if sum(len(files) for _, _, files in os.walk(one)) < 300: shutil.copytree(one, to, symlinks=True)
        elif what == 4:
            for at, _, files in os.walk(one):
                # Opened for writing, and left as they are.
                for name in files[:3]: open(os.path.join(at, name), 'ab').close() if not os.path.islink(os.path.join(at, name)) else None
        else:
            files = [os.path.join(at, f) for at, _, fs in os.walk(one) for f in fs]
            if files: os.link(r.choice(files), to, follow_symlinks=False)
    except OSError: pass
";

/// Whether a directory has layers, as its sandbox sees it.
#[track_caller]
fn has_layers(sandbox: &Sandbox<'_>, path: &str) -> bool {
    sandbox.shell(&format!("grep -c '^overlay {path} ' /proc/self/mounts; true")) == "1\n"
}

#[test]
fn any_edits_of_a_large_tree_are_found_in_its_upper_layer() {
    let given = std::env::var("CAISSON_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed: u64 = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("CAISSON_TEST_SEED={seed}");
    let server = Server::start();
    for storage in ["memory", "disk"] {
        let sandbox = server.sandbox(&json!({"storage": storage}));
        let run = |code: &str, round: u64| drop(sandbox.python(&format!("SEED = {}\n{code}", seed.wrapping_mul(1000) + round)));
        run(MANY, 0);
        run(EDITS, 0);
        let (first, nothing) = checkpoint(&sandbox, "t");
        assert!(nothing.is_empty() && first["files"] == first["changed"], "{first}");
        assert!(has_layers(&sandbox, "/workspace/t"));
        let copy = Copy::new(&sandbox, "t", storage);
        let rounds = fewer(24) as u64;
        for round in 1..=rounds {
            println!("{storage}, round {round}");
            run(EDITS, round);
            if round % 2 == 0 {
                run(MOVES, round);
            }
            let looked = (round % 3 == 0).then(|| patch(&sandbox, "t"));
            let (_, patched) = checkpoint(&sandbox, "t");
            assert!(looked.is_none_or(|looked| looked == patched));
            copy.apply(&patched);
            // Each patch has to fit what the ones before have led to.
            if round % 6 == 0 || round == rounds {
                copy.is_like(&sandbox, "t");
            }
        }
        let (made, _) = checkpoint(&sandbox, "t");
        assert_eq!((&made["changed"], made["files"].as_u64()), (&json!(0), Some(copy.nodes().len() as u64)), "{made}");
    }
    server.finish();
}

#[test]
fn layers_are_made_where_nobody_can_write_past_them_and_nowhere_else() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.python(MANY);
    let ask = |body: &Value| sandbox.request("POST", "/checkpoint").json(body).send().expect(200).json();
    // Somebody is in the directory, who could go on writing there.
    let id = sandbox.background(json!({"shell": "cd t; sleep 1000", "timeout_s": null}));
    assert_eq!(ask(&json!({"path": "t"}))["unreadable"], 0);
    assert!(!has_layers(&sandbox, "/workspace/t"));
    let copy = Copy::new(&sandbox, "t", "copy");
    server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
    let is_gone = || (sandbox.shell("ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().unwrap() < 6).then_some(());
    eventually("its end", Duration::from_secs(20), is_gone);
    // From one that looked at everything to one that does not.
    let _made = sandbox.shell("cd t; echo a > many/1/1/1; mv many/2 moved");
    let (made, patched) = checkpoint(&sandbox, "t");
    assert!(has_layers(&sandbox, "/workspace/t"), "{made}");
    copy.apply(&patched);
    copy.is_like(&sandbox, "t");
    let _made = sandbox.shell("cd t; echo b > many/1/1/1; echo c > moved/2/5");
    copy.apply(&checkpoint(&sandbox, "t").1);
    copy.is_like(&sandbox, "t");
    // Another name, through which it would be written to.
    let other = server.sandbox(&json!({}));
    let _made = other.python(MANY);
    let _made = other.shell("ln t/many/1/1/1 outside");
    let _first = checkpoint(&other, "t");
    assert!(!has_layers(&other, "/workspace/t"));
    let _made = other.shell("echo through the other name > outside");
    assert!(text(&patch(&other, "t")).contains("+through the other name"));
    // What a directory has few of, and one at the top.
    let root = server.sandbox(&json!({"user": "root"}));
    let _made = root.python(&format!("import os; os.chdir('/')\n{MANY}"));
    let _made = root.shell("mkdir /few; touch /few/a");
    for path in ["/t", "/few"] {
        let _first = checkpoint(&root, path);
    }
    assert!(has_layers(&root, "/t") && !has_layers(&root, "/few"));
    server.finish();
}

#[test]
fn what_is_ignored_in_a_large_tree_follows_its_rules() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let plain = server.sandbox(&json!({}));
    let both = [&sandbox, &plain];
    for sandbox in both {
        let _made = sandbox.python(MANY);
        let _made = sandbox.shell(
            "cd t; printf '*.log\n/build/\n' > .gitignore; mkdir build; touch build/o a.log many/b.log; echo '!b.log' > many/.gitignore",
        );
    }
    // A name outside, so that it gets no layers.
    let _made = plain.shell("ln t/build/o outside");
    let answers = |path: &str| both.map(|sandbox| sandbox.request("GET", path).send().expect(200).body);
    for (round, edit) in [
        "true",
        "echo 1 > t/build/p; echo 1 > t/c.log; echo 1 > t/many/b.log; echo 1 > t/many/1/d.log",
        "printf '*.log\n' > t/.gitignore",
        "printf '*.log\n/build/\n' > t/.gitignore; echo 2 > t/build/o; echo 2 > t/build/q",
        "rm t/many/.gitignore; echo 3 > t/many/b.log; echo 3 > t/many/e.log",
        "rm -r t/build; mkdir t/build; echo 4 > t/build/o; echo 4 > t/build/r",
        "mv t/many/3 t/many/three; echo '7' > t/many/three/.gitignore",
    ]
    .into_iter()
    .enumerate()
    {
        for sandbox in both {
            let _made = sandbox.shell(edit);
        }
        if round > 0 {
            for query in ["", "&gitignore=false"] {
                let [ours, theirs] = answers(&format!("/patch?path=t{query}"));
                assert_eq!(text(&ours), text(&theirs), "{edit} {query}");
            }
        }
        let [ours, theirs] = both.map(|sandbox| checkpoint(sandbox, "t").0);
        assert_eq!(ours, theirs, "{edit}");
    }
    assert!(has_layers(&sandbox, "/workspace/t") && !has_layers(&plain, "/workspace/t"));
    server.finish();
}

#[test]
fn r1_3_layers_are_out_of_the_reach_of_root_inside() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"user": "root"}));
    let _made = sandbox.python(&format!("import os; os.chdir('/')\n{MANY}"));
    let _first = checkpoint(&sandbox, "/t");
    assert!(has_layers(&sandbox, "/t"));
    let _made = sandbox.shell("echo mark-of-the-upper > /t/upper; rm /t/many/1/1/1");
    // Each path is one that leads somewhere else in the sandbox than to the layers.
    let attacks = r"
import os, errno, subprocess
def says(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return 'done'
print(says(os.rmdir, '/t'), says(os.rename, '/t', '/u'), says(os.rename, '/t/upper', '/upper'), says(os.link, '/t/upper', '/upper'))
print(says(os.mknod, '/t/whiteout', 0o20666, 0), says(os.setxattr, '/t', 'trusted.overlay.opaque', b'y'), says(os.setxattr, '/t', 'user.overlay.opaque', b'y'))
print(subprocess.run(['umount', '/t'], stderr=subprocess.DEVNULL).returncode != 0, subprocess.run(['umount', '/proc'], stderr=subprocess.DEVNULL).returncode != 0)
mounts = open('/proc/self/mountinfo').read()
print([line for line in mounts.splitlines() if ' /t ' in line and any(word in line for word in ('/tmp/', '/var/', '/home', 'data'))])
found = []
for at, dirs, files in os.walk('/', followlinks=False):
    if at == '/': dirs[:] = [d for d in dirs if d not in ('usr', 'sys', 'proc')]
    found += [os.path.join(at, name) for name in dirs + files if name in ('upper', 'layers')]
print(found, os.listdir('/t/many/1/1').count('1'), len(os.listdir('/proc/1')) if os.path.isdir('/proc/1') else 'hidden')
";
    let said = sandbox.python(attacks);
    assert!(said.starts_with("EBUSY EBUSY EXDEV EXDEV\n") && !said.contains("done"), "{said}");
    assert!(said.contains("\nTrue True\n[]\n['/t/upper'] 0 "), "{said}");
    // All that is in it can go, and come again.
    let _made = sandbox.shell("rm -rf /t/* && ls -A /t && mkdir /t/many && echo new > /t/many/f");
    assert_eq!(text(&patch(&sandbox, "/t")).matches("\n+new\n").count(), 1);
    server.finish();
}

#[test]
fn layers_are_there_again_whatever_stopped_the_sandbox() {
    let mut server = Server::start();
    for how in ["stop", "restart", "kill"] {
        let sandbox = server.sandbox(&json!({"storage": "disk", "name": how}));
        let _made = sandbox.python(MANY);
        let _first = checkpoint(&sandbox, "t");
        assert!(has_layers(&sandbox, "/workspace/t"));
        let _made =
            sandbox.shell("cd t; echo new > new; rm -r many/1; mv many/2 many/two; echo changed >> many/3/3/1; ln -s new link; sync");
        let list = |sandbox: &Sandbox<'_>| sandbox.shell("cd t; find . | sort; cat many/3/3/1 new; stat -c '%n %a %u' . many/two");
        let (id, before) = (sandbox.id.clone(), list(&sandbox));
        match how {
            "stop" => drop(sandbox.request("POST", "/stop").send().expect(200)),
            "restart" => {
                assert!(server.stop().success());
                server.start_again();
            }
            _ => {
                server.kill();
                server.start_again();
            }
        }
        let sandbox = Sandbox { server: &server, id };
        assert_eq!(list(&sandbox), before, "{how}");
        assert!(has_layers(&sandbox, "/workspace/t"), "{how}");
        sandbox.request("GET", "/patch?path=t").send().refused(409, "no_checkpoint");
        let _first = checkpoint(&sandbox, "t");
        let copy = Copy::new(&sandbox, "t", how);
        let _made = sandbox.shell("cd t; echo newer > new; mv many/two many/too; rm many/3/3/2");
        copy.apply(&checkpoint(&sandbox, "t").1);
        copy.is_like(&sandbox, "t");
    }
    server.finish();
}

#[test]
fn what_is_written_meanwhile_is_in_the_next_patch() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir t; for i in $(seq 200); do echo $i > t/f$i; done");
    let _first = checkpoint(&sandbox, "t");
    let copy = Copy::new(&sandbox, "t", "copy");
    let code = "import os, itertools
for n in itertools.count():
    if os.path.exists('stop'): break
    open('t/log', 'a').write(f'{n}\\n')
    open(f't/f{n % 200 + 1}', 'w').write(f'{n:08}\\n')
    open('t/new', 'w').write(str(n)); os.rename('t/new', f't/in{n % 7}')
    if n % 5 == 0: os.unlink(f't/in{n % 7}')
open('stopped', 'w')";
    let _id = sandbox.background(json!({"language": "python", "code": code, "timeout_s": null}));
    let mut length = 0;
    for _ in 0..fewer(60) {
        let (_, patched) = checkpoint(&sandbox, "t");
        length += patched.len();
        copy.apply(&patched);
    }
    assert!(length > 0);
    let _stop = sandbox.shell("touch stop");
    eventually("its end", Duration::from_secs(20), || (sandbox.shell("ls") == "stop\nstopped\nt\n").then_some(()));
    copy.apply(&checkpoint(&sandbox, "t").1);
    copy.is_like(&sandbox, "t");
    server.finish();
}

#[test]
fn ignored_files_are_left_out_unless_they_are_wanted() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made =
        sandbox.shell("mkdir -p t/d; printf '*.log\\n!keep.log\\n/build/\\n' > t/.gitignore; echo x > t/d/.gitignore; touch t/a t/a.log");
    let ask = |body: &Value| sandbox.request("POST", "/checkpoint").json(body).send().expect(200).json();
    assert_eq!(ask(&json!({"path": "t"}))["files"], 3);
    let _made = sandbox.shell("cd t; mkdir build; echo 1 > build/o; echo 1 > b.log; echo 1 > keep.log; echo 1 > d/x; echo 1 > y");
    let names =
        |patch: &[u8]| -> Vec<String> { text(patch).lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::to_owned).collect() };
    assert_eq!(names(&patch(&sandbox, "t")), ["keep.log", "y"]);
    let all = sandbox.request("GET", "/patch?path=t&gitignore=false").send().expect(200);
    assert_eq!(all.header("content-type"), Some("text/x-patch"));
    assert_eq!(names(&all.body), ["b.log", "build/o", "d/x", "keep.log", "y"]);
    // What is in a checkpoint is followed, as git follows what is in its index.
    assert_eq!(ask(&json!({"path": "t", "gitignore": false}))["files"], 9);
    let _made = sandbox.shell("echo 2 > t/b.log; echo 2 > t/c.log");
    assert_eq!(names(&patch(&sandbox, "t")), ["b.log"]);
    server.finish();
}

#[test]
fn r5_3_nothing_in_the_directory_steers_what_is_done() {
    let server = Server::start();
    for user in ["user", "root"] {
        let sandbox = server.sandbox(&json!({"user": user}));
        let _made = sandbox.shell(
            "mkdir -p t/.git/hooks t/d elsewhere; echo secret > elsewhere/f; echo 1 > t/d/f
             for hook in pre-commit post-index-change fsmonitor-watchman; do printf '#!/bin/sh\\ntouch /tmp/ran' > t/.git/hooks/$hook; chmod +x t/.git/hooks/$hook; done
             printf '[filter \"x\"]\\nclean = touch /tmp/ran\\n[diff \"x\"]\\ncommand = touch /tmp/ran\\ntextconv = touch /tmp/ran\\n[core]\\nfsmonitor = touch /tmp/ran\\nautocrlf = true\\nexcludesFile = /workspace/t/none\\n' > t/.git/config
             cp t/.git/config .gitconfig; echo '*' > t/none; printf '* filter=x diff=x text eol=crlf\\n' > t/.gitattributes; printf 'a\\r\\nb\\n' > t/lines",
        );
        let _first = checkpoint(&sandbox, "t");
        let copy = Copy::new(&sandbox, "t", user);
        let _made = sandbox.shell("cd t; printf 'a\\r\\nB\\r\\n' > lines; echo 2 >> none; mv d was; ln -s ../elsewhere d; ln -s / root; ln -s . loop; ln -s /proc/self/root/etc magic");
        let patched = patch(&sandbox, "t");
        assert!(!text(&patched).contains("secret") && !text(&patched).contains("root:"), "{}", text(&patched));
        copy.apply(&patched);
        copy.is_like(&sandbox, "t");
        assert_eq!(sandbox.shell("ls /tmp"), "", "nothing ran");
        // Links where there were directories, again and again while it is read.
        let swap = "while [ ! -e stop ]; do mv t/was t/other; ln -s ../elsewhere t/was; rm t/was; mv t/other t/was; done";
        let id = sandbox.background(json!({"shell": swap, "timeout_s": null}));
        for _ in 0..fewer(50) {
            let answer = sandbox.request("GET", "/patch?path=t").send();
            assert!(matches!(answer.status, 200 | 409), "{}", answer.text());
            assert!(!answer.text().contains("secret"));
        }
        server.request("POST", &format!("/v1/executions/{id}/kill")).send().expect(204);
        assert_eq!(sandbox.shell("echo fine"), "fine\n");
    }
    server.finish();
}

#[test]
fn r1_3_what_is_kept_is_out_of_the_reach_of_root_inside() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"user": "root"}));
    // Whoever searches for it must not find the search.
    let _made = sandbox.shell("mkdir t; for i in $(seq 500); do echo mark-of-the-$((i + 1000))-content; done > t/f");
    let _first = checkpoint(&sandbox, "t");
    let _gone = sandbox.shell("rm t/f");
    let search = r"
import os
MARK, found, opened = b'mark-of-the-' + b'1234-content', [], 0
def look(path):
    global opened
    try:
        with open(path, 'rb') as f:
            opened += 1
            while piece := f.read(1 << 20):
                if MARK in piece: found.append(path)
    except OSError: pass
for at, dirs, files in os.walk('/'):
    if at == '/': dirs[:] = [d for d in dirs if d not in ('usr', 'sys')]
    dirs[:] = [d for d in dirs if not os.path.join(at, d).startswith(f'/proc/{os.getpid()}')]
    for name in files:
        path = os.path.join(at, name)
        if os.path.isfile(path) and not path.startswith('/proc/kmsg'): look(path)
for what in ('fd', 'map_files', 'task', 'root', 'cwd'):
    for number in range(64):
        for path in (f'/proc/1/{what}/{number}', f'/proc/1/task/1/{what}/{number}'):
            look(path)
            try: os.link(path, '/tmp/taken', follow_symlinks=True); found.append(path)
            except OSError: pass
for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/maps'): look(path)
print(found, opened > 20)
";
    assert_eq!(sandbox.python(search), "[] True\n");
    let gone = text(&patch(&sandbox, "t"));
    assert!(gone.contains("deleted file mode") && gone.contains("\n-mark-of-the-1234-content\n"), "but it is there");
    let _gone = sandbox.shell("rm -rf /tmp /t; mkdir -p /tmp; chmod 0 /tmp; echo new > t/f");
    assert_eq!(checkpoint(&sandbox, "t").0["changed"], 1, "whatever becomes of its directories");
    assert!(text(&patch(&sandbox, "/workspace/t")).is_empty());
    server.finish();
}

#[test]
fn a_full_disk_leaves_the_checkpoint_as_it_was() {
    let server = Server::start();
    for storage in ["memory", "disk"] {
        let sandbox = server.sandbox(&json!({"storage": storage, "limits": {"disk_bytes": 64 * MIB}}));
        let used = || sandbox.shell("sync; df --output=used -B1K /workspace | tail -1").trim().parse::<u64>().unwrap();
        let _made = sandbox.shell("mkdir t; head -c 1M /dev/urandom > t/large; seq 5000 > t/text; head -c 70K /dev/urandom > t/binary");
        let _first = checkpoint(&sandbox, "t");
        let copy = Copy::new(&sandbox, "t", storage);
        let before = used();
        let _made = sandbox.shell("seq 6000 > t/text; head -c 1M /dev/urandom > t/large; (cat /dev/zero > /tmp/full) 2> /dev/null; true");
        for (method, target, body) in
            [("POST", "/checkpoint", json!({"path": "t"})), ("POST", "/checkpoint", json!({"path": "t", "patch": true}))]
        {
            let message = sandbox.request(method, target).json(&body).send().refused(429, "quota_exceeded");
            assert!(message.contains("disk") && message.contains("a checkpoint does not fit"), "{message}");
        }
        sandbox.request("GET", "/patch?path=t").send().refused(429, "quota_exceeded");
        let _made = sandbox.shell("rm /tmp/full");
        let patched = patch(&sandbox, "t");
        let (_, moved) = checkpoint(&sandbox, "t");
        assert_eq!(patched, moved);
        copy.apply(&patched);
        copy.is_like(&sandbox, "t");
        // What nobody needs any more is given back.
        let _made = sandbox.shell("rm -r t/large t/binary");
        let (made, _) = checkpoint(&sandbox, "t");
        assert_eq!(made["changed"], 2);
        assert!(used() + 2 * 1024 - 200 < before, "{} KiB after {before}", used());
    }
    server.finish();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"storage": "disk", "limits": {"disk_bytes": 700 * MIB}}));
    let ask = |body: &Value| sandbox.request("POST", "/checkpoint").json(body).send();
    let _made = sandbox.shell("mkdir -p t/d n/1 n/2 n/3 n/4 n/5 n/6 n/7 n/8; echo 1 > t/f; mkdir -p locked/in; touch locked/in/f");
    let message = sandbox.request("GET", "/patch?path=t").send().refused(409, "no_checkpoint");
    assert!(message.contains("/workspace/t") && message.contains("make one"), "{message}");
    ask(&json!({"path": "nothing"})).refused(404, "not_found");
    ask(&json!({"path": "t/f"})).refused(409, "not_a_directory");
    ask(&json!({"path": "/proc/self"})).refused(409, "not_a_file");
    ask(&json!({"path": ""})).refused(400, "invalid_path");
    ask(&json!({"path": "t", "keep": true})).refused(400, "invalid_request");
    ask(&json!({"path": ["t"]})).refused(400, "invalid_request");
    sandbox.request("GET", "/patch?path=t&patch=true").send().refused(400, "invalid_parameter");
    sandbox.request("GET", "/patch?path=t&gitignore=yes").send().refused(400, "invalid_parameter");
    ask(&json!({"path": "t"})).expect(200);
    let _made = sandbox.shell("truncate -s 2G t/sparse");
    let message = ask(&json!({"path": "t"})).refused(409, "tree_too_large");
    assert!(message.contains("sparse") && message.contains("1073741824"), "{message}");
    let _made = sandbox.shell("rm t/sparse; head -c 70M /dev/urandom > t/large");
    for body in [json!({"path": "t", "patch": true}), json!({"path": "t", "patch": true})] {
        let message = ask(&body).refused(409, "patch_too_large");
        assert!(message.contains("67108864"), "{message}");
    }
    let _made = sandbox.shell("rm t/large; echo 2 > t/f");
    assert!(text(&patch(&sandbox, "t")).contains("-1\n+2\n"), "the checkpoint has not moved");
    for number in 1..8 {
        ask(&json!({"path": format!("n/{number}")})).expect(200);
    }
    let message = ask(&json!({"path": "n/8"})).refused(409, "too_many_checkpoints");
    assert!(message.contains('8'), "{message}");
    ask(&json!({"path": "/workspace/n/7/"})).expect(200);
    let _made = sandbox.shell("chmod 0 n/7; rm -r n/6");
    ask(&json!({"path": "n/7"})).refused(400, "permission_denied");
    sandbox.request("GET", "/patch?path=n/6").send().refused(404, "not_found");
    server.finish();
}

/// busybox with all its names.
fn image(server: &Server) {
    let root = server.home().path().join("root");
    for directory in ["bin", "etc", "data", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in run_tool("/bin/busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("data/f"), "of the image\n").unwrap();
    let tar = server.home().clean("tar").arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&root).unwrap();
    server.request("POST", "/v1/images/import?name=small").bytes(tar.stdout).send().expect(200);
}

#[test]
fn an_image_of_the_sandbox_has_nothing_of_it() {
    let server = Server::start();
    image(&server);
    for user in ["user", "root"] {
        let sandbox = server.sandbox(&json!({"image": "small", "user": user}));
        let plain = server.sandbox(&json!({"image": "small", "user": user}));
        for sandbox in [&sandbox, &plain] {
            let _made = sandbox.shell("mkdir t; for i in $(seq 300); do echo mark-$i; done > t/f; echo a > t/g");
        }
        let _first = checkpoint(&sandbox, "t");
        let _whole = checkpoint(&sandbox, "/data");
        for sandbox in [&sandbox, &plain] {
            let _made = sandbox.shell("echo new > t/f; rm t/g");
        }
        let _second = checkpoint(&sandbox, "t");
        let archive = sandbox.request("GET", "/files/archive?path=/tmp&format=tar").send().expect(200).body;
        assert_eq!(archive.len(), plain.request("GET", "/files/archive?path=/tmp&format=tar").send().expect(200).body.len());
        let listed = |of: &Sandbox<'_>, name: &str| {
            of.request("POST", "/commit").json(&json!({"name": name})).send().expect(201);
            let made = server.sandbox(&json!({"image": name, "user": "root"}));
            let listed = made.shell("find / -xdev | sort; du -sk / | cut -f 1");
            assert_eq!(made.shell("grep -rl mark-30 /workspace /tmp /data /etc || echo none"), "none\n");
            made.delete().expect(200);
            listed
        };
        assert_eq!(listed(&sandbox, &format!("with-{user}")), listed(&plain, &format!("without-{user}")));
        assert!(text(&checkpoint(&sandbox, "t").1).is_empty());
        for sandbox in [sandbox, plain] {
            sandbox.delete().expect(200);
        }
    }
    server.finish();
}
