//! `caisson events`: what happens to sandboxes and executions.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use caisson_server::native::types::{EventBody, LostBody, PageBody, ReadyBody};
use clap::Args;
use http::Method;
use serde::de::DeserializeOwned;

use crate::{
    client::{self, Client, Event, Events, Refusal, ServerArgs, percent},
    output, printable, status,
};

/// How long to wait before the server is asked again when the connection has broken.
const REST: Duration = Duration::from_secs(1);
/// So often in a row without an event between.
const ATTEMPTS: u32 = 60;

/// Show what happens to sandboxes and executions, one line each
#[derive(Debug, Args)]
#[command(after_help = "\
Goes on until it is interrupted, and over restarts of the server: what has happened meanwhile is shown then.

Examples:
  caisson events
  caisson events --type sandbox.ended --all --no-follow
  caisson events --json --since 1042 | jq -r .sandbox_id")]
pub(crate) struct EventsArgs {
    /// Only of this type, such as `sandbox.ended`; may repeat
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only what happens to this sandbox and in it, by its id
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Begin behind the event with this id
    #[arg(long, value_name = "EVENT", conflicts_with = "all")]
    since: Option<u64>,
    /// Begin with the oldest event that is kept
    #[arg(long)]
    all: bool,
    /// End with what there is
    #[arg(long)]
    no_follow: bool,
    /// One JSON object for each event
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: EventsArgs) -> Result<ExitCode> {
    client::talk(&args.server, async |client| {
        let mut asked = String::new();
        for kind in &args.types {
            asked.push_str(&format!("&type={}", percent(kind.as_bytes())));
        }
        if let Some(sandbox) = &args.sandbox {
            asked.push_str(&format!("&sandbox_id={}", percent(sandbox.as_bytes())));
        }
        let cursor = args.since.or(args.all.then_some(0)).map(|cursor| cursor.to_string());
        let show = Show { client: &client, asked, json: args.json };
        if args.no_follow {
            show.what_there_is(cursor.unwrap_or_else(|| "0".to_owned())).await?
        } else {
            show.what_comes(cursor).await?
        }
        Ok(ExitCode::SUCCESS)
    })
}

struct Show<'a> {
    client: &'a Client,
    /// The part of the query that stays the same.
    asked: String,
    json: bool,
}

impl Show<'_> {
    async fn what_there_is(&self, mut cursor: String) -> Result<()> {
        loop {
            let target = format!("/v1/events?limit=1000&cursor={cursor}{}", self.asked);
            let page: PageBody<EventBody> = self.client.json(Method::GET, &target, None::<&()>).await?;
            for event in &page.data {
                self.print(event)?;
            }
            match page.next_cursor {
                Some(next) => cursor = next,
                None => return Ok(()),
            }
        }
    }

    async fn what_comes(&self, mut cursor: Option<String>) -> Result<()> {
        let mut failures = 0;
        loop {
            let began = match self.begin(&mut cursor).await {
                Ok(mut events) => {
                    failures = 0;
                    match self.show(&mut events, &mut cursor).await? {
                        Some(error) => error,
                        None => anyhow!("the server ended the stream"),
                    }
                }
                // A server that refuses will do so again, and one that was never reached may never come.
                Err(error)
                    if cursor.is_none() || error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status.is_client_error()) =>
                {
                    return Err(error);
                }
                Err(error) => error,
            };
            failures += 1;
            if failures >= ATTEMPTS {
                return Err(began);
            }
            if failures == 1 {
                status::complain(&format!("[{began:#}; trying again]"));
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// A stream that has begun.
    async fn begin(&self, cursor: &mut Option<String>) -> Result<Events> {
        let begin = cursor.as_ref().map(|cursor| format!("cursor={cursor}")).unwrap_or_default();
        let mut events = self.client.follow(&format!("/v1/events?{begin}{}", self.asked)).await?;
        match events.next().await? {
            Some(event) if event.name == "ready" => {
                let ready: ReadyBody = parse(&event)?;
                *cursor = Some(ready.cursor);
                Ok(events)
            }
            _ => bail!("the server ended the stream"),
        }
    }

    /// Until it breaks off; says how. An error is one that coming back does not mend.
    async fn show(&self, events: &mut Events, cursor: &mut Option<String>) -> Result<Option<anyhow::Error>> {
        loop {
            let event = match events.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            match event.name.as_str() {
                "lost" => {
                    let lost: LostBody = parse(&event)?;
                    status::complain(&format!("[events {} to {} are not kept any more]", lost.from, lost.to));
                }
                "error" => return Ok(Some(anyhow!("the server ended the stream: {}", event.data))),
                _ => {
                    let event: EventBody = parse(&event)?;
                    self.print(&event)?;
                    *cursor = Some(event.id);
                }
            }
        }
    }

    fn print(&self, event: &EventBody) -> Result<()> {
        if self.json {
            return output::print(&format!("{}\n", printable::json(&serde_json::to_string(event)?)));
        }
        output::print(&format!("{}\n", line(event)))
    }
}

fn parse<T: DeserializeOwned>(event: &Event) -> Result<T> {
    serde_json::from_str(&event.data).context("the server's event makes no sense; is it a Caisson server of this version?")
}

/// `2026-01-02T03:04:05.678Z  execution.ended    sbx…  exe…  exited 0`
fn line(event: &EventBody) -> String {
    let mut line = format!("{}  {:17}  {}", event.at, event.r#type, event.sandbox_id);
    if let Some(execution) = &event.execution_id {
        line.push_str(&format!("  {execution}"));
    }
    let how = match (&event.status, event.exit_code, event.signal) {
        (Some(status), Some(code), _) => Some(format!("{status} {code}")),
        (Some(status), None, Some(signal)) => Some(format!("{status} {signal}")),
        (status, ..) => status.clone(),
    };
    let why = event.reason.as_ref().map(|reason| match event.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.clone(),
    });
    let figures = event.egress.as_ref().map(|egress| {
        let (out, into) = (egress.bytes_out, egress.bytes_in);
        format!("{} allowed, {} refused, {out} bytes out, {into} bytes in", egress.allowed, egress.refused)
    });
    for told in [event.destination.clone(), how, why, event.name.clone(), figures].into_iter().flatten() {
        line.push_str(&format!("  {told}"));
    }
    printable::text(&line)
}
