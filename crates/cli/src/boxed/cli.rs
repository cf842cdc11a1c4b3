//! The command line of Boxed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const AFTER_HELP: &str = "\
All commands but `serve` talk to the server at --url. Without --api-key the key is CAISSON_API_KEY, or, for a server on this machine, the one \
in its data directory.";

#[derive(Debug, Parser)]
#[command(name = "boxed", version, about = "Sandboxes for code, with the command line of Boxed", after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(super) struct Cli {
    /// Log more
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
    /// Log as JSON
    #[arg(long, global = true)]
    pub(super) json_log: bool,
    /// The key, of the server that is started or asked
    #[arg(long, global = true, value_name = "KEY", env = "BOXED_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// The server to talk to
    #[arg(long, global = true, value_name = "URL", env = "BOXED_URL", default_value = "http://localhost:8080")]
    pub(super) url: String,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Serve(ServeArgs),
    Run(RunArgs),
    /// List the sandboxes
    #[command(visible_alias = "ls")]
    List,
    Repl(ReplArgs),
    /// Files of a sandbox
    #[command(subcommand)]
    Fs(Files),
}

/// Start the server
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The port, on this machine's own address; CAISSON_LISTEN names others [default: 8080, or PORT]
    #[arg(short, long)]
    pub(super) port: Option<u16>,
    /// What makes the sandboxes: `docker` is all that upstream knows, and what we do instead
    #[arg(short, long, default_value = "docker", value_parser = ["docker"])]
    pub(super) driver: String,
}

/// Run code in Python in a sandbox of its own
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    pub(super) code: String,
    #[arg(short, long, default_value = "python:3.10-slim")]
    pub(super) template: String,
    /// Seconds that the sandbox lives
    #[arg(long, default_value_t = 30, allow_negative_numbers = true)]
    pub(super) timeout: i64,
}

/// Talk to a shell or an interpreter in a sandbox
#[derive(Debug, Args)]
pub(super) struct ReplArgs {
    pub(super) id: String,
    #[arg(short, long, default_value = "bash")]
    pub(super) lang: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Files {
    /// List a folder with everything in it
    Ls(PlaceArgs),
    /// Put a file into a folder
    Cp(CpArgs),
    /// Print a file
    Cat(PlaceArgs),
}

#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// The sandbox, or ID:PATH
    pub(super) id: String,
    pub(super) path: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CpArgs {
    pub(super) local: PathBuf,
    /// ID:DIR
    pub(super) remote: String,
}

impl PlaceArgs {
    /// The sandbox and the path, if one is named.
    pub(super) fn place(&self) -> (&str, Option<&str>) {
        match (self.path.as_deref(), self.id.split_once(':')) {
            (Some(path), _) => (&self.id, Some(path)),
            (None, Some((id, path))) => (id, Some(path).filter(|path| !path.is_empty())),
            (None, None) => (&self.id, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["boxed"].iter().chain(line))
    }

    #[test]
    fn the_command_line_is_upstreams() {
        Cli::command().debug_assert();
        for line in [
            &["serve"][..],
            &["serve", "-p", "9", "-d", "docker", "--api-key", "k", "-v", "--json-log"],
            &["--api-key", "k", "--verbose", "run", "print(1)", "-t", "host", "--timeout", "7"],
            &["list"],
            &["repl", "x", "-l", "python"],
            &["repl", "x", "--lang", "bash"],
            &["fs", "ls", "x"],
            &["fs", "cp", "a", "x:/b"],
            &["fs", "cat", "x", "/b"],
        ] {
            assert!(read(line).is_ok(), "{line:?}");
        }
        for line in [&[][..], &["run"], &["serve", "-p", "x"], &["serve", "-d", "firecracker"], &["fs"], &["exec", "x"], &["list", "x"]] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn defaults_are_upstreams() {
        let Ok(Cli { command: Command::Run(run), url, .. }) = read(&["run", "x"]) else { panic!() };
        assert_eq!((run.template.as_str(), run.timeout), ("python:3.10-slim", 30));
        assert!(url.starts_with("http"));
        let Ok(Cli { command: Command::Repl(repl), .. }) = read(&["repl", "x"]) else { panic!() };
        assert_eq!(repl.lang, "bash");
        let Ok(Cli { command: Command::Serve(serve), .. }) = read(&["serve"]) else { panic!() };
        assert_eq!((serve.port, serve.driver.as_str()), (None, "docker"));
    }

    #[test]
    fn places_have_two_forms() {
        let place = |id: &str, path: Option<&str>| PlaceArgs { id: id.to_owned(), path: path.map(str::to_owned) };
        for (args, expect) in [
            (place("x", None), ("x", None)),
            (place("x:", None), ("x", None)),
            (place("x:/a:b", None), ("x", Some("/a:b"))),
            (place("x", Some("/a")), ("x", Some("/a"))),
        ] {
            assert_eq!(args.place(), expect);
        }
    }
}
