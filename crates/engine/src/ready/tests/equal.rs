//! Nothing that a program does shows whether its interpreter was ready.

use super::{programs::PROGRAMS, *};

#[tokio::test]
async fn programs_cannot_tell_a_ready_interpreter_from_a_fresh_one() {
    nothing_shows(|recipe| recipe).await;
}

/// Where the code has a name of its own, and is called by that.
#[tokio::test]
async fn nor_can_they_where_their_file_has_a_name_of_its_own() {
    nothing_shows(|recipe| Recipe {
        file_names: [("python", "main.py"), ("bash", "script.sh")].map(|(of, name)| (of.to_owned(), name.to_owned())).into(),
        interpreters: [("python".to_owned(), vec!["python3".to_owned(), "-u".to_owned()])].into(),
        ..recipe
    })
    .await;
}

#[tokio::test]
async fn a_file_of_that_name_makes_room_and_the_name_is_what_the_program_is_told() {
    let place = place();
    let with_name = Recipe { file_names: [("python".to_owned(), "run.py".to_owned())].into(), ..recipe(&["python"], &[]) };
    let world = World::new(&place, with_name).await;
    world.put("run.py", "print('old')").await;
    let program = world.program("python", "import sys; print(sys.argv, open(sys.argv[0]).read())");
    let seen = world.cold(&program).await;
    let expect = "['run.py'] import sys; print(sys.argv, open(sys.argv[0]).read())\n";
    assert_eq!((seen.stdout.as_str(), seen.exit_code), (expect, Some(0)), "{seen:?}");
    let seen = world.warm(&program).await;
    assert_eq!((seen.stdout.as_str(), seen.exit_code), (expect, Some(0)), "{seen:?}");
    // One that is there is nothing that can be held, and is told.
    world.put("run.py", "print('old')").await;
    assert!(world.warm_up().await.is_none());
}

async fn nothing_shows(changed: impl Fn(Recipe) -> Recipe) {
    let place = place();
    let mut different = Vec::new();
    for program in PROGRAMS {
        let mut seen = Vec::new();
        for is_warm in [false, true] {
            let world = World::new(&place, changed(recipe(&[program.language], &[]))).await;
            for (name, text) in program.files {
                world.put(name, text).await;
            }
            let mut start = world.program(program.language, program.code);
            start.argv.extend(program.args.iter().map(|arg| (*arg).to_owned()));
            start.env = program.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            seen.push(if is_warm { world.warm(&start).await } else { world.cold(&start).await });
        }
        assert!(
            !seen[0].stdout.is_empty() || !seen[0].stderr.is_empty() || program.is_silent,
            "`{}` says nothing: {seen:#?}",
            program.name
        );
        if seen[0] != seen[1] {
            different.push((program.name, seen));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

#[tokio::test]
async fn a_time_out_counts_from_the_code_on() {
    let place = place();
    let world = World::new(&place, recipe(&["python"], &[])).await;
    let ready = world.warm_up().await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut program = world.program("python", "import time; time.sleep(0.2); print('done', flush=True); time.sleep(60)");
    program.timeout_ms = Some(600);
    let (_frames, stream, _) = ready.take(&program, &world.spec.work_dir).await.unwrap().go(&program).await.unwrap();
    let seen = see(stream).await;
    assert_eq!((seen.stdout.as_str(), seen.ended), ("done\n", Some(Ended::TimedOut)));
}

#[tokio::test]
async fn processor_time_counts_from_the_code_on() {
    let place = place();
    let cpu = async |is_warm: bool| {
        let world = World::new(&place, recipe(&["node"], &[])).await;
        let program = world.program("node", "");
        let mut stream = if is_warm {
            let held = world.warm_up().await.unwrap().take(&program, &world.spec.work_dir).await.unwrap();
            held.go(&program).await.unwrap().1
        } else {
            world.agent.exec(&program, Vec::new()).await.unwrap().1
        };
        loop {
            if let ExecFrame::Exit { exit, .. } = stream.next().await.unwrap() {
                return exit.cpu_us;
            }
        }
    };
    let (cold, warm) = (cpu(false).await, cpu(true).await);
    assert!(warm * 2 < cold, "{warm} of {cold}");
}

/// 7.5
#[tokio::test]
async fn r7_5_each_ready_interpreter_has_seeds_and_places_of_its_own() {
    let place = place();
    let code =
        "import random\nprint(hash('x'), random.random(), [line.split()[0] for line in open('/proc/self/maps') if '[stack]' in line])";
    let mut all = Vec::new();
    for _ in 0..2 {
        let world = World::new(&place, recipe(&["python"], &["random"])).await;
        let seen = world.warm(&world.program("python", code)).await;
        assert_eq!((seen.stderr.as_str(), seen.exit_code), ("", Some(0)));
        all.push(seen.stdout.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(all[0].iter().zip(&all[1]).all(|(one, other)| one != other), "{all:?}");
}

#[tokio::test]
async fn modules_are_there_before_the_code() {
    let place = place();
    let world = World::new(&place, recipe(&["python"], &["decimal", "xml.dom"])).await;
    let code =
        "import sys\nprint('decimal' in sys.modules, 'xml.dom' in sys.modules, 'csv' in sys.modules, 'sitecustomize' in sys.modules)";
    let seen = world.warm(&world.program("python", code)).await;
    let own = world.cold(&world.program("python", "import sys\nprint('sitecustomize' in sys.modules)")).await;
    assert_eq!(seen.stdout, format!("True True False {}", own.stdout), "{seen:?}");
}

#[tokio::test]
async fn the_interpreter_of_a_template_is_the_one_that_waits() {
    let place = place();
    let mut recipe = recipe(&["python"], &[]);
    recipe.interpreters.insert("python".to_owned(), ["python3", "-X", "utf8", "-O", "{file}", "first"].map(str::to_owned).to_vec());
    let code = "import sys\nprint(sys.flags, sys.argv, sys.orig_argv, sys._xoptions)";
    let mut seen = Vec::new();
    for is_warm in [false, true] {
        let world = World::new(&place, recipe.clone()).await;
        let mut program = world.program("python", code);
        program.argv.push("second".to_owned());
        seen.push(if is_warm { world.warm(&program).await } else { world.cold(&program).await });
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].stdout.contains("'first', 'second']"), "{seen:?}");
}
