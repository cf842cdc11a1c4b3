//! The `caisson` program: one file per command, nothing here but the way to it.

mod args;
mod backends;
mod boxbox;
mod boxed;
mod cli;
mod client;
mod commands;
mod config;
mod data_dir;
mod database;
mod embedded;
mod images;
mod key;
mod logging;
mod output;
mod printable;
mod reports;
mod signals;
mod status;
mod stdin;
mod table;
mod terminal;
mod waiting;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if boxed::is_called(&arguments) {
        return boxed::main(arguments);
    }
    let command = match cli::parse(arguments) {
        Ok(command) => command,
        Err(code) => return code,
    };
    let failure = command.failure();
    let result = match command {
        Command::Serve(args) => commands::serve::run(args),
        Command::Run(args) => commands::run::run(args),
        Command::New(args) => commands::new::run(args),
        Command::Exec(args) => commands::exec::run(args),
        Command::Sh(args) => commands::sh::run(args),
        Command::Egress(command) => commands::egress::run(command),
        Command::Port(args) => commands::port::run(args),
        Command::Repl(args) => commands::repl::run(args),
        Command::Ps(args) => commands::ps::run(args),
        Command::Context(command) => commands::context::run(command),
        Command::Ls(args) => commands::ls::run(args),
        Command::Update(args) => commands::update::run(args),
        Command::Stop(args) => commands::stop::run(args),
        Command::Rm(args) => commands::rm::run(args),
        Command::Commit(args) => commands::commit::run(args),
        Command::Cp(args) => commands::cp::run(args),
        Command::Fs(command) => commands::fs::run(command),
        Command::Kill(args) => commands::kill::run(args),
        Command::Stdin(args) => commands::stdin::run(args),
        Command::Logs(args) => commands::logs::run(args),
        Command::Events(args) => commands::events::run(args),
        Command::Image(args) => commands::image::run(args),
        Command::Template(args) => commands::template::run(args),
        Command::Backend(command) => commands::backend::run(command),
        Command::Key(command) => commands::key::run(command),
        Command::Tenant(command) => commands::tenant::run(command),
        Command::Webhook(command) => commands::webhook::run(command),
        Command::Workspace(command) => commands::workspace::run(command),
        Command::Completion(args) => commands::completion::run(args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Version(args) => commands::version::run(args),
    };
    result.unwrap_or_else(|error| status::failed(&error, failure))
}
