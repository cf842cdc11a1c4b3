//! `caisson ls`: which sandboxes there are.

use std::process::ExitCode;

use anyhow::Result;
use caisson_server::native::types::SandboxBody;
use clap::Args;
use jiff::Timestamp;

use super::listing::{Listed, Listing, span};
use crate::{
    args::Pair,
    client::{self, percent},
    waiting::spinner,
};

/// List sandboxes, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  caisson rm $(caisson ls -q --metadata project=x)")]
pub(crate) struct LsArgs {
    /// Ended ones as well
    #[arg(short, long)]
    all: bool,
    /// Only of this name
    #[arg(long)]
    name: Option<String>,
    /// Only those with this label; may repeat
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<Pair>,
    #[command(flatten)]
    listing: Listing,
}

pub(crate) fn run(args: LsArgs) -> Result<ExitCode> {
    client::talk(&args.listing.server, async |client| {
        let query = query(&args);
        let page = args.listing.gather::<SandboxBody>(&client, "/v1/sandboxes", &query, None);
        args.listing.show(&spinner("asking the server", page).await?)
    })
}

fn query(args: &LsArgs) -> String {
    let mut query = String::new();
    if !args.all {
        query.push_str("&state=creating&state=running&state=stopping&state=stopped");
    }
    if let Some(name) = &args.name {
        query.push_str(&format!("&name={}", percent(name.as_bytes())));
    }
    for Pair { name, value } in &args.metadata {
        query.push_str(&format!("&metadata.{}={}", percent(name.as_bytes()), percent(value.as_bytes())));
    }
    query
}

impl Listed for SandboxBody {
    const COLUMNS: &[&str] = &["ID", "NAME", "STATE", "AGE", "ACTIVE", "ENDS IN", "IMAGE"];

    fn id(&self) -> &str {
        &self.id
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let since = |text: &str| text.parse().map(|at| span(now.as_second() - Timestamp::as_second(at))).unwrap_or_default();
        let state = match &self.tombstone {
            Some(tombstone) => format!("{} ({})", self.state, tombstone.reason),
            None => self.state.clone(),
        };
        let expires: Option<Timestamp> = self.expires_at.as_ref().and_then(|text| text.parse().ok()).filter(|_| self.tombstone.is_none());
        vec![
            self.id.clone(),
            self.name.clone().unwrap_or_default(),
            state,
            since(&self.created_at),
            since(&self.last_active_at),
            expires.map(|at| span(at.as_second() - now.as_second())).unwrap_or_default(),
            self.image.clone(),
        ]
    }
}
