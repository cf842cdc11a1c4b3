//! Programs of the host that do a part of our work: found whatever `PATH` says, and started without our environment.

use std::{path::PathBuf, process::Command};

/// The first of this name in these directories.
pub(crate) fn find(directories: &[&str], name: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| PathBuf::from(directory).join(name)).find(|path| path.exists())
}

/// Runs it to its end. The error is what it said, or why it could not be started.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.env_clear().output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_its_error() {
        let shell = find(&["/nowhere", "/usr/bin", "/bin"], "sh").unwrap();
        assert_eq!(find(&["/nowhere"], "sh"), None);
        let run = |line: &str| run(Command::new(&shell).env("LEFT", "over").args(["-c", line]));
        assert_eq!(run("exit 0"), Ok(()));
        assert_eq!(run("echo \"no room$LEFT\" >&2; exit 3"), Err("no room".to_owned()));
        assert!(super::run(&mut Command::new("/nowhere/at/all")).unwrap_err().contains("No such file"));
    }
}
