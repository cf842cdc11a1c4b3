//! The command line: which commands there are, and what becomes of one that makes no sense.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::{
    commands::{
        backend::BackendCommand, commit::CommitArgs, completion::CompletionArgs, context::ContextCommand, cp::CpArgs, doctor::DoctorArgs,
        egress::EgressCommand, events::EventsArgs, exec::ExecArgs, fs::FsCommand, image::ImageArgs, key::KeyCommand, kill::KillArgs,
        logs::LogsArgs, ls::LsArgs, new::NewArgs, port::PortArgs, ps::PsArgs, repl::ReplArgs, rm::RmArgs, run::RunArgs, serve::ServeArgs,
        sh::ShArgs, stdin::StdinArgs, stop::StopArgs, template::TemplateArgs, tenant::TenantCommand, update::UpdateArgs,
        version::VersionArgs, webhook::WebhookCommand, workspace::WorkspaceCommand,
    },
    printable, status,
};

const ABOUT: &str = "Runs code that nobody has read yet in isolated Linux sandboxes";

const AFTER_HELP: &str = "\
`run`, `serve` and `doctor` make sandboxes on this machine, and `image` and `template` have those of this machine unless a server is named. All other \
commands talk to a server: to http://127.0.0.1:8080 unless --server or CAISSON_SERVER names another.

Exit status: that of the program for `run`, `exec` and `sh`, the findings' for `doctor` (see there); for all others 0, 1 on a failure, 2 on bad usage.";

#[derive(Debug, Parser)]
#[command(name = "caisson", version, about = ABOUT, after_help = AFTER_HELP, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Run(RunArgs),
    New(NewArgs),
    Exec(ExecArgs),
    Sh(ShArgs),
    Repl(ReplArgs),
    #[command(subcommand)]
    Context(ContextCommand),
    Ps(PsArgs),
    Ls(LsArgs),
    Update(UpdateArgs),
    Stop(StopArgs),
    Rm(RmArgs),
    Cp(CpArgs),
    Commit(CommitArgs),
    #[command(subcommand)]
    Fs(FsCommand),
    Logs(LogsArgs),
    Kill(KillArgs),
    Stdin(StdinArgs),
    Port(PortArgs),
    #[command(subcommand)]
    Egress(EgressCommand),
    Events(EventsArgs),
    Image(ImageArgs),
    Template(TemplateArgs),
    #[command(subcommand)]
    Backend(BackendCommand),
    #[command(subcommand)]
    Key(KeyCommand),
    #[command(subcommand)]
    Tenant(TenantCommand),
    #[command(subcommand)]
    Webhook(WebhookCommand),
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    Completion(CompletionArgs),
    Doctor(DoctorArgs),
    Version(VersionArgs),
}

impl Command {
    /// The exit status when Caisson itself fails.
    pub(crate) fn failure(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Sh(_) | Self::Doctor(_) => status::CAISSON_FAILED,
            _ => status::FAILURE,
        }
    }
}

/// The command line as a whole, for those who describe it.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line. Otherwise help, version or the mistake has been printed, and this is the exit status.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // The status of `run`, `exec` and `sh` is the program's own, so a mistake must not look like one of its answers.
    let usage = match arguments.get(1).and_then(|word| word.to_str()) {
        Some("run" | "exec" | "sh" | "doctor") => status::CAISSON_FAILED,
        _ => status::USAGE,
    };
    read(&arguments).map_err(|error| {
        let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        // A mistake quotes the words that it is about.
        if !asked_for && arguments.iter().any(|word| word.to_string_lossy().contains(printable::is_harmful)) {
            status::complain(&error.render().to_string());
        } else {
            // Nobody is left to be told when this cannot be printed.
            error.print().ok();
        }
        if asked_for { ExitCode::SUCCESS } else { ExitCode::from(usage) }
    })
}

fn read(arguments: &[OsString]) -> Result<Command, clap::Error> {
    let mut command = Cli::try_parse_from(arguments)?.command;
    if let Command::Run(args) = &mut command {
        // The words are all that follows the first of them.
        args.behind_dashes = arguments.iter().rev().nth(args.words.len()).is_some_and(|word| word == "--");
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[track_caller]
    fn run(line: &[&str], words: &[&str], behind_dashes: bool) -> RunArgs {
        let line: Vec<OsString> = ["caisson", "run"].iter().chain(line).map(OsString::from).collect();
        match read(&line) {
            Ok(Command::Run(args)) => {
                assert_eq!(
                    (&args.words[..], args.behind_dashes),
                    (&words.iter().map(OsString::from).collect::<Vec<_>>()[..], behind_dashes)
                );
                args
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_of_the_program_are_not_options_of_ours() {
        run(&["--memory", "64M", "hello.py", "--memory", "-v", "--", "x"], &["hello.py", "--memory", "-v", "--", "x"], false);
        run(&["--image", "host", "--", "ls", "-la", "--", "y"], &["ls", "-la", "--", "y"], true);
        run(&["--", "ls"], &["ls"], true);
        run(&["-l", "python", "-", "a"], &["-", "a"], false);
        run(&["hello.py", "--json"], &["hello.py", "--json"], false);
        let args = run(&["-lbash", "-c", "echo $1", "--", "-n"], &["-n"], true);
        assert_eq!(args.program.code.as_deref(), Some("echo $1"));
        run(&["-lbash", "-c", "-x"], &[], false);
    }

    #[test]
    fn commands_mirror_the_api() {
        for line in [
            "kill a b",
            "kill -s INT a",
            "kill --signal 9 a",
            "kill --all a",
            "stdin a --keep-open",
            "exec -d -i box -- cat",
            "context ls box",
            "context new box -l python -e A=1 --cwd /tmp",
            "context run box ctx -c -1 --timeout none",
            "context interrupt box a b",
            "context restart box a",
            "context rm box a",
            "fs ls box",
            "fs ls box /etc -r -q --limit 5",
            "fs stat box a --json",
            "fs mkdir -p -m 0700 box a/b",
            "fs mv box a b --replace",
            "fs cp box a b",
            "fs rm -r box a b",
            "fs glob box **/*.c src",
            "fs grep -i -F -C 2 --max-bytes 1G --max-time 5s --include *.c box x src",
            "fs watch -r box",
            "backend ls --json",
            "new --backend oci:runsc",
            "template add a -",
            "image build -t app:1 --network host .",
            "template add a-1.x a.toml --json",
            "template ls",
            "template show a",
            "template rm a b",
            "new --template a --pull missing",
            "stop a b",
            "update box --lifetime 2h --idle-timeout none",
            "update box --metadata a=1 --metadata b=2",
            "image build -t app:1 .",
            "image build -f - -t app:1 --build-arg A=1 --build-arg B= --target x --no-cache --pull -q --memory 1G --disk 8G .",
            "image ls --steps",
            "image gc --steps --json",
        ] {
            let words = ["caisson"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "kill",
            "kill -s NOPE a",
            "kill -s 65 a",
            "kill --all -s TERM a",
            "stdin",
            "context",
            "context new box",
            "context rm box",
            "exec -d -t box -- cat",
            "fs",
            "fs ls",
            "fs ls box -q --json",
            "fs mkdir -m 9 box a",
            "fs mv box a",
            "fs rm box",
            "fs grep box",
            "template add A -",
            "template add a",
            "template rm",
            "new --pull missing",
            "update box",
            "update box --lifetime never",
            "image build .",
            "image build -t app:1",
            "image build -t app:1 -t app:2 .",
            "image build -t app:1 -q --json .",
            "image build -t app:1 --build-arg NO_SUCH_VARIABLE .",
            "image build -t app:1 --network bridge .",
        ] {
            let words = ["caisson"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn unknown_options_are_refused() {
        for line in [
            &["caisson", "run", "--templat", "x", "y"][..],
            &["caisson", "ls", "--everything"],
            &["caisson", "nothing"],
            &["caisson", "run", "--pids", "1", "x"],
        ] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
