//! How long a one-shot takes from an image of ten layers, and from `host`: interleaved runs of the same program.

#[path = "../tests/shelf/mod.rs"]
mod shelf;

use std::{collections::BTreeMap, error::Error, process::Command, sync::Arc, time::Instant};

use caisson_core::SandboxSpec;
use caisson_engine::{Engine, EngineConfig, ExecRequest, Program, RunRequest};
use caisson_native::{Native, NativeConfig};
use caisson_store::Sqlite;

const RUNS: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    let native = Arc::new(Native::start(NativeConfig::new(data.path().to_owned()))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shelf = shelf::Shelf::below(data.path());
        // As images come: with the linker's cache and compiled modules.
        let base = shelf.layer(|layer| {
            shelf::debian(layer);
            assert!(Command::new("/sbin/ldconfig").arg("-r").arg(layer).status().unwrap().success());
            let modules = layer.join("usr/lib/python3.11");
            assert!(Command::new("/usr/bin/python3").args(["-m", "compileall", "-q"]).arg(modules).status().is_ok());
        });
        let mut layers = vec![base];
        for number in 1..10 {
            layers.push(shelf.layer(|layer| shelf::file(layer, &format!("srv/{number}"), "x", 0o644)));
        }
        shelf.image("ten", &layers, Default::default());
        shelf.image("one", &layers[..1], Default::default());
        let store = Arc::new(Sqlite::open(&data.path().join("caisson.db")).await?);
        let engine = Engine::open_with_images(EngineConfig::new(data.path().to_owned()), native, store, Some(Arc::new(shelf))).await?;
        for program in ["/bin/true", "/usr/bin/python3 -c pass"] {
            let mut times = BTreeMap::from([("host", Vec::new()), ("one", Vec::new()), ("ten", Vec::new())]);
            for run in 0..=RUNS {
                for image in ["host", "ten", "one"] {
                    let begin = Instant::now();
                    let request = RunRequest {
                        spec: SandboxSpec { image: image.parse()?, ..SandboxSpec::default() },
                        metadata: BTreeMap::new(),
                        files: Vec::new(),
                        exec: ExecRequest::new(Program::Argv(program.split(' ').map(str::to_owned).collect())),
                        max_file_bytes: 0,
                    };
                    let result = engine.run(request).await?.wait().await?.result;
                    assert_eq!(result.execution.outcome.and_then(|outcome| outcome.exit_code), Some(0));
                    // The first of each warms the caches.
                    if run > 0 {
                        times.get_mut(image).unwrap().push(begin.elapsed());
                    }
                    // The one before is gone, and a process is parked again.
                    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                }
            }
            for (image, times) in &mut times {
                times.sort();
                println!("{program:25} {image:5} p50 {:?} min {:?} p90 {:?}", times[RUNS / 2], times[0], times[RUNS * 9 / 10]);
            }
        }
        engine.shutdown().await;
        Ok(())
    })
}
