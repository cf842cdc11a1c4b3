//! Sessions: begin one, look whether it is there, end it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{extract::RawQuery, response::Response};
use caisson_core::{Image, LeftToImage, Limits, Network, Recipe, Sandbox, SandboxId, SandboxSpec, Storage, TimeLimits, UserSpec, Warmth};
use caisson_engine::{CreateRequest, Created, Engine};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    MARK, NAME,
    answer::{bad_request, done, faulty, json},
    body::Fields,
    check::{self, Check},
    egress,
    layout::HOME,
    record::{Named, Record},
    settings::DaivSettings,
};
use crate::{
    app::App,
    caller::Caller,
    dialects::images,
    error::{ApiError, ApiResult},
    params::Params,
};

/// Of the memory, so much may be files.
const FILES: u64 = 75;
/// What is asked for is rounded up to what a sandbox can have.
const MILLIS: f64 = 1000.0;
/// So many are kept ready at most.
const WARM: u32 = 4;
/// Between two looks for sessions that nobody uses.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// A session to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivStart {
    /// An image that is here, or `host`; see `image_aliases` of the configuration
    #[schema(required)]
    base_image: String,
    /// Whether runs of commands answer with what they have changed
    extract_patch: Option<bool>,
    /// Whether commands reach public addresses by ports 80 and 443; refused where the server's operator has not opened that
    network_enabled: Option<bool>,
    /// For every command
    environment: Option<BTreeMap<String, String>>,
    memory_bytes: Option<u64>,
    cpus: Option<f64>,
}

/// A session that can be used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivSession {
    session_id: String,
}

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Start {
    base_image: String,
    extract_patch: Option<bool>,
    network: bool,
    egress: Option<Network>,
    environment: BTreeMap<String, String>,
    /// Where it is 0, it is as good as absent.
    memory_bytes: Option<u64>,
    cpus: Option<f64>,
}

impl Start {
    fn take(Fields(fields): Fields) -> ApiResult<Self> {
        let mut faults = Vec::new();
        let mut check = Check::new(&fields, &mut faults);
        let base_image = check.need("base_image", check::text);
        let extract_patch = check.may("extract_patch", check::truth);
        let network = check.may("network_enabled", check::truth);
        let environment = check.may_text_map("environment");
        let memory_bytes = check.may("memory_bytes", check::integer_in(0, None));
        let cpus = check.may("cpus", check::amount);
        let egress = egress::asked_for(&mut check);
        let start = base_image.map(|base_image| Self {
            base_image,
            extract_patch,
            network: network == Some(true),
            egress,
            environment: environment.unwrap_or_default(),
            memory_bytes: memory_bytes.map(i64::unsigned_abs).filter(|bytes| *bytes > 0),
            cpus: cpus.filter(|cpus| *cpus > 0.0),
        });
        check::done(start, faults)
    }

    fn limits(&self, settings: &DaivSettings) -> Limits {
        let default = settings.limits;
        let memory_bytes = self.memory_bytes.unwrap_or(default.memory_bytes);
        let cpu_millis = self.cpus.map_or(default.cpu_millis, |cpus| (cpus * MILLIS).ceil() as u32);
        // What is written counts as memory, where it is there; some is left for programs when it is full.
        let disk_bytes = match settings.storage {
            Storage::Memory => default.disk_bytes.min(memory_bytes / 100 * FILES),
            Storage::Disk => default.disk_bytes,
        };
        Limits { memory_bytes, cpu_millis, disk_bytes, ..default }
    }
}

/// Makes a session; answers when commands can run.
#[utoipa::path(post, path = "/session", operation_id = "daiv_start", tag = "daiv", request_body = DaivStart,
    responses((status = 200, description = "It is ready", body = DaivSession)))]
pub(crate) async fn start(Caller(app): Caller, fields: Fields) -> ApiResult<Response> {
    let mut start = Start::take(fields)?;
    if start.egress.is_some() {
        if !app.engine.has_egress() {
            return Err(egress::not_there());
        }
        egress::wins_over(&mut start.environment);
    }
    if start.network && !app.engine.has_egress() {
        let text = "network_enabled asks for a network, and this server's operator has not opened one (CAISSON_EGRESS=on); leave it out, or send false";
        return Err(bad_request(text));
    }
    let image = image(app.app(), &app.engine, &start.base_image).await?;
    let settings = &app.config.daiv;
    let record = Record { extract_patch: start.extract_patch, ..Record::default() };
    let request = CreateRequest {
        name: None,
        spec: SandboxSpec {
            network: start.egress.take().unwrap_or(if start.network { Network::Public } else { Network::None }),
            ..spec(settings, image, start.limits(settings), start.environment, &record)
        },
        // On disk it is only stopped.
        time_limits: TimeLimits { lifetime: None, idle_timeout: settings.idle.filter(|_| settings.storage == Storage::Memory) },
        metadata: BTreeMap::from([(MARK.0.to_owned(), MARK.1.to_owned())]),
    };
    let (engine, gone) = (app.engine.clone(), CancellationToken::new());
    let client = gone.clone().drop_guard();
    let id = app.owned(async move { made(&engine, request, &record, &gone).await }).await??;
    drop(client);
    Ok(json(StatusCode::OK, &DaivSession { session_id: id.to_string() }))
}

/// Stops sessions that nobody has asked for in a long time, again and again.
pub(crate) async fn let_rest(app: Arc<App>) {
    let settings = &app.config.daiv;
    let Some(idle) = settings.idle.filter(|_| settings.storage == Storage::Disk) else { return };
    // What is short is not waited for much longer than it says.
    let every = settings.look_every.min(idle / 2).max(LOOK_AT_MOST_EVERY);
    loop {
        tokio::time::sleep(every).await;
        app.operator.stop_idle(MARK, idle).await;
    }
}

/// Sessions like those that were begun just before are kept ready: a disk takes longer to make than everything else of one.
fn warm() -> Warmth {
    Warmth { max: WARM, dialect: Some(NAME), ..Warmth::default() }
}

fn spec(settings: &DaivSettings, image: Image, limits: Limits, env: BTreeMap<String, String>, record: &Record) -> SandboxSpec {
    let layout = record.layout();
    let name = if settings.uid == 0 { "root" } else { "daiv-sandbox" };
    SandboxSpec {
        image,
        backend: settings.backend.clone(),
        storage: settings.storage,
        limits,
        user: UserSpec { uid: settings.uid, gid: settings.gid, name: name.to_owned(), home: HOME.to_owned() },
        work_dir: layout.repo().to_owned(),
        env,
        left_to_image: LeftToImage { user: false, work_dir: false },
        recipe: Recipe { places: layout.places(), warm: Some(warm()), ..Recipe::default() },
        ..SandboxSpec::default()
    }
}

/// A session with its record, or none. None as well when the client has gone, who alone would know of it.
async fn made(engine: &Engine, request: CreateRequest, record: &Record, gone: &CancellationToken) -> ApiResult<SandboxId> {
    let (Created::New(Sandbox { id, .. }) | Created::Existing(Sandbox { id, .. })) = engine.create(request).await?;
    let kept = match record.insert(engine, id).await {
        Ok(()) if gone.is_cancelled() => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "gone", "the client has hung up")),
        Ok(()) => Ok(id),
        Err(error) => Err(error.into()),
    };
    if kept.is_err() {
        // Nobody hears of it, so it must not stay. It may have ended by itself.
        engine.destroy(id).await.ok();
    }
    kept
}

async fn image(app: &App, engine: &Engine, name: &str) -> ApiResult<Image> {
    images::named(app, engine, name).await?.ok_or_else(|| {
        let shown = name.escape_debug();
        bad_request(format!(
            "base_image `{shown}` is not here; get it with `caisson image pull {shown}`, map it to one that is with \
             CAISSON_IMAGE_ALIASES={shown}=host, or ask for `host`"
        ))
    })
}

/// Whether a session is there. One that was stopped is started.
#[utoipa::path(get, path = "/session/{id}", operation_id = "daiv_look", tag = "daiv", params(("id" = String, Path)),
    responses((status = 204, description = "It is there")))]
pub(crate) async fn look(Caller(app): Caller, named: Named) -> ApiResult<Response> {
    named.open(&app).await?;
    Ok(done())
}

/// Ends a session and everything in it. Answers when that is done, and the same where there is none.
#[utoipa::path(delete, path = "/session/{id}", operation_id = "daiv_close", tag = "daiv",
    params(("id" = String, Path), ("force" = Option<bool>, Query, description = "Changes nothing: what is ended is removed")),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn close(Caller(app): Caller, named: Named, RawQuery(query): RawQuery) -> ApiResult<Response> {
    check_force(query.as_deref().unwrap_or_default())?;
    if let Some(session) = named.open_if_there(&app).await? {
        session
            .work(&app, |session| async move {
                match session.engine.destroy(session.id).await {
                    Ok(_) | Err(caisson_core::Error::NotFound { .. } | caisson_core::Error::Gone { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
    }
    Ok(done())
}

fn check_force(query: &str) -> ApiResult<()> {
    let given = Params::parse(query).ok().and_then(|mut params| params.all_bytes("force").pop());
    let Some(given) = given.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) else { return Ok(()) };
    check::truth_of(&given).map(drop).map_err(|wrong| faulty(vec![check::in_query("force", &given, &wrong)]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(body: Value) -> Result<Start, Value> {
        let Value::Object(fields) = body else { unreachable!() };
        Start::take(Fields(fields)).map_err(|error| error.details().unwrap().clone())
    }

    #[test]
    fn what_clients_send_is_taken() {
        // Every field, nulls included.
        let start = taken(json!({
            "base_image": "python:3.12", "dockerfile": null, "extract_patch": true, "network_enabled": false,
            "memory_bytes": null, "cpus": null, "environment": null, "egress": null,
        }));
        let start = start.unwrap();
        assert_eq!((start.base_image.as_str(), start.extract_patch, start.network), ("python:3.12", Some(true), false));
        let settings = DaivSettings::default();
        assert_eq!(start.limits(&settings), settings.limits);
        let start = taken(json!({"base_image": "x", "memory_bytes": "268435456", "cpus": 0.5, "environment": {"A": "b"}})).unwrap();
        let limits = start.limits(&settings);
        assert_eq!((limits.memory_bytes, limits.cpu_millis), (268_435_456, 500));
        let none = taken(json!({"base_image": "x", "memory_bytes": 0, "cpus": 0})).unwrap();
        assert_eq!(none.limits(&settings), settings.limits);
        assert_eq!(none.extract_patch, None);
    }

    #[test]
    fn faults_are_told_in_order() {
        let faults = taken(json!({"extract_patch": "maybe", "environment": {"A": 5}, "memory_bytes": 1.5, "cpus": "x"})).unwrap_err();
        let kinds: Vec<&str> = faults.as_array().unwrap().iter().map(|fault| fault["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["missing", "bool_parsing", "string_type", "int_from_float", "float_parsing"]);
        assert_eq!(faults[2]["loc"], json!(["body", "environment", "A"]));
    }

    #[test]
    fn force_is_a_truth() {
        for fine in ["", "force=true", "force=0", "x=y"] {
            check_force(fine).unwrap();
        }
        let error = check_force("force=maybe").unwrap_err();
        let fault = &error.details().unwrap()[0];
        assert_eq!((&fault["type"], &fault["loc"], &fault["input"]), (&json!("bool_parsing"), &json!(["query", "force"]), &json!("maybe")));
    }
}
