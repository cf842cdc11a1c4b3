//! `caisson workspace`: durable file trees of a server.

mod sync;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use caisson_core::Stream;
use caisson_server::native::types::{
    DeletedWorkspaceBody, PageBody, WorkspaceBody, WorkspaceFileBody, WorkspaceLinkBody, WorkspaceLinkRequestBody,
};
use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt;

use super::each::each;
use crate::{
    args::duration,
    client::{self, Client, ServerArgs, percent, pieces, read_piece},
    output, status, table,
    waiting::{Copying, spinner},
};

const AFTER_HELP: &str = "\
A workspace is a tree of files that outlives sandboxes; it comes into being with its first file. Programs \
bring files in from it and out into it: `caisson run --workspace` and `caisson exec --workspace`. `pull` and `push` do so for a sandbox \
whatever runs in it.

Examples:
  caisson workspace put notes report.csv
  caisson workspace put notes report.csv 2026/january.csv
  tar c . | caisson workspace put notes - all.tar
  caisson workspace ls
  caisson workspace ls notes 2026/
  caisson workspace get notes 2026/january.csv > january.csv
  caisson workspace link notes report.csv --expires 1d
  caisson workspace pull notes build report.csv
  caisson workspace push notes build charts/sales.png charts/costs.png
  caisson workspace rm notes report.csv";

/// Keep files on a server beyond sandboxes
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum WorkspaceCommand {
    Ls(LsArgs),
    Get(GetArgs),
    Put(PutArgs),
    Rm(RmArgs),
    Link(LinkArgs),
    Pull(sync::PullArgs),
    Push(sync::PushArgs),
}

/// List workspaces, or the files of one
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The workspace; without one, workspaces are listed
    name: Option<String>,
    /// Only files whose names begin with this
    #[arg(requires = "name")]
    prefix: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Read a file
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    name: String,
    /// The file's name in the workspace
    path: String,
    /// Where to write it; standard output when absent or `-`
    destination: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Write a file
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    name: String,
    /// A file, or `-` for standard input
    source: PathBuf,
    /// Its name in the workspace; the file's own when absent
    path: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Remove files, or with --all the whole workspace
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    name: String,
    /// Names of files
    #[arg(required_unless_present = "all")]
    paths: Vec<String>,
    /// Every file of the workspace
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Print an address at which whoever has it can read a file, without a key
#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    name: String,
    path: String,
    /// How long it lasts, at most 7 days [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(command: WorkspaceCommand) -> Result<ExitCode> {
    match command {
        WorkspaceCommand::Ls(args) => ls(&args),
        WorkspaceCommand::Get(args) => get(args),
        WorkspaceCommand::Put(args) => put(args),
        WorkspaceCommand::Rm(args) => rm(&args),
        WorkspaceCommand::Link(args) => link(args),
        WorkspaceCommand::Pull(args) => sync::pull(args),
        WorkspaceCommand::Push(args) => sync::push(args),
    }
}

fn place(name: &str) -> String {
    format!("/v1/workspaces/{}", percent(name.as_bytes()).replace('/', "%2F"))
}

fn file(name: &str, path: &str) -> String {
    format!("{}/files/{}", place(name), percent(path.as_bytes()))
}

fn ls(args: &LsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let Some(name) = &args.name else {
            let all: Vec<WorkspaceBody> = spinner("asking the server", client.every("/v1/workspaces", "")).await?;
            let rows: Vec<_> = all.iter().map(|workspace| vec![workspace.name.clone()]).collect();
            return shown(args.json, all, &["NAME"], &rows);
        };
        let prefix = args.prefix.as_ref().map(|prefix| format!("&prefix={}", percent(prefix.as_bytes()))).unwrap_or_default();
        let all: Vec<WorkspaceFileBody> = spinner("asking the server", client.every(&format!("{}/files", place(name)), &prefix)).await?;
        let row = |file: &WorkspaceFileBody| vec![file.size.to_string(), file.modified_at.clone(), file.path.clone()];
        let rows: Vec<_> = all.iter().map(row).collect();
        shown(args.json, all, &["SIZE", "MODIFIED", "NAME"], &rows)
    })
}

fn shown<T: serde::Serialize>(json: bool, data: Vec<T>, headings: &[&str], rows: &[Vec<String>]) -> Result<ExitCode> {
    if json {
        output::print_json(&PageBody { data, next_cursor: None })?;
    } else {
        output::print(&table::render(headings, rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn get(args: GetArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let answer = client.get(&file(&args.name, &args.path)).await?;
        let mode = answer.headers().get("x-caisson-mode").and_then(|mode| u32::from_str_radix(mode.to_str().ok()?, 8).ok());
        let mut body = answer.into_body();
        let destination = args.destination.filter(|path| path != Path::new("-"));
        // Under another name until it is whole.
        let mut new = destination.as_deref().map(New::beside).transpose()?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
            let Ok(data) = frame.into_data() else { continue };
            match &mut new {
                Some(new) => new.file.write_all(&data).with_context(|| format!("cannot write {}", new.at.display()))?,
                None => output::write(Stream::Stdout, data).await?,
            }
        }
        if let (Some(new), Some(path)) = (new, destination) {
            new.finish(&path, mode.unwrap_or(0o644))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A file that is not whole yet, and goes unless it becomes so.
struct New {
    file: File,
    at: PathBuf,
}

impl New {
    fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| anyhow!("{} has no name", path.display()))?;
        let at = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
        Ok(Self { file: file.with_context(|| format!("cannot write {}", path.display()))?, at })
    }

    fn finish(self, path: &Path, mode: u32) -> Result<()> {
        let finished = self.file.set_permissions(fs::Permissions::from_mode(mode & 0o777)).and_then(|()| fs::rename(&self.at, path));
        finished.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // Where it was finished, there is nothing of this name.
        fs::remove_file(&self.at).ok();
    }
}

fn put(args: PutArgs) -> Result<ExitCode> {
    let is_stdin = args.source == Path::new("-");
    let own = args.source.file_name().and_then(|name| name.to_str()).filter(|_| !is_stdin).map(str::to_owned);
    let Some(path) = args.path.or(own) else { bail!("say what the file is called in the workspace") };
    let shown = if is_stdin { "standard input".to_owned() } else { args.source.display().to_string() };
    let (content, mode, length): (Box<dyn Read + Send>, _, _) = if is_stdin {
        (Box::new(std::io::stdin()), None, None)
    } else {
        let opened = File::open(&args.source).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.with_context(|| format!("cannot read {shown}"))?;
        if metadata.is_dir() {
            bail!("{shown} is a directory; a workspace takes one file at a time");
        }
        let length = Some(metadata.len()).filter(|length| metadata.is_file() && *length > 0);
        let content: Box<dyn Read + Send> = match length {
            Some(length) => Box::new(file.take(length)),
            None => Box::new(file),
        };
        (content, Some(metadata.mode() & 0o777), length)
    };
    client::talk(&args.server, async |client| {
        let query = mode.map(|mode| format!("?mode={mode:04o}")).unwrap_or_default();
        let copying = Copying::begin(&shown, length);
        let body = pieces(content, move |mut content| {
            let piece = read_piece(&mut content)?;
            copying.advance(piece.len());
            Ok((!piece.is_empty()).then_some((piece, content)))
        });
        let answer = client.put(&format!("{}{query}", file(&args.name, &path)), length, body).await?;
        answer.into_body().collect().await.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn rm(args: &RmArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        if args.all {
            let target = place(&args.name);
            let removing = client.json::<DeletedWorkspaceBody>(Method::DELETE, &target, None::<&()>);
            let gone = spinner("removing the workspace", removing).await?;
            status::complain(&format!("{} files are gone", gone.files));
            return Ok(ExitCode::SUCCESS);
        }
        let remove = async |client: &Client, path: &String| client.done(Method::DELETE, &file(&args.name, path)).await;
        each(&args.paths, async |path| spinner("removing the file", remove(&client, path)).await).await
    })
}

fn link(args: LinkArgs) -> Result<ExitCode> {
    let body = WorkspaceLinkRequestBody { path: args.path, expires_in_s: args.expires.map(Into::into) };
    client::talk(&args.server, async |client| {
        let target = format!("{}/links", place(&args.name));
        let made: WorkspaceLinkBody = spinner("making the link", client.json(Method::POST, &target, Some(&body))).await?;
        output::print(&format!("{}\n", crate::printable::text(&made.url)))?;
        Ok(ExitCode::SUCCESS)
    })
}
