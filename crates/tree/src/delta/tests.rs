//! Upper directories as overlayfs would leave them, made by hand, and what the reader of layers makes of what comes out. They take root.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Gid, Uid, XattrFlags, chownat, lsetxattr, mkfifoat, mknodat, statat};

use super::*;
use crate::{
    Allowance, Layer,
    tar::{Member, Members},
};

/// The host's id for root inside.
const FIRST: u32 = 1 << 30;

struct Site {
    directory: tempfile::TempDir,
    given: Vec<Given>,
}

impl Site {
    fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap(), given: Vec::new() };
        for name in ["upper", "merged", "layer"] {
            fs::create_dir(site.at(name)).unwrap();
        }
        site.own("upper", 0);
        site
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn own(&self, path: &str, id: u32) {
        let (user, group) = (Uid::from_raw(FIRST.wrapping_add(id)), Gid::from_raw(FIRST.wrapping_add(id)));
        chownat(CWD, self.at(path), Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn file(&self, path: &str, content: &[u8]) {
        fs::write(self.at(path), content).unwrap();
        self.own(path, 1000);
    }

    fn dir(&self, path: &str) {
        fs::create_dir(self.at(path)).unwrap();
        self.own(path, 0);
    }

    fn removed(&self, path: &str) {
        mknodat(CWD, self.at(path), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn note(&self, path: &str, attribute: &str, value: &[u8]) {
        lsetxattr(self.at(path), attribute, value, XattrFlags::empty()).unwrap();
    }

    /// From now on this is not a change.
    fn give(&mut self, path: &str) {
        let place = if path.is_empty() { self.at("upper") } else { self.at("upper").join(path) };
        let given = Given::of(path.as_bytes(), &statat(CWD, place, AtFlags::SYMLINK_NOFOLLOW).unwrap());
        self.given.push(Given { user: given.user - FIRST, group: given.group - FIRST, ..given });
    }

    fn delta(&self) -> Delta {
        let open = |name: &str| openat(CWD, self.at(name), READ, Mode::empty()).unwrap();
        Delta::new(open("upper"), open("merged"), FIRST, self.given.clone()).unwrap()
    }

    #[track_caller]
    fn tar(&self) -> Vec<u8> {
        let (mut delta, mut tar) = (self.delta(), Vec::new());
        while let Some(piece) = delta.next_piece().unwrap() {
            assert!(piece.len() <= 2 * CHUNK);
            tar.extend_from_slice(&piece);
        }
        tar
    }

    #[track_caller]
    fn members(&self) -> Vec<Member> {
        members(&self.tar())
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        let mut delta = self.delta();
        let error = loop {
            match delta.next_piece() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it went well"),
                Err(error) => break error,
            }
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error}: {cause}").contains(why), "{error}: {cause}");
    }

    /// The layer, unpacked.
    #[track_caller]
    fn layer(&self) -> PathBuf {
        let (root, allowance) = (openat(CWD, self.at("layer"), READ, Mode::empty()).unwrap(), Allowance::new(1 << 30, 1 << 20));
        Layer::new(root, &allowance).all([Ok(Bytes::from(self.tar()))].into_iter()).unwrap();
        self.at("layer")
    }
}

fn members(tar: &[u8]) -> Vec<Member> {
    let mut members = Members::new([Ok(Bytes::copy_from_slice(tar))].into_iter());
    let mut all = Vec::new();
    while let Some(member) = members.next_member().unwrap() {
        all.push(member);
    }
    all
}

fn paths(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| std::str::from_utf8(&member.path).unwrap()).collect()
}

fn kind(path: impl AsRef<Path>) -> FileType {
    FileType::from_raw_mode(statat(CWD, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW).unwrap().st_mode)
}

#[test]
fn what_was_changed_comes_out_as_a_layer() {
    let site = Site::new();
    site.dir("upper/d");
    site.file("upper/d/f", b"content");
    fs::set_permissions(site.at("upper/d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(site.at("upper/d/f"), site.at("upper/g")).unwrap();
    site.file("upper/big", &vec![b'x'; 2 * CHUNK + 7]);
    symlink("/nowhere", site.at("upper/link")).unwrap();
    site.own("upper/link", 7);
    site.removed("upper/d/gone");
    site.dir("upper/anew");
    site.note("upper/anew", OPAQUE_ATTRIBUTE, b"y");
    site.file("upper/anew/inside", b"");
    mkfifoat(CWD, site.at("upper/fifo"), Mode::from_raw_mode(0o600)).unwrap();
    site.own("upper/fifo", 0);
    drop(UnixListener::bind(site.at("upper/socket")).unwrap());
    let layer = site.layer();
    let f = fs::metadata(layer.join("d/f")).unwrap();
    assert_eq!(
        (fs::read(layer.join("d/f")).unwrap().as_slice(), f.mode() & 0o7777, f.uid(), f.gid()),
        (&b"content"[..], 0o4750, 1000, 1000)
    );
    assert_eq!((f.ino(), f.nlink()), (fs::metadata(layer.join("g")).unwrap().ino(), 2));
    assert_eq!(fs::metadata(layer.join("big")).unwrap().len(), 2 * CHUNK as u64 + 7);
    assert_eq!(fs::read_link(layer.join("link")).unwrap(), Path::new("/nowhere"));
    assert_eq!(fs::symlink_metadata(layer.join("link")).unwrap().uid(), 7);
    assert_eq!(kind(layer.join("d/gone")), FileType::CharacterDevice);
    let mut opaque = [0; 1];
    rustix::fs::lgetxattr(layer.join("anew"), OPAQUE_ATTRIBUTE, &mut opaque).unwrap();
    assert_eq!((&opaque, fs::metadata(layer.join("anew")).unwrap().uid()), (b"y", 0));
    assert!(!layer.join("fifo").exists() && !layer.join("socket").exists(), "the reader takes no fifos");
    let members = site.members();
    let expect = ["./", "anew/", "anew/.wh..wh..opq", "anew/inside", "big", "d/", "d/f", "d/.wh.gone", "fifo", "g", "link"];
    assert_eq!(paths(&members), expect);
    assert_eq!(site.tar(), site.tar(), "the same comes out again");
}

#[test]
fn what_was_given_is_no_change_until_it_is_changed() {
    let mut site = Site::new();
    site.dir("upper/etc");
    site.file("upper/etc/hosts", b"127.0.0.1 localhost");
    site.file("upper/etc/hostname", b"a");
    site.dir("upper/dev");
    site.dir("upper/home");
    site.dir("upper/home/user");
    // As overlayfs does with all that are made anew.
    site.note("upper/home/user", OPAQUE_ATTRIBUTE, b"y");
    for path in ["", "etc", "etc/hosts", "etc/hostname", "home", "home/user"] {
        site.give(path);
    }
    site.dir("upper/dev/pts");
    assert_eq!(site.tar(), tar::END, "nothing");
    // In place, and with the same length.
    use std::io::Write;
    let mut hosts = fs::OpenOptions::new().write(true).open(site.at("upper/etc/hosts")).unwrap();
    hosts.write_all(b"127.0.0.2").unwrap();
    drop(hosts);
    assert_eq!(paths(&site.members()), ["./", "etc/", "etc/hosts"]);
    site.file("upper/home/user/new", b"");
    assert_eq!(paths(&site.members()), ["./", "etc/", "etc/hosts", "home/", "home/user/", "home/user/.wh..wh..opq", "home/user/new"]);
    // A directory that looks as before has another time of change.
    fs::set_permissions(site.at("upper/etc"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(site.at("upper/etc/hosts"), b"").unwrap();
    site.give("etc/hosts");
    assert_eq!(paths(&site.members())[..3], ["./", "etc/", "home/"]);
}

#[test]
fn a_directory_that_was_renamed_is_there_as_a_whole() {
    let site = Site::new();
    site.dir("upper/new");
    site.note("upper/new", REDIRECT_ATTRIBUTE, b"/old");
    site.file("upper/new/changed", b"upper");
    site.removed("upper/old");
    for path in ["merged/new", "merged/new/sub"] {
        site.dir(path);
    }
    for (path, content) in [("merged/new/changed", "upper"), ("merged/new/kept", "lower"), ("merged/new/sub/deep", "deep")] {
        site.file(path, content.as_bytes());
    }
    fs::hard_link(site.at("merged/new/kept"), site.at("merged/new/sub/too")).unwrap();
    let members = site.members();
    let expect = ["./", "new/", "new/.wh..wh..opq", "new/changed", "new/kept", "new/sub/", "new/sub/deep", "new/sub/too", ".wh.old"];
    assert_eq!(paths(&members), expect);
    assert_eq!((members[7].kind, members[7].link.as_slice()), (Kind::HardLink, &b"new/kept"[..]));
    let layer = site.layer();
    assert_eq!(fs::read(layer.join("new/kept")).unwrap(), b"lower");
    assert_eq!(kind(layer.join("old")), FileType::CharacterDevice);
}

#[test]
fn what_covers_a_directory_is_there_in_its_place() {
    let site = Site::new();
    for path in ["upper/home", "upper/home/tree", "cover", "cover/sub", "merged/home", "merged/home/tree"] {
        site.dir(path);
    }
    for path in ["upper/home/tree/old", "upper/home/beside", "cover/new", "cover/sub/deep", "merged/home/tree/old", "merged/home/beside"] {
        site.file(path, path.as_bytes());
    }
    let open = |name: &str| openat(CWD, site.at(name), READ, Mode::empty()).unwrap();
    let paths_of = |mut delta: Delta| {
        let mut tar = Vec::new();
        while let Some(piece) = delta.next_piece().unwrap() {
            tar.extend_from_slice(&piece);
        }
        paths(&members(&tar)).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let expect =
        ["./", "home/", "home/beside", "home/tree/", "home/tree/.wh..wh..opq", "home/tree/new", "home/tree/sub/", "home/tree/sub/deep"];
    assert_eq!(paths_of(site.delta().with_covered(b"home/tree".to_vec(), open("cover"))), expect);
    // What is above it was renamed.
    site.note("upper/home", REDIRECT_ATTRIBUTE, b"/old");
    let expect = ["./", "home/", "home/.wh..wh..opq", "home/beside", "home/tree/", "home/tree/new", "home/tree/sub/", "home/tree/sub/deep"];
    assert_eq!(paths_of(site.delta().with_covered(b"home/tree".to_vec(), open("cover"))), expect);
}

#[test]
fn what_a_layer_cannot_say_is_named() {
    let site = Site::new();
    site.file("upper/.wh.x", b"");
    site.refused("`.wh.x`: its name begins with `.wh.`");
    let site = Site::new();
    site.removed(&format!("upper/{}", "n".repeat(252)));
    site.refused("too long for a layer to say so");
    let site = Site::new();
    site.file("upper/f", b"");
    site.own("upper/f", MAX_ID + 1);
    site.refused("`f`: it belongs to somebody");
    site.own("upper/f", 0_u32.wrapping_sub(1));
    site.refused("`f`: it belongs to somebody");
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_and_one_that_grows_is_cut() {
    let site = Site::new();
    for (path, after, fine) in [("upper/f", 0, false), ("upper/f", 9 * CHUNK, true)] {
        site.file(path, &vec![b'x'; 3 * CHUNK]);
        let mut delta = site.delta();
        let mut tar = delta.next_piece().unwrap().unwrap();
        fs::write(site.at(path), vec![b'y'; after]).unwrap();
        let all = loop {
            match delta.next_piece() {
                Ok(Some(piece)) => tar.extend(piece),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        };
        assert_eq!(all.is_ok(), fine, "{all:?}");
        if fine {
            assert_eq!(members(&tar)[1].size, 3 * CHUNK as u64);
        }
    }
}

#[test]
fn hostile_trees_are_walked_to_their_end() {
    let site = Site::new();
    for n in 0..20_000 {
        fs::File::create(site.at(&format!("upper/{n:0200}"))).unwrap();
        site.own(&format!("upper/{n:0200}"), n % MAX_ID);
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J");
    fs::write(site.at("upper").join(odd), "").unwrap();
    chownat(CWD, site.at("upper").join(odd), Some(Uid::from_raw(FIRST)), Some(Gid::from_raw(FIRST)), AtFlags::empty()).unwrap();
    let deep = format!("upper/{}", "d/".repeat(1500));
    fs::create_dir_all(site.at(&deep)).unwrap();
    let mut path = PathBuf::from("upper");
    for _ in 0..1500 {
        path.push("d");
        site.own(path.to_str().unwrap(), 0);
    }
    assert_eq!(site.members().len(), 1 + 20_000 + 1 + 1500);
    let layer = site.layer();
    assert!(layer.join(odd).exists() && layer.join(&deep["upper/".len()..]).is_dir());
}
