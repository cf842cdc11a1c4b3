//! `caisson logs`: what a program wrote.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use caisson_core::{ExecutionId, Stream};
use clap::{Args, ValueEnum};
use http::HeaderMap;
use http_body_util::BodyExt;

use crate::{
    client::{self, Client, ServerArgs},
    output, status,
};

/// Show what a program wrote, standard output and standard error each to its own
#[derive(Debug, Args)]
#[command(after_help = "\
Of very long output the server keeps head and tail; what is left out between them is said on standard error.

Example:
  caisson logs exe4x1cqgd0nqk7p6s2m8v0zr5aej --follow")]
pub(crate) struct LogsArgs {
    /// The execution
    #[arg(value_name = "EXECUTION")]
    id: String,
    /// Go on until the program has ended
    #[arg(short, long)]
    follow: bool,
    /// What to show
    #[arg(long, value_enum, default_value_t = Wanted::Both)]
    stream: Wanted,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Stdout,
    Stderr,
    Both,
}

pub(crate) fn run(args: LogsArgs) -> Result<ExitCode> {
    let Ok(execution) = args.id.parse::<ExecutionId>() else {
        bail!("`{}` is no execution's id; `caisson exec --json` tells it, and so does the API", args.id);
    };
    client::talk(&args.server, async |client| {
        let log = |stream| Log { client: &client, execution, stream, follow: args.follow, offset: 0 };
        match args.stream {
            Wanted::Stdout => log(Stream::Stdout).show().await?,
            Wanted::Stderr => log(Stream::Stderr).show().await?,
            Wanted::Both => {
                tokio::try_join!(log(Stream::Stdout).show(), log(Stream::Stderr).show())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// One stream of an execution.
struct Log<'a> {
    client: &'a Client,
    execution: ExecutionId,
    stream: Stream,
    follow: bool,
    /// What was shown or is not kept.
    offset: u64,
}

impl Log<'_> {
    async fn show(mut self) -> Result<()> {
        while self.show_some().await? {}
        Ok(())
    }

    /// Shows what comes in one piece; answers are contiguous. Whether there may be more.
    async fn show_some(&mut self) -> Result<bool> {
        let (stream, offset, follow) = (self.stream.as_str(), self.offset, self.follow);
        let target = format!("/v1/executions/{}/output?stream={stream}&offset={offset}&follow={follow}", self.execution);
        let answer = self.client.get(&target).await?;
        let begin = figure(answer.headers(), "x-caisson-offset")?;
        let total = figure(answer.headers(), "x-caisson-total")?;
        let has_ended = answer.headers().get("x-caisson-finished").is_some_and(|value| value == "true");
        self.skip_to(begin);
        let mut body = answer.into_body();
        let mut nothing_came = true;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!("the connection to the server broke: {error}"))?;
            if let Ok(data) = frame.into_data() {
                nothing_came &= data.is_empty();
                self.offset += data.len() as u64;
                output::write(self.stream, data).await?;
            }
        }
        if nothing_came && has_ended {
            self.skip_to(total);
        }
        Ok(if follow { !(nothing_came && has_ended) } else { !nothing_came && self.offset < total })
    }

    fn skip_to(&mut self, offset: u64) {
        if offset > self.offset {
            let missing = offset - self.offset;
            status::complain(&format!("[{missing} bytes of {} are not kept]", self.stream.as_str()));
            self.offset = offset;
        }
    }
}

fn figure(headers: &HeaderMap, name: &str) -> Result<u64> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    value.context("the server's answer makes no sense; is it a Caisson server of this version?")
}
