//! Sandboxes: make, list, end.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body as Answer,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use caisson_core::{Error, LeftToImage, Limits, Network, Sandbox, SandboxFilter, SandboxId, SandboxSpec, State, TimeLimits, UserSpec};
use caisson_engine::{CreateRequest, Created, Engine, FileAttributes};
use futures::{StreamExt, TryStreamExt, stream};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    MARK, OUTPUT, WORK_DIR,
    answer::{JSON, Named, bad_request, failed, json, refusal},
    body::Body,
    template,
};
use crate::{
    caller::Caller,
    dialects::{few, pages},
    error::{ApiError, ApiResult},
};

/// Seconds to live where nothing is said, and at most.
const DEFAULT_TIMEOUT: i64 = 300;
const MAX_TIMEOUT: i64 = 1800;
const MEMORY_BYTES: u64 = 512 << 20;
/// What is written counts as memory; some is left for the programs when it is full.
const DISK_BYTES: u64 = 384 << 20;
/// The permission bits of what is put in.
pub(super) const MODE: u32 = 0o644;
/// Sandboxes that are looked up at one time. Each may have 64 KiB of metadata.
const PAGE: u32 = 50;
/// What makes the sandboxes, as clients of this API know it.
const DRIVER: &str = "docker";

/// A sandbox to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct BoxedCreate {
    /// A template of this server, or an image by its name; see `image_aliases` of the configuration
    template: Option<String>,
    /// Seconds to live, at most 1800; 300 when absent, 0 or negative
    timeout: Option<i64>,
    /// Files that are there before the sandbox is ready
    #[serde(deserialize_with = "few::list")]
    context: Option<Vec<BoxedFile>>,
    #[serde(deserialize_with = "few::map")]
    metadata: Option<BTreeMap<String, Option<String>>>,
    network_policy: Option<BoxedNetworkPolicy>,
}

/// A file to put in.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub(crate) struct BoxedFile {
    path: Option<String>,
    content_base64: Option<String>,
}

/// Public addresses by ports 80 and 443, or these hosts alone. Refused where the server's operator has not opened that.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub(crate) struct BoxedNetworkPolicy {
    enable_internet: Option<bool>,
    #[serde(deserialize_with = "few::list", skip_serializing_if = "Option::is_none")]
    allow_domains: Option<Vec<String>>,
}

/// A sandbox that can be used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedCreated {
    sandbox_id: String,
    status: &'static str,
}

/// All that live.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is written one by one")]
pub(crate) struct BoxedSandboxes {
    sandboxes: Vec<BoxedSandbox>,
}

/// One that lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedSandbox {
    id: String,
    /// `creating`, `ready` or `stopping`
    state: &'static str,
    created_at: String,
    driver_type: &'static str,
    config: BoxedConfig,
}

/// What a sandbox was made with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoxedConfig {
    image: String,
    memory_mb: u64,
    cpu_cores: f64,
    /// Nanoseconds
    timeout: u64,
    enable_networking: bool,
    network_policy: BoxedNetworkPolicy,
    env: BTreeMap<String, String>,
    work_dir: String,
    labels: BTreeMap<String, String>,
}

/// What a policy lets out. Hosts go with a network that there is.
fn network(policy: BoxedNetworkPolicy) -> ApiResult<Network> {
    let domains = policy.allow_domains.unwrap_or_default();
    match (policy.enable_internet.unwrap_or_default(), domains.is_empty()) {
        (false, true) => Ok(Network::None),
        (true, true) => Ok(Network::Public),
        (true, false) => {
            Network::rules(&domains, &[]).map_err(|error| bad_request(format!("network_policy.allow_domains cannot be read: {error}")))
        }
        (false, false) => Err(bad_request("network_policy has allow_domains, and enable_internet is not true; leave out one of them")),
    }
}

/// Makes a sandbox; answers when it can be used.
#[utoipa::path(post, path = "/v1/sandbox", operation_id = "boxed_create", tag = "boxed", request_body = BoxedCreate,
    responses((status = 201, description = "It is ready", body = BoxedCreated)))]
pub(crate) async fn create(Caller(app): Caller, Body(body): Body<BoxedCreate>) -> ApiResult<Response> {
    let network = network(body.network_policy.unwrap_or_default())?;
    if !network.is_none() && !app.engine.has_egress() {
        let text = "network_policy asks for a network, and this server's operator has not opened one (CAISSON_EGRESS=on); leave it out, or send \
                    {\"enable_internet\": false}";
        return Err(bad_request(text));
    }
    let lifetime = lifetime(body.timeout)?;
    let files = body.context.unwrap_or_default().into_iter().enumerate().map(|(index, file)| decoded(index, file));
    let files: Vec<(String, Bytes)> = files.collect::<ApiResult<_>>()?;
    let mut metadata: BTreeMap<String, String> =
        body.metadata.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    metadata.insert(MARK.0.to_owned(), MARK.1.to_owned());
    let spec = SandboxSpec {
        limits: Limits { memory_bytes: MEMORY_BYTES, disk_bytes: DISK_BYTES, cpu_millis: 1000, ..Limits::default() },
        user: UserSpec::root(),
        work_dir: WORK_DIR.to_owned(),
        left_to_image: LeftToImage { work_dir: false, ..LeftToImage::default() },
        env: BTreeMap::from([("BOXED_AGENT_MODE".to_owned(), DRIVER.to_owned())]),
        network,
        ..SandboxSpec::default()
    };
    let named = body.template.as_deref().unwrap_or_default();
    let spec = match template::of_server(app.app(), &app.engine, named).await? {
        Some(template) => template.over(spec)?,
        None => SandboxSpec { image: template::image(app.app(), &app.engine, named).await?, ..spec },
    };
    let time_limits = TimeLimits { lifetime: Some(lifetime), idle_timeout: None };
    let request = CreateRequest { name: None, spec, time_limits, metadata };
    let (engine, gone) = (app.engine.clone(), CancellationToken::new());
    let client = gone.clone().drop_guard();
    let id = app.owned(async move { made(&engine, request, files, &gone).await }).await??;
    drop(client);
    Ok(json(StatusCode::CREATED, &BoxedCreated { sandbox_id: id.to_string(), status: "ready" }))
}

/// A sandbox with all that it begins with, or none. None as well when the client has gone, who alone would know of it.
async fn made(engine: &Engine, request: CreateRequest, files: Vec<(String, Bytes)>, gone: &CancellationToken) -> ApiResult<SandboxId> {
    let (Created::New(Sandbox { id, .. }) | Created::Existing(Sandbox { id, .. })) =
        engine.create(request).await.map_err(|error| match error {
            Error::Internal { .. } => {
                // For the log; what is answered is upstream's.
                let _logged = ApiError::from(error);
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "failed to start sandbox")
            }
            other => other.into(),
        })?;
    let furnished = furnish(engine, id, files, gone).await.and_then(|()| waited_for(gone));
    if furnished.is_err() {
        // Nobody hears of it, so it must not stay. It may have ended by itself.
        engine.destroy(id).await.ok();
    }
    furnished.map(|()| id)
}

async fn furnish(engine: &Engine, id: SandboxId, files: Vec<(String, Bytes)>, gone: &CancellationToken) -> ApiResult<()> {
    if let Err(error) = engine.make_directory(id, OUTPUT.as_bytes(), true, None).await {
        return Err(failed(engine, id, error).await);
    }
    for (path, content) in files {
        waited_for(gone)?;
        let content = Box::pin(stream::once(std::future::ready(Ok(content))));
        let attributes = FileAttributes { mode: Some(MODE), modified_at: None };
        if let Err(error) = engine.write_file(id, path.as_bytes(), attributes, content).await {
            let text = format!("failed to create sandbox: failed to inject file {path}: {error}");
            let status = match error {
                Error::Invalid { .. } => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            return Err(refusal(status, text));
        }
    }
    Ok(())
}

fn waited_for(gone: &CancellationToken) -> ApiResult<()> {
    if gone.is_cancelled() { Err(refusal(StatusCode::REQUEST_TIMEOUT, "the client has hung up")) } else { Ok(()) }
}

fn lifetime(timeout: Option<i64>) -> ApiResult<Duration> {
    match timeout.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TIMEOUT) {
        seconds if seconds > MAX_TIMEOUT => {
            Err(bad_request("failed to create sandbox: invalid sandbox configuration: timeout cannot exceed 30 minutes"))
        }
        seconds => Ok(Duration::from_secs(seconds.unsigned_abs())),
    }
}

fn decoded(index: usize, file: BoxedFile) -> ApiResult<(String, Bytes)> {
    let path = file.path.filter(|path| !path.is_empty()).ok_or_else(|| bad_request(format!("context[{index}]: `path` is missing")))?;
    let mut text = file.content_base64.unwrap_or_default();
    // Upstream's decoder passes over line breaks.
    text.retain(|c| !matches!(c, '\r' | '\n'));
    match STANDARD.decode(&text) {
        Ok(content) => Ok((path, content.into())),
        Err(error) => Err(bad_request(format!("context[{index}] ({path}): content_base64 is not base64: {error}"))),
    }
}

/// Lists the sandboxes that were made here and live.
#[utoipa::path(get, path = "/v1/sandbox", operation_id = "boxed_list", tag = "boxed",
    responses((status = 200, description = "All of them", body = BoxedSandboxes)))]
pub(crate) async fn list(Caller(app): Caller) -> ApiResult<Response> {
    let filter = SandboxFilter {
        states: State::ALL.into_iter().filter(|state| *state != State::Ended).collect(),
        metadata: vec![(MARK.0.to_owned(), MARK.1.to_owned())],
        name: None,
        limit: PAGE,
        cursor: None,
    };
    // One page after the other, so that no more than one is in memory. The first one says whether there is an answer at all.
    let first = app.engine.sandboxes(&filter).await?;
    let pages = pages::all(app.engine.clone(), filter, first);
    let mut first = true;
    let entries = pages.map_ok(move |page| {
        page.iter().fold(String::new(), |mut text, sandbox| {
            text += if std::mem::take(&mut first) { "" } else { "," };
            text + &serde_json::to_string(&BoxedSandbox::from(sandbox)).expect("a sandbox has text keys and finite figures")
        })
    });
    let around = |text: &str| stream::once(std::future::ready(Ok(text.to_owned())));
    let body = around("{\"sandboxes\":[").chain(entries).chain(around("]}\n"));
    Ok(([(header::CONTENT_TYPE, JSON)], Answer::from_stream(body)).into_response())
}

impl From<&Sandbox> for BoxedSandbox {
    fn from(sandbox: &Sandbox) -> Self {
        let SandboxSpec { image, limits, env, work_dir, network, .. } = &sandbox.spec;
        let mut labels = sandbox.metadata.clone();
        labels.remove(MARK.0);
        Self {
            id: sandbox.id.to_string(),
            state: match sandbox.state {
                State::Creating => "creating",
                // One that is stopped is started by whatever needs it.
                State::Running | State::Stopped => "ready",
                State::Stopping | State::Ended => "stopping",
            },
            created_at: crate::native::types::time(sandbox.created_at),
            driver_type: DRIVER,
            config: BoxedConfig {
                image: image.to_string(),
                memory_mb: limits.memory_bytes >> 20,
                cpu_cores: f64::from(limits.cpu_millis) / 1000.0,
                timeout: sandbox.time_limits.lifetime.map_or(0, |lifetime| u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX)),
                enable_networking: !network.is_none(),
                network_policy: BoxedNetworkPolicy {
                    enable_internet: Some(!network.is_none()),
                    allow_domains: match network {
                        Network::None | Network::Public | Network::Packages(_) => None,
                        Network::Rules(rules) => Some(rules.allow.iter().map(ToString::to_string).collect()),
                    },
                },
                env: env.clone(),
                work_dir: work_dir.clone(),
                labels,
            },
        }
    }
}

/// Ends a sandbox and everything in it. Answers when that is done.
#[utoipa::path(delete, path = "/v1/sandbox/{id}", operation_id = "boxed_delete", tag = "boxed", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(Caller(app): Caller, named: Named) -> ApiResult<Response> {
    let id = named.id()?;
    let engine = app.engine.clone();
    match app.owned(async move { engine.destroy(id).await }).await? {
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => Err(failed(&app.engine, id, error).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_five_minutes_unless_said_and_half_an_hour_at_most() {
        for (given, seconds) in [(None, 300), (Some(0), 300), (Some(-5), 300), (Some(i64::MIN), 300), (Some(1), 1), (Some(1800), 1800)] {
            assert_eq!(lifetime(given).unwrap(), Duration::from_secs(seconds), "{given:?}");
        }
        for given in [1801, i64::MAX] {
            assert!(lifetime(Some(given)).unwrap_err().parts().2.ends_with("timeout cannot exceed 30 minutes"));
        }
    }
}
