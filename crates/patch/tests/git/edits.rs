//! Any edits of any tree.

use caisson_patch::{Options, Renames, Texts};
use proptest::prelude::*;

use crate::tree::{Node, Nodes, apply, file, patch};

/// Names that are hard to write down.
const NAMES: [&[u8]; 22] = [
    b"a",
    b"b",
    b"c.txt",
    b"A",
    b"a b",
    b" lead",
    b"trail ",
    b"q\"uote",
    b"tab\there",
    b"new\nline",
    b"\xff\xfe",
    "\u{fc}".as_bytes(),
    b"back\\slash",
    b"-dash",
    b"b ",
    b".hidden",
    b"\x01\x1f\x7f",
    b"cr\r",
    b"'single'",
    b"a.b",
    b"=>",
    b"{x}",
];
const LINES: [&[u8]; 12] = [
    b"",
    b"one",
    b"two",
    b"}",
    b"    indented",
    b"\ttab ",
    b"crlf\r",
    b"--- a/a",
    b"+++ b/a",
    b"@@ -1 +1 @@",
    b"\\ No newline at end of file",
    b"latin \xe4",
];

/// What is done to a tree.
#[derive(Debug, Clone)]
enum Edit {
    Put(Vec<u8>, Node),
    Remove(prop::sample::Index),
    Move(prop::sample::Index, Vec<u8>),
    MoveAndChange(prop::sample::Index, Vec<u8>, usize, Vec<u8>),
    Toggle(prop::sample::Index),
    /// Puts a line in, or takes one out.
    Line(prop::sample::Index, usize, Option<Vec<u8>>),
    /// Takes the end of line off the end, or puts one there.
    End(prop::sample::Index),
    Byte(prop::sample::Index, usize, u8),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![4 => prop::sample::select(&NAMES[..4]), 3 => prop::sample::select(&NAMES[..])].prop_map(<[u8]>::to_vec);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&LINES[..]).prop_map(<[u8]>::to_vec)
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(Vec::new()),
        6 => (prop::collection::vec(line(), 0..25), any::<bool>()).prop_map(|(lines, end)| {
            let mut content = lines.join(&b'\n');
            content.extend(end.then_some(b'\n'));
            content
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        // So that it has more than one line in base 85, and is longer than a piece that is deflated.
        1 => (any::<u32>(), 0..40_000usize).prop_map(|(seed, length)| (0..length as u32).flat_map(|at| ((at / 50) ^ seed).to_le_bytes()).collect()),
        1 => Just(b"the same everywhere\nand long enough\nto be taken for one\n".to_vec()),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        6 => (content(), any::<bool>()).prop_map(|(content, executable)| Node::File { content, executable }),
        1 => prop_oneof![path(), Just(b"/\xff/nowhere\n".to_vec()), Just(b"..".to_vec())].prop_map(Node::Link),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => (path(), node()).prop_map(|(path, node)| Edit::Put(path, node)),
        3 => which().prop_map(Edit::Remove),
        3 => (which(), path()).prop_map(|(which, path)| Edit::Move(which, path)),
        2 => (which(), path(), any::<usize>(), line()).prop_map(|(which, path, at, line)| Edit::MoveAndChange(which, path, at, line)),
        2 => which().prop_map(Edit::Toggle),
        6 => (which(), any::<usize>(), prop::option::of(line())).prop_map(|(which, at, line)| Edit::Line(which, at, line)),
        2 => which().prop_map(Edit::End),
        1 => (which(), any::<usize>(), any::<u8>()).prop_map(|(which, at, byte)| Edit::Byte(which, at, byte)),
    ]
}

/// Puts it there, in place of what cannot be there beside it.
fn put(nodes: &mut Nodes, path: Vec<u8>, node: Node) {
    let below = |outer: &[u8], inner: &[u8]| inner.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'));
    nodes.retain(|other, _| !below(other, &path) && !below(&path, other));
    nodes.insert(path, node);
}

fn do_edit(nodes: &mut Nodes, edit: Edit) {
    let pick = |which: prop::sample::Index| {
        if nodes.is_empty() { None } else { nodes.keys().nth(which.index(nodes.len())).cloned() }
    };
    let change = |nodes: &mut Nodes, path: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        if let Some(Node::File { content, .. }) = nodes.get_mut(path) {
            change(content);
        }
    };
    let put_line = |content: &mut Vec<u8>, at: usize, line: Option<&[u8]>| {
        let mut lines: Vec<Vec<u8>> = content.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let at = at % lines.len();
        match line {
            Some(line) => lines.insert(at, line.to_vec()),
            None => drop(lines.remove(at)),
        }
        *content = lines.join(&b'\n');
    };
    match edit {
        Edit::Put(path, node) => put(nodes, path, node),
        Edit::Remove(which) => {
            if let Some(path) = pick(which) {
                nodes.remove(&path);
            }
        }
        Edit::Move(which, to) => {
            if let Some(node) = pick(which).and_then(|path| nodes.remove(&path)) {
                put(nodes, to, node);
            }
        }
        Edit::MoveAndChange(which, to, at, line) => {
            if let Some(node) = pick(which).and_then(|path| nodes.remove(&path)) {
                put(nodes, to.clone(), node);
                change(nodes, &to, &|content| put_line(content, at, Some(&line)));
            }
        }
        Edit::Toggle(which) => {
            if let Some(Node::File { executable, .. }) = pick(which).and_then(|path| nodes.get_mut(&path)) {
                *executable = !*executable;
            }
        }
        Edit::Line(which, at, line) => {
            if let Some(path) = pick(which) {
                change(nodes, &path, &|content| put_line(content, at, line.as_deref()));
            }
        }
        Edit::End(which) => {
            if let Some(path) = pick(which) {
                change(nodes, &path, &|content| match content.strip_suffix(b"\n") {
                    Some(without) => *content = without.to_vec(),
                    None => content.push(b'\n'),
                });
            }
        }
        Edit::Byte(which, at, byte) => {
            if let Some(path) = pick(which) {
                change(nodes, &path, &|content| match content.len() {
                    0 => content.push(byte),
                    length => content[at % length] = byte,
                });
            }
        }
    }
}

fn options() -> impl Strategy<Value = Options> {
    let renames = prop_oneof![1 => Just(Renames::None), 1 => Just(Renames::Identical), 3 => Just(Renames::Similar(50)), 1 => Just(Renames::Similar(1))];
    let texts = prop_oneof![Just(Texts::Any), Just(Texts::Utf8)];
    // Rarely so little that almost everything is binary.
    let text_bytes = prop_oneof![5 => Just(8 << 20), 1 => Just(20u64)];
    (renames, texts, text_bytes).prop_map(|(renames, texts, text_bytes)| Options { renames, texts, text_bytes, ..Options::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn git_makes_the_new_tree_of_the_old_one(
        before in prop::collection::vec((path(), node()), 0..14),
        edits in prop::collection::vec(edit(), 1..12),
        options in options(),
    ) {
        let mut old = Nodes::new();
        for (path, node) in before {
            put(&mut old, path, node);
        }
        let mut new = old.clone();
        for edit in edits {
            do_edit(&mut new, edit);
        }
        let (bytes, summary) = patch(&old, &new, &options);
        prop_assert!(summary.refused.is_empty());
        prop_assert!(options.texts == Texts::Any || std::str::from_utf8(&bytes).is_ok());
        prop_assert_eq!(&patch(&old, &new, &options).0, &bytes, "another patch the second time");
        if let Err(said) = apply(&old, &bytes, &new) {
            if said.contains("Too many levels of symbolic links") && (becomes_directory(&old, &new) || becomes_directory(&new, &old)) {
                return Ok(());
            }
            return Err(TestCaseError::fail(format!("{said}\n{}", bytes.escape_ascii().to_string().replace("\\n", "\n"))));
        }
    }
}

/// Whether a directory takes the place of a link. Git looks at what is to be created through the link that is to go away, and gives up if that
/// leads to itself; so it does with patches of its own.
fn becomes_directory(old: &Nodes, new: &Nodes) -> bool {
    let has_below = |link: &[u8]| new.keys().any(|path| path.starts_with(&[link, b"/"].concat()));
    old.iter().any(|(path, node)| matches!(node, Node::Link(_)) && has_below(path))
}

fn nodes(of: &[(&str, Node)]) -> Nodes {
    of.iter().map(|(path, node)| (path.as_bytes().to_vec(), node.clone())).collect()
}

#[test]
fn files_take_the_place_of_directories_and_the_other_way_round() {
    let text = file("some text\nthat is long enough\nto be moved\n");
    for (old, new) in [
        (nodes(&[("a", text.clone())]), nodes(&[("a/a", text.clone())])),
        (nodes(&[("a/a", text.clone())]), nodes(&[("a", text.clone())])),
        (nodes(&[("a", text.clone()), ("b", file("b"))]), nodes(&[("b/x", text.clone()), ("a/y", file("b"))])),
        (nodes(&[("a/x", text.clone()), ("b/y", file("b"))]), nodes(&[("b", text.clone()), ("a", file("b"))])),
        (nodes(&[("a", text.clone())]), nodes(&[("a", Node::Link(b"b".to_vec())), ("b", text.clone())])),
        (nodes(&[("a", Node::Link(b"b".to_vec())), ("b", text.clone())]), nodes(&[("a", text)])),
    ] {
        let (patch, _) = patch(&old, &new, &Options::default());
        apply(&old, &patch, &new).unwrap();
    }
}

#[test]
fn the_patch_is_the_one_that_git_would_write() {
    let old = nodes(&[
        ("a.txt", file("old\n")),
        ("bin.dat", file("some\0thing")),
        ("run.sh", file("x\n")),
        ("was", file("1\n2\n3\n4\n5\n6\n7\n")),
    ]);
    let new = nodes(&[
        ("a.txt", file("new\n")),
        ("bin2.dat", file("some\0thing")),
        ("is here", file("1\n2\n3\n4\n5\n6\n8\n")),
        ("run.sh", Node::File { content: b"x\n".to_vec(), executable: true }),
        ("empty", file("")),
        ("link", Node::Link(b"a.txt".to_vec())),
    ]);
    let (ours, summary) = patch(&old, &new, &Options::default());
    assert_eq!((summary.created, summary.deleted, summary.modified, summary.renamed), (2, 0, 2, 2));
    let directory = crate::tree::directory();
    let root = directory.path();
    crate::tree::write(root, &old);
    crate::tree::git(root, &["init", "-q", "--template="]);
    crate::tree::git(root, &["add", "-A"]);
    crate::tree::git(root, &["commit", "-q", "-m", "old"]);
    for path in old.keys() {
        std::fs::remove_file(crate::tree::at(root, path)).unwrap();
    }
    crate::tree::write(root, &new);
    crate::tree::git(root, &["add", "-A"]);
    let theirs = crate::tree::git(root, &["diff", "--cached", "-M", "--binary", "--full-index"]);
    assert_eq!(ours.escape_ascii().to_string().replace("\\n", "\n"), theirs.escape_ascii().to_string().replace("\\n", "\n"));
}

#[test]
fn what_git_does_not_take_is_told() {
    let old = nodes(&[("a", file("a"))]);
    let new = nodes(&[("a", file("b")), (".GIT/config", file("x")), ("d/git~1", file("x")), (".gitmodules", Node::Link(b"a".to_vec()))]);
    let (bytes, summary) = patch(&old, &new, &Options::default());
    assert_eq!(summary.refused, [&b".GIT/config"[..], b".gitmodules", b"d/git~1"]);
    apply(&old, &bytes, &nodes(&[("a", file("b"))])).unwrap();
}
