//! The API of Modbox: sandboxes that are provisioned, waited for and destroyed by names of the client's own; images and registries, which
//! belong to workspaces; and an API of each sandbox at an address of its own.
//!
//! ```text
//! workspace ─ a tenant          user ─ the e-mail address in the note of a key          token ─ a key
//! sandbox_url/modbox/api/… ─▶ /modbox/{sandbox}/modbox/api/…, let in by keys of the sandbox
//! ```
//!
//! What is here and nowhere else is kept as documents. Of a sandbox everything stands in its record: it is an ordinary one, with root
//! inside, and marked in its metadata.

mod answer;
mod attendant;
mod body;
mod check;
mod describe;
mod images;
mod list;
mod lookup;
mod member;
mod members;
mod monitoring;
mod provision;
mod readiness;
mod record;
mod registries;
mod runtime;
mod sandboxes;
mod sealed;
mod shelf;
mod tokens;
mod user;
mod wait;
mod workspaces;

use axum::extract::Request;
use http::header;
use utoipa_axum::routes;

use super::Dialect;
use crate::{
    auth::bearer,
    routes::{Access, Route},
};

pub(super) static DIALECT: Dialect = Dialect {
    hosts: Some(("modbox-", "/modbox/")),
    any_slash: true,
    routes,
    admit: runtime::admit,
    about: lookup::about,
    describe: describe::describe,
    ..Dialect::new(
        NAME,
        &["/sandboxes", "/sandbox/monitoring", "/sandbox-images", "/registries", "/workspaces", "/api-tokens", "/modbox"],
        key,
        answer::refuse,
    )
};

const NAME: &str = "modbox";
const WORK_DIR: &str = "/workspace";
/// Where uploads are.
const UPLOADS: &str = "/workspace/uploads";

fn routes() -> Vec<Route> {
    let route = |handlers| Route { access: Access::Key, repeatable: false, handlers };
    let makes = |handlers| Route { access: Access::Key, repeatable: true, handlers };
    let own = |handlers| Route { access: Access::Own, repeatable: false, handlers };
    vec![
        makes(routes!(provision::provision)),
        makes(routes!(provision::create, list::list)),
        route(routes!(list::list_realm)),
        route(routes!(wait::wait)),
        route(routes!(wait::wait_canonical)),
        route(routes!(wait::status)),
        route(routes!(wait::status_canonical)),
        route(routes!(sandboxes::detail)),
        route(routes!(sandboxes::destroy)),
        route(routes!(sandboxes::get, sandboxes::delete)),
        route(routes!(monitoring::monitoring)),
        route(routes!(monitoring::monitoring_older)),
        route(routes!(images::create, images::list)),
        route(routes!(images::get, images::update, images::delete)),
        route(routes!(images::cache, images::clear_cache)),
        route(routes!(registries::create, registries::list)),
        route(routes!(registries::get, registries::update, registries::delete)),
        route(routes!(workspaces::create, workspaces::list)),
        route(routes!(workspaces::get, workspaces::update, workspaces::delete)),
        route(routes!(members::add, members::list)),
        route(routes!(members::update, members::remove)),
        route(routes!(tokens::create, tokens::list)),
        route(routes!(tokens::delete)),
        own(routes!(runtime::exec::exec)),
        own(routes!(runtime::files::list)),
        own(routes!(runtime::files::upload)),
        own(routes!(runtime::files::download, runtime::files::delete)),
    ]
}

fn key(request: &Request) -> Option<Vec<u8>> {
    bearer(request.headers().get(header::AUTHORIZATION)?.as_bytes()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests;
