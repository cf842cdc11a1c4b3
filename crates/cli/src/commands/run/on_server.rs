//! A one-shot on the server that has its workspace.

use std::process::ExitCode;

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_server::native::types::{RunBody, RunResultBody, WorkspaceUseBody};
use http::Method;
use tokio::sync::oneshot;

use super::{
    RunArgs, body,
    files::{FileArg, to_body},
};
use crate::{
    client::{self, Client},
    commands::exec::{MAX_STDIN, Progress, attend, unsynced},
    output, status, stdin,
    waiting::spinner,
};

pub(super) fn run(mut args: RunArgs, workspace: String) -> Result<ExitCode> {
    let (json, server) = (args.json, args.server.clone());
    let files = args.file.iter().map(|file| FileArg::read(file).and_then(to_body)).collect::<Result<_>>()?;
    let workspace = WorkspaceUseBody { name: workspace, files: std::mem::take(&mut args.inputs), directory: None, sync_out: true };
    let (template, pull) = (args.template.take(), args.pull.map(|policy| policy.as_str().to_owned()));
    // What the template says, the server knows.
    let has_image = args.image.is_some() || template.is_some();
    let (body, stdin_is_code) = body(args, has_image)?;
    let input = if stdin_is_code || stdin::is_terminal() {
        Vec::new()
    } else {
        stdin::read_all(MAX_STDIN, "put it into the workspace with `caisson workspace put` and in with --in")?
    };
    let stdin_base64 = (!input.is_empty()).then(|| STANDARD.encode(input));
    let body = RunBody { files, workspace: Some(workspace), template, pull, stdin_base64, ..body };
    client::talk(&server, async |client| {
        let follow = async |progress: &mut Progress<'_>| follow(&client, progress, &body).await;
        attend(&client, json, follow).await
    })
}

async fn follow(client: &Client, progress: &mut Progress<'_>, body: &RunBody) -> Result<ExitCode> {
    let mut events = spinner("starting the sandbox", client.events(Method::POST, "/v1/run", body)).await?;
    // Nobody sends anything to it.
    let (started, _) = oneshot::channel();
    let listened = progress.listen::<RunResultBody>(&mut events, started).await;
    let mut run = progress.heard(listened)?;
    if let Some((stdout, stderr)) = progress.captured() {
        run.result = run.result.with_output(&stdout, &stderr);
        output::print_json(&run)?;
    }
    let (code, message) = status::of_result(&run.result);
    message.into_iter().chain(unsynced(&run.result)).for_each(|message| status::complain(&message));
    Ok(ExitCode::from(code))
}
