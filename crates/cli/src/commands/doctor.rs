//! `caisson doctor`: whether sandboxes hold on this machine, by attacking them.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context, Result};
use caisson_core::SandboxSpec;
use caisson_native::NativeConfig;
use caisson_server::native::types::DoctorBody;
use clap::Args;

use crate::{
    config::Here,
    embedded::{self, Output},
    output, printable,
    signals::Signals,
    status,
    waiting::spinner,
};

const AFTER_HELP: &str = "\
Starts sandboxes on this machine, attacks from inside with some hundred attempts, and lists each guarantee by its number. Needs no server. A \
server says the same of itself at GET /v1/doctor.

Exit status: 0 when every guarantee held; 1 when one is broken; 2 when one cannot be enforced or proven here; 125 when no sandbox could be \
made.";

/// Prove, by attacking sandboxes, that they hold on this machine
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArgs {
    /// Examine even where limits on memory and processor time cannot be enforced in full (an ordinary user without a cgroup of its own)
    #[arg(long)]
    accept_weaker_limits: bool,
    /// What sandboxes are made by: `native`, `oci:runsc`, `oci:runc`, `oci:crun`, `oci:youki`, `docker` or `docker:RUNTIME` [default: native]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Print a JSON object, as GET /v1/doctor does
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let spec = SandboxSpec { backend: args.backend.clone().unwrap_or_default(), ..SandboxSpec::default() };
    let choice = embedded::choice(&spec)?;
    let (walls, scratch) =
        embedded::start(choice, NativeConfig { accept_weaker_limits: args.accept_weaker_limits, ..embedded::config(None) })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let engine = embedded::open(walls, &scratch, Output::Collected, None).await?;
        let examined = spinner("attacking sandboxes", caisson_engine::doctor::examine(&engine, None));
        let result = tokio::select! {
            report = examined => report.map_err(anyhow::Error::from).and_then(|report| {
                let mut report = DoctorBody::from(report);
                report.warnings.extend(broken_templates());
                tell(&report, args.json)
            }),
            // Sandboxes end with the engine, below.
            signal = signals.next() => Ok(status::of_signal(signal)),
        };
        engine.shutdown().await;
        result
    });
    runtime.shutdown_background();
    code
}

/// Where there is no place for templates, there are none.
fn broken_templates() -> Vec<String> {
    Here::find().map(|here| here.templates().broken()).unwrap_or_default()
}

fn tell(report: &DoctorBody, json: bool) -> Result<ExitCode> {
    if json {
        output::print_json(report)?;
    } else {
        output::print(&text(report))?;
    }
    Ok(ExitCode::from(match report.state.as_str() {
        "held" => 0,
        "broken" => 1,
        _ => 2,
    }))
}

fn text(report: &DoctorBody) -> String {
    let mut text = format!("Backend {}, Linux {}\n\n", report.backend, printable::text(&report.kernel));
    let mut line = |words: String| writeln!(text, "{words}").expect("a String takes everything");
    for guarantee in &report.guarantees {
        let state = guarantee.state.replace('_', " ");
        line(format!("{}  {state:<15}  {}  ({} attacks)", guarantee.number, guarantee.promise, guarantee.attempts));
        for success in &guarantee.successes {
            line(format!("       succeeded: {}: {}", printable::text(&success.attempt), printable::text(&success.seen)));
        }
        if let Some(remedy) = &guarantee.remedy {
            line(format!("       what to do: {remedy}"));
        }
    }
    if !report.warnings.is_empty() {
        line(String::new());
    }
    for warning in &report.warnings {
        line(format!("Warning: {}", printable::text(warning)));
    }
    let (held, all) = (report.guarantees.iter().filter(|guarantee| guarantee.state == "held").count(), report.guarantees.len());
    let attacks: usize = report.guarantees.iter().map(|guarantee| guarantee.attempts).sum();
    line(format!("\n{held} of {all} guarantees held against {attacks} attacks."));
    text
}
