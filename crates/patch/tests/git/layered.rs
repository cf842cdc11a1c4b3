//! Trees that overlayfs shows: a look at the upper directory finds what a look at everything does, whatever was done.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use caisson_patch::{Change, Index, Layers, Scan, ScannedLayers, differences, scan, scan_layers};
use rustix::fd::AsFd;

/// Set in the process that has mounts of its own.
const INSIDE: &str = "CAISSON_PATCH_TEST_INSIDE";

/// Numbers that look random, the same ones each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

const NAMES: [&str; 9] = ["a", "b", "c", "d.log", "e.log", "out", ".gitignore", "deep", "\u{fc} "];
const RULES: [&str; 6] = ["*.log\n", "out/\n", "*.log\n!d.log\n", "/a\n", "", "deep\n*.log\n"];

/// Directories below the root and everything else.
fn entries(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut others) = (vec![root.to_owned()], Vec::new());
    let mut next = 0;
    while let Some(directory) = directories.get(next).cloned() {
        next += 1;
        let mut found: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        for path in found {
            if fs::symlink_metadata(&path).unwrap().is_dir() { directories.push(path) } else { others.push(path) }
        }
    }
    (directories, others)
}

/// Does something; what cannot be done is not.
fn edit(root: &Path, random: &mut Random) {
    let (directories, others) = entries(root);
    let place = directories[random.below(directories.len())].join(NAMES[random.below(NAMES.len())]);
    let one = (!others.is_empty()).then(|| others[random.below(others.len())].clone());
    let directory = directories[random.below(directories.len())].clone();
    let content = |random: &mut Random| {
        if random.below(3) == 0 {
            RULES[random.below(RULES.len())].to_owned()
        } else {
            format!("{}\n", random.below(50)).repeat(random.below(30))
        }
    };
    let done = match random.below(16) {
        0..=2 => fs::write(&place, content(random)),
        3 => fs::create_dir(&place),
        4 | 5 => one.map_or(Ok(()), fs::remove_file),
        6 if directory != root => fs::remove_dir_all(directory),
        // Of the same name, so that it hides all that was there.
        7 if directory != root => fs::remove_dir_all(&directory).and_then(|()| fs::create_dir(directory)),
        8 | 9 if directory != root => fs::rename(directory, &place),
        10 => one.map_or(Ok(()), |one| fs::rename(one, &place)),
        11 => one.map_or(Ok(()), |one| {
            let mode = fs::symlink_metadata(&one)?.permissions().mode();
            if one.is_symlink() { Ok(()) } else { fs::set_permissions(one, fs::Permissions::from_mode(mode ^ 0o100)) }
        }),
        // Copied, and the same as before.
        12 => one.map_or(Ok(()), |one| if one.is_symlink() { Ok(()) } else { File::options().append(true).open(one).map(drop) }),
        13 => symlink("a", &place),
        14 => one.map_or(Ok(()), |one| fs::hard_link(one, &place)),
        _ => one.map_or(Ok(()), |one| {
            if one.is_symlink() { Ok(()) } else { File::options().append(true).open(one)?.write_all(content(random).as_bytes()) }
        }),
    };
    drop(done);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Mounts one, and forgets it with the process.
fn overlay(at: &Path, lower: &Path, upper: &Path, more: &str) {
    fs::create_dir_all(upper.join("u")).unwrap();
    fs::create_dir_all(upper.join("w")).unwrap();
    fs::create_dir_all(at).unwrap();
    let (lower, upper) = (lower.to_str().unwrap(), upper.to_str().unwrap());
    let options = format!("lowerdir={lower},upperdir={upper}/u,workdir={upper}/w,redirect_dir=on,metacopy=off,index=off,{more}");
    run("mount", &["-t", "overlay", "overlay", "-o", &options, at.to_str().unwrap()]);
}

struct Opened {
    merged: File,
    upper: File,
    lower: File,
}

impl Opened {
    fn find(&self, change: Option<&Change>, before: &Index, gitignore: bool, whole: bool) -> ScannedLayers {
        let layers = Layers { merged: self.merged.as_fd(), upper: self.upper.as_fd(), lower: self.lower.as_fd(), change, whole };
        scan_layers(&layers, &Scan { gitignore, before: Some(before), ..Scan::default() }).unwrap()
    }
}

/// In a directory of its own, with mounts that nobody else sees.
fn compare(site: &Path, nested: bool, seed: u64) {
    let mut random = Random(seed);
    let (lower, merged) = (site.join("lower"), site.join("merged"));
    if nested {
        let image = site.join("image");
        fs::create_dir_all(image.join("repo")).unwrap();
        (0..25).for_each(|_| edit(&image.join("repo"), &mut random));
        let storage = site.join("storage");
        fs::create_dir(&storage).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", storage.to_str().unwrap()]);
        overlay(&site.join("root"), &image, &storage, "xino=off");
        symlink("root/repo", &lower).unwrap();
    } else {
        fs::create_dir(&lower).unwrap();
    }
    (0..25).for_each(|_| edit(&lower, &mut random));
    // As it is with sandboxes: no file has two names.
    for path in entries(&fs::canonicalize(&lower).unwrap()).1 {
        if !path.is_symlink() {
            let content = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, content).unwrap();
        }
    }
    overlay(
        &merged,
        &fs::canonicalize(&lower).unwrap(),
        &site.join(if nested { "storage/more" } else { "upper" }),
        if nested { "xino=on" } else { "xino=off" },
    );
    let upper = site.join(if nested { "storage/more/u" } else { "upper/u" });
    let opened = Opened { merged: File::open(&merged).unwrap(), upper: File::open(upper).unwrap(), lower: File::open(&lower).unwrap() };
    let gitignore = random.below(2) == 0;
    let base = scan(&opened.lower, &Scan { gitignore, ..Scan::default() }).unwrap().index;
    let mut all = scan(&opened.merged, &Scan { gitignore, ..Scan::default() }).unwrap().index;
    let mut change = opened.find(None, &base, gitignore, false).change;
    assert_eq!(change.size(&base).0, base.tree().entries().len(), "nothing has changed yet");
    let mut read = 0;
    for round in 0..12 {
        (0..=random.below(4)).for_each(|_| edit(&merged, &mut random));
        // Now and then everything is wanted.
        let wanted = gitignore && random.below(8) != 0;
        let all_now = scan(&opened.merged, &Scan { gitignore: wanted, before: Some(&all), ..Scan::default() }).unwrap().index;
        let found = opened.find(Some(&change), &base, wanted, wanted != gitignore);
        read += found.read;
        let whole = found.change.unread(&base).unwrap();
        assert_eq!(whole.tree(), all_now.tree(), "seed {seed}, round {round}, nested {nested}");
        let paths = |index: &Index| index.tree().entries().iter().map(|entry| entry.path.len() as i64).sum::<i64>();
        assert_eq!(found.change.size(&base), (all_now.tree().entries().len(), paths(&all_now) - paths(&base)));
        let (old, new) = differences(&base, &change, &found.change).unwrap();
        assert!(all.tree().differences(all_now.tree()).eq(old.differences(&new)), "seed {seed}, round {round}");
        // Some looks change nothing.
        if random.below(4) != 0 {
            (all, change) = (all_now, found.change);
        }
    }
    assert!(read > 0);
}

#[test]
fn a_look_at_the_upper_directory_finds_what_a_look_at_everything_does() {
    if env::var_os(INSIDE).is_none() {
        let name = "layered::a_look_at_the_upper_directory_finds_what_a_look_at_everything_does";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap_or_else(|error| panic!("{error}; install the package util-linux"));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("1 passed"), "as root: {said}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", directory.path().to_str().unwrap()]);
    let given = env::var("CAISSON_TEST_SEED").ok().map(|seed| seed.parse::<u64>().expect("a seed is a number"));
    for seed in given.map_or(1..150, |seed| seed..seed + 1) {
        let site = directory.path().join(seed.to_string());
        fs::create_dir(&site).unwrap();
        compare(&site, seed % 2 == 0, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    run("umount", &["--recursive", "--lazy", directory.path().to_str().unwrap()]);
}

#[test]
fn what_is_in_the_upper_directory_alone_is_read() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    // Without overlayfs: what it would show is made by hand.
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    for path in ["lower", "upper", "merged"] {
        fs::create_dir(at(path)).unwrap();
        fs::write(at(path).join("changed"), path).unwrap();
    }
    for n in 0..100 {
        fs::write(at("lower").join(format!("f{n}")), "same").unwrap();
        fs::write(at("merged").join(format!("f{n}")), "not looked at").unwrap();
    }
    let open = |path: &str| File::open(at(path)).unwrap();
    let opened = Opened { merged: open("merged"), upper: open("upper"), lower: open("lower") };
    let base = scan(&opened.lower, &Scan::default()).unwrap().index;
    let found = opened.find(None, &base, true, false);
    assert_eq!((found.read, found.change.found().tree().entries().len()), (1, 1));
    let again = opened.find(Some(&found.change), &base, true, false);
    assert_eq!(again.change.found().tree(), found.change.found().tree());
}
