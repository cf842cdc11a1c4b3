//! The API of daiv-sandbox: a session for a coding agent, which is seeded with a repository, runs commands, and tells what they changed.
//!
//! ```text
//! key ─▶ body ─▶ lock of the session ─▶ is it there? ─▶ seed · files · commands · fs ─▶ answer
//! ```
//!
//! A session is one sandbox and a document about it. Paths are those without a prefix; what comes by the prefix of the configuration is led
//! there. Both generations of its clients are served: those that know `/repo` and patches, and those that know `/workspace` and `fs`.

mod answer;
mod archive;
mod body;
mod check;
mod describe;
mod egress;
mod files;
mod fs;
mod health;
mod layout;
mod patch;
mod pattern;
mod python;
mod record;
mod run;
mod seed;
mod session;
mod settings;
mod spool;

use axum::extract::Request;
use utoipa_axum::routes;

use super::Dialect;
use crate::routes::{Access, Route};

pub(crate) use self::session::let_rest;
pub use self::settings::DaivSettings;

pub(super) static DIALECT: Dialect = Dialect {
    tells_everybody: true,
    any_slash: true,
    prefixed: Some(|config| &config.daiv.prefix),
    before_key: Some(body::unreadable),
    routes,
    describe: describe::describe,
    ..Dialect::new(NAME, &["/session", "/-", PREFIX], key, answer::refuse)
};

const NAME: &str = "daiv";
/// The prefix of paths where the configuration names none.
const PREFIX: &str = "/api/v1";
/// In the metadata of every sandbox that is made here.
const MARK: (&str, &str) = ("caisson.dialect", NAME);
/// The version of the API that clients are told.
const VERSION: &str = "v0.6.0";

fn routes() -> Vec<Route> {
    let route = |handlers| Route { access: Access::Key, repeatable: false, handlers };
    let public = |handlers| Route { access: Access::Public, repeatable: false, handlers };
    vec![
        public(routes!(health::health)),
        public(routes!(health::version)),
        route(routes!(session::start)),
        route(routes!(session::look, run::run, session::close)),
        route(routes!(seed::seed)),
        route(routes!(files::write)),
        route(routes!(egress::replace)),
        route(routes!(fs::look::ls)),
        route(routes!(fs::read::read)),
        route(routes!(fs::look::grep)),
        route(routes!(fs::look::glob)),
        route(routes!(fs::change::write)),
        route(routes!(fs::change::edit)),
        route(routes!(fs::change::delete)),
    ]
}

fn key(request: &Request) -> Option<Vec<u8>> {
    request.headers().get("x-api-key").map(|value| value.as_bytes().to_vec()).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests;
