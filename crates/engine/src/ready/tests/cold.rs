//! What a ready interpreter does not take, and what cannot be ready.

use super::*;

/// The agent's word, or none for a start that is as good as a fresh one.
#[track_caller]
fn is_cold(refusal: Option<String>, why: &str) {
    let refusal = refusal.unwrap_or_else(|| panic!("{why}: it was taken"));
    assert!(refusal.contains(why), "{why}: {refusal}");
}

fn pair(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

#[tokio::test]
async fn variables_that_are_looked_at_when_it_starts() {
    let place = place();
    for (language, name, value) in [
        ("python", "PYTHONHASHSEED", "0"),
        ("python", "PYTHONDONTWRITEBYTECODE", ""),
        ("python", "LD_LIBRARY_PATH", "/x"),
        ("python", "LC_ALL", "C"),
        ("python", "LANG", "C"),
        ("python", "TZ", "Asia/Tokyo"),
        ("python", "PATH", "/bin"),
        ("python", "HOME", "/"),
        ("python", "OMP_NUM_THREADS", "1"),
        ("python", "OPENBLAS_NUM_THREADS", "1"),
        ("python", "MALLOC_ARENA_MAX", "1"),
        ("node", "ANY", "1"),
        ("bash", "ANY", "1"),
    ] {
        let world = World::new(&place, recipe(&[language], &[])).await;
        let mut program = world.program(language, "");
        program.env = pair(name, value);
        is_cold(world.refusal(&program).await, &format!("`{name}`"));
        assert!(world.processes().is_empty(), "{language} {name}");
    }
}

#[tokio::test]
async fn variables_that_are_what_they_were_do_not_matter() {
    let place = place();
    for language in ["python", "node", "bash"] {
        let world = World::new(&place, recipe(&[language], &[])).await;
        let mut program = world.program(language, "");
        program.env = pair("LANG", "C.UTF-8");
        assert_eq!(world.refusal(&program).await, None);
    }
}

/// A directory with modules, as a template's environment names it.
fn library(place: &tempfile::TempDir, modules: &[(&str, &str)]) -> String {
    let library = place.path().join("library");
    fs::create_dir_all(&library).unwrap();
    for (name, text) in modules {
        fs::write(library.join(name), text).unwrap();
    }
    library.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn variables_that_a_module_has_looked_at() {
    let place = place();
    let looks = ("looks.py", "import os\nvalue = os.environ.get('LOOKED_AT')\n");
    let library = library(&place, &[looks, ("looks_at_all.py", "import os\nall = dict(os.environ)\n")]);
    for (module, name, is_taken) in [("looks", "LOOKED_AT", false), ("looks", "OTHER", true), ("looks_at_all", "OTHER", false)] {
        let world = World::with(&place, recipe(&["python"], &[module]), &[("PYTHONPATH", &library)]).await;
        let mut program = world.program("python", "");
        program.env = pair(name, "1");
        match is_taken {
            true => assert_eq!(world.refusal(&program).await, None),
            false => is_cold(world.refusal(&program).await, &format!("`{name}`")),
        }
    }
}

#[tokio::test]
async fn files_that_a_fresh_start_would_find_first() {
    let place = place();
    for (language, preload, file, why) in [
        ("python", &["decimal"][..], "main.py", "there already"),
        ("python", &["decimal"], "decimal.py", "`decimal.py`"),
        ("python", &["decimal"], "numbers/__init__.py", "`numbers`"),
        ("bash", &[], "main.sh", "there already"),
    ] {
        let world = World::new(&place, recipe(&[language], preload)).await;
        let ready = world.warm_up().await.unwrap();
        world.put(file, "").await;
        let program = world.program(language, "");
        let held = ready.take(&program, &world.spec.work_dir).await.unwrap();
        let (_, _, frame) = held.go(&program).await.unwrap();
        let ExecFrame::Refused(refusal) = frame else { panic!("{file}: {frame:?}") };
        assert!(refusal.message.contains(why), "{file}: {}", refusal.message);
        assert!(world.processes().is_empty());
        assert!(fs::metadata(format!("{}/{file}", world.spec.work_dir)).unwrap().is_file(), "what was put there stays");
    }
}

#[tokio::test]
async fn programs_that_need_more_than_code() {
    let place = place();
    let world = World::new(&place, recipe(&["python", "node", "bash"], &[])).await;
    let python = world.program("python", "");
    let misfits = [
        ExecStart { stdin: true, ..python.clone() },
        ExecStart { channel: true, ..python.clone() },
        ExecStart { terminal: Some(caisson_wire::WindowSize { cols: 80, rows: 24 }), ..python.clone() },
        ExecStart { cwd: Some("/".to_owned()), ..python.clone() },
        ExecStart { code: None, ..python.clone() },
        ExecStart { argv: ["python3", "-u", "{file}"].map(str::to_owned).to_vec(), ..python.clone() },
        ExecStart { argv: ["node", "{file}", "argument"].map(str::to_owned).to_vec(), ..world.program("node", "") },
        ExecStart { argv: ["bash", "{file}", "argument"].map(str::to_owned).to_vec(), ..world.program("bash", "") },
        world.program("ruby", ""),
    ];
    for misfit in misfits {
        let ready = world.warm_up().await.unwrap();
        assert_eq!((ready.held.len(), world.processes().len()), (3, 3));
        assert!(ready.take(&misfit, &world.spec.work_dir).await.is_none(), "{misfit:?}");
        assert!(world.processes().is_empty(), "those that are not used have ended: {misfit:?}");
    }
    let fine = ExecStart { cwd: Some(world.spec.work_dir.clone()), ..python };
    let held = world.warm_up().await.unwrap().take(&fine, &world.spec.work_dir).await;
    assert!(held.is_some() && world.processes().len() == 1, "the two others have ended");
    drop(held);
}

#[tokio::test]
async fn interpreters_that_cannot_be_ready() {
    let place = place();
    let modules = [
        ("prints.py", "print('hello')\n"),
        ("warns.py", "import warnings\nwarnings.warn('old', DeprecationWarning, stacklevel=2)\n"),
        ("ends.py", "raise SystemExit(3)\n"),
        ("fails.py", "1/0\n"),
    ];
    let library = library(&place, &modules);
    for (module, why) in [
        ("prints", "wrote something before it waited: hello"),
        ("warns", "DeprecationWarning: old"),
        ("ends", "cannot import ends: SystemExit(3)"),
        ("fails", "cannot import fails: ZeroDivisionError"),
        ("nowhere", "cannot import nowhere: ModuleNotFoundError"),
    ] {
        let world = World::with(&place, recipe(&["python"], &[module]), &[("PYTHONPATH", &library)]).await;
        let Found::Known(python) = languages::find("python").unwrap() else { unreachable!() };
        let unready = Held::begin(&world.agent, &world.spec.recipe, python).await.unwrap_err().to_string();
        assert!(unready.contains(why), "{module}: {unready}");
        assert!(world.warm_up().await.is_none() && world.processes().is_empty());
    }
    for (name, words, why) in
        [("python", &["python3", "-I"][..], "exit code 2"), ("bash", &["/nowhere"], "no program"), ("node", &["true"], "exit code 0")]
    {
        let mut recipe = recipe(&[name], &[]);
        recipe.interpreters.insert(name.to_owned(), words.iter().map(|word| (*word).to_owned()).collect());
        let world = World::new(&place, recipe).await;
        let Found::Known(language) = languages::find(name).unwrap() else { unreachable!() };
        let unready = Held::begin(&world.agent, &world.spec.recipe, language).await.unwrap_err().to_string();
        assert!(unready.contains(why), "{name}: {unready}");
        assert!(fs::read_dir(&world.spec.work_dir).unwrap().next().is_none(), "nothing is left behind");
    }
}

#[tokio::test]
async fn nothing_is_left_of_one_that_is_given_up() {
    let place = place();
    for is_asked in [true, false] {
        let world = World::new(&place, recipe(&["python", "node", "bash"], &[])).await;
        let ready = world.warm_up().await.unwrap();
        assert_eq!((world.processes().len(), fs::read_dir(&world.spec.work_dir).unwrap().count()), (3, 1));
        if is_asked {
            ready.end().await;
        } else {
            drop(ready);
            for _ in 0..500 {
                if world.processes().is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(world.processes().is_empty());
        // The agent removes what led there behind the processes.
        for _ in 0..500 {
            if fs::read_dir(&world.spec.work_dir).unwrap().count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(fs::read_dir(&world.spec.work_dir).unwrap().count(), 0);
    }
}

#[test]
fn files_that_interpreters_look_at_do_not_come_late() {
    let late = |path: &str| {
        let file = InputFile { path: path.as_bytes().to_vec(), mode: None, content: bytes::Bytes::new() };
        may_come_late(&[file], "/workspace/", &["main", "script"], &["python3", "bash"])
    };
    for fine in ["data.csv", "a/b.c", "/workspace/x", "package.json.txt", "mainly.py", "a/main.js", ".local/bin/python"] {
        assert!(late(fine), "{fine}");
    }
    for bad in [
        ".npmrc",
        "a/.x/y",
        "/tmp/x",
        "/workspacex/y",
        "package.json",
        "a/package.json",
        "../x",
        "/workspace/.local/x",
        ".local/bin/python3",
        ".local/bin/a/b",
        "script.sh",
        "main.js",
        "/workspace/main.py",
    ] {
        assert!(!late(bad), "{bad}");
    }
}
