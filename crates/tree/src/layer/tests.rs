use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, getxattr};
use tempfile::TempDir;

use super::*;

/// What a member of a layer is made of; the rest is usual.
#[derive(Clone, Copy)]
struct Line<'a> {
    letter: u8,
    name: &'a str,
    link: &'a str,
    content: &'a [u8],
    mode: u32,
    owner: (u64, u64),
}

fn line(letter: u8, name: &str) -> Line<'_> {
    Line { letter, name, link: "", content: b"", mode: if letter == b'5' { 0o755 } else { 0o644 }, owner: (0, 0) }
}

fn file<'a>(name: &'a str, content: &'a str) -> Line<'a> {
    Line { content: content.as_bytes(), ..line(b'0', name) }
}

fn directory(name: &str) -> Line<'_> {
    line(b'5', name)
}

fn link<'a>(letter: u8, name: &'a str, link: &'a str) -> Line<'a> {
    Line { link, ..line(letter, name) }
}

/// Headers written by hand: what writes them elsewhere would not write these.
fn header(line: &Line<'_>, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut set = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, line.name.as_bytes());
    set(100, format!("{:07o}", line.mode).as_bytes());
    set(108, format!("{:07o}", line.owner.0).as_bytes());
    set(116, format!("{:07o}", line.owner.1).as_bytes());
    set(124, format!("{size:011o}").as_bytes());
    set(136, b"00003641100");
    set(148, b"        ");
    set(156, &[line.letter]);
    set(157, line.link.as_bytes());
    set(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn archive(lines: &[Line<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(header(line, line.content.len() as u64));
        bytes.extend_from_slice(line.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// A place for a layer, with something beside it that has to stay as it is.
struct Place {
    directory: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "safe").unwrap();
        Self { directory, root, outside }
    }

    fn unpack_with(&self, bytes: &[u8], allowance: &Allowance) -> Result<(Unpacked, u64), LayerError> {
        let root = openat(CWD, &self.root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut layer = Layer::new(root, allowance);
        layer.all(bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))))?;
        Ok((layer.done, layer.whiteouts))
    }

    fn unpack(&self, lines: &[Line<'_>]) -> Result<(Unpacked, u64), LayerError> {
        let result = self.unpack_with(&archive(lines), &Allowance::new(1 << 30, 1000));
        let outside = fs::metadata(&self.outside).unwrap();
        assert_eq!((outside.mode() & 0o7777, outside.uid()), (0o755, 0));
        assert_eq!(fs::read_dir(&self.outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 2);
        let safe = fs::metadata(self.outside.join("f")).unwrap();
        assert_eq!((safe.nlink(), safe.len(), safe.mode() & 0o7777, safe.uid()), (1, 4, 0o644, 0));
        result
    }

    #[track_caller]
    fn refused(lines: &[Line<'_>], why: &str) {
        let error = Self::new().unpack(lines).unwrap_err();
        let text = format!("{error}{}", std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default());
        assert!(text.contains(why), "{text}");
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn of(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.at(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = self.of(path);
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0u8; 8];
        let length = getxattr(self.at(path), OPAQUE_ATTRIBUTE, &mut value[..]);
        length.is_ok_and(|length| &value[..length] == b"y")
    }
}

fn all(root: &Path) -> usize {
    fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| if e.file_type().unwrap().is_dir() { 1 + all(&e.path()) } else { 1 })
        .sum()
}

#[test]
fn a_layer_keeps_owners_bits_links_and_times() {
    let place = Place::new();
    let (done, whiteouts) = place
        .unpack(&[
            Line { mode: 0o751, owner: (7, 8), ..directory("./") },
            Line { mode: 0o1777, ..directory("tmp/") },
            Line { mode: 0o500, owner: (65_535, 1), ..directory("d") },
            Line { mode: 0o4755, owner: (1, 65_535), ..file("d/su", "program") },
            Line { owner: (3, 4), ..link(b'2', "d/l", "/etc/passwd") },
            link(b'1', "d/hard", "/d/su"),
            link(b'1', "d/l2", "d/l"),
            file("/absolute/is/below", "x"),
            Line { content: &[0; 5000], ..file("zeros", "") },
            line(b'3', "device"),
            line(b'6', "fifo"),
        ])
        .unwrap();
    assert_eq!((done.files, done.directories, done.links, done.bytes, whiteouts), (3, 2, 3, 5008, 0));
    assert_eq!(done.left_out.named().iter().map(|left| left.path.as_slice()).collect::<Vec<_>>(), [&b"device"[..], b"fifo"]);
    let look = |path: &str| (place.of(path).mode() & 0o7777, place.of(path).uid(), place.of(path).gid());
    assert_eq!(look(""), (0o751, 7, 8));
    assert_eq!((look("tmp").0, look("d"), look("d/su")), (0o1777, (0o500, 65_535, 1), (0o4755, 1, 65_535)));
    assert_eq!((look("d/l").1, look("d/l").2, place.of("d/l").mtime()), (3, 4, 1_000_000));
    assert_eq!((place.of("d/su").ino(), place.of("d/l").ino()), (place.of("d/hard").ino(), place.of("d/l2").ino()));
    assert_eq!((place.of("d/su").mtime(), place.of("d").mtime()), (1_000_000, 1_000_000));
    assert_eq!((look("absolute/is").0, fs::read_to_string(place.at("absolute/is/below")).unwrap().as_str()), (0o755, "x"));
    assert_eq!((fs::read(place.at("zeros")).unwrap(), place.of("zeros").blocks()), (vec![0; 5000], 0));
}

#[test]
fn whiteouts_are_devices_and_opaque_directories() {
    let place = Place::new();
    let (_, whiteouts) = place
        .unpack(&[
            line(b'0', ".wh.gone"),
            line(b'0', "d/e/.wh.gone"),
            directory("o"),
            file("o/before", ""),
            line(b'0', "o/.wh..wh..opq"),
            file("o/behind", ""),
            line(b'0', "made/.wh..wh..opq"),
            line(b'0', ".wh..wh.plnk"),
        ])
        .unwrap();
    assert!(place.is_whiteout("gone") && place.is_whiteout("d/e/gone") && place.is_opaque("o") && place.is_opaque("made"));
    assert!(!place.is_opaque("d") && place.at("o/before").exists() && place.at("o/behind").exists());
    assert_eq!((whiteouts, all(&place.root)), (4, 8));
}

#[test]
fn whiteouts_are_about_lower_layers_alone() {
    let place = Place::new();
    place
        .unpack(&[
            file("f", "mine"),
            line(b'0', ".wh.f"),
            line(b'0', ".wh.g"),
            file("g", "mine"),
            file("d/x", ""),
            line(b'0', ".wh.d"),
            line(b'0', ".wh.e"),
            directory("e"),
            file("e/x", ""),
            line(b'0', ".wh.i"),
            file("i/j/x", ""),
            line(b'0', ".wh.d"),
        ])
        .unwrap();
    for path in ["f", "g", "d/x", "e/x", "i/j/x"] {
        assert!(place.of(path).is_file(), "{path}");
    }
    assert!(["d", "e", "i"].iter().all(|path| place.is_opaque(path)) && !place.is_opaque("i/j"));
}

#[test]
fn r5_1_of_several_members_of_one_name_the_last_one_counts() {
    let place = Place::new();
    place
        .unpack(&[
            file("a", "1"),
            file("a", "22"),
            file("d/x/y", ""),
            file("d", "file over directory"),
            link(b'2', "l", "d"),
            directory("l"),
            file("l/x", ""),
            directory("m"),
            file("m/kept", ""),
            Line { mode: 0o700, owner: (5, 5), ..directory("m") },
            directory("n"),
            file("n/x", ""),
            link(b'2', "n", "m"),
            file("h", "h"),
            directory("k"),
            file("k/x", ""),
            link(b'1', "k", "h"),
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(place.at("a")).unwrap(), "22");
    assert!(place.of("d").is_file() && place.of("l").is_dir() && place.at("l/x").exists() && place.at("m/kept").exists());
    assert_eq!((place.of("m").mode() & 0o7777, place.of("m").uid()), (0o700, 5));
    assert!(place.of("n").is_symlink() && place.of("k").ino() == place.of("h").ino());
}

#[test]
fn r5_1_names_that_lead_upwards_are_refused() {
    for name in ["../outside/f", "d/../../outside/f", "..", "/../outside/f", "./../outside/f"] {
        for letter in [b'0', b'5', b'2', b'1'] {
            Place::refused(&[Line { link: "x", ..line(letter, name) }], "`..`");
        }
    }
}

#[test]
fn r5_1_nothing_is_made_through_a_link() {
    let outside = |place: &Place| place.outside.to_str().unwrap().to_owned();
    for target in [None, Some("../outside"), Some("/"), Some("."), Some("d")] {
        let place = Place::new();
        let target = target.map_or_else(|| outside(&place), str::to_owned);
        let l = link(b'2', "l", &target);
        let error = place.unpack(&[directory("d"), l, file("l/f", "bad")]).unwrap_err();
        assert!(error.to_string().contains("is a link"), "{error}");
        let place = Place::new();
        assert!(place.unpack(&[directory("d"), l, line(b'0', "l/.wh.f")]).is_err());
        let place = Place::new();
        assert!(place.unpack(&[directory("d"), l, file("l/x/y", "bad")]).is_err());
        // A directory over a link takes its place; neither its bits nor its owner go to where the link leads.
        let place = Place::new();
        place.unpack(&[directory("d"), l, Line { mode: 0o777, owner: (9, 9), ..directory("l") }, line(b'0', "l/.wh..wh..opq")]).unwrap();
        assert!(place.of("l").is_dir() && place.is_opaque("l") && !place.is_opaque("d"));
        // As does an opaque marker.
        let place = Place::new();
        place.unpack(&[directory("d"), l, line(b'0', "l/.wh..wh..opq")]).unwrap();
        assert!(place.is_opaque("l") && !place.is_opaque("d"));
        // A file is not written through it either.
        let place = Place::new();
        let through = format!("{target}/f");
        place.unpack(&[directory("d"), link(b'2', "l", &through), file("l", "mine")]).unwrap();
        assert!(place.of("l").is_file());
    }
}

#[test]
fn r5_1_hard_links_are_to_files_of_the_layer() {
    for target in ["/etc/passwd", "etc/passwd", "l", "l/f", "d", "", "w", "self"] {
        let place = Place::new();
        symlink(&place.outside, place.at("l-made-before")).unwrap();
        let to_outside = place.outside.to_str().unwrap().to_owned();
        let lines = [directory("d"), link(b'2', "l", &to_outside), line(b'0', ".wh.w"), link(b'1', "self", target)];
        let result = place.unpack(&lines);
        if target == "l" {
            // Another name of the link itself.
            assert!(result.is_ok() && place.of("self").is_symlink());
        } else {
            assert!(result.unwrap_err().to_string().contains("hard link"), "{target}");
        }
    }
    Place::refused(&[link(b'1', "h", "../outside/f")], "`..`");
}

#[test]
fn r5_3_whiteouts_remove_nothing_outside() {
    for name in [".wh...", ".wh..", "d/.wh...", "d/.wh..", ".wh."] {
        Place::refused(&[file("d/f", ""), line(b'0', name)], "no name");
    }
    Place::refused(&[line(b'0', "../.wh.outside")], "`..`");
    Place::refused(&[line(b'0', ".wh..wh..opq")], "hides the whole");
    Place::refused(&[line(b'0', ".wh.d/f")], "below a whiteout");
    Place::refused(&[line(b'0', "d/.wh..wh..opq/f")], "below a whiteout");
}

#[test]
fn r5_1_members_that_cannot_be_are_refused() {
    Place::refused(&[Line { owner: (65_536, 0), ..file("f", "") }], "user 65536");
    Place::refused(&[Line { owner: (0, 0o7_777_777), ..directory("d") }], "group 2097151");
    Place::refused(&[file("./", "root")], "root of the layer");
    Place::refused(&[file("f", ""), file("f/x", "")], "is a link or a file");
    Place::refused(&[link(b'2', "l", "")], "cannot be a path");
    Place::refused(&[line(b'S', "sparse")], "sparse");
}

#[test]
fn r5_1_a_bomb_is_refused_before_it_is_written() {
    let place = Place::new();
    let announced = [header(&file("zeros", ""), 8 << 30), vec![0; 4096]].concat();
    let error = place.unpack_with(&announced, &Allowance::new(1 << 20, 10)).unwrap_err();
    assert!(matches!(error, LayerError::TooMuch(TooMuch { what: "bytes", most: 1_048_576 })));
    assert_eq!(fs::read_dir(&place.root).unwrap().count(), 0);
    let many: Vec<_> = (0..11).map(|_| file("f", "")).collect();
    let error = place.unpack_with(&archive(&many), &Allowance::new(1 << 20, 10)).unwrap_err();
    assert!(matches!(error, LayerError::TooMuch(TooMuch { what: "entries", most: 10 })), "the same name again counts too");
    // Directories that nobody announced are entries like others.
    let place = Place::new();
    assert!(place.unpack_with(&archive(&[file("a/b/c/d/e", "")]), &Allowance::new(1, 4)).is_err());
}

#[test]
fn r5_1_a_layer_that_breaks_off_is_an_error() {
    let whole = archive(&[file("f", "content")]);
    for length in [0, 100, 512, 515, 1024, whole.len() - 1] {
        assert!(Place::new().unpack_with(&whole[..length], &Allowance::new(1 << 20, 10)).is_err(), "{length}");
    }
    assert!(Place::new().unpack_with(&[whole.as_slice(), b"more"].concat(), &Allowance::new(1 << 20, 10)).is_err());
    assert!(Place::new().unpack_with(&[0; 1024], &Allowance::new(0, 0)).is_ok(), "an empty layer");
}

#[test]
fn extended_headers_name_owners() {
    let text = format!("{}{}", record("uid", "40000"), record("gid", "50000"));
    let x = Line { content: text.as_bytes(), ..line(b'x', "PaxHeaders/f") };
    let place = Place::new();
    place.unpack(&[x, file("f", "")]).unwrap();
    assert_eq!((place.of("f").uid(), place.of("f").gid()), (40_000, 50_000));
    let text = record("uid", "4294967296");
    Place::refused(&[Line { content: text.as_bytes(), ..line(b'x', "x") }, file("f", "")], "user 4294967296");
    let text = record("uid", "-1");
    Place::refused(&[Line { content: text.as_bytes(), ..line(b'x', "x") }, file("f", "")], "user 1844");
}

fn record(name: &str, value: &str) -> String {
    let rest = name.len() + value.len() + 3;
    let length = rest + if rest < 9 { 1 } else { 2 };
    format!("{length} {name}={value}\n")
}

#[test]
fn what_root_alone_can_do_is_tried_and_leaves_nothing() {
    let place = Place::new();
    let root = openat(CWD, &place.root, DIRECTORY, Mode::empty()).unwrap();
    Layer::possible(&root).unwrap();
    assert_eq!(fs::read_dir(&place.root).unwrap().count(), 0);
}
