//! `caisson tenant`: how much of a server each tenant may have.

use std::process::ExitCode;

use anyhow::Result;
use caisson_core::Quotas;
use caisson_server::native::types::{HoldingsBody, PageBody, QuotasBody, TenantBody, UpdateQuotasBody, Whole};
use clap::{Args, Subcommand};
use http::Method;

use crate::{
    args::{shown_size, size},
    client::{self, ServerArgs, percent},
    output, table,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
A tenant comes into being with its first key (`caisson key add --tenant NAME`) or its first quota. Without quotas of its own, the server's \
limits are the only ones. What a tenant has beyond a new quota it keeps.

Examples:
  caisson tenant set team-a --sandboxes 20 --executions-per-minute 600 --memory 8G --disk 40G --workspaces 10G
  caisson tenant set team-a --memory none
  caisson tenant ls";

/// List tenants and set their quotas
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(crate) enum TenantCommand {
    Ls(LsArgs),
    Set(SetArgs),
}

/// List tenants: what each has of what it may have
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Change quotas; those that are not named stay
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The tenant
    name: String,
    /// Living sandboxes, or `none` for no quota
    #[arg(long, value_name = "N", value_parser = figure)]
    sandboxes: Option<Change>,
    /// Executions started within one minute, one-shots included, or `none`
    #[arg(long, value_name = "N", value_parser = figure)]
    executions_per_minute: Option<Change>,
    /// Memory limits of living sandboxes together, or `none`
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<Change>,
    /// Disk limits of living sandboxes with storage `disk` together, or `none`
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    disk: Option<Change>,
    /// All files of its workspaces together, or `none`
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    workspaces: Option<Change>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// `None` takes the quota away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change(Option<u64>);

impl Change {
    fn to_field(change: Option<Self>) -> Option<Option<Whole>> {
        change.map(|Self(figure)| figure.map(Whole::from))
    }
}

fn figure(text: &str) -> Result<Change, String> {
    change(text, |text| text.parse().map_err(|_| "expected a whole number, or `none`".to_owned()))
}

fn bytes(text: &str) -> Result<Change, String> {
    change(text, |text| size(text).map_err(|error| format!("{error}, or `none`")))
}

fn change(text: &str, parse: impl Fn(&str) -> Result<u64, String>) -> Result<Change, String> {
    match text {
        "none" => Ok(Change(None)),
        text => match parse(text)? {
            figure if figure <= Quotas::MAX => Ok(Change(Some(figure))),
            _ => Err(format!("allowed is 0 to {}, or `none`", Quotas::MAX)),
        },
    }
}

pub(crate) fn run(command: TenantCommand) -> Result<ExitCode> {
    match command {
        TenantCommand::Ls(args) => ls(args),
        TenantCommand::Set(args) => set(args),
    }
}

fn ls(args: LsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let tenants: Vec<TenantBody> = spinner("asking the server", client.every("/v1/tenants", "")).await?;
        if args.json {
            output::print_json(&PageBody { data: tenants, next_cursor: None })?;
        } else {
            show(&tenants)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn set(args: SetArgs) -> Result<ExitCode> {
    let body = UpdateQuotasBody {
        sandboxes: Change::to_field(args.sandboxes),
        executions_per_minute: Change::to_field(args.executions_per_minute),
        memory_bytes: Change::to_field(args.memory),
        disk_bytes: Change::to_field(args.disk),
        workspace_bytes: Change::to_field(args.workspaces),
    };
    let target = format!("/v1/tenants/{}", percent(args.name.as_bytes()).replace('/', "%2F"));
    client::talk(&args.server, async |client| {
        let changed: TenantBody = spinner("asking the server", client.json(Method::PATCH, &target, Some(&body))).await?;
        if args.json {
            output::print_json(&changed)?;
        } else {
            show(&[changed])?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(tenants: &[TenantBody]) -> Result<()> {
    let rows: Vec<_> = tenants.iter().map(row).collect();
    output::print(&table::render(&["TENANT", "SANDBOXES", "EXECUTIONS/MIN", "MEMORY", "DISK", "WORKSPACES"], &rows))
}

/// What it has, and behind a slash what it may have.
fn row(tenant: &TenantBody) -> Vec<String> {
    let of = |has: u64, may: Option<u64>, shown: fn(u64) -> String| match may {
        Some(may) => format!("{} / {}", shown(has), shown(may)),
        None => shown(has),
    };
    let number: fn(u64) -> String = |figure| figure.to_string();
    let TenantBody { name, quotas, holdings } = tenant;
    let QuotasBody { sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes } = *quotas;
    let has: &HoldingsBody = holdings;
    vec![
        name.clone(),
        of(has.sandboxes, sandboxes, number),
        of(has.executions_per_minute, executions_per_minute, number),
        of(has.memory_bytes, memory_bytes, shown_size),
        of(has.disk_bytes, disk_bytes, shown_size),
        match (has.workspace_bytes, workspace_bytes) {
            (None, None) => "-".to_owned(),
            // Not counted yet.
            (None, Some(may)) => format!("? / {}", shown_size(may)),
            (Some(has), may) => of(has, may, shown_size),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_figures_or_none() {
        assert_eq!(figure("7"), Ok(Change(Some(7))));
        assert_eq!(bytes("1G"), Ok(Change(Some(1 << 30))));
        for none in [figure("none"), bytes("none")] {
            assert_eq!(none, Ok(Change(None)));
        }
        for bad in [figure("-1"), figure("many"), figure("9999999999999999"), bytes("x"), bytes("2000T")] {
            assert!(bad.is_err());
        }
    }
}
