//! The list of everything that Caisson promises about security, and whether a test proves it.
//!
//! A promise has a number, and a test that proves (a part of) it is named after it: `r4_2_a_fork_bomb_is_bounded` proves 4.2. Here the two are
//! compared: what is said to be proven has a test, and what waits for a feature has none that would pretend.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use Standing::{Proven, ProvenBut, Waits};

/// How it stands with a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// There are tests.
    Proven,
    /// There are tests, and a part of it is about something that is not there yet.
    ProvenBut(&'static str),
    /// It is about something that is not there yet.
    Waits(&'static str),
}

const PROMISES: [(&str, &str, Standing); 53] = [
    // Walls: what code sees and may call.
    ("1.1", "own namespaces and ids", Proven),
    ("1.2", "no privileges, and nothing that grants any", ProvenBut("images: set-user-id programs that they bring")),
    ("1.3", "root inside is root of the sandbox alone", Proven),
    ("1.4", "system calls by list", Proven),
    ("1.5", "terminals cannot be typed into", Proven),
    ("1.6", "internet and Unix sockets alone", Proven),
    ("1.7", "no other table of system calls", Proven),
    ("1.8", "ordinary programs run under the same filter", Proven),
    ("1.9", "a session keyring of its own", Proven),
    // What must not be visible.
    ("2.1", "a root without a path of the host", Proven),
    ("2.2", "nothing of the host's accounts, secrets and state", Proven),
    ("2.3", "the kernel's controls are masked", Proven),
    ("2.4", "no process but the sandbox's own, and the agent out of reach", Proven),
    ("2.5", "no descriptor is inherited", Proven),
    ("2.6", "an environment of its own", Proven),
    ("2.7", "the host cannot be recognised", Proven),
    ("2.8", "two sandboxes share nothing", Proven),
    ("2.9", "what is lent stays as it is", Proven),
    // Network.
    ("3.1", "without a network nothing can be reached", Proven),
    ("3.2", "a list of what may be reached, by name and by address", Proven),
    ("3.3", "an empty list denies, and what cannot be enforced is not launched", Proven),
    ("3.4", "secrets leave to their host alone", Proven),
    ("3.5", "ports are reached through the server alone", Proven),
    // Limits.
    ("4.1", "memory has an end", Proven),
    ("4.2", "processes have an end", Proven),
    ("4.3", "processor time is shared", Proven),
    ("4.4", "space and inodes have an end", Proven),
    ("4.5", "output has an end, and is counted", Proven),
    ("4.6", "descriptors, timers and priorities have an end", Proven),
    ("4.7", "time-outs end the whole tree", Proven),
    ("4.8", "floods of requests are bounded, and others are served", Proven),
    // Hostile bytes on the host's side.
    ("5.1", "archives stay inside their target", Proven),
    ("5.2", "the files API acts inside, or says why not", Proven),
    ("5.3", "layers and manifests are checked", Proven),
    ("5.4", "an agent's bytes end its own sandbox at most", Proven),
    ("5.5", "names of workspaces do not reach others", Proven),
    ("5.6", "patches execute nothing of the tree", Waits("patches")),
    // The API.
    ("6.1", "every route but the public ones needs a key", Proven),
    ("6.2", "another tenant's ids are like unknown ones", Proven),
    ("6.3", "malformed, endless and slow requests end, and the server goes on", ProvenBut("multipart bodies")),
    ("6.4", "web pages get nothing, and output is never one", ProvenBut("the console")),
    ("6.5", "text is neither a line of a log, nor a header, nor a command", Proven),
    ("6.6", "quotas for each tenant", Proven),
    ("6.7", "nobody listens to the network without a key, or believes a proxy", ProvenBut("TLS and proxies that are trusted")),
    ("6.8", "figures, names and paths that cannot be right are refused", Proven),
    // The course of things.
    ("7.1", "whoever is killed leaves nothing", ProvenBut("syncing")),
    ("7.2", "after a restart the records tell the truth", Proven),
    ("7.3", "deadlines hold while the server is down", Proven),
    ("7.4", "what has ended is free, and unreadable", Proven),
    ("7.5", "pooled sandboxes have one owner once", Proven),
    ("7.6", "ten thousand cycles leave the server as it was", Proven),
    ("7.7", "dependencies are known and few", Proven),
    ("7.8", "`caisson run` leaves nothing, however it is ended", Proven),
];

/// All sources that tests are in.
fn sources() -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("the directory can be read").path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let mut found = Vec::new();
    below(&top.join("crates"), &mut found);
    below(&top.join("tests/tests"), &mut found);
    found
}

/// The number that a name such as `r4_2_a_fork_bomb_is_bounded` begins with.
fn number(name: &str) -> Option<String> {
    let (chapter, rest) = name.strip_prefix('r')?.split_once('_')?;
    let (section, what) = rest.split_once('_')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(chapter) && is_number(section) && !what.is_empty()).then(|| format!("{chapter}.{section}"))
}

/// The test that is begun in this line, after an attribute that says that it is one. The suite of guarantees makes its tests of a table.
fn test_in<'a>(line: &'a str, attribute: &str) -> Option<&'a str> {
    let is_test = attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test");
    let function = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")).filter(|_| is_test);
    let name =
        function.and_then(|rest| rest.split_once('(')).or_else(|| line.split_once(": \"").filter(|(_, rest)| rest.contains("\" by \"")));
    name.map(|(name, _)| name)
}

/// The tests of each number.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut tests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut attribute = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = test_in(line, attribute)
                && let Some(number) = number(name)
            {
                tests.entry(number).or_default().insert(name.to_owned());
            }
            attribute = line;
        }
    }
    tests
}

#[test]
fn what_is_said_to_be_proven_is_what_has_tests() {
    let mut tests = tests();
    let mut wrong = Vec::new();
    for (number, promise, standing) in PROMISES {
        let found = tests.remove(number).unwrap_or_default();
        match standing {
            Proven | ProvenBut(_) if found.is_empty() => wrong.push(format!("{number} ({promise}) has no test")),
            Waits(feature) if !found.is_empty() => {
                wrong
                    .push(format!("{number} ({promise}) waits for {feature}, and yet there is {found:?}; say in the table what is proven"));
            }
            _ => {}
        }
    }
    wrong.extend(tests.into_iter().map(|(number, names)| format!("there is no promise {number}, which {names:?} would prove")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_list_is_complete_and_in_order() {
    let mut expected = Vec::new();
    for (chapter, sections) in [(1, 9), (2, 9), (3, 5), (4, 8), (5, 6), (6, 8), (7, 8)] {
        expected.extend((1..=sections).map(|section| format!("{chapter}.{section}")));
    }
    assert_eq!(PROMISES.map(|(number, ..)| number).to_vec(), expected);
}

#[test]
fn tests_are_known_by_their_names() {
    for (line, attribute, expect) in [
        ("fn r4_2_a_fork_bomb() {", "#[test]", Some("4.2")),
        ("async fn r12_10_x() {", "#[tokio::test(flavor = \"multi_thread\", worker_threads = 2)]", Some("12.10")),
        ("r1_1_own: \"1.1\" by \"walls\", 7;", "guarantees! {", Some("1.1")),
        ("fn r4_2_no_test_at_all() {", "}", None),
        ("fn r4_2() {", "#[test]", None),
        ("fn r4_a_x() {", "#[test]", None),
        ("fn ranges_of_1_2_files() {", "#[test]", None),
        ("// fn r4_2_commented_out() {", "#[test]", None),
    ] {
        assert_eq!(test_in(line, attribute).and_then(number).as_deref(), expect, "{line}");
    }
}
