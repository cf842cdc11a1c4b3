//! The API of boxbox: one program a request, in a sandbox of its own, with files that are kept for each user and chat.
//!
//! ```text
//! key, X-User-ID, X-Chat-ID, rate ─▶ body ─▶ queue ─▶ one-shot on the chat's workspace: files in, program, files out ─▶ answer
//! ```
//!
//! An execution is kept from when it has its turn, under an id of its own; where it is then is seen here (`live`), and what it has come to is
//! asked of the engine.

mod answer;
mod body;
mod describe;
mod execute;
mod executions;
mod live;
mod media;
mod queue;
mod rate;
mod record;
mod run;
mod said;
mod settings;
mod state;
mod who;

use axum::extract::Request;
use http::{HeaderMap, header};
use utoipa_axum::routes;

use super::{Cors, Dialect};
use crate::{
    auth::bearer,
    routes::{Access, Route},
};

pub use self::settings::BoxboxSettings;
pub(crate) use self::state::State;

pub(super) static DIALECT: Dialect = Dialect {
    tenant: Some(NAME),
    shared: &["/health"],
    cors: Some(Cors { methods: "GET, POST, OPTIONS", headers: "Content-Type, X-API-Key, X-User-ID, X-Chat-ID, Authorization" }),
    tells_everybody: true,
    uuids: true,
    about: executions::about,
    kept_warm: Some(|config| run::kept_warm(&config.boxbox)),
    routes,
    describe: describe::describe,
    ..Dialect::new(NAME, &["/execute", "/executions"], key, answer::refuse)
};

const NAME: &str = "boxbox";
/// In the metadata of every sandbox that is made here.
const MARK: (&str, &str) = ("caisson.dialect", NAME);
/// Where programs start, and the home of their user.
const WORK_DIR: &str = "/home/daytona";

fn routes() -> Vec<Route> {
    let route = |handlers| Route { access: Access::Key, repeatable: false, handlers };
    vec![route(routes!(execute::execute)), route(routes!(executions::get))]
}

/// `X-API-Key`; where there is none, `Authorization`, with or without its scheme.
fn key(request: &Request) -> Option<Vec<u8>> {
    let headers: &HeaderMap = request.headers();
    let own = headers.get("x-api-key").map(|value| value.as_bytes()).filter(|key| !key.is_empty());
    let other = || headers.get(header::AUTHORIZATION).map(|value| bearer(value.as_bytes()).unwrap_or(value.as_bytes()));
    own.or_else(other).filter(|key| !key.is_empty()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests;
