//! Sandboxes on disk outlive their server: they are stopped, and come back with their files when somebody uses them.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use caisson_tests::{Answer, Sandbox, Server, Setup, Value, allowed, encode_path, eventually, json, kill_nine, run_tool};

const MIB: u64 = 1 << 20;

/// A tree with all that a file system keeps.
const MAKE: &str = "set -e
mkdir -p tree/deep && cd tree
echo text > deep/file && chmod 0640 deep/file
ln -s deep/file link && ln deep/file again
mkfifo pipe && : > empty && mkdir -m 2775 shared
printf 'a\\nb' > 'name with spaces' && head -c 300000 /dev/urandom > large";
/// What there is of it, in words.
const LIST: &str = "cd tree && find . -printf '%P|%y|%m|%U:%G|%s|%n|%l|%T@\\n' | sort && find . -type f -exec sha256sum {} + | sort";

fn sandbox<'a>(server: &'a Server, id: &str) -> Sandbox<'a> {
    Sandbox { server, id: id.to_owned() }
}

#[track_caller]
fn made(server: &Server, body: &Value) -> String {
    server.sandbox(body).id
}

fn record(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/sandboxes/{id}")).expect(200).json()
}

fn stop(server: &Server, id: &str) -> Answer {
    server.request("POST", &format!("/v1/sandboxes/{id}/stop")).send()
}

#[track_caller]
fn end(server: &Server, id: &str) {
    server.request("DELETE", &format!("/v1/sandboxes/{id}")).send().expect(200);
}

/// Why an ended one has ended.
#[track_caller]
fn epitaph(server: &Server, id: &str) -> Value {
    let answer = server.get(&format!("/v1/sandboxes/{id}"));
    answer.refused(410, "gone");
    answer.json()["error"]["details"]["reason"].clone()
}

/// Waits until one has ended, and says why it has.
#[track_caller]
fn ends(server: &Server, id: &str, limit: Duration) -> Value {
    let has_ended = || (server.get(&format!("/v1/sandboxes/{id}")).status == 410).then_some(());
    eventually(&format!("the end of {id}"), limit, has_ended);
    assert!(!disk(server, id).exists(), "its file is left");
    epitaph(server, id)
}

/// The files of sandboxes on the server's disk.
fn disks(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.home().data().join("disks")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn disk(server: &Server, id: &str) -> PathBuf {
    server.home().data().join("disks").join(id)
}

/// The kinds of events of a sandbox, in their order.
fn told(server: &Server, id: &str) -> Vec<String> {
    let page = server.get(&format!("/v1/events?sandbox_id={id}&cursor=0")).expect(200).json();
    let kind = |event: &Value| format!("{} {}", event["type"].as_str().unwrap(), event["reason"].as_str().unwrap_or_default());
    page["data"].as_array().unwrap().iter().map(|event| kind(event).trim().to_owned()).collect()
}

/// The three ways in which a sandbox comes to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Asked,
    Terminated,
    Killed,
    LauncherKilled,
}

const WAYS: [(Way, &str); 4] =
    [(Way::Asked, "requested"), (Way::Terminated, "server_stopped"), (Way::Killed, "server_lost"), (Way::LauncherKilled, "server_lost")];

fn go(server: &mut Server, id: &str, way: Way) {
    match way {
        Way::Asked => drop(stop(server, id).expect(200)),
        Way::Terminated => {
            assert!(server.stop().success());
            server.start_again();
        }
        Way::Killed => {
            server.kill();
            server.start_again();
        }
        Way::LauncherKilled => {
            kill_nine(server.launcher().pid);
            eventually("it is stopped", Duration::from_secs(10), || (record(server, id)["state"] == "stopped").then_some(()));
        }
    }
}

#[test]
fn files_names_and_ids_are_there_again_whatever_stopped_it() {
    for user in ["user", "root"] {
        let mut server = Server::start();
        let body = json!({"name": "kept", "storage": "disk", "user": user, "env": {"GIVEN": "it"}, "metadata": {"a": "b"},
            "lifetime_s": null, "idle_timeout_s": null, "limits": {"memory_bytes": 200 * MIB}});
        let id = made(&server, &body);
        let _made = sandbox(&server, &id).shell(MAKE);
        if user == "root" {
            let _made = sandbox(&server, &id)
                .shell("cd tree && chown 123:456 deep && chown -h 7:8 link && echo x >> /etc/passwd && mkdir /new && echo y > /new/y");
        }
        let before = sandbox(&server, &id).shell(LIST);
        assert!(before.contains("deep/file|f|640"), "{before}");
        for (round, (way, reason)) in WAYS.into_iter().enumerate() {
            let running = sandbox(&server, &id).background(json!({"shell": "echo begun; sleep 1000"}));
            let began = record(&server, &id);
            assert_eq!((&began["state"], &began["starts"]), (&json!("running"), &json!(round + 1)), "{way:?}");
            go(&mut server, &id, way);
            let stopped = record(&server, &id);
            assert_eq!((&stopped["state"], &stopped["stop"]["reason"]), (&json!("stopped"), &json!(reason)), "{way:?}: {stopped:#}");
            // Looking at it starts nothing, and nothing of it runs.
            assert_eq!(record(&server, &id)["state"], "stopped");
            let listed = server.get("/v1/sandboxes?state=stopped").expect(200).json();
            assert_eq!((listed["data"][0]["id"].as_str(), listed["data"].as_array().unwrap().len()), (Some(&*id), 1), "{way:?}");
            assert_eq!(server.below().iter().filter(|process| process.is_agent()).count(), 0, "{way:?}");
            let status = if way == Way::Killed { "lost" } else { "killed" };
            assert_eq!(server.execution(&running)["status"], status, "{way:?}");

            assert_eq!(sandbox(&server, &id).shell(LIST), before, "{user} {way:?}");
            let now = record(&server, &id);
            for same in ["id", "name", "image", "storage", "user", "limits", "hostname", "work_dir", "metadata", "created_at", "lifetime_s"]
            {
                assert_eq!(now[same], began[same], "{way:?}: {same}");
            }
            assert_eq!((&now["state"], &now["starts"], &now["stop"]), (&json!("running"), &json!(round + 2), &Value::Null), "{way:?}");
            assert_eq!(
                sandbox(&server, &id).shell("echo $GIVEN $(id -un); hostname"),
                format!("it {user}\n{}\n", began["hostname"].as_str().unwrap())
            );
            sandbox(&server, &id).is_empty_of_others();
            if user == "root" {
                assert_eq!(sandbox(&server, &id).shell("tail -1 /etc/passwd; cat /new/y"), "x\ny\n");
            }
            // It can go on.
            let _written = sandbox(&server, &id).shell(&format!("echo {round} > round"));
            assert_eq!(sandbox(&server, &id).shell("cat round"), format!("{round}\n"));
        }
        let events: Vec<String> = told(&server, &id).into_iter().filter(|kind| kind.starts_with("sandbox")).collect();
        let of_rounds = WAYS.iter().flat_map(|(_, reason)| [format!("sandbox.stopped {reason}"), "sandbox.started".to_owned()]);
        assert_eq!(events, std::iter::once("sandbox.created".to_owned()).chain(of_rounds).collect::<Vec<_>>());
        end(&server, &id);
        assert!(disks(&server).is_empty());
        server.finish();
    }
}

/// busybox with its names, and a little of its own.
fn import(server: &Server) {
    let root = server.home().path().join("root");
    for directory in ["bin", "etc", "data"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap_or_else(|error| panic!("{error}; install the package busybox-static"));
    for name in run_tool("/bin/busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode:x:1234:1235:Node:/srv:/bin/sh\n").unwrap();
    for name in ["kept", "gone", "changed"] {
        fs::write(root.join("data").join(name), "of the image\n").unwrap();
    }
    let tar = server.home().clean("tar").arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&root).unwrap();
    server.request("POST", &format!("/v1/images/import?name={}", encode_path(b"base:1"))).bytes(tar.stdout).send().expect(200);
}

#[test]
fn what_was_changed_over_an_image_is_there_again() {
    let mut server = Server::start();
    import(&server);
    let id = made(&server, &json!({"image": "base:1", "user": "root", "storage": "disk", "idle_timeout_s": null}));
    let change = "rm /data/gone && echo more >> /data/changed && mkdir /data/new && echo x > /data/new/x && chown 1234:1235 /data/new/x \
                  && mv /data /moved && echo 'somebody:x:7:7::/:/bin/sh' >> /etc/passwd && ls -ln /moved /moved/new && cat /moved/changed /etc/passwd";
    let look = "ls -ln /moved /moved/new && cat /moved/changed /etc/passwd";
    let before = sandbox(&server, &id).shell(change);
    assert!(before.contains("1234") && !before.contains("gone"), "{before}");
    for (way, _) in WAYS {
        go(&mut server, &id, way);
        assert_eq!(sandbox(&server, &id).shell(look), before, "{way:?}");
    }
    // What was changed in an earlier life is in its image.
    let target = format!("/v1/sandboxes/{id}/commit");
    server.post(&target, &json!({"name": "changed:1"})).expect(201);
    let other = made(&server, &json!({"image": "changed:1", "user": "root"}));
    let said = sandbox(&server, &other).shell("cat /moved/changed /etc/passwd");
    assert!(said.starts_with("of the image\nmore\nroot:") && said.contains("somebody:x:7:7"), "{said}");
    end(&server, &other);

    // The image has to be there, and the very one.
    server.kill();
    let layers = server.home().data().join("images");
    fs::rename(&layers, server.home().data().join("blobs-of-images")).unwrap();
    server.start_again();
    let refused = sandbox(&server, &id).try_exec(&json!({"shell": "true"})).refused(409, "image_gone");
    assert!(refused.contains("base:1"), "{refused}");
    assert_eq!(record(&server, &id)["state"], "stopped");
    server.kill();
    fs::remove_dir_all(&layers).unwrap();
    fs::rename(server.home().data().join("blobs-of-images"), &layers).unwrap();
    server.start_again();
    assert_eq!(sandbox(&server, &id).shell(look), before);
    end(&server, &id);
    server.finish();
}

#[test]
fn whoever_comes_first_at_the_same_time_starts_it_once() {
    let mut server = Server::start();
    let id = made(&server, &json!({"name": "one", "storage": "disk", "idle_timeout_s": null}));
    let _written = sandbox(&server, &id).shell("echo x > f");
    for (round, way) in [Way::Asked, Way::Killed].into_iter().enumerate() {
        go(&mut server, &id, way);
        let use_it = |how: usize| match how {
            0 => assert_eq!(sandbox(&server, &id).shell("cat f"), "x\n"),
            1 => drop(sandbox(&server, &id).read(b"/workspace/f").expect(200)),
            2 => drop(sandbox(&server, &id).request("GET", "/files/archive?path=/workspace").send().expect(200)),
            3 => drop(sandbox(&server, &id).request("POST", "/checkpoint").json(&json!({})).send().expect(200)),
            _ => {
                let found = server.post("/v1/sandboxes", &json!({"name": "one", "storage": "disk"})).expect(200).json();
                assert_eq!(found["id"], json!(id));
            }
        };
        thread::scope(|scope| {
            let use_it = &use_it;
            for number in 0..20 {
                scope.spawn(move || use_it(number % 5));
            }
        });
        assert_eq!(record(&server, &id)["starts"], round + 2, "{way:?}");
    }
    end(&server, &id);
    server.finish();
}

#[test]
fn what_is_only_asked_for_is_not_started_and_can_be_changed() {
    let server = Server::start();
    let id = made(&server, &json!({"storage": "disk", "idle_timeout_s": null}));
    stop(&server, &id).expect(200);
    // Once more is the same.
    assert_eq!(stop(&server, &id).expect(200).json()["state"], "stopped");
    let changed = server.request("PATCH", &format!("/v1/sandboxes/{id}")).json(&json!({"lifetime_s": 500, "metadata": {"x": "y"}})).send();
    let changed = changed.expect(200).json();
    assert_eq!((&changed["state"], &changed["lifetime_s"], &changed["metadata"]["x"]), (&json!("stopped"), &json!(500), &json!("y")));
    server.get(&format!("/v1/sandboxes/{id}/executions")).expect(200);
    assert_eq!((&record(&server, &id)["state"], &record(&server, &id)["starts"]), (&json!("stopped"), &json!(1)));
    end(&server, &id);
    assert_eq!(epitaph(&server, &id), "deleted");
    stop(&server, &id).refused(410, "gone");
    assert!(disks(&server).is_empty(), "its file goes with it");

    let memory = made(&server, &json!({}));
    let message = stop(&server, &memory).refused(409, "not_stoppable");
    assert!(message.contains("`disk`") && message.contains("delete"), "{message}");
    assert_eq!(record(&server, &memory)["state"], "running");
    stop(&server, "sbx0000000000000000000000000").refused(404, "not_found");
    server.finish();
}

#[test]
fn r7_4_the_disk_of_a_stopped_one_is_free_once_it_is_deleted() {
    let server = Server::start();
    let id = made(&server, &json!({"storage": "disk", "limits": {"disk_bytes": 200 * MIB}, "idle_timeout_s": null}));
    let about = fs::symlink_metadata(disk(&server, &id)).unwrap();
    assert_eq!((about.permissions().mode() & 0o7777, about.uid(), about.nlink()), (0o600, 0, 1));
    assert_eq!(fs::metadata(server.home().data().join("disks")).unwrap().permissions().mode() & 0o777, 0o700);
    let _filled = sandbox(&server, &id).shell("head -c 100M /dev/urandom > f");
    stop(&server, &id).expect(200);
    let used = |path: &PathBuf| fs::metadata(path).map_or(0, |about| about.blocks() * 512);
    assert!(used(&disk(&server, &id)) > 100 * MIB);
    end(&server, &id);
    assert!(disks(&server).is_empty());
    server.finish();
}

#[test]
fn r7_3_limits_hold_while_it_is_stopped_and_while_the_server_is_down() {
    let mut server = Server::start();
    let short = made(&server, &json!({"storage": "disk", "lifetime_s": 3, "idle_timeout_s": null}));
    let idle = made(&server, &json!({"storage": "disk", "idle_timeout_s": 3}));
    let long = made(&server, &json!({"storage": "disk", "lifetime_s": 600, "idle_timeout_s": null}));
    server.kill();
    thread::sleep(Duration::from_millis(3500));
    server.start_again();
    for (id, reason) in [(&short, "lifetime"), (&idle, "idle_timeout")] {
        assert_eq!(ends(&server, id, Duration::from_secs(5)), reason);
    }
    assert_eq!(sandbox(&server, &long).shell("echo there"), "there\n");
    // The lifetime goes on from where it began.
    let late = made(&server, &json!({"storage": "disk", "lifetime_s": 6, "idle_timeout_s": null}));
    let begin = Instant::now();
    stop(&server, &late).expect(200);
    assert_eq!(sandbox(&server, &late).shell("echo again"), "again\n");
    assert_eq!(ends(&server, &late, Duration::from_secs(20)), "lifetime");
    assert!((Duration::from_secs(5)..allowed(Duration::from_secs(9))).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    end(&server, &long);
    server.finish();
}

#[test]
fn those_that_are_stopped_for_too_long_or_are_too_many_go() {
    let server = Setup::default().env("CAISSON_STOPPED_GRACE_S", "3").env("CAISSON_MAX_STOPPED", "2").start();
    let body = json!({"storage": "disk", "idle_timeout_s": null, "limits": {"memory_bytes": 100 * MIB}});
    let ids: Vec<String> = (0..4).map(|_| made(&server, &body)).collect();
    for id in &ids[..3] {
        stop(&server, id).expect(200);
    }
    assert_eq!(ends(&server, &ids[0], Duration::from_secs(2)), "stopped_too_long");
    // One that is used stays.
    assert_eq!(sandbox(&server, &ids[1]).shell("echo used"), "used\n");
    assert_eq!(ends(&server, &ids[2], Duration::from_secs(10)), "stopped_too_long");
    for id in [&ids[1], &ids[3]] {
        assert_eq!(record(&server, id)["state"], "running");
        end(&server, id);
    }
    assert_eq!(told(&server, &ids[2]).last().map(String::as_str), Some("sandbox.ended stopped_too_long"));
    server.finish();
}

#[test]
fn what_cannot_be_its_disk_is_refused_and_stays_stopped() {
    let mut server = Server::start();
    let ids: Vec<String> = (0..4).map(|_| made(&server, &json!({"storage": "disk", "idle_timeout_s": null}))).collect();
    let [garbage, cut, linked, gone] = ids.as_slice() else { unreachable!() };
    for id in &ids {
        let _written = sandbox(&server, id).shell("echo x > f");
        stop(&server, id).expect(200);
    }
    let good = fs::read(disk(&server, garbage)).unwrap();
    File::options().write(true).open(disk(&server, garbage)).unwrap().write_all_at(&vec![0xa5; 4 << 20], 0).unwrap();
    File::options().write(true).open(disk(&server, cut)).unwrap().set_len(MIB).unwrap();
    fs::rename(disk(&server, linked), server.home().path().join("elsewhere")).unwrap();
    symlink(server.home().path().join("elsewhere"), disk(&server, linked)).unwrap();
    for id in [garbage, cut, linked] {
        for _ in 0..2 {
            let message = sandbox(&server, id).try_exec(&json!({"shell": "true"})).refused(409, "files_broken");
            assert!(message.contains("delete it"), "{message}");
        }
        let now = record(&server, id);
        assert_eq!((&now["state"], &now["starts"], &now["stop"]["reason"]), (&json!("stopped"), &json!(1), &json!("requested")));
    }
    // What is mended comes back.
    fs::write(disk(&server, garbage), good).unwrap();
    assert_eq!(sandbox(&server, garbage).shell("cat f"), "x\n");
    fs::remove_file(disk(&server, gone)).unwrap();
    // And what nobody knows is set aside: perhaps it is the records that are not there.
    server.kill();
    let unknown = "sbx0000000000000000000000000";
    fs::write(disk(&server, unknown), "x").unwrap();
    server.start_again();
    assert!(server.log().contains("No stopped sandbox has 1 of the disks"), "{}", server.log());
    fs::remove_file(disk(&server, &format!("{unknown}.aside"))).unwrap();
    assert_eq!(epitaph(&server, gone), "files_lost");
    for id in [garbage, cut, linked] {
        end(&server, id);
    }
    assert!(disks(&server).is_empty());
    assert!(server.home().path().join("elsewhere").exists(), "a link is removed, and not what it leads to");
    server.finish();
}

#[test]
fn r6_2_another_tenant_sees_nothing_of_it_and_quotas_count_its_disk() {
    let server = Server::start();
    let key = server.post("/v1/keys", &json!({"tenant": "other"})).expect(201).json();
    let other = caisson_tests::Client { key: key["key"].as_str().map(str::to_owned), ..server.client.clone() };
    let id = made(&server, &json!({"storage": "disk", "idle_timeout_s": null}));
    stop(&server, &id).expect(200);
    let target = format!("/v1/sandboxes/{id}");
    other.request("GET", &target).send().refused(404, "not_found");
    other.request("DELETE", &target).send().refused(404, "not_found");
    other.request("POST", &format!("{target}/stop")).send().refused(404, "not_found");
    other.request("POST", &format!("{target}/exec")).json(&json!({"shell": "true"})).send().refused(404, "not_found");
    assert_eq!(record(&server, &id)["state"], "stopped");
    end(&server, &id);

    server.request("PATCH", "/v1/tenants/other").json(&json!({"sandboxes": 1, "disk_bytes": 300 * MIB})).send().expect(200);
    let body = json!({"storage": "disk", "limits": {"disk_bytes": 200 * MIB}, "idle_timeout_s": null});
    let first = other.request("POST", "/v1/sandboxes").json(&body).send().expect(201).json()["id"].as_str().unwrap().to_owned();
    other.request("POST", &format!("/v1/sandboxes/{first}/stop")).send().expect(200);
    let message = other.request("POST", "/v1/sandboxes").json(&body).send().refused(429, "quota_exceeded");
    assert!(message.contains("disk"), "{message}");
    let memory = other.request("POST", "/v1/sandboxes").json(&json!({})).send().expect(201).json()["id"].as_str().unwrap().to_owned();
    // Its place is another's meanwhile.
    let exec = || other.request("POST", &format!("/v1/sandboxes/{first}/exec")).json(&json!({"shell": "echo x"})).send();
    exec().refused(429, "quota_exceeded");
    other.request("DELETE", &format!("/v1/sandboxes/{memory}")).send().expect(200);
    exec().expect(200);
    other.request("DELETE", &format!("/v1/sandboxes/{first}")).send().expect(200);
    other.request("POST", "/v1/sandboxes").json(&body).send().expect(201);
    server.finish();
}
