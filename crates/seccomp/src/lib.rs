//! From a reviewed table of system calls to the program that the kernel runs for each of them (`seccomp(2)`, classic BPF).
//!
//! The table is data: every call stands in it with a reason. The program finds a call by binary search over its number, so that the
//! last call of a long list costs as little as the first, and is short enough that installing it costs next to nothing.
//! Used by build scripts: at run time nothing is parsed.

mod program;
mod table;

pub use program::{Instruction, Program};
pub use table::{Answer, Architecture, Call, Condition, Rule, Table, TableError};

#[cfg(test)]
mod tests;
