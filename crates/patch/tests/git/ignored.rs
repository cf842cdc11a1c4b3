//! `.gitignore` files as git reads them.

use std::{collections::BTreeSet, fs};

use caisson_patch::{Index, Scan, scan};
use proptest::prelude::*;

use crate::tree::{Nodes, at, directory, file, git, open, write};

const NAMES: [&str; 10] = ["a", "b", "ab", "a.o", "b.o", "#x", "!y", "c d", "e ", "x[y"];

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4).prop_map(|names| names.join("/"))
}

fn pattern() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(
        &[
            "a",
            "b",
            "ab",
            "*",
            "?",
            "*.o",
            "[ab]",
            "[!a]*",
            "[a-b]?",
            "[[:alpha:]]",
            "\\#x",
            "\\!y",
            "c d",
            "e\\ ",
            "x\\[y",
            "**",
            "[]a]",
            "[^b-]",
            "[[]y",
            "*b",
            "a*",
            "#x",
        ][..],
    );
    let path = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.join("/"));
    (prop::sample::select(&["", "", "", "!", "/", "**/", "!/"][..]), path, prop::sample::select(&["", "", "/", "/**", " ", "\r", "/*"][..]))
        .prop_map(|(before, path, after)| format!("{before}{path}{after}\n"))
}

fn found(index: &Index) -> BTreeSet<Vec<u8>> {
    index.tree().entries().iter().map(|entry| entry.path.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_ignored_is_what_git_ignores(
        tracked in prop::collection::btree_set(path(), 0..6),
        paths in prop::collection::btree_set(path(), 1..25),
        rules in prop::collection::vec((prop::option::of(path()), prop::collection::vec(pattern(), 1..5)), 1..4),
    ) {
        let directory = directory();
        let root = directory.path();
        let mut nodes = Nodes::new();
        let mut put = |path: &str, content: &str| {
            let fits = !nodes.keys().any(|other| other.starts_with(format!("{path}/").as_bytes()) || path.as_bytes().starts_with(&[other, &b"/"[..]].concat()));
            if fits {
                nodes.insert(path.as_bytes().to_vec(), file(content));
            }
            fits
        };
        let tracked: Vec<_> = tracked.into_iter().filter(|path| put(path, "")).collect();
        write(root, &tracked.iter().map(|path| (path.as_bytes().to_vec(), file(""))).collect());
        git(root, &["init", "-q", "--template="]);
        git(root, &["add", "-Af"]);
        let before = scan(open(root), &Scan::default()).unwrap().index;
        for path in paths {
            put(&path, "");
        }
        for (place, rules) in rules {
            put(&place.map_or(".gitignore".to_owned(), |path| format!("{path}/.gitignore")), &rules.concat());
        }
        nodes.retain(|path, _| !tracked.iter().any(|tracked| tracked.as_bytes() == path));
        write(root, &nodes);
        let listed = git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let theirs: BTreeSet<_> = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect();
        let ours = found(&scan(open(root), &Scan { gitignore: true, before: Some(&before), ..Scan::default() }).unwrap().index);
        let rules: Vec<_> = nodes.iter().filter(|(path, _)| path.ends_with(b".gitignore")).map(|(path, node)| (path.escape_ascii().to_string(), String::from_utf8_lossy(node.content()).into_owned())).collect();
        prop_assert_eq!(
            ours.difference(&theirs).map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>(), Vec::<String>::new(), "should be ignored by {:?}", rules
        );
        prop_assert_eq!(
            theirs.difference(&ours).map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>(), Vec::<String>::new(), "should not be ignored by {:?}", rules
        );
    }
}

#[test]
fn a_link_and_a_directory_are_no_rules() {
    let directory = directory();
    let root = directory.path();
    write(root, &[(b"rules".to_vec(), file("x\n")), (b"x".to_vec(), file("")), (b"d/.gitignore/x".to_vec(), file(""))].into());
    std::os::unix::fs::symlink("rules", root.join(".gitignore")).unwrap();
    let index = scan(open(root), &Scan { gitignore: true, ..Scan::default() }).unwrap().index;
    assert_eq!(index.tree().entries().len(), 4);
    fs::remove_file(at(root, b".gitignore")).unwrap();
    fs::rename(at(root, b"rules"), at(root, b".gitignore")).unwrap();
    let index = scan(open(root), &Scan { gitignore: true, ..Scan::default() }).unwrap().index;
    assert_eq!(index.tree().entries().len(), 1);
}
