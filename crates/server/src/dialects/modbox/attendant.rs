//! Whoever looks after one sandbox from its begin to its end: furnishes it, finds out when it takes traffic, and notes what it uses.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use caisson_core::{Error, Sandbox, SandboxId, State};
use caisson_engine::{Engine, FileAttributes, SandboxUpdate};
use futures::stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::Instrument;

use super::{
    readiness,
    record::{READINESS_PORT, READY},
    shelf::{self, Kept},
};
use crate::{app::App, error::ApiResult};

/// Where programs are that an image lacks. At the end of the search path, so that they stand back behind the image's own.
pub(super) const OWN_PROGRAMS: &str = "/opt/modbox/bin";
/// Images that have Python under one of its names have it under the other as well.
const PYTHON: (&str, &[u8]) = ("python", b"#!/bin/sh\nexec python3 \"$@\"\n");
/// Between two looks at a port on which nothing is ready yet.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Between two notes of what is used: often at the begin, then seldom.
const OFTEN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(30);
const OFTEN_FOR: usize = 12;
/// Notes that are kept. When there are more, every second of them goes.
const MOST: usize = 1000;

/// What a sandbox has used, from time to time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Points(pub(super) Vec<Point>);

/// At one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    /// Microseconds since 1970.
    pub(super) at: i64,
    /// Seconds of processor time since the start.
    pub(super) cpu: f64,
    /// Bytes.
    pub(super) memory: u64,
}

impl Kept for Points {
    const KIND: &str = "modbox.points";

    fn id(&self) -> &str {
        "points"
    }
}

/// Begins to look after it. Ends with the sandbox.
pub(super) fn attend(app: &Arc<App>, engine: Engine, sandbox: &Sandbox) {
    let (id, port) = (sandbox.id, sandbox.metadata.get(READINESS_PORT).and_then(|port| port.parse().ok()));
    app.tasks.spawn(
        async move {
            if let Err(error) = bring_up(&engine, id, port).await {
                // It may have ended meanwhile, which its record says.
                tracing::debug!(sandbox.id = %id, "A sandbox does not become ready: {error:?}");
            }
            note_use(&engine, id).await;
        }
        .in_current_span(),
    );
}

async fn bring_up(engine: &Engine, id: SandboxId, port: Option<NonZeroU16>) -> ApiResult<()> {
    let up = engine.sandbox_when(id, |sandbox| sandbox.state != State::Creating).await?;
    if up.state != State::Running {
        return Ok(());
    }
    let (name, content) = PYTHON;
    let path = format!("{OWN_PROGRAMS}/{name}");
    let attributes = FileAttributes { mode: Some(0o755), modified_at: None };
    let content = Box::pin(stream::once(std::future::ready(Ok(content.into()))));
    engine.write_file(id, path.as_bytes(), attributes, content).await?;
    while let Some(port) = port
        && !readiness::answers(engine, id, port).await?
    {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    // Its owner may have changed the labels since.
    let mut metadata = engine.sandbox(id).await?.metadata;
    metadata.insert(READY.to_owned(), "true".to_owned());
    engine.update(id, SandboxUpdate { metadata: Some(metadata), ..SandboxUpdate::default() }).await?;
    Ok(())
}

/// Notes what it uses until it ends. Beside its record, with which the notes go.
async fn note_use(engine: &Engine, id: SandboxId) {
    let mut points = Points::default();
    let mut is_kept = false;
    loop {
        match now(engine, id).await {
            Ok(point) => points.0.push(point),
            Err(Error::Unavailable { .. }) => {}
            Err(_) => return,
        }
        if points.0.len() > MOST {
            let mut odd = false;
            points.0.retain(|_| {
                odd = !odd;
                odd
            });
        }
        let kept = if is_kept { shelf::put(engine, id.as_str(), &points).await } else { shelf::add(engine, id.as_str(), &points).await };
        is_kept |= kept.is_ok();
        let rest = if points.0.len() < OFTEN_FOR { OFTEN } else { SELDOM };
        if tokio::time::timeout(rest, engine.sandbox_when(id, |_| false)).await.is_ok() {
            return;
        }
    }
}

/// What it has used by now.
pub(super) async fn now(engine: &Engine, id: SandboxId) -> caisson_core::Result<Point> {
    let usage = engine.usage(id).await?;
    Ok(Point { at: Timestamp::now().as_microsecond(), cpu: usage.cpu.as_secs_f64(), memory: usage.memory_bytes })
}
