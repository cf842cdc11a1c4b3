//! How a program went, on its way to the client.
//!
//! ```text
//! {"stdout":"…","stderr":"…","artifacts":[…],"exit_code":0}
//! ```

use std::{io, pin::pin};

use axum::response::Response;
use caisson_core::{ExecutionStatus, SandboxId, Stream};
use caisson_engine::{Engine, ExecutionResult};
use futures::TryStreamExt;
use http::header;

use super::{answer::JSON, artifacts};
use crate::{
    app::App,
    dialects::{
        output::{self, Out, said},
        program::exit_code,
    },
};

/// The answer. What fails behind its head breaks it off.
pub(super) fn answer(app: &App, engine: Engine, id: SandboxId, result: ExecutionResult) -> Response {
    let mut response = output::answer(app, move |out| async move { tell(&engine, id, &result, &out).await });
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

async fn tell(engine: &Engine, id: SandboxId, result: &ExecutionResult, out: &Out) -> io::Result<()> {
    let mut notes = Vec::new();
    if let Some(outcome) = &result.execution.outcome
        && !matches!(outcome.status, ExecutionStatus::Exited | ExecutionStatus::Signaled)
    {
        notes.extend(outcome.message.clone());
    }
    out.put("{\"stdout\":\"").await?;
    said(engine, result, Stream::Stdout, &result.stdout, &mut notes, out).await?;
    out.put("\",\"stderr\":\"").await?;
    let within_a_line = said(engine, result, Stream::Stderr, &result.stderr, &mut notes, out).await?;
    let wanted = artifacts::wanted(result, &mut notes);
    if within_a_line && !notes.is_empty() {
        out.text("\n").await?;
    }
    for note in notes {
        out.text(&format!("boxed: {note}\n")).await?;
    }
    out.put("\",\"artifacts\":[").await?;
    let mut files = pin!(artifacts::read(engine.clone(), id, wanted));
    let mut comma = "";
    while let Some(artifact) = files.try_next().await? {
        out.put(format!("{comma}{}", serde_json::to_string(&artifact)?)).await?;
        comma = ",";
    }
    let code = exit_code(result).map_or_else(|| "null".to_owned(), |code| code.to_string());
    out.put(format!("],\"exit_code\":{code}}}\n")).await
}
