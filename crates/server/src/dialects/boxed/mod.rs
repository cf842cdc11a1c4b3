//! The API of Boxed: sandboxes with a hard time to live, programs with what they leave in `/output`, files, and a process on a WebSocket.
//!
//! A sandbox made here is an ordinary one, with root inside, and marked in its metadata. What upstream ignores is ignored here too, but for
//! a network that is asked for and that the operator has not opened.

mod answer;
mod artifacts;
mod body;
mod describe;
mod exec;
mod files;
mod interact;
mod mime;
mod result;
mod rpc;
mod sandboxes;
mod template;
mod upload;

use axum::extract::Request;
use utoipa_axum::routes;

use super::Dialect;
use crate::{
    params::Params,
    routes::{Access, Route},
};

pub(super) static DIALECT: Dialect =
    Dialect { routes, describe: describe::describe, ..Dialect::new("boxed", &["/v1/sandbox"], key, answer::refuse) };

/// In the metadata of every sandbox that is made here.
const MARK: (&str, &str) = ("caisson.dialect", "boxed");
const WORK_DIR: &str = "/workspace";
/// What a program leaves here comes with its result.
const OUTPUT: &str = "/output";

fn routes() -> Vec<Route> {
    let route = |handlers| Route { access: Access::Key, repeatable: false, handlers };
    vec![
        route(routes!(sandboxes::create, sandboxes::list)),
        route(routes!(sandboxes::delete)),
        route(routes!(exec::exec)),
        route(routes!(files::list, upload::upload)),
        route(routes!(files::content)),
        route(routes!(interact::interact)),
    ]
}

/// The header; the query only where there is none.
fn key(request: &Request) -> Option<Vec<u8>> {
    let header = request.headers().get("x-boxed-api-key").map(|value| value.as_bytes().to_vec()).filter(|key| !key.is_empty());
    header.or_else(|| Params::parse(request.uri().query()?).ok()?.all_bytes("api_key").into_iter().next().filter(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests;
