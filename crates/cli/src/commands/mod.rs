//! One file per command.

pub(crate) mod cp;
pub(crate) mod doctor;
pub(crate) mod exec;
mod listing;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod new;
pub(crate) mod ps;
pub(crate) mod repl;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod sh;
pub(crate) mod version;
