//! Whole trees in and out of a sandbox, and archives that mean harm.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use caisson_tests::{Answer, Archive, BASE64, Base64Engine, Sandbox, Server, eventually, json, octal};

const MIB: usize = 1 << 20;

fn upload(sandbox: &Sandbox<'_>, path: &str, format: &str, archive: impl Into<Vec<u8>>) -> Answer {
    sandbox.request("PUT", &format!("/files/archive?path={path}&format={format}")).bytes(archive).send()
}

/// What a program of the host makes of its standard input.
fn through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (a package of that name): {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
    feeding.join().unwrap();
    output
}

#[test]
fn trees_go_in_and_come_out_as_they_were() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let made = sandbox.shell(
        "mkdir -p from/sub/empty from/ro; head -c 700000 /dev/urandom > from/big; echo x > from/sub/x; ln from/big from/sub/same
         ln -s /nowhere from/link; printf y > \"$(printf 'from/\\377\\n')\"; echo r > from/ro/r; chmod 4751 from/sub/x; touch -d @1000000000 from/sub/x; chmod 555 from/ro
         mkfifo from/fifo; mkdir from/secret; chmod 0 from/secret",
    );
    assert_eq!(made, "");
    let look = "cd $D && find . -mindepth 1 ! -name fifo ! -path './secret*' -printf '%P|%y|%m|%l|%n\\n' | sort | sed 's/4751/751/'; cat big sub/x | sha256sum";
    let before = sandbox.shell(&look.replace("$D", "from"));
    for (format, magic) in [("tar", &b"./"[..]), ("tar.gz", &[0x1f, 0x8b]), ("tar.zst", &[0x28, 0xb5, 0x2f, 0xfd])] {
        let archive = sandbox.request("GET", &format!("/files/archive?path=from&format={format}")).send().expect(200).body;
        assert!(archive.starts_with(magic), "{format}");
        let unpacked = upload(&sandbox, &format!("to-{format}/deeper"), format, archive.clone()).expect(200).json();
        assert_eq!((&unpacked["files"], &unpacked["directories"], &unpacked["links"]), (&json!(4), &json!(3), &json!(2)), "{unpacked:#}");
        // What was left out on the way out is told on the way in.
        assert_eq!(unpacked["left_out_total"], 2, "{unpacked:#}");
        let left: Vec<&str> = unpacked["left_out"].as_array().unwrap().iter().map(|left| left["path"].as_str().unwrap()).collect();
        assert_eq!(left, ["fifo", "secret"]);
        assert_eq!(sandbox.shell(&look.replace("$D", &format!("to-{format}/deeper"))), before, "{format}");
        assert_eq!(sandbox.shell(&format!("stat -c %Y to-{format}/deeper/sub/x")), "1000000000\n");
        // Other programs read it too.
        let flags: &[&str] = match format {
            "tar" => &["-t"],
            "tar.gz" => &["-tz"],
            _ => &["-t", "--zstd"],
        };
        let python = "import sys, tarfile\nprint(len(tarfile.open(fileobj=sys.stdin.buffer, mode='r|*').getnames()))";
        if format != "tar.zst" {
            assert_eq!(through("python3", &["-c", python], &archive), b"11\n", "{format}: the directory itself twice");
        }
        let listed = through("tar", flags, &archive);
        assert_eq!(listed.iter().filter(|byte| **byte == b'\n').count(), 11, "{}", String::from_utf8_lossy(&listed));
    }
    let _writable = sandbox.shell("chmod -R u+rwx from to-*");
    // One file alone, and by a link.
    let archive = sandbox.request("GET", "/files/archive?path=from/sub/x").send().expect(200).body;
    assert_eq!(through("tar", &["-xO", "x"], &archive), b"x\n");
    sandbox.request("GET", "/files/archive?path=nothing").send().refused(404, "not_found");
    sandbox.request("GET", "/files/archive?path=from/fifo").send().refused(409, "not_a_file");
    sandbox.request("GET", "/files/archive?path=/proc/self").send().refused(409, "not_a_file");
    upload(&sandbox, "from/sub/x", "tar", Archive::new().end()).refused(409, "not_a_directory");
    upload(&sandbox, "/proc/self", "tar", Archive::new().file(b"f", b"x").end()).refused(400, "permission_denied");
    upload(&sandbox, "/usr/x", "tar", Archive::new().end()).refused(400, "permission_denied");
    server.finish();
}

#[test]
fn archives_of_other_programs_are_taken() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let home = server.home().path();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    std::fs::create_dir_all(home.join("t").join(&long).parent().unwrap()).unwrap();
    std::fs::write(home.join("t").join(&long), "deep").unwrap();
    for format in ["gnu", "pax", "ustar", "oldgnu", "v7"] {
        let source = if matches!(format, "v7" | "ustar") { "one" } else { "t" };
        std::fs::create_dir_all(home.join("one")).unwrap();
        std::fs::write(home.join("one/f"), "flat").unwrap();
        let packed = Command::new("tar").arg("-C").arg(home.join(source)).args(["-cf", "-", "--format", format, "."]).output().unwrap();
        assert!(packed.status.success(), "{format}");
        upload(&sandbox, format, "tar", packed.stdout).expect(200);
        let read = if source == "t" { format!("{format}/{long}") } else { format!("{format}/f") };
        assert_eq!(sandbox.read(read.as_bytes()).expect(200).text(), if source == "t" { "deep" } else { "flat" }, "{format}");
    }
    let python = "import io, sys, tarfile
out = io.BytesIO()
with tarfile.open(fileobj=out, mode='w') as archive:
    for name in ('ä/ö', 'x' * 300):
        info = tarfile.TarInfo(name); info.size = 3; info.mtime = 1.5
        archive.addfile(info, io.BytesIO(b'abc'))
sys.stdout.buffer.write(out.getvalue())";
    upload(&sandbox, "python", "tar", through("python3", &["-c", python], b"")).refused(400, "invalid_archive");
    upload(&sandbox, "python", "tar", through("python3", &["-c", &python.replace("300", "250")], b"")).expect(200);
    assert_eq!(sandbox.read("python/ä/ö".as_bytes()).expect(200).text(), "abc");
    server.finish();
}

/// What a hostile archive is, and how it is refused; `None`: it is taken, and harms nothing.
type Hostile = (&'static str, Vec<u8>, Option<(u16, &'static str)>);

fn hostile() -> Vec<Hostile> {
    let new = Archive::new;
    let invalid = Some((400, "invalid_archive"));
    let conflict = Some((409, "not_a_directory"));
    let negative = [0xffu8; 12];
    let mut wide = [0u8; 12];
    (wide[0], wide[4]) = (0x80, 0x80);
    let mut bad_sum = new().file(b"f", b"x").end();
    bad_sum[0] = b'g';
    vec![
        ("leads up", new().file(b"../outside/f", b"bad").end(), invalid),
        ("leads up from deeper", new().file(b"a/../../outside/f", b"bad").end(), invalid),
        ("leads up in a long name", new().long(b'L', b"a/../../outside/f").file(b"f", b"bad").end(), invalid),
        ("leads up in an extended header", new().extended(b'x', &[("path", b"../outside/f")]).file(b"f", b"bad").end(), invalid),
        ("is absolute", new().file(b"/workspace/outside/f", b"bad").end(), invalid),
        ("is absolute in an extended header", new().extended(b'x', &[("path", b"/workspace/outside/f")]).file(b"f", b"bad").end(), invalid),
        ("writes through a link", new().link(b'2', b"l", b"../outside").file(b"l/f", b"bad").end(), conflict),
        ("writes through an absolute link", new().link(b'2', b"l", b"/workspace/outside").file(b"l/f", b"bad").end(), conflict),
        ("writes through two links", new().link(b'2', b"l", b"..").link(b'2', b"m", b"l/outside").file(b"m/f", b"bad").end(), conflict),
        ("replaces a link", new().link(b'2', b"l", b"../outside/f").file(b"l", b"mine").end(), None),
        ("a directory over a link", new().link(b'2', b"l", b"../outside").directory(b"l", 0o777).end(), conflict),
        ("a directory over a link with a slash", new().link(b'2', b"l", b"../outside").directory(b"l/", 0o777).end(), conflict),
        ("a hard link to outside", new().link(b'1', b"h", b"../outside/f").end(), invalid),
        ("an absolute hard link", new().link(b'1', b"h", b"/workspace/outside/f").end(), invalid),
        ("a hard link through a link", new().link(b'2', b"l", b"../outside").link(b'1', b"h", b"l/f").end(), invalid),
        ("a hard link to a link", new().link(b'2', b"l", b"../outside/f").link(b'1', b"h", b"l").end(), invalid),
        ("a hard link to nothing", new().link(b'1', b"h", b"nothing").end(), invalid),
        ("a hard link to itself", new().file(b"h", b"").link(b'1', b"h", b"h").end(), invalid),
        ("a hard link with content", new().file(b"f", b"").header(b'1', b"h", b"f", 0o644, &octal(3)).content(b"bad").end(), invalid),
        ("a symbolic link to nothing at all", new().link(b'2', b"l", b"").end(), invalid),
        ("a device", new().header(b'3', b"null", b"", 0o666, &octal(0)).end(), None),
        ("a block device", new().header(b'4', b"disk", b"", 0o666, &octal(0)).end(), None),
        ("a fifo", new().header(b'6', b"fifo", b"", 0o666, &octal(0)).end(), None),
        ("a fifo with content", new().header(b'6', b"fifo", b"", 0o666, &octal(3)).content(b"bad").end(), invalid),
        ("an unknown kind", new().header(b'Z', b"z", b"", 0o644, &octal(0)).end(), invalid),
        ("set-user-id bits", new().header(b'0', b"su", b"", 0o6755, &octal(1)).content(b"x").directory(b"sticky", 0o7777).end(), None),
        ("a name of 64 KiB", new().long(b'L', &[b'n'; 65_536]).file(b"f", b"").end(), invalid),
        ("a name of 64 KiB in an extended header", new().extended(b'x', &[("path", &[b'n'; 65_536])]).file(b"f", b"").end(), invalid),
        ("a part of 256 bytes", new().long(b'L', &[b'n'; 256]).file(b"f", b"").end(), invalid),
        ("an extended header of a MiB", new().extended(b'x', &[("comment", &vec![b'n'; MIB])]).file(b"f", b"").end(), invalid),
        ("a NUL in a name", new().extended(b'x', &[("path", b"a\0b")]).file(b"f", b"").end(), invalid),
        ("no name", new().file(b"", b"x").end(), invalid),
        ("the directory as a file", new().file(b"./", b"x").end(), invalid),
        ("names of any bytes", new().file(b"\xff\xfe\n\x1b[2J", b"x").end(), None),
        ("a negative size", new().header(b'0', b"f", b"", 0o644, &negative).end(), invalid),
        ("a size that overflows", new().header(b'0', b"f", b"", 0o644, &wide).end(), invalid),
        ("a size that is no number", new().header(b'0', b"f", b"", 0o644, b"-0000000001").end(), invalid),
        ("a size of 19 digits", new().extended(b'x', &[("size", b"9223372036854775807")]).file(b"f", b"").end(), invalid),
        ("a negative size in an extended header", new().extended(b'x', &[("size", b"-1")]).file(b"f", b"").end(), invalid),
        ("more than the disk", new().header(b'0', b"f", b"", 0o644, &octal(8 << 30)).end(), Some((429, "quota_exceeded"))),
        ("a name for all", new().extended(b'g', &[("path", b"all")]).file(b"f", b"x").end(), invalid),
        ("a size for all", new().extended(b'g', &[("size", b"1")]).file(b"f", b"x").end(), invalid),
        ("a comment for all", new().extended(b'g', &[("comment", b"0123")]).file(b"f", b"x").end(), None),
        ("a broken extended header", new().header(b'x', b"x", b"", 0, &octal(9)).content(b"99 path=a").file(b"f", b"x").end(), invalid),
        (
            "headers without end",
            (0..9).fold(new(), |archive, _| archive.extended(b'x', &[("comment", b"x")])).file(b"f", b"").end(),
            invalid,
        ),
        ("an extended header for nothing", new().extended(b'x', &[("path", b"a")]).end(), invalid),
        ("a sparse file of GNU", new().header(b'S', b"s", b"", 0o644, &octal(0)).end(), invalid),
        ("a sparse file of pax", new().extended(b'x', &[("GNU.sparse.realsize", b"1099511627776")]).file(b"s", b"").end(), invalid),
        ("the same name twice", new().file(b"f", b"first").file(b"./f", b"second").end(), None),
        ("a file over a directory", new().directory(b"d", 0o755).file(b"d", b"x").end(), Some((409, "is_a_directory"))),
        ("a directory over a file", new().file(b"d", b"x").directory(b"d", 0o755).end(), conflict),
        ("a file as a directory", new().file(b"d", b"x").file(b"d/f", b"x").end(), conflict),
        ("a wrong checksum", bad_sum, invalid),
        ("nothing", Vec::new(), invalid),
        ("no end", new().file(b"f", b"x").broken_off(), invalid),
        ("half an end", new().file(b"f", b"x").raw(&[0; 512]).broken_off(), invalid),
        ("half a content", new().header(b'0', b"f", b"", 0o644, &octal(600)).content(b"x").broken_off(), invalid),
        ("half a header", new().file(b"f", b"x").raw(&[b'x'; 100]).broken_off(), invalid),
        ("something behind the end", new().raw(&[0; 1024]).file(b"f", b"x").end(), invalid),
        ("garbage behind the end", new().raw(&[0; 1024]).raw(b"garbage").broken_off(), invalid),
        ("zeros behind the end", new().file(b"f", b"x").raw(&[0; 10_240]).end(), None),
        ("too many zeros behind the end", new().raw(&vec![0; 2 * MIB]).end(), invalid),
        ("no archive at all", vec![b'x'; 100_000], invalid),
    ]
}

#[test]
fn r5_1_hostile_archives_reach_nothing_outside() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("mkdir outside; echo safe > outside/f");
    let look =
        "stat -c '%n %a %h %y' . outside outside/f | grep -v '^\\. '; ls -A outside; cat outside/f; ls -A /tmp; ls -A | grep -v ^target";
    let before = sandbox.shell(look);
    for (index, (what, archive, refused)) in hostile().into_iter().enumerate() {
        let target = format!("target{index}");
        let answer = upload(&sandbox, &target, "tar", archive);
        match refused {
            Some((status, code)) => {
                let body = answer.json();
                assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{what}: {body}");
            }
            None => assert_eq!(answer.status, 200, "{what}: {}", answer.text()),
        }
        let seen =
            sandbox.shell(&format!("{look}; find {target} -perm /7000 ! -path {target}; find {target} ! -type f ! -type d ! -type l"));
        assert_eq!(seen, before, "{what}");
        assert_eq!(sandbox.shell(&format!("find {target} -name '.caisson-*'")), "", "{what} leaves nothing half-made");
    }
    let said =
        upload(&sandbox, "said", "tar", Archive::new().file(b"first", b"x").file(b"../x", b"").end()).refused(400, "invalid_archive");
    assert!(said.contains("../x") && said.contains("1 files"), "{said}");
    let left = upload(&sandbox, "told", "tar", Archive::new().header(b'6', b"fi\xff", b"", 0o644, &octal(0)).end()).expect(200).json();
    assert_eq!((&left["left_out_total"], &left["left_out"][0]["path_base64"]), (&json!(1), &json!(BASE64.encode(b"fi\xff"))));
    server.finish();
}

/// When header and extended header differ in size, there is one view of where the content ends: that of the standard.
#[test]
fn r5_1_sizes_mean_one_thing() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let inner = Archive::new().file(b"smuggled", b"bad").end();
    let size = inner.len().to_string();
    let archive =
        Archive::new().extended(b'x', &[("size", size.as_bytes())]).header(b'0', b"f", b"", 0o644, &octal(0)).content(&inner).end();
    upload(&sandbox, "t", "tar", archive).expect(200);
    assert_eq!(sandbox.shell("ls t; stat -c %s t/f"), format!("f\n{size}\n"));
    server.finish();
}

#[test]
fn r5_1_bombs_cost_their_own_sandbox_alone() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({"limits": {"disk_bytes": 64 << 20, "disk_inodes": 2000}}));
    // Ten gigabytes of zeros in ten megabytes: first announced, then in files that fit one by one.
    let gzip = |bytes: &[u8]| through("gzip", &["-c"], bytes);
    let zeros = gzip(&vec![0; 64 * MIB]);
    let head = |size: u64| Archive::new().header(b'0', b"zeros", b"", 0o644, &octal(size)).broken_off();
    let one = [gzip(&head(10 << 30)), zeros.repeat(160)].concat();
    assert!(one.len() < 12 * MIB);
    upload(&sandbox, "t", "tar.gz", one).refused(429, "quota_exceeded");
    let many = [gzip(&head(32 << 20)), gzip(&vec![0; 32 * MIB])].concat().repeat(300);
    upload(&sandbox, "t", "tar.gz", many).refused(429, "quota_exceeded");
    assert!(sandbox.shell("du -sm t | cut -f1").trim().parse::<u64>().unwrap() <= 64);
    // A million empty files.
    let file = |n: usize| Archive::new().file(format!("d{}/f{n}", n / 1000).as_bytes(), b"").broken_off();
    let chunks = (0..500).map(|chunk| (0..2000).flat_map(|n| file(chunk * 2000 + n)).collect());
    server.request("PUT", &sandbox.target("/files/archive?path=u")).send_chunks(chunks).refused(429, "quota_exceeded");
    // And a million times the same one, which takes up nothing.
    let same = Archive::new().file(b"f", b"").broken_off().repeat(2000);
    server
        .request("PUT", &sandbox.target("/files/archive?path=v"))
        .send_chunks((0..500).map(|_| same.clone()))
        .refused(429, "quota_exceeded");
    assert!(server.process().resident() < 200 << 20, "the server holds {} bytes", server.process().resident());
    assert!(sandbox.agent().resident() < 32 << 20, "the agent holds {} bytes", sandbox.agent().resident());
    for bad in [&b"\x1f\x8b\x08garbage"[..], b"no such thing"] {
        upload(&sandbox, "w", "tar.gz", bad).refused(400, "invalid_archive");
        upload(&sandbox, "w", "tar.zst", bad).refused(400, "invalid_archive");
    }
    assert_eq!(sandbox.shell("echo well"), "well\n");
    server.finish();
}

#[test]
fn r5_1_an_archive_that_breaks_off_keeps_whole_files_only() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    sandbox.write(b"t/second", b"old").expect(200);
    let archive = Archive::new().file(b"first", b"new").header(b'0', b"second", b"", 0o644, &octal(5000)).raw(&[b'n'; 3000]).broken_off();
    drop(sandbox.request("PUT", "/files/archive?path=t").begin(1 << 20, &archive));
    eventually("the first file and no trace of the second", Duration::from_secs(5), || {
        (sandbox.shell("ls -A t; cat t/*") == "first\nsecond\nnewold").then_some(())
    });
    server.finish();
}

#[test]
fn a_reader_who_hangs_up_stops_the_packing() {
    let server = Server::start();
    let sandbox = server.sandbox(&json!({}));
    let _made = sandbox.shell("truncate -s 1T sparse");
    for _ in 0..20 {
        let mut streaming = sandbox.request("GET", "/files/archive?path=.").open();
        assert_eq!(streaming.status, 200);
        streaming.body.read_exact(&mut vec![0; MIB]).unwrap();
    }
    // More than there are workers: they are all free again.
    assert_eq!(sandbox.read(b"nothing").status, 404);
    assert!(sandbox.agent().resident() < 64 << 20);
    server.finish();
}
