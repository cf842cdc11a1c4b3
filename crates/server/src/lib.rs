//! The HTTP side of Caisson: decode, call the engine, encode. The only crate that knows HTTP.
//!
//! [`native`] is Caisson's own API, `dialects` are those of others. What is decided about sandboxes is decided in the engine; what is decided here is who may ask
//! ([`Auth`]), how much at once ([`Config`]) and in which words the answer is given.

mod app;
mod auth;
mod caller;
mod config;
mod dialects;
mod error;
mod extract;
mod follow;
mod health;
mod idempotency;
mod json;
mod metrics;
pub mod native;
mod openapi;
mod params;
mod peers;
mod ports;
mod present;
mod request_id;
mod routes;
mod server;
mod socket;
mod sse;
pub mod templates;
#[cfg(test)]
mod testing;
mod webhooks;
mod websocket;

pub use auth::{Auth, hash};
pub use config::Config;
pub use dialects::{boxbox::BoxboxSettings, daiv::DaivSettings};
pub use error::{ErrorBody, ErrorDetail};
pub use follow::Follow;
pub use ports::{Public, PublicDomain, PublicUrl};
pub use server::{BindError, Server};
