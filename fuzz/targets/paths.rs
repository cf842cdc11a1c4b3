//! The way of a path from a client's query to the agent: what the client named is what the agent touches, to the byte, or it is refused on the
//! way; and a client's path never costs it its sandbox.
#![no_main]

use std::{
    os::unix::ffi::OsStrExt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use arbitrary::Arbitrary;
use caisson_core::{SandboxSpec, State, TimeLimits};
use caisson_engine::Engine;
use caisson_fuzz::world::{Play, World, create};
use caisson_wire::path;
use libfuzzer_sys::fuzz_target;

// The agent and the inside of the server are no libraries: the files in question are compiled into this program.
#[expect(dead_code, reason = "the agent asks for more than paths")]
#[path = "../../crates/agent/src/query.rs"]
mod agent_query;
#[expect(dead_code, reason = "the server asks for more than paths")]
#[path = "../../crates/server/src/params.rs"]
mod params;
#[path = "../../crates/server/src/native/range.rs"]
mod range;

use params::Params;
use range::Wanted;

#[derive(Debug, Arbitrary)]
enum Input {
    /// A query as it comes.
    Query(String),
    /// A path that a client encodes as clients do.
    Path(Vec<u8>),
    Range(Vec<u8>, u64),
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fuzz_target!(|input: Input| match input {
    Input::Query(query) => {
        text(&query);
        follow(&query);
    }
    Input::Path(bytes) => {
        let encoded = path::encode(&bytes);
        assert_eq!(path::decode(&encoded).as_deref(), Some(&bytes[..]));
        assert_eq!(follow(&format!("path={encoded}")).as_deref(), Some(&bytes[..]), "the server reads what the client wrote");
    }
    Input::Range(header, size) => {
        if let Wanted::Part(part) = range::wanted(Some(&header), size) {
            assert!(part.start < part.end && part.end <= size);
        }
    }
});

/// Text that means bytes means the same ones when it is written properly.
fn text(text: &str) {
    if let Some(bytes) = path::decode(text) {
        let proper = path::encode(&bytes);
        assert!(proper.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(path::decode(&proper), Some(bytes));
    }
}

/// From the server's reading to the agent's. Returns what the server read.
fn follow(query: &str) -> Option<Vec<u8>> {
    let mut parsed = Params::parse(query).ok()?;
    let all = parsed.prefixed("metadata.").is_ok() && parsed.texts("state").is_ok() && parsed.flag("recursive").is_ok();
    let named = parsed.bytes("path").ok()??;
    let known = all && parsed.finish().is_ok();
    if !known {
        return Some(named);
    }
    let seen: Arc<Mutex<Option<http::Uri>>> = Arc::default();
    let asked = Arc::clone(&seen);
    let play = Play::Answers(Arc::new(move |uri| {
        *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(uri.clone());
        None
    }));
    let work_dir = SandboxSpec::default().work_dir;
    WORLD.play(play, async |engine: &Engine| {
        let id = create(engine, TimeLimits::default()).await.expect("its health is good");
        let code = engine.stat_file(id, &named).await.expect_err("nobody answers").code();
        let state = engine.sandbox(id).await.expect("it is known").state;
        assert_eq!(state, State::Running, "{code} for a path");
    });
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let possible = !named.is_empty() && !named.contains(&0);
    match seen {
        Some(uri) => {
            let touched = agent_query::Query::of(&uri).path(&work_dir).expect("the agent understands the engine");
            let expected = if named.starts_with(b"/") { named.clone() } else { [work_dir.as_bytes(), b"/", &named].concat() };
            assert_eq!(touched.as_os_str().as_bytes(), expected);
            assert!(possible && expected.len() <= 4095);
        }
        None => assert!(!possible || named.len() + work_dir.len() + 1 > 4095, "a good path was refused"),
    }
    Some(named)
}
