//! The sources of this very repository, with edits.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use caisson_patch::{Options, Scan, scan, write_patch};

use crate::tree::{apply, directory, on_disk, open, read, write};

#[test]
fn edits_of_real_sources_are_applied_by_git() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let old = read(&sources);
    assert!(old.len() > 300, "{} files", old.len());
    let (kept, changed) = (directory(), directory());
    write(kept.path(), &old);
    write(changed.path(), &old);
    let root = changed.path();
    let before = scan(open(kept.path()), &Scan::default()).unwrap().index;
    let files: Vec<_> = old.keys().filter(|path| path.ends_with(b".rs")).map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    let mut edited = 0;
    for (index, path) in files.iter().enumerate() {
        let path = root.join(path);
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        if lines.len() < 20 {
            continue;
        }
        edited += 1;
        match index % 7 {
            // A block to another place, a function twice, a line less, CRLF, no end of line, a name, and a name with changes.
            0 => {
                let block: Vec<_> = lines.drain(3..12).collect();
                let middle = lines.len() / 2;
                lines.splice(middle..middle, block);
            }
            1 => lines.extend_from_within(5..15),
            2 => drop(lines.remove(7)),
            3 => {
                fs::write(&path, text.replace('\n', "\r\n")).unwrap();
                continue;
            }
            4 => {
                fs::write(&path, text.trim_end()).unwrap();
                continue;
            }
            5 => {
                fs::rename(&path, path.with_extension("moved.rs")).unwrap();
                continue;
            }
            _ => {
                lines.retain(|line| !line.trim_start().starts_with("//"));
                fs::write(path.with_file_name(format!("renamed {index}.rs")), lines.join("\n")).unwrap();
                fs::remove_file(&path).unwrap();
                continue;
            }
        }
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    assert!(edited > 100, "{edited}");
    fs::remove_dir_all(root.join("probe")).unwrap();
    fs::set_permissions(root.join("cli/Cargo.toml"), fs::Permissions::from_mode(0o755)).unwrap();
    let after = scan(open(root), &Scan::default()).unwrap().index;
    let mut patch = Vec::new();
    let summary = write_patch(before.tree(), after.tree(), &on_disk(kept.path()), &on_disk(root), &Options::default(), &mut patch).unwrap();
    assert!(summary.renamed > edited / 7 && summary.modified > edited / 2 && summary.deleted > 0, "{summary:?}");
    apply(&old, &patch, &read(root)).unwrap();
}
