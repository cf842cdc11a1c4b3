//! Lists of sandboxes, which come whole.

use std::sync::Arc;

use axum::{
    body::Body as Answer,
    extract::Path,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, Sandbox, SandboxFilter, Scope, State, Tenant};
use caisson_engine::Engine;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::{invalid_field, refusal},
    member::{Identity, Member},
    record::{MARK, ModboxSandboxItem, Status, status},
};
use crate::{app::App, dialects::pages, error::ApiResult, params::Params};

/// Sandboxes that are looked up at one time. Each may have 64 KiB of metadata.
const PAGE: u32 = 50;
/// Tenants that are looked up at one time.
const TENANTS: u32 = 1000;

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxSandboxes {
    sandboxes: Vec<ModboxSandboxItem>,
    total: u64,
}

/// Lists the workspace's sandboxes, the newest first, destroyed ones for as long as the server keeps records.
#[utoipa::path(get, path = "/sandboxes", operation_id = "modbox_list_sandboxes", tag = "modbox",
    params(("status" = Option<String>, Query, description = "`provisioning`, `running` or `destroyed`")),
    responses((status = 200, description = "All of them", body = ModboxSandboxes)))]
pub(crate) async fn list(member: Member, mut params: Params) -> ApiResult<Response> {
    let wanted = wanted(&mut params)?;
    let found = found(member.engine.clone(), wanted).await?;
    Ok(whole(Arc::clone(member.view.app()), found))
}

/// Lists the sandboxes of all workspaces, for admins of the server.
#[utoipa::path(get, path = "/sandboxes/realm/{realm}", operation_id = "modbox_list_realm", tag = "modbox",
    params(("realm" = String, Path, description = "Passed over"), ("status" = Option<String>, Query)),
    responses((status = 200, description = "All of them", body = ModboxSandboxes)))]
pub(crate) async fn list_realm(identity: Identity, _: Path<String>, mut params: Params) -> ApiResult<Response> {
    let view = identity.view;
    if view.scope < Scope::Admin {
        return Err(refusal(StatusCode::FORBIDDEN, "forbidden", "this is for admins of the server; use a key of the scope `admin`"));
    }
    let wanted = wanted(&mut params)?;
    let mut tenants: Vec<Tenant> = Vec::new();
    let mut cursor = None;
    loop {
        let page = view.operator.tenants(TENANTS, cursor.as_deref())?;
        tenants.extend(page.data.into_iter().map(|tenant| tenant.tenant));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let app = Arc::clone(view.app());
    let operator = view.operator.clone();
    let each = stream::iter(tenants).then(move |tenant| found(operator.of(&tenant), wanted));
    Ok(whole(app, each.try_flatten()))
}

/// The status that is asked for. All other parameters are passed over.
fn wanted(params: &mut Params) -> ApiResult<Option<Status>> {
    match params.text("status")?.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            let status = Status::parse(&text).map(Some);
            status.ok_or_else(|| invalid_field("query.status", "is none of provisioning, running, destroyed"))
        }
    }
}

/// Those of one tenant, page by page.
async fn found(engine: Engine, wanted: Option<Status>) -> Result<impl Stream<Item = Result<Vec<Sandbox>, Error>> + Send + use<>, Error> {
    let filter = SandboxFilter {
        states: wanted.map(Status::states).unwrap_or_default(),
        metadata: vec![(MARK.0.to_owned(), MARK.1.to_owned())],
        name: None,
        limit: PAGE,
        cursor: None,
    };
    let first = engine.sandboxes(&filter).await?;
    let pages = pages::all(engine, filter, first);
    Ok(pages.map_ok(move |mut page| {
        page.retain(|sandbox| wanted.is_none_or(|wanted| status(sandbox) == wanted));
        page
    }))
}

/// What is found as one answer, of which no more than a page is in memory.
fn whole(app: Arc<App>, pages: impl Stream<Item = Result<Vec<Sandbox>, Error>> + Send + 'static) -> Response {
    let total = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&total);
    let entries = pages.map_ok(move |page| {
        page.iter().fold(String::new(), |mut text, sandbox| {
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            text += if before == 0 { "" } else { "," };
            text + &serde_json::to_string(&ModboxSandboxItem::new(&app, sandbox)).expect("a sandbox has text keys and no figures")
        })
    });
    let begin = stream::once(std::future::ready(Ok("{\"sandboxes\":[".to_owned())));
    let end = stream::once(async move { Ok(format!("],\"total\":{}}}", total.load(std::sync::atomic::Ordering::Relaxed))) });
    let body = begin.chain(entries).chain(end);
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Answer::from_stream(body)).into_response()
}

/// Ends all that live of a tenant's.
pub(super) async fn end_all(engine: &Engine) -> ApiResult<()> {
    let states = State::ALL.into_iter().filter(|state| *state != State::Ended).collect();
    let filter = SandboxFilter { states, limit: PAGE, ..SandboxFilter::default() };
    let first = engine.sandboxes(&filter).await?;
    let mut pages = std::pin::pin!(pages::all(engine.clone(), filter, first));
    while let Some(page) = pages.try_next().await? {
        for sandbox in page {
            match engine.destroy(sandbox.id).await {
                Ok(_) | Err(Error::Gone { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
