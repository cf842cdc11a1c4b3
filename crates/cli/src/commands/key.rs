//! `caisson key`: who may ask a server, for which tenant, and for how much.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::{CreateKeyBody, KeyBody, PageBody};
use clap::{Args, Subcommand};
use http::Method;

use super::each::each;
use crate::{
    args::TimeLimit,
    client::{self, Client, ServerArgs, percent},
    output, printable, status, table,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
A key belongs to a tenant. Tenants see nothing of one another: not their sandboxes, output, files or names. What a key is good for is its \
scope: `read` looks at everything of its tenant, `run` also makes, uses and ends it, `admin` also has the keys and quotas of all tenants.

These commands talk to a running server, with an admin's key: the configured one is one, of the tenant `default`.

Examples:
  caisson key add --tenant team-a > team-a.key
  caisson key add --tenant team-a --scope read --expires 7d --note 'dashboard'
  caisson key ls
  caisson key rm key0123456789abcdefghjkmnpqr";

/// Make, list and revoke keys of a server
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum KeyCommand {
    Add(AddArgs),
    Ls(LsArgs),
    Rm(RmArgs),
}

/// Make a key and print it; it is shown this once
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Whose it is; comes into being with its first key
    #[arg(long, value_name = "NAME", default_value = "default")]
    tenant: String,
    /// What it is good for: `read`, `run` or `admin`
    #[arg(long, default_value = "run")]
    scope: String,
    /// Time until it expires, or `none`
    #[arg(long, value_name = "TIME", default_value = "none")]
    expires: TimeLimit,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Print the key with what is known of it as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// List keys, newest first; the configured key is not among them
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only those of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Revoke keys: they let nobody in any more, and streams to them break off
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Ids of keys, not the keys themselves
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(command: KeyCommand) -> Result<ExitCode> {
    match command {
        KeyCommand::Add(args) => add(args),
        KeyCommand::Ls(args) => ls(args),
        KeyCommand::Rm(args) => rm(args),
    }
}

fn add(args: AddArgs) -> Result<ExitCode> {
    let body =
        CreateKeyBody { tenant: Some(args.tenant), scope: Some(args.scope), expires_in_s: args.expires.0.map(Into::into), note: args.note };
    client::talk(&args.server, async |client| {
        let made: KeyBody = spinner("making the key", client.json(Method::POST, "/v1/keys", Some(&body))).await?;
        if args.json {
            output::print_json(&made)?;
        } else {
            output::print(&format!("{}\n", printable::text(made.key.as_deref().unwrap_or_default())))?;
            status::complain(&format!(
                "key {} of tenant {}, scope {}; it is shown this once, and `caisson key rm {0}` revokes it",
                made.id, made.tenant, made.scope
            ));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn ls(args: LsArgs) -> Result<ExitCode> {
    let query = args.tenant.as_ref().map(|name| format!("&tenant={}", percent(name.as_bytes()))).unwrap_or_default();
    client::talk(&args.server, async |client| {
        let keys: Vec<KeyBody> = spinner("asking the server", client.every("/v1/keys", &query)).await?;
        if args.json {
            output::print_json(&PageBody { data: keys, next_cursor: None })?;
            return Ok(ExitCode::SUCCESS);
        }
        let row = |key: KeyBody| vec![key.id, key.tenant, key.scope, key.created_at, key.expires_at.unwrap_or_default(), key.note];
        let rows: Vec<_> = keys.into_iter().map(row).collect();
        output::print(&table::render(&["ID", "TENANT", "SCOPE", "MADE", "EXPIRES", "NOTE"], &rows))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn rm(args: RmArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| each(&args.ids, async |id| spinner("revoking the key", revoke(&client, id)).await).await)
}

async fn revoke(client: &Client, id: &str) -> Result<()> {
    // What is no id may be the key itself, which does not belong into addresses and messages.
    let id: caisson_core::KeyId =
        id.parse().map_err(|error| anyhow::anyhow!("this is no id of a key, which `caisson key ls` shows: {error}"))?;
    client.done(Method::DELETE, &format!("/v1/keys/{id}")).await
}
