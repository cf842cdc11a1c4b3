//! One file per command.

pub(crate) mod completion;
pub(crate) mod context;
pub(crate) mod cp;
pub(crate) mod doctor;
mod each;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod fs;
pub(crate) mod image;
pub(crate) mod key;
pub(crate) mod kill;
mod listing;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod new;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod repl;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod sh;
pub(crate) mod stdin;
pub(crate) mod tenant;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod webhook;
