//! Caisson's own API, prefix `/v1`: one file per resource, and [`types`] for what is in the bodies.

pub(crate) mod archive;
pub(crate) mod changes;
pub(crate) mod contexts;
mod cursor;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod executions;
pub(crate) mod files;
mod id;
pub(crate) mod images;
pub(crate) mod keys;
pub(crate) mod links;
mod output;
pub(crate) mod patches;
pub(crate) mod ports;
mod range;
pub(crate) mod run;
pub(crate) mod sandboxes;
pub(crate) mod search;
pub(crate) mod stream;
pub(crate) mod templates;
pub(crate) mod tenants;
pub mod types;
pub(crate) mod watch;
pub(crate) mod webhooks;
pub(crate) mod workspaces;
