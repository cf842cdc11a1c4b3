//! What several commands take, and how people write it.

mod duration;
mod interpreter;
mod limits;
mod network;
mod pair;
mod program;
mod size;

pub(crate) use duration::{TimeLimit, duration};
pub(crate) use interpreter::InterpreterArgs;
pub(crate) use limits::{LimitsArgs, cpus, disk, memory, pids};
pub(crate) use network::network;
pub(crate) use pair::{Pair, unique};
pub(crate) use program::{MAX_CODE, ProgramArgs, text};
pub(crate) use size::{roughly, shown as shown_size, size};
