//! Sandboxes whose root is made of an image: layers by hand, real overlayfs, the whole engine above.
//!
//! Needs root, busybox-static, a Debian, and a disk under `/var/tmp`.

mod shelf;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use caisson_core::{Backend, Error, ExecutionStatus, Image, ImageConfig, LeftToImage, Limits, Result, SandboxSpec, Storage, UserSpec};
use caisson_engine::{CreateRequest, Created, Engine, EngineConfig, ExecRequest, FileAttributes, Program, RunRequest};
use caisson_native::{Native, NativeConfig};
use caisson_store::Sqlite;
use caisson_tests::Host;
use serde_json::Value;
use shelf::{Shelf, busybox, debian, device, directory, file, opaque};
use tempfile::TempDir;

/// An engine with a shelf of images.
struct World {
    engine: Engine,
    native: Arc<Native>,
    shelf: Arc<Shelf>,
    data: TempDir,
}

/// Each test looks at the whole host.
static TURN: Mutex<()> = Mutex::new(());

/// Does `work` in a world of its own, and looks whether the host is as before.
fn within<T>(work: impl AsyncFnOnce(&World) -> T) -> T {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Host::now();
    // A disk: before Linux 6.3 a tmpfs, which `/tmp` may be, shows no owners mapped.
    let data = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut config = NativeConfig::new(data.path().to_owned());
    config.parked = 1;
    let native = Arc::new(Native::start(config).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let shelf = Arc::new(Shelf::below(data.path()));
        let store = Arc::new(Sqlite::open(&data.path().join("caisson.db")).await.unwrap());
        let images = Arc::clone(&shelf);
        let config = EngineConfig::new(data.path().to_owned());
        let engine = Engine::open_with_images(config, Arc::clone(&native), store, Some(images)).await.unwrap();
        let world = World { engine, native, shelf, data };
        let result = work(&world).await;
        world.engine.shutdown().await;
        result
    });
    Host::is_as_before(&before).unwrap_or_else(|left| panic!("left behind:\n  {}", left.join("\n  ")));
    result
}

/// What a one-shot came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn spec(image: &str) -> SandboxSpec {
    SandboxSpec { image: image.parse().unwrap(), ..SandboxSpec::default() }
}

fn root(image: &str) -> SandboxSpec {
    SandboxSpec { user: UserSpec::root(), left_to_image: LeftToImage { user: false, ..LeftToImage::default() }, ..spec(image) }
}

fn shell(line: &str) -> Program {
    Program::Shell(line.to_owned())
}

impl World {
    async fn try_run(&self, spec: SandboxSpec, program: Program) -> Result<Ran> {
        let exec = ExecRequest { timeout: Some(Duration::from_secs(120)), ..ExecRequest::new(program) };
        let request = RunRequest { spec, metadata: BTreeMap::new(), files: Vec::new(), exec, max_file_bytes: 0 };
        let result = self.engine.run(request).await?.wait().await?.result;
        let outcome = result.execution.outcome.as_ref().unwrap();
        assert_ne!(outcome.status, ExecutionStatus::TimedOut, "{result:?}");
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { code: outcome.exit_code, stdout: text(&result.stdout.head), stderr: text(&result.stderr.head) })
    }

    /// What a program says that succeeds.
    #[track_caller]
    fn says(&self, spec: SandboxSpec, program: Program) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        async move {
            let ran = self.try_run(spec, program).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(ran.code, Some(0), "{place}: {ran:?}");
            ran.stdout
        }
    }

    async fn refused(&self, spec: SandboxSpec, program: Program) -> Error {
        match self.try_run(spec, program).await {
            Ok(ran) => panic!("it ran: {ran:?}"),
            Err(error) => error,
        }
    }

    fn image(&self, name: &str, fill: impl FnOnce(&Path)) {
        self.shelf.image(name, &[self.shelf.layer(fill)], ImageConfig::default());
    }
}

#[test]
fn a_small_image_of_musls_kind_starts() {
    within(async |world| {
        world.image("small", busybox);
        let said = world.says(spec("small"), shell("id -u; id -un; pwd; echo $HOME $USER $SHELL $PATH; touch here /tmp/there; ls")).await;
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(said, format!("1000\nuser\n/workspace\n/home/user user /bin/sh {path}\nhere\n"));
        let said =
            world.says(spec("small"), shell("cat /etc/hostname /etc/resolv.conf; stat -c %a:%u / /tmp /home/user /etc/passwd")).await;
        assert_eq!(said, "sandbox\n# This sandbox has no network.\n755:0\n1777:0\n755:1000\n644:0\n");
        // Languages are those of its own path.
        let code = |language: &str| Program::Code { language: language.to_owned(), text: "echo it runs".to_owned(), args: Vec::new() };
        assert_eq!(world.says(spec("small"), code("sh")).await, "it runs\n");
        assert_eq!(world.refused(spec("small"), code("python")).await.code(), "interpreter_missing");
    });
}

#[test]
fn an_image_without_a_shell_starts() {
    within(async |world| {
        let layer = world.shelf.layer(|layer| {
            fs::create_dir(layer.join("app")).unwrap();
            fs::copy("/bin/busybox", layer.join("app/echo")).unwrap();
        });
        let config = ImageConfig {
            entrypoint: vec!["/app/echo".to_owned(), "hello".to_owned()],
            cmd: vec!["world".to_owned()],
            user: Some("65532".to_owned()),
            ..ImageConfig::default()
        };
        world.shelf.image("bare", &[layer], config);
        assert_eq!(world.says(spec("bare"), Program::OfImage).await, "hello world\n");
        assert_eq!(world.says(spec("bare"), Program::Argv(vec!["/app/echo".to_owned(), "else".to_owned()])).await, "else\n");
        assert_eq!(world.refused(spec("bare"), shell("true")).await.code(), "program_not_found");
        world.shelf.image("nothing", &[], ImageConfig::default());
        assert_eq!(world.refused(spec("nothing"), Program::OfImage).await.code(), "invalid_request");
        assert_eq!(world.refused(SandboxSpec::default(), Program::OfImage).await.code(), "invalid_request");
    });
}

#[test]
fn upper_layers_hide_replace_and_remove() {
    within(async |world| {
        let lower = world.shelf.layer(|layer| {
            busybox(layer);
            file(layer, "a/one", "lower", 0o644);
            file(layer, "a/two", "lower", 0o644);
            file(layer, "b/hidden", "lower", 0o644);
            file(layer, "c", "lower", 0o644);
        });
        let upper = world.shelf.layer(|layer| {
            file(layer, "a/one", "upper", 0o600);
            device(layer, "a/two", 0, 0);
            opaque(layer, "b");
            file(layer, "b/new", "upper", 0o644);
            directory(layer, "c", 0o755);
        });
        // A layer that comes twice, as empty ones do.
        world.shelf.image("two", &[upper, lower, upper], ImageConfig::default());
        let said = world.says(root("two"), shell("cd /; cat a/one; echo; ls -d a/* b/* c; stat -c %F c")).await;
        assert_eq!(said, "upper\na/one\nb/new\nc\ndirectory\n");
    });
}

#[test]
fn the_configuration_of_an_image_is_honoured() {
    within(async |world| {
        let layer = world.shelf.layer(busybox);
        let config = ImageConfig {
            env: vec![
                ("PATH".to_owned(), "/bin:/opt/bin".to_owned()),
                ("A".to_owned(), "image".to_owned()),
                ("B".to_owned(), "image".to_owned()),
            ],
            work_dir: Some("/srv/app/deep".to_owned()),
            user: Some("node:staff".to_owned()),
            cmd: vec!["sh".to_owned(), "-c".to_owned(), "echo from cmd".to_owned()],
            ..ImageConfig::default()
        };
        world.shelf.image("app", &[layer], config.clone());
        let with_b = SandboxSpec { env: BTreeMap::from([("B".to_owned(), "request".to_owned())]), ..spec("app") };
        let line = "echo $A $B $PATH $HOME $USER; id -u; id -g; pwd; touch made; stat -c %u:%g . made /srv; id -un 1000 2>&1 || true";
        let said = world.says(with_b, shell(line)).await;
        let expected = "image request /bin:/opt/bin /home/node node\n1234\n50\n/srv/app/deep\n1234:50\n1234:50\n0:0\n";
        assert_eq!(said, format!("{expected}id: unknown user 1000\n"));
        assert_eq!(world.says(spec("app"), Program::OfImage).await, "from cmd\n");

        // What the request says stands over it.
        assert_eq!(world.says(root("app"), shell("id -u; echo $HOME")).await, "0\n/root\n");
        let plain = SandboxSpec { left_to_image: LeftToImage { user: false, work_dir: false }, ..spec("app") };
        assert_eq!(world.says(plain, shell("id -u; id -un; pwd")).await, "1000\nuser\n/workspace\n");

        // Root, where the image asks for it: root of the sandbox.
        world.shelf.image("as-root", &[layer], ImageConfig { user: Some("root".to_owned()), ..ImageConfig::default() });
        assert_eq!(world.says(spec("as-root"), shell("id -u; chown 33:33 /etc/group && stat -c %u /etc/group")).await, "0\n33\n");
        // The root directory may be where programs start.
        let slash = ImageConfig { work_dir: Some("/".to_owned()), ..ImageConfig::default() };
        world.shelf.image("slash", &[layer], slash);
        let code = Program::Code { language: "sh".to_owned(), text: "pwd".to_owned(), args: Vec::new() };
        assert_eq!(world.says(spec("slash"), code).await, "/\n");

        for (user, word) in [("nobody-here", "/etc/passwd"), ("1000:nowhere", "/etc/group"), ("70000", "65535")] {
            world.shelf.image("bad", &[layer], ImageConfig { user: Some(user.to_owned()), ..ImageConfig::default() });
            let error = world.refused(spec("bad"), shell("true")).await;
            assert!(error.code() == "invalid_image" && error.to_string().contains(word), "{error}");
            let error = world.engine.create(CreateRequest { spec: spec("bad"), ..CreateRequest::default() }).await.unwrap_err();
            assert!(error.code() == "invalid_image" && error.to_string().contains(word), "{error}");
        }
        for (work_dir, env) in [("relative", "A"), ("/a/../b", "A"), ("/a", ""), ("/a", "A=B"), ("/etc/passwd", "A"), ("/proc/1/fd/3", "A")]
        {
            let config =
                ImageConfig { work_dir: Some(work_dir.to_owned()), env: vec![(env.to_owned(), "x".to_owned())], ..ImageConfig::default() };
            world.shelf.image("bad", &[layer], config);
            assert_eq!(world.refused(spec("bad"), shell("true")).await.code(), "invalid_image", "{work_dir} {env:?}");
        }
        assert_eq!(world.refused(spec("absent"), shell("true")).await.code(), "unknown_image");
    });
}

#[test]
fn an_image_is_held_for_as_long_as_its_sandbox_and_recorded() {
    within(async |world| {
        world.image("small", busybox);
        let request = CreateRequest { spec: spec("small"), ..CreateRequest::default() };
        let Created::New(sandbox) = world.engine.create(request).await.unwrap() else { panic!("it has no name") };
        assert_eq!(world.shelf.leases(), 1);
        assert_eq!(sandbox.spec.image.name(), "small");
        let id = sandbox.spec.image.id();
        assert!(id.is_some());
        world.engine.destroy(sandbox.id).await.unwrap();
        let ended = world.engine.sandbox(sandbox.id).await.unwrap();
        assert_eq!(ended.spec.image, Image::Named { name: "small".to_owned(), id });
        assert_eq!(world.shelf.leases(), 0);
    });
}

/// Packages change owners, make hard links and rename; all of that on overlayfs, as root of the sandbox.
#[test]
fn a_debian_takes_packages_of_its_own_kind() {
    within(async |world| {
        world.image("debian", debian);
        let sandbox = {
            let limits = Limits { memory_bytes: 1 << 30, disk_bytes: 512 << 20, ..Limits::default() };
            let request = CreateRequest { spec: SandboxSpec { limits, ..root("debian") }, ..CreateRequest::default() };
            let Created::New(sandbox) = world.engine.create(request).await.unwrap() else { panic!("it has no name") };
            sandbox
        };
        let exec = async |line: &str| {
            let request = ExecRequest { timeout: Some(Duration::from_secs(120)), ..ExecRequest::new(shell(line)) };
            let result = world.engine.exec(sandbox.id, request).await.unwrap().wait().await.unwrap();
            let text = [&result.stdout.head, &result.stderr.head].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
            assert_eq!(result.execution.outcome.as_ref().unwrap().exit_code, Some(0), "{line}: {text}");
            text
        };
        let made = tempfile::tempdir().unwrap();
        for (name, content) in [("caisson-test.deb", package(made.path())), ("caisson_test-1.0-py3-none-any.whl", wheel(made.path()))] {
            let content = Box::pin(futures::stream::iter([Ok(Bytes::from(content))]));
            let path = format!("/tmp/{name}");
            world.engine.write_file(sandbox.id, path.as_bytes(), FileAttributes::default(), content).await.unwrap();
        }
        exec("dpkg -i /tmp/caisson-test.deb").await;
        let said =
            exec("stat -c '%U %a %h' /usr/share/caisson-test/{first,second}; dpkg -s caisson-test | grep Status; cat /etc/caisson-test")
                .await;
        assert_eq!(said, "www-data 4755 2\nwww-data 4755 2\nStatus: install ok installed\nconfigured\n");
        exec("dpkg -r caisson-test && test ! -e /usr/share/caisson-test").await;

        exec("python3 -m pip install --no-index --no-warn-script-location --break-system-packages /tmp/caisson_test-1.0-py3-none-any.whl")
            .await;
        assert_eq!(exec("cd /; python3 -c 'import caisson_test; print(caisson_test.ANSWER)'").await, "42\n");
        // Directories of the image are renamed and removed like any other.
        exec("mv /usr/lib/python3.11/json /usr/lib/python3.11/json2 && mv /usr/lib/python3.11/json2 /usr/lib/python3.11/json").await;
        assert_eq!(
            exec("python3 -c 'import os; os.rename(\"/usr/share/doc\", \"/usr/share/papers\"); import json; print(json.dumps(1))'").await,
            "1\n"
        );
        exec("rm -rf /usr/share/papers && test ! -e /usr/share/papers && mkdir /usr/share/papers && test -z \"$(ls /usr/share/papers)\"")
            .await;
    });
}

/// A package with other owners, set-user-id bits, a hard link and a script that runs when it is installed.
fn package(directory: &Path) -> Vec<u8> {
    let tree = directory.join("package");
    file(
        &tree,
        "DEBIAN/control",
        "Package: caisson-test\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n",
        0o644,
    );
    file(&tree, "DEBIAN/postinst", "#!/bin/sh\nset -e\necho configured > /etc/caisson-test\n", 0o755);
    file(&tree, "usr/share/caisson-test/first", "content", 0o644);
    fs::hard_link(tree.join("usr/share/caisson-test/first"), tree.join("usr/share/caisson-test/second")).unwrap();
    std::os::unix::fs::chown(tree.join("usr/share/caisson-test/first"), Some(33), Some(33)).unwrap();
    fs::set_permissions(tree.join("usr/share/caisson-test/first"), fs::Permissions::from_mode(0o4755)).unwrap();
    let deb = directory.join("caisson-test.deb");
    assert!(Command::new("dpkg-deb").args(["-b"]).args([&tree, &deb]).output().unwrap().status.success());
    fs::read(deb).unwrap()
}

fn wheel(directory: &Path) -> Vec<u8> {
    let wheel = directory.join("x.whl");
    let script = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as z:
    z.writestr('caisson_test/__init__.py', 'ANSWER = 42\\n')
    info = 'caisson_test-1.0.dist-info/'
    z.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: caisson-test\\nVersion: 1.0\\n')
    z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr(info + 'RECORD', 'caisson_test/__init__.py,,\\n' + info + 'METADATA,,\\n' + info + 'WHEEL,,\\n' + info + 'RECORD,,\\n')
";
    assert!(Command::new("python3").args(["-c", script]).arg(&wheel).status().unwrap().success());
    fs::read(wheel).unwrap()
}

/// Everything that can be known of the files below a directory.
fn portrait(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let content = if about.is_file() {
            let bytes = fs::read(&path).unwrap();
            bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte))).to_string()
        } else if about.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        if about.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let look =
            (about.mode(), about.uid(), about.gid(), about.nlink(), about.rdev(), about.mtime_nsec(), about.ctime_nsec(), about.atime());
        all.insert(path, format!("{look:?} {content}"));
    }
    all
}

#[test]
fn r2_9_layers_stay_as_they_are_whatever_root_inside_does() {
    within(async |world| {
        world.image("small", busybox);
        // Looking for the first time is what sets times of access.
        portrait(world.shelf.layers());
        let before = portrait(world.shelf.layers());
        let line = "cp /bin/busybox /tmp/busybox; b() { /tmp/busybox \"$@\"; }; \
            b chown -R 5:5 /etc /bin; b chmod -R 777 /etc /bin; b mv /etc /etc2; b echo x >> /etc2/passwd; b truncate -s 1 /etc2/group; \
            b touch -d 2001-01-01 /usr /bin/busybox; b ln /etc2/passwd /etc2/passwd2; b echo x > /proc/self/exe; b rm -rf /usr /var /bin; \
            b mkdir /bin; b ls -R / > /dev/null 2>&1; b echo done";
        for storage in [Storage::Memory, Storage::Disk] {
            let said = world.says(SandboxSpec { storage, ..root("small") }, shell(line)).await;
            assert!(said.ends_with("done\n"), "{said}");
        }
        let after = portrait(world.shelf.layers());
        for (path, look) in &before {
            assert_eq!(after.get(path), Some(look), "{}", path.display());
        }
        assert_eq!(before.len(), after.len());
        // And another sandbox sees nothing of it.
        assert_eq!(
            world.says(root("small"), shell("ls -d /etc2 2>&1 | wc -l; stat -c %u /etc/passwd; wc -l < /etc/passwd")).await,
            "1\n0\n2\n"
        );
    });
}

#[test]
fn r4_4_what_is_written_over_an_image_has_an_end() {
    within(async |world| {
        world.image("small", busybox);
        for storage in [Storage::Memory, Storage::Disk] {
            let limits = Limits { disk_bytes: 16 << 20, disk_inodes: 1000, memory_bytes: 256 << 20, ..Limits::default() };
            let limited = |spec: SandboxSpec| SandboxSpec { limits, storage, ..spec };
            let ran = world.try_run(limited(root("small")), shell("dd if=/dev/zero of=/var/big bs=1M count=64")).await.unwrap();
            assert!(ran.code == Some(1) && ran.stderr.contains("No space left"), "{storage:?} {ran:?}");
            let line = "i=0; while [ $i -lt 2000 ] && touch /tmp/$i 2>/dev/null; do i=$((i + 1)); done; echo $i";
            let ran = world.try_run(limited(spec("small")), shell(line)).await.unwrap();
            let made: u32 = ran.stdout.trim().parse().unwrap_or_else(|_| panic!("{ran:?}"));
            assert!((900..=1000).contains(&made), "{storage:?} {ran:?}");
            // Names of the image that are removed take room too: at most as much as there is.
            let line = "rm -f /bin/[a-z]* 2>/dev/null; echo left";
            world
                .try_run(limited(root("small")), Program::Argv(vec!["/bin/busybox".into(), "sh".into(), "-c".into(), line.into()]))
                .await
                .unwrap();
        }
    });
}

#[test]
fn r2_3_links_in_place_of_mount_points_lead_nowhere() {
    let bait = tempfile::tempdir().unwrap();
    let bait_path = bait.path().to_str().unwrap();
    within(async |world| {
        let base = world.shelf.layer(busybox);
        for name in ["dev", "proc", "sys", "tmp", "etc"] {
            let targets = ["/", "/tmp", "..", "../../../../../../tmp", bait_path, "/proc/self/root", "home"];
            for target in targets {
                let layer = world.shelf.layer(|layer| {
                    // In place of the directory of the layer below.
                    symlink(target, layer.join(name)).unwrap();
                });
                world.shelf.image("hostile", &[base, layer], ImageConfig::default());
                for storage in [Storage::Memory, Storage::Disk] {
                    let error = world.refused(SandboxSpec { storage, ..spec("hostile") }, shell("true")).await;
                    assert!(error.code() == "unsupported" && error.to_string().contains(name), "{name} to {target}: {error}");
                }
            }
            let layer = world.shelf.layer(|layer| file(layer, name, "", 0o666));
            world.shelf.image("hostile", &[base, layer], ImageConfig::default());
            let error = world.refused(spec("hostile"), shell("true")).await;
            assert!(error.code() == "unsupported" && error.to_string().contains(name), "{name} as a file: {error}");
        }
        // Files that every sandbox has are its own, whatever the image has there.
        for name in ["hostname", "hosts", "resolv.conf", "passwd", "group"] {
            for target in
                [format!("{bait_path}/{name}"), "/proc/sys/kernel/core_pattern".to_owned(), "../dev/null".to_owned(), name.to_owned()]
            {
                let layer = world.shelf.layer(|layer| {
                    directory(layer, "etc", 0o755);
                    symlink(&target, layer.join("etc").join(name)).unwrap();
                });
                world.shelf.image("hostile", &[base, layer], ImageConfig::default());
                if matches!(name, "passwd" | "group") {
                    // Nothing there to be read, or refused; nothing is written through it.
                    drop(world.try_run(spec("hostile"), shell("true")).await);
                } else {
                    assert_eq!(
                        world.says(spec("hostile"), shell("cat /etc/hostname; stat -c %F /etc/hosts")).await,
                        "sandbox\nregular file\n"
                    );
                }
            }
        }
        // Home and work dir are found as everybody inside finds them.
        let layer = world.shelf.layer(|layer| {
            device(layer, "home", 0, 0);
        });
        let links = world.shelf.layer(|layer| {
            symlink(bait_path, layer.join("home")).unwrap();
            symlink("../../../../../../../..".to_owned() + bait_path, layer.join("workspace")).unwrap();
        });
        world.shelf.image("hostile", &[base, layer, links], ImageConfig::default());
        drop(world.try_run(spec("hostile"), shell("true")).await);
    });
    assert_eq!(fs::read_dir(bait.path()).unwrap().count(), 0, "something was written through a link");
    let about = fs::metadata(bait.path()).unwrap();
    assert_eq!((about.uid(), about.gid()), (0, 0));
}

#[test]
fn r1_2_an_images_programs_and_devices_give_no_rights() {
    within(async |world| {
        let layer = world.shelf.layer(|layer| {
            busybox(layer);
            fs::create_dir(layer.join("rootly")).unwrap();
            fs::copy("/bin/busybox", layer.join("rootly/busybox")).unwrap();
            fs::set_permissions(layer.join("rootly/busybox"), fs::Permissions::from_mode(0o6755)).unwrap();
            device(layer, "zero", 1, 5);
            device(layer, "dev/memory", 1, 1);
            device(layer, "tmp/null", 1, 3);
            file(layer, "proc/version", "a lie", 0o666);
            file(layer, "sys/kernel/uevent_helper", "a lie", 0o666);
            file(layer, "etc/shadow", "root:secret", 0o600);
        });
        world.shelf.image("hostile", &[layer], ImageConfig::default());
        let said = world
            .says(
                spec("hostile"),
                shell("/rootly/busybox id -u; /rootly/busybox cat /etc/shadow 2>&1 | tail -1; ls /dev /sys; cat /proc/version"),
            )
            .await;
        assert!(said.starts_with("1000\ncat: can't open '/etc/shadow': Permission denied\n"), "{said}");
        assert!(!said.contains("memory") && !said.contains("kernel\n") && !said.contains("lie"), "{said}");
        for spec in [spec("hostile"), root("hostile")] {
            let said = world.says(spec.clone(), shell("head -c 1 /zero 2>&1; echo x 2>&1 > /tmp/null; echo $?")).await;
            assert!(said.contains("Permission denied") || said.contains("can't open"), "{said}");
            let said = world.says(spec, shell("grep -v proc /proc/self/mounts")).await;
            for line in said.lines() {
                let options = line.split(' ').nth(3).unwrap();
                assert!(options.contains("nosuid"), "{line}");
                assert!(!options.starts_with("rw") || options.contains("nodev") || line.contains("/dev/pts"), "{line}");
            }
            assert!(!said.contains(world.data.path().to_str().unwrap()) && !said.contains("a5a5"), "{said}");
        }
    });
}

#[test]
fn as_many_layers_as_an_image_may_have_are_one_root() {
    within(async |world| {
        let mut layers = vec![world.shelf.layer(busybox)];
        for number in 1..127 {
            layers.push(world.shelf.layer(|layer| {
                file(layer, &format!("layers/{number}"), &number.to_string(), 0o644);
                file(layer, "top", &number.to_string(), 0o644);
            }));
        }
        world.shelf.image("tall", &layers, ImageConfig::default());
        for storage in [Storage::Memory, Storage::Disk] {
            let said =
                world.says(SandboxSpec { storage, ..spec("tall") }, shell("ls /layers | wc -l; cat /layers/* | wc -c; cat /top")).await;
            assert_eq!(said, "126\n270\n126");
        }
    });
}

#[test]
fn an_image_whose_etc_was_removed_starts() {
    within(async |world| {
        let base = world.shelf.layer(busybox);
        let removed = world.shelf.layer(|layer| device(layer, "etc", 0, 0));
        world.shelf.image("without", &[base, removed], ImageConfig::default());
        let said = world.says(spec("without"), shell("ls /etc; id -un; cat /etc/passwd")).await;
        assert_eq!(
            said,
            "hostname\nhosts\npasswd\nresolv.conf\nuser\nroot:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
        );
    });
}

/// What the probe finds: what was tried, and what of it succeeded.
async fn attack(world: &World, image: &str, group: &str) -> (BTreeSet<String>, Vec<Value>) {
    let limits = Limits { cpu_millis: 2000, ..Limits::default() };
    let request = CreateRequest { spec: SandboxSpec { limits, ..spec(image) }, ..CreateRequest::default() };
    let Created::New(sandbox) = world.engine.create(request).await.unwrap() else { panic!("it has no name") };
    let content = Box::pin(futures::stream::iter([Ok(Bytes::from_static(world.native.probe()))]));
    let attributes = FileAttributes { mode: Some(0o755), ..FileAttributes::default() };
    world.engine.write_file(sandbox.id, b"/home/user/probe", attributes, content).await.unwrap();
    let program = Program::Argv(vec!["/home/user/probe".to_owned(), group.to_owned()]);
    let request = ExecRequest { timeout: Some(Duration::from_secs(300)), ..ExecRequest::new(program) };
    let result = world.engine.exec(sandbox.id, request).await.unwrap().wait().await.unwrap();
    let text = String::from_utf8_lossy(&result.stdout.head).into_owned();
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:.500} {:?}", result.stderr));
    world.engine.destroy(sandbox.id).await.unwrap();
    let tried = findings.iter().map(|finding| finding["guarantee"].as_str().unwrap().to_owned()).collect();
    let broken = findings.into_iter().filter(|finding| finding["held"] != true && finding["rests_on"].is_null()).collect();
    (tried, broken)
}

#[test]
fn the_walls_are_those_of_every_sandbox() {
    within(async |world| {
        let base = world.shelf.layer(busybox);
        let more = world.shelf.layer(|layer| file(layer, "usr/share/x", "x", 0o644));
        world.shelf.image("attacked", &[base, more], ImageConfig::default());
        for group in ["calls", "walls", "sight", "network", "limits"] {
            let (tried, broken) = attack(world, "attacked", group).await;
            assert!(broken.is_empty(), "{group}: {broken:#?}");
            let (of_host, broken) = attack(world, "host", group).await;
            assert!(broken.is_empty() && tried == of_host, "{group}: {tried:?} {of_host:?} {broken:#?}");
        }
    });
}

#[test]
fn what_is_missing_of_an_image_is_told_without_its_place() {
    within(async |world| {
        let layer = world.shelf.layer(busybox);
        world.shelf.image("gone", &[layer], ImageConfig::default());
        fs::remove_dir_all(world.shelf.layers().join(layer.hex())).unwrap();
        let error = world.refused(spec("gone"), shell("true")).await.to_string();
        assert!(error.contains("mounting the layers of the image"), "{error}");
        assert!(!error.contains(std::str::from_utf8(world.data.path().as_os_str().as_bytes()).unwrap()), "{error}");
    });
}
