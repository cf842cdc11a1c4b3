//! `caisson webhook`: addresses that a server tells what happens.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use caisson_core::WebhookId;
use caisson_server::native::types::{CreateWebhookBody, PageBody, WebhookBody};
use clap::{Args, Subcommand};
use http::Method;

use super::each::each;
use crate::{
    client::{self, Client, ServerArgs, percent},
    output, printable, status, table,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Every event is a POST to the address, with the body that `caisson events --json` shows, signed as https://www.standardwebhooks.com has it. \
What does not arrive is sent again for as long as the event is kept.

These commands talk to a running server, with an admin's key: a webhook lets the server send to any address that it can reach.

Examples:
  caisson webhook add https://example.com/caisson > webhook.secret
  caisson webhook add http://127.0.0.1:9000/ --type sandbox.ended --tenant team-a
  caisson webhook ls
  caisson webhook rm whk0123456789abcdefghjkmnpqr";

/// Make, list and remove webhooks of a server
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum WebhookCommand {
    Add(AddArgs),
    Ls(LsArgs),
    Rm(RmArgs),
}

/// Make a webhook and print the secret of its signatures; it is shown this once
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Where to send, `https:` or, for a network where nobody else reads along, `http:`
    url: String,
    /// Only events of this type, such as `sandbox.ended`; may repeat
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Print the secret with what is known of the webhook as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
}

/// List webhooks and how far they have come
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
}

/// Remove webhooks: nothing is sent there any more
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Ids of webhooks
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Debug, Args)]
struct Whose {
    /// Whose; the key's own tenant when absent
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

impl Whose {
    fn query(&self) -> String {
        self.tenant.as_ref().map(|name| format!("?tenant={}", percent(name.as_bytes()))).unwrap_or_default()
    }
}

pub(crate) fn run(command: WebhookCommand) -> Result<ExitCode> {
    match command {
        WebhookCommand::Add(args) => add(args),
        WebhookCommand::Ls(args) => ls(&args),
        WebhookCommand::Rm(args) => rm(&args),
    }
}

fn add(args: AddArgs) -> Result<ExitCode> {
    let body = CreateWebhookBody { url: args.url, types: args.types, description: args.description, tenant: args.whose.tenant };
    client::talk(&args.whose.server, async |client| {
        let made: WebhookBody = spinner("making the webhook", client.json(Method::POST, "/v1/webhooks", Some(&body))).await?;
        if args.json {
            output::print_json(&made)?;
        } else {
            output::print(&format!("{}\n", printable::text(made.secret.as_deref().unwrap_or_default())))?;
            let WebhookBody { id, tenant, .. } = &made;
            status::complain(&format!(
                "webhook {id} of tenant {tenant}; its secret is shown this once, and `caisson webhook rm {id}` removes it"
            ));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn ls(args: &LsArgs) -> Result<ExitCode> {
    let target = format!("/v1/webhooks{}", args.whose.query());
    client::talk(&args.whose.server, async |client| {
        let page: PageBody<WebhookBody> = spinner("asking the server", client.json(Method::GET, &target, None::<&()>)).await?;
        if args.json {
            output::print_json(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = page.data.into_iter().map(row).collect();
        output::print(&table::render(&["ID", "STATE", "LAST EVENT", "FAILURES", "MISSED", "LAST FAILURE", "URL", "TYPES"], &rows))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn row(webhook: WebhookBody) -> Vec<String> {
    vec![
        webhook.id,
        webhook.state,
        webhook.last_event.unwrap_or_default(),
        webhook.failures.to_string(),
        webhook.missed.to_string(),
        webhook.last_failure.map(|failure| failure.reason).unwrap_or_default(),
        webhook.url,
        webhook.types.join(","),
    ]
}

fn rm(args: &RmArgs) -> Result<ExitCode> {
    client::talk(&args.whose.server, async |client| {
        each(&args.ids, async |id| spinner("removing the webhook", remove(&client, id, &args.whose)).await).await
    })
}

async fn remove(client: &Client, id: &str, whose: &Whose) -> Result<()> {
    // What is no id may be the secret itself, which does not belong into addresses and messages.
    let id: WebhookId = id.parse().map_err(|error| anyhow!("this is no id of a webhook, which `caisson webhook ls` shows: {error}"))?;
    client.done(Method::DELETE, &format!("/v1/webhooks/{id}{}", whose.query())).await
}
