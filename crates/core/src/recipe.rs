//! What a template adds to a sandbox beside what every request can say.

use std::{collections::BTreeMap, time::Duration};

use crate::Tenant;

/// What is done in a new sandbox before anybody gets it, and what runs code there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipe {
    /// The template that the sandbox is made from.
    pub template: Option<String>,
    /// One after the other, as the sandbox's user. The first that fails ends the sandbox.
    pub setup: Vec<SetupStep>,
    /// By the names of languages: the words to which the code's file is added, or in which it stands.
    pub interpreters: BTreeMap<String, Vec<String>>,
    /// By the names of languages: what the code's file is called, in the work directory and by its program, instead of `main` and the whole
    /// path. What is there under that name makes room.
    pub file_names: BTreeMap<String, String>,
    /// Names of languages whose interpreters wait, already started, in a sandbox that is kept ready.
    pub ready: Vec<String>,
    /// What a Python that waits has imported.
    pub preload: Vec<String>,
    /// What is kept ready of it; nothing where its template does not say.
    pub warm: Option<Warmth>,
    /// What is there beside home and work directory, before any program runs.
    pub places: Vec<Place>,
}

/// An entry by its absolute path. What an image has there stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of the sandbox's user.
    Directory(String),
    /// Another name for what is at `target`.
    Link { path: String, target: String },
}

/// How many sandboxes of a template are kept ready for whoever asks next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warmth {
    /// As many as there are, whether anybody asks or not.
    pub min: u32,
    /// As many as there may be when many ask.
    pub max: u32,
    /// The template's own part of the environment: with no other are they made.
    pub env: BTreeMap<String, String>,
    /// Whose template it is; the operator's, which is for everybody, where nobody is named.
    pub owner: Option<Tenant>,
    /// Which of the server's dialects they are for, where it is not a template that wants them.
    pub dialect: Option<&'static str>,
    /// So many stay until they are too old, though fewer would do by now.
    pub stay: u32,
    /// How old one may become before it is replaced; as old as all others may when absent.
    pub max_age: Option<Duration>,
}

impl Recipe {
    /// As long as all of its set-up may take.
    #[must_use]
    pub fn longest_setup(&self) -> Duration {
        self.setup.iter().map(|step| step.within).sum()
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupStep {
    pub command: SetupCommand,
    /// It is killed after this long, and has failed.
    pub within: Duration,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupCommand {
    /// A command line for the sandbox's shell.
    Shell(String),
    /// A program and its arguments, no shell involved.
    Argv(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_own_time() {
        let step = |seconds| SetupStep { command: SetupCommand::Shell("true".to_owned()), within: Duration::from_secs(seconds) };
        assert_eq!(Recipe { setup: vec![step(5), step(7)], ..Recipe::default() }.longest_setup(), Duration::from_secs(12));
        assert_eq!(Recipe::default().longest_setup(), Duration::ZERO);
    }
}
