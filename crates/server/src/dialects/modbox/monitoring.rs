//! What programs in a sandbox have said, and what the sandbox has used.

use std::collections::VecDeque;

use axum::{Json, extract::Path};
use caisson_core::{Error, Execution, ExecutionFilter, Sandbox, Stream};
use caisson_engine::Engine;
use http::StatusCode;
use jiff::{Span, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::refusal,
    attendant::{self, Point, Points},
    lookup,
    member::Member,
    record::{Status, status, task_id},
    shelf,
};
use crate::{
    error::{ApiError, ApiResult},
    native::types::time,
    params::{InvalidParameter, Params},
};

const DEFAULT_LIMIT: usize = 1000;
const MOST: usize = 10_000;
/// Executions that are looked up at one time.
const PAGE: u32 = 100;
/// So much of each stream of an execution is told, and so much of all of them.
const OF_EACH: usize = 1 << 20;
const OF_ALL: usize = 16 << 20;
/// Bytes of output taken at one time.
const PIECE: usize = 256 << 10;

/// What is known of a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxMonitoring {
    sandbox_id: String,
    sandbox_name: String,
    /// Lines of output, the oldest first
    logs: Vec<ModboxLine>,
    metrics: Vec<ModboxPoint>,
}

/// A line that a program has written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxLine {
    /// When its program was started
    timestamp: String,
    stream: &'static str,
    log: String,
}

/// What was used at one time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxPoint {
    timestamp: String,
    /// Seconds of processor time since the start
    cpu_usage: f64,
    /// Bytes
    memory_usage: u64,
}

impl From<Point> for ModboxPoint {
    fn from(point: Point) -> Self {
        let at = Timestamp::from_microsecond(point.at).unwrap_or_default();
        Self { timestamp: time(at), cpu_usage: (point.cpu * 1e6).round() / 1e6, memory_usage: point.memory }
    }
}

/// What a query asks for.
struct Asked {
    since: Timestamp,
    until: Timestamp,
    limit: usize,
    streams: Vec<Stream>,
    logs: bool,
    metrics: bool,
}

/// What programs in a sandbox have said, and what it has used. Also of one that is destroyed.
#[utoipa::path(get, path = "/sandboxes/{id}/monitoring", operation_id = "modbox_monitoring", tag = "modbox",
    params(
        ("id" = String, Path),
        ("since" = Option<String>, Query, description = "RFC 3339; an hour ago when absent"),
        ("until" = Option<String>, Query, description = "RFC 3339; now when absent"),
        ("limit" = Option<u32>, Query, description = "Of lines and of figures each, the newest of them: 1 to 10000, 1000 when absent"),
        ("stream" = Option<String>, Query, description = "`stdout` or `stderr`; both when absent"),
        ("include" = Option<String>, Query, description = "`logs`, `metrics`; both when absent"),
    ),
    responses((status = 200, description = "What is known", body = ModboxMonitoring)))]
pub(crate) async fn monitoring(member: Member, Path(id): Path<String>, mut params: Params) -> ApiResult<Json<ModboxMonitoring>> {
    let asked = asked(&mut params).map_err(|InvalidParameter(message)| refusal(StatusCode::BAD_REQUEST, "validation_error", message))?;
    let sandbox = lookup::find(&member.engine, &id).await?;
    Ok(Json(ModboxMonitoring {
        sandbox_id: sandbox.id.uuid().to_string(),
        sandbox_name: task_id(&sandbox),
        logs: if asked.logs { lines(&member.engine, &sandbox, &asked).await? } else { Vec::new() },
        metrics: if asked.metrics { points(&member.engine, &sandbox, &asked).await? } else { Vec::new() },
    }))
}

/// The same.
#[utoipa::path(get, path = "/sandbox/monitoring/{*id}", operation_id = "modbox_monitoring_older", tag = "modbox",
    params(("id" = String, Path)), responses((status = 200, description = "What is known", body = ModboxMonitoring)))]
pub(crate) async fn monitoring_older(member: Member, id: Path<String>, params: Params) -> ApiResult<Json<ModboxMonitoring>> {
    monitoring(member, id, params).await
}

fn asked(params: &mut Params) -> Result<Asked, InvalidParameter> {
    let an_hour_ago = Timestamp::now().checked_sub(Span::new().hours(1)).unwrap_or(Timestamp::MIN);
    let when = "a time as RFC 3339 has it";
    let limit = params.parsed::<usize>("limit", "a whole number")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(InvalidParameter(format!("parameter `limit` is {limit}, allowed is 1 to {MOST}")));
    }
    let stream = params.parsed::<Stream>("stream", "stdout or stderr")?;
    let include = params.text("include")?;
    let include: Vec<&str> = include.as_deref().map_or(vec!["logs", "metrics"], |text| text.split(',').map(str::trim).collect());
    if let Some(other) = include.iter().find(|name| !["logs", "metrics"].contains(name)) {
        return Err(InvalidParameter(format!("parameter `include` has `{other}`, expected logs, metrics or both")));
    }
    Ok(Asked {
        since: params.parsed("since", when)?.unwrap_or(an_hour_ago),
        until: params.parsed("until", when)?.unwrap_or(Timestamp::MAX),
        limit,
        streams: stream.map_or(vec![Stream::Stdout, Stream::Stderr], |stream| vec![stream]),
        logs: include.contains(&"logs"),
        metrics: include.contains(&"metrics"),
    })
}

/// The last lines of the programs that were started in that time.
async fn lines(engine: &Engine, sandbox: &Sandbox, asked: &Asked) -> ApiResult<Vec<ModboxLine>> {
    let mut lines: VecDeque<ModboxLine> = VecDeque::new();
    let mut left = OF_ALL;
    let mut filter = ExecutionFilter { sandbox: sandbox.id, statuses: Vec::new(), limit: PAGE, cursor: None };
    'pages: loop {
        let page = engine.executions(&filter).await?;
        for execution in page.data {
            if execution.started_at < asked.since || lines.len() >= asked.limit || left == 0 {
                break 'pages;
            }
            if execution.started_at > asked.until {
                continue;
            }
            let said = said(engine, &execution, &asked.streams, &mut left).await?;
            said.into_iter().rev().for_each(|line| lines.push_front(line));
        }
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    let beyond = lines.len().saturating_sub(asked.limit);
    Ok(lines.into_iter().skip(beyond).collect())
}

async fn said(engine: &Engine, execution: &Execution, streams: &[Stream], left: &mut usize) -> ApiResult<Vec<ModboxLine>> {
    let mut lines = Vec::new();
    for stream in streams {
        let mut bytes: Vec<u8> = Vec::new();
        let most = OF_EACH.min(*left);
        let mut next = 0;
        while bytes.len() < most {
            let piece = match engine.output(execution.id, *stream, next, PIECE.min(most - bytes.len())).await {
                Ok(Some(piece)) if !piece.data.is_empty() => piece,
                Ok(_) => break,
                // Its log goes with its record.
                Err(Error::NotFound { .. }) => break,
                Err(error) => return Err(ApiError::from(error)),
            };
            next = piece.offset + piece.data.len() as u64;
            bytes.extend_from_slice(&piece.data);
        }
        *left -= bytes.len().min(*left);
        let text = String::from_utf8_lossy(&bytes);
        let line = |log: &str| ModboxLine { timestamp: time(execution.started_at), stream: stream.as_str(), log: log.to_owned() };
        lines.extend(text.lines().map(line));
    }
    Ok(lines)
}

async fn points(engine: &Engine, sandbox: &Sandbox, asked: &Asked) -> ApiResult<Vec<ModboxPoint>> {
    let Points(mut points) = shelf::find(engine, sandbox.id.as_str(), "points").await?.unwrap_or_default();
    if status(sandbox) != Status::Destroyed
        && let Ok(point) = attendant::now(engine, sandbox.id).await
    {
        points.push(point);
    }
    let within = asked.since.as_microsecond()..=asked.until.as_microsecond();
    points.retain(|point| within.contains(&point.at));
    let beyond = points.len().saturating_sub(asked.limit);
    Ok(points.into_iter().skip(beyond).map(ModboxPoint::from).collect())
}
