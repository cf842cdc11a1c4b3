//! A server in small whose launches stand still or fail at one stage, for `tests/faults.rs`: an engine on the native backend, without HTTP.
//!
//! ```text
//! faulty DATA_DIRECTORY STAGE hold|ERRNO     a launch with this fault
//! faulty DATA_DIRECTORY                      a launch without any
//! ```
//! Stages that only roots of images have are reached with one. Says in one line of JSON each what it finds in the records, whether it started,
//! and what came of a sandbox. Ends in order when its
//! standard input does.

#[path = "../tests/shelf/mod.rs"]
mod shelf;

use std::{error::Error, path::PathBuf, sync::Arc};

use caisson_core::{Image, SandboxSpec, Storage};
use caisson_engine::{CreateRequest, Created, Engine, EngineConfig};
use caisson_native::{Effect, Fault, Native, NativeConfig, Stage};
use caisson_store::Sqlite;
use serde_json::json;
use tokio::io::AsyncReadExt;

/// Of one layer.
const IMAGE: &str = "small";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = PathBuf::from(arguments.first().ok_or("the data directory is missing")?);
    let mut config = NativeConfig::new(directory.clone());
    config.parked = 1;
    config.fault = match &arguments[1..] {
        [] => None,
        [stage, effect] => Some(fault(stage, effect)?),
        _ => return Err("too many arguments".into()),
    };
    let of_images = config.fault.is_some_and(|fault| fault.stage.is_of_images());
    let native = match Native::start(config) {
        Ok(native) => Arc::new(native),
        Err(error) => {
            println!("{}", json!({"start": "failed", "message": error.to_string()}));
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Arc::new(Sqlite::open(&directory.join("caisson.db")).await?);
        let shelf = shelf::Shelf::below(&directory);
        if of_images {
            shelf.image(IMAGE, &[shelf.layer(shelf::busybox)], Default::default());
        }
        let image: Image = if of_images { IMAGE.parse()? } else { Image::Host };
        let engine = Engine::open_with_images(EngineConfig::new(directory), native, store, Some(Arc::new(shelf))).await?;
        let records = engine.sandboxes(&caisson_core::SandboxFilter { limit: 100, ..Default::default() }).await?.data;
        let records = records.iter().map(|sandbox| json!([sandbox.state.as_str(), sandbox.tombstone.as_ref().map(|t| t.reason.as_str())]));
        println!("{}", json!({"start": "done", "records": records.collect::<Vec<_>>()}));
        // Both kinds of storage: what is held or fails differs.
        for storage in [Storage::Memory, Storage::Disk] {
            println!("{}", attempt(&engine, image.clone(), storage).await);
        }
        // Until whoever started it has seen enough.
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        engine.shutdown().await;
        Ok(())
    })
}

fn fault(stage: &str, effect: &str) -> Result<Fault, Box<dyn Error>> {
    let stage = Stage::ALL.into_iter().find(|known| format!("{known:?}") == stage).ok_or("there is no such stage")?;
    let effect = if effect == "hold" { Effect::Hold } else { Effect::Fail(effect.parse()?) };
    Ok(Fault { stage, effect })
}

async fn attempt(engine: &Engine, image: Image, storage: Storage) -> serde_json::Value {
    let request = CreateRequest { spec: SandboxSpec { image, storage, ..SandboxSpec::default() }, ..CreateRequest::default() };
    match engine.create(request).await {
        Ok(Created::New(sandbox) | Created::Existing(sandbox)) => json!({"sandbox": sandbox.state.as_str()}),
        Err(error) => json!({"sandbox": "failed", "message": format!("{error:#}")}),
    }
}
