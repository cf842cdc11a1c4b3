//! What people see of a build, on standard error.

use anyhow::Result;
use caisson_core::Stream;

use crate::{output, printable};

/// What of a quiet build's output is kept for the case that a step fails.
const KEPT: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Told {
    quiet: bool,
    kept: Vec<u8>,
    /// Whether the last line of output is still open.
    open: bool,
}

impl Told {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, kept: Vec::new(), open: false }
    }

    /// A line of ours.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        let end = if std::mem::take(&mut self.open) { "\n" } else { "" };
        output::write_here(Stream::Stderr, format!("{end}{}\n", printable::text(text)).as_bytes())
    }

    /// What a step's program has written.
    pub(super) async fn output(&mut self, data: Vec<u8>) -> Result<()> {
        let Some(last) = data.last() else { return Ok(()) };
        self.open = *last != b'\n';
        if self.quiet {
            self.kept.extend_from_slice(&data);
            let excess = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..excess);
            return Ok(());
        }
        output::write(Stream::Stderr, data).await
    }

    /// A step begins.
    pub(super) fn step(&mut self) {
        self.kept.clear();
    }

    /// What came of the step that has failed, where nobody has seen it yet; and the end of the line.
    pub(super) fn failed(&mut self) -> Result<()> {
        output::write_here(Stream::Stderr, &self.kept)?;
        if std::mem::take(&mut self.open) { output::write_here(Stream::Stderr, b"\n") } else { Ok(()) }
    }
}
