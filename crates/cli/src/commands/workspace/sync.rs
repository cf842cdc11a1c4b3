//! `caisson workspace pull` and `push`: files between a workspace and a living sandbox.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{NotSyncedBody, PulledBody, PushedBody, SyncRequestBody};
use clap::Args;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    client::{self, ServerArgs},
    output, printable, status,
    waiting::spinner,
};

/// Put files of a workspace into a sandbox
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    files: SyncArgs,
}

/// Write files of a sandbox into a workspace, where they are others than those that are there
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    files: SyncArgs,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// The workspace
    name: String,
    /// The sandbox, by its id or name
    id: String,
    /// Names of files in the workspace
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<String>,
    /// Where the files are inside [default: the work dir]
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// Print what the server answers as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn pull(args: PullArgs) -> Result<ExitCode> {
    sync(args.files, "pull", |pulled: &PulledBody| {
        (pulled.written.iter().map(|file| file.path.clone()).collect(), "is not in the sandbox", &pulled.failed)
    })
}

pub(super) fn push(args: PushArgs) -> Result<ExitCode> {
    sync(args.files, "push", |pushed: &PushedBody| {
        (pushed.written.iter().map(|file| file.path.clone()).collect(), "is not in the workspace", &pushed.failed)
    })
}

/// Prints the names of what was written. The status is 1 when something was not.
fn sync<T: Serialize + DeserializeOwned>(
    args: SyncArgs,
    which: &str,
    told: impl Fn(&T) -> (Vec<String>, &'static str, &[NotSyncedBody]),
) -> Result<ExitCode> {
    let body = SyncRequestBody { name: args.name, files: args.paths, directory: args.directory };
    client::talk(&args.server, async |client| {
        let target = format!("{}/workspace/{which}", spinner("asking the server", client.sandbox(&args.id)).await?);
        let done: T = spinner("copying", client.json(Method::POST, &target, Some(&body))).await?;
        let (written, without, failed) = told(&done);
        if args.json {
            output::print_json(&done)?;
        } else {
            output::print(&written.iter().map(|path| format!("{}\n", printable::text(path))).collect::<String>())?;
        }
        for file in failed {
            status::complain(&format!("{} {without}: {}", file.path, file.error));
        }
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(status::FAILURE) })
    })
}
