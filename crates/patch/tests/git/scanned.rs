//! Scans: what they find, what they read, and what they do while the tree changes.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use caisson_patch::{Entry, Error, Id, Index, Kind, Limits, Options, Scan, scan, write_patch};

use crate::tree::{Nodes, apply, at, directory, file, in_memory, on_disk, open, read, scanned, write};

fn again<'a>(index: &'a Index) -> Scan<'a> {
    Scan { before: Some(index), ..Scan::default() }
}

fn paths(index: &Index) -> Vec<String> {
    index.tree().entries().iter().map(|entry| entry.path.escape_ascii().to_string()).collect()
}

/// Until what is written then is not as new as a scan that begins now.
fn let_the_clock_go_on() {
    thread::sleep(Duration::from_millis(30));
}

#[test]
fn files_and_links_are_found_and_nothing_else() {
    let directory = directory();
    let root = directory.path();
    write(root, &[(b"d/f\xff".to_vec(), file("f")), (b"d.x".to_vec(), file("")), (b"nested/.git/config".to_vec(), file("x"))].into());
    write(root, &[(b"nested/in".to_vec(), file("in")), (b".git".to_vec(), file("gitdir: elsewhere"))].into());
    symlink("/etc", root.join("link")).unwrap();
    fs::create_dir_all(root.join("empty/below")).unwrap();
    std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
    let index = scanned(root);
    assert_eq!(paths(&index), ["d.x", "d/f\\xff", "link", "nested/in"]);
    assert_eq!(index.tree().entries()[2], Entry { path: b"link".to_vec(), kind: Kind::Link, size: 4, id: Id::of(b"/etc") });
    let left = |path: &[u8], is_directory: bool| path == b"d" && is_directory || path == b"link" && !is_directory;
    let fewer = scan(open(root), &Scan { leave_out: &left, ..Scan::default() }).unwrap();
    assert_eq!(paths(&fewer.index), ["d.x", "nested/in"]);
}

#[test]
fn only_what_looks_different_is_read_again() {
    let directory = directory();
    let root = directory.path();
    write(root, &(0..50).map(|n| (format!("d{}/f{n}", n % 7).into_bytes(), file(format!("{n}\n")))).collect());
    symlink("d1", root.join("link")).unwrap();
    let_the_clock_go_on();
    let first = scan(open(root), &Scan::default()).unwrap();
    assert_eq!(first.read, 51);
    let kept = Index::from_bytes(&first.index.to_bytes()).unwrap();
    assert_eq!(kept, first.index);
    let second = scan(open(root), &again(&kept)).unwrap();
    assert_eq!((second.read, second.index.tree()), (0, kept.tree()));
    // Same size, and the time of modification set back.
    let path = root.join("d1/f1");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "X\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    fs::rename(root.join("d2/f2"), root.join("d2/moved")).unwrap();
    fs::remove_file(root.join("d3/f3")).unwrap();
    let third = scan(open(root), &again(&kept)).unwrap();
    assert_eq!(third.read, 2);
    assert_eq!(*third.index.tree(), in_memory(&read(root)).0);
    let (old, new) =
        (in_memory(&(0..50).map(|n| (format!("d{}/f{n}", n % 7).into_bytes(), file(format!("{n}\n")))).collect()), on_disk(root));
    let mut patch = Vec::new();
    let summary = write_patch(first.index.tree(), third.index.tree(), &old.1, &new, &Options::default(), &mut patch).unwrap();
    assert_eq!((summary.modified, summary.renamed, summary.deleted), (1, 1, 1));
}

#[test]
fn what_changes_right_behind_a_scan_is_never_missed() {
    let directory = directory();
    let root = directory.path();
    let path = root.join("f");
    let mut index = Index::default();
    for round in 0..500 {
        // Always of one size and in one file, mostly within one tick of the clock.
        fs::write(&path, format!("{round:06}")).unwrap();
        index = scan(open(root), &again(&index)).unwrap().index;
        assert_eq!(index.tree().entries()[0].id, Id::of(format!("{round:06}").as_bytes()), "round {round}");
    }
}

#[test]
fn limits_are_said() {
    let directory = directory();
    let root = directory.path();
    write(root, &[(b"a".to_vec(), file("12345")), (b"b".to_vec(), file(""))].into());
    let limited = |entries, file| scan(open(root), &Scan { limits: Limits { entries, file, ..Limits::default() }, ..Scan::default() });
    assert!(limited(2, 5).is_ok());
    assert!(matches!(limited(1, 5).unwrap_err(), Error::TooManyEntries { limit: 1 }));
    let error = limited(2, 4).unwrap_err();
    assert!(matches!(error, Error::FileTooLarge { size: 5, limit: 4, .. }), "{error}");
    let paths = |paths| scan(open(root), &Scan { limits: Limits { paths, ..Limits::default() }, ..Scan::default() });
    assert!(paths(2).is_ok());
    assert!(matches!(paths(1).unwrap_err(), Error::PathsTooLong { limit: 1 }));
    fs::write(root.join(".gitignore"), "x\n".repeat(600_000)).unwrap();
    assert!(scan(open(root), &Scan::default()).is_ok());
    let error = scan(open(root), &Scan { gitignore: true, ..Scan::default() }).unwrap_err();
    assert!(matches!(error, Error::IgnoreTooLarge { .. }), "{error}");
}

#[test]
fn a_tree_that_changes_meanwhile_gives_one_that_was_there_or_an_error() {
    let directory = directory();
    let root = directory.path();
    let outside = crate::tree::directory();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    write(root, &(0..200).map(|n| (format!("d{}/f{n}", n % 9).into_bytes(), file("x".repeat(n)))).collect());
    let stop = AtomicBool::new(false);
    let (mut whole, mut broken) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let (name, other) = (root.join(format!("d{}", round % 9)), root.join("other"));
                // A directory becomes a link out of the tree, a file, and itself again; a log grows.
                fs::rename(&name, &other).unwrap();
                symlink(outside.path(), &name).unwrap();
                fs::remove_file(&name).unwrap();
                fs::write(&name, "file").unwrap();
                fs::remove_file(&name).unwrap();
                fs::rename(&other, &name).unwrap();
                let mut log = fs::File::options().create(true).append(true).open(root.join("log")).unwrap();
                std::io::Write::write_all(&mut log, b"line\n").unwrap();
            }
        });
        let mut before = Index::default();
        for _ in 0..300 {
            match scan(open(root), &again(&before)) {
                Ok(found) => {
                    whole += 1;
                    assert!(paths(&found.index).iter().all(|path| !path.contains("secret")));
                    let mut patch = Vec::new();
                    match write_patch(
                        &Index::default().tree().clone(),
                        found.index.tree(),
                        &on_disk(root),
                        &on_disk(root),
                        &Options::default(),
                        &mut patch,
                    ) {
                        Ok(_) => assert!(!patch.windows(6).any(|piece| piece == b"secret")),
                        Err(Error::Changed { .. } | Error::Read { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    before = found.index;
                }
                Err(Error::Changed { .. } | Error::Read { .. }) => broken += 1,
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(whole > 0, "{whole} scans, {broken} errors");
    // Once it is quiet, all is right again.
    assert_eq!(*scanned(root).tree(), in_memory(&read(root)).0);
}

#[test]
fn a_log_that_only_grows_is_no_reason_to_fail() {
    let directory = directory();
    let root = directory.path();
    let log = root.join("log");
    fs::write(&log, "one\n").unwrap();
    let index = scanned(root);
    fs::write(&log, "one\ntwo\n").unwrap();
    let mut patch = Vec::new();
    write_patch(Index::default().tree(), index.tree(), &on_disk(root), &on_disk(root), &Options::default(), &mut patch).unwrap();
    apply(&Nodes::new(), &patch, &[(b"log".to_vec(), file("one\n"))].into()).unwrap();
    fs::write(at(root, b"log"), "ONE\ntwo\n").unwrap();
    let error =
        write_patch(Index::default().tree(), index.tree(), &on_disk(root), &on_disk(root), &Options::default(), &mut patch).unwrap_err();
    assert!(error.to_string().contains("\"log\" changed while it was read"), "{error}");
}
