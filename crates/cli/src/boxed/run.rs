//! `boxed run`: code in a sandbox of its own, and what it leaves in `./artifacts`.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::Stream;
use http::Method;
use serde_json::json;

use super::{
    cli::RunArgs,
    end, sandbox, say,
    types::{Artifact, Created, Executed},
};
use crate::{client::Client, output};

const FOLDER: &str = "artifacts";

pub(super) async fn run(client: &Client, args: &RunArgs) -> Result<()> {
    let body = json!({"template": args.template, "timeout": args.timeout});
    let Created { sandbox_id: id } = client.json(Method::POST, "/v1/sandbox", Some(&body)).await?;
    let result = in_it(client, args, &id).await;
    let ended = end(client, &id).await;
    result?;
    ended?;
    say("♻️  Sandbox destroyed")
}

async fn in_it(client: &Client, args: &RunArgs, id: &str) -> Result<()> {
    say(&format!("📦 Sandbox {id} created"))?;
    let body = json!({"code": args.code, "language": "python"});
    let result: Executed = client.json(Method::POST, &format!("{}/exec", sandbox(id)), Some(&body)).await?;
    output::write(Stream::Stdout, result.stdout).await?;
    output::write(Stream::Stderr, result.stderr).await?;
    if result.artifacts.is_empty() {
        return Ok(());
    }
    say("📂 Artifacts:")?;
    for artifact in &result.artifacts {
        let path = save(artifact)?;
        say(&format!("  - Saved: {path} ({})", artifact.mime))?;
    }
    Ok(())
}

/// The file has its base name alone, whatever the server says.
fn save(artifact: &Artifact) -> Result<String> {
    let name = match artifact.path.rsplit('/').next().unwrap_or_default() {
        "" | "." | ".." => bail!("the server names an artifact `{}`, which cannot be a file", artifact.path),
        name => name,
    };
    let content = STANDARD.decode(&artifact.data_base64).context("an artifact of the server is not base64")?;
    let path = format!("{FOLDER}/{name}");
    let written = || -> io::Result<()> {
        fs::create_dir_all(FOLDER)?;
        fs::write(Path::new(&path), content)
    };
    written().with_context(|| format!("cannot write {path}"))?;
    Ok(path)
}
