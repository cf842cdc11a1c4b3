//! What happens to sandboxes and executions, as it happens.

use std::sync::Arc;

use axum::{
    Json as Reply,
    response::{IntoResponse, Response},
};
use caisson_core::{Error, EventFilter, EventKind};
use http::HeaderMap;

use super::{
    output,
    sandboxes::limit,
    types::{EventBody, LostBody, PageBody, ReadyBody},
};
use crate::{
    caller::{Caller, View},
    error::ApiResult,
    params::Params,
    sse::{self, Events, HungUp},
};

/// Events that are read from the database at once.
const AT_ONCE: u32 = 100;

/// What has happened to sandboxes and executions, the oldest first.
///
/// Every event has an `id`, which counts what happens to the tenant's things from 1. Events are kept for a week, or as long as records;
/// `cursor` is the id of an event, and what comes is behind it. With `Accept: text/event-stream` the answer goes on with what happens from
/// now on, or behind `cursor`, or behind `Last-Event-ID`, which goes over it: whoever loses the connection misses nothing. The first event,
/// `ready`, says where a stream begins. Where events are not kept any more, an event `lost` says which. What was done is recorded together
/// with its event, so there is none of what did not happen, and none is missing.
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "events",
    params(
        ("cursor" = Option<String>, Query, description = "Behind the event with this id; from the beginning when absent, for streams from now on"),
        ("type" = Option<Vec<String>>, Query, description = "Only those of this type, such as `sandbox.ended`; may repeat"),
        ("sandbox_id" = Option<String>, Query, description = "Only what happens to this sandbox and in it"),
        ("limit" = Option<u32>, Query, description = "Entries on the page: 1 to 1000, 100 when absent; not for streams"),
        ("last-event-id" = Option<String>, Header, description = "The same as `cursor`, over which it goes"),
    ),
    responses((status = 200, description = "Events", content((PageBody<EventBody> = "application/json"), (EventBody = "text/event-stream")))))]
pub(crate) async fn list(Caller(app): Caller, headers: HeaderMap, mut params: Params) -> ApiResult<Response> {
    let kinds = params.choices("type", &EventKind::ALL.map(EventKind::as_str))?;
    let sandbox = params.parsed("sandbox_id", "the id of a sandbox")?;
    let cursor = params.parsed::<u64>("cursor", "the id of an event")?;
    let cursor = sse::last_event_id(&headers, "the id of an event")?.or(cursor);
    if !sse::wanted(&headers) {
        let filter = EventFilter { after: cursor.unwrap_or(0), sandbox, kinds, limit: limit(&mut params)? };
        params.finish()?;
        let events = app.engine.events(&filter).await?;
        let is_full = events.data.len() == filter.limit as usize;
        let data = events.data.iter().map(EventBody::from).collect();
        return Ok(Reply(PageBody { data, next_cursor: is_full.then(|| events.until.to_string()) }).into_response());
    }
    params.finish()?;
    let last = app.engine.last_event().await?;
    let after = cursor.unwrap_or(last);
    if after > last {
        return Err(Error::foreign_cursor().into());
    }
    let filter = EventFilter { after, sandbox, kinds, limit: AT_ONCE };
    Ok(app.events(|events| tell(Arc::clone(&app), filter, events)))
}

async fn tell(app: Arc<View>, mut filter: EventFilter, events: Events) -> Result<(), HungUp> {
    events.send("ready", Some(filter.after), &ReadyBody { cursor: filter.after.to_string() }).await?;
    loop {
        let next = match events.during(app.engine.next_events(&filter)).await? {
            Ok(next) => next,
            Err(error) => return output::fail(&events, error.into()).await,
        };
        if next.kept_from > filter.after + 1 {
            let lost = LostBody { from: (filter.after + 1).to_string(), to: (next.kept_from - 1).to_string() };
            events.send("lost", None, &lost).await?;
        }
        for event in &next.data {
            events.send(event.what.kind().as_str(), Some(event.number), &EventBody::from(event)).await?;
        }
        filter.after = next.until;
    }
}
