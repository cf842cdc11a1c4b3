//! `caisson completion`: what shells need to complete our command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::{cli, output};

const AFTER_HELP: &str = "\
Examples:
  caisson completion bash > /etc/bash_completion.d/caisson
  caisson completion zsh > \"${fpath[1]}/_caisson\"
  caisson completion fish > ~/.config/fish/completions/caisson.fish
  source <(caisson completion bash)";

/// Print a script that completes `caisson` commands in a shell
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompletionArgs {
    shell: Kind,
}

/// The shells that this is tried with.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: CompletionArgs) -> Result<ExitCode> {
    let shell = match args.shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "caisson", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
