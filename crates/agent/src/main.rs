//! PID 1 of a sandbox: reaps everything, starts programs as the sandbox's user, touches files for them, and serves the agent
//! protocol on one inherited socket. When that socket ends, everything ends.

mod body;
mod changes;
mod code;
mod confine;
mod egress;
mod exec;
mod files;
mod guardian;
mod image;
mod kept;
mod lookup;
mod query;
mod reaper;
mod refusal;
mod runtime;
mod service;
mod setup;
mod stream;
mod terminal;
mod tree;
mod tunnel;
mod watched;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    caisson_sys::process::ignore_no_signals();
    if setup::is_told(caisson_wire::CHECK) {
        return ended(setup::check());
    }
    let started = setup::agent().and_then(|agent| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(service::serve(agent))
    });
    caisson_sys::process::kill_everybody_else();
    ended(started)
}

fn ended(how: std::io::Result<()>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caisson-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
