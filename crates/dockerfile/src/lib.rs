//! Dockerfiles and ignore files, read as the [Dockerfile reference] has them. Pure: nothing here opens a file or starts a program.
//!
//! What cannot be built is refused here by its line, all of it together, before anything runs.
//!
//! [Dockerfile reference]: https://docs.docker.com/reference/dockerfile/

mod expand;
mod file;
mod ignore;
mod instruction;
mod lines;
mod pattern;
mod words;

pub use expand::expand;
pub use file::{Dockerfile, Stage, parse};
pub use ignore::Ignore;
pub use instruction::{Form, Pair, Source, Step, Transfer, What};
pub use lines::HereDocument;
pub use pattern::Pattern;

/// Something that cannot be built, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Problem {
    pub line: usize,
    pub message: String,
}

impl Problem {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}
