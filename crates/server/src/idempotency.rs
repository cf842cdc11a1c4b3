//! `Idempotency-Key`: a request that can be repeated without doing again what it has done.
//!
//! The first request with a key is carried out to its end, whether its client stays or not, and when it has succeeded its answer is kept. The
//! same request with the same key gets that answer; while the first one is under way, it waits. One that was answered with an error is
//! carried out when it comes again.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use caisson_core::{KeptAnswer, Tenant};
use http::{HeaderName, HeaderValue, StatusCode, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{sync::OwnedMutexGuard, time::Instant};

use crate::{
    caller::View,
    error::{ApiError, ApiResult},
    json, sse,
};

/// The request header (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that was kept.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The longest key.
pub(crate) const MAX_KEY: usize = 255;

/// So much of an answer is kept. Whoever repeats a request with a longer one is told where to look.
const MAX_KEPT: usize = 4 << 20;
/// Requests with one key at one time.
const MAX_AT_ONCE: usize = 32;
/// How long an answer is held that the database does not take.
const KEPT_WITHIN: Duration = Duration::from_secs(600);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a request was: SHA-256.
type Fingerprint = [u8; 32];
/// Whose key.
type Name = (Tenant, String);

/// Keys of requests that are under way.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    names: Mutex<HashMap<Name, Waiting>>,
}

/// One key, what it was used for, and how many requests want or have their turn.
#[derive(Debug)]
struct Waiting {
    fingerprint: Fingerprint,
    turn: Arc<tokio::sync::Mutex<()>>,
    requests: usize,
}

/// One request's place among those with its key.
struct Place {
    caller: Arc<View>,
    name: Name,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Place {
    fn take(caller: &Arc<View>, key: String, fingerprint: Fingerprint) -> ApiResult<Self> {
        let name = (caller.engine.tenant().clone(), key);
        let mut names = lock(&caller.under_way);
        let waiting = names.entry(name.clone()).or_insert_with(|| Waiting { fingerprint, turn: Arc::default(), requests: 0 });
        if waiting.fingerprint != fingerprint {
            return Err(reused());
        }
        if waiting.requests >= MAX_AT_ONCE {
            let message = format!("{MAX_AT_ONCE} requests with this `Idempotency-Key` wait already; try again when they are answered");
            return Err(ApiError::new(StatusCode::CONFLICT, "idempotency_key_busy", message).after(RETRY_AFTER));
        }
        waiting.requests += 1;
        let turn = Arc::clone(&waiting.turn);
        drop(names);
        Ok(Self { caller: Arc::clone(caller), name, turn })
    }

    async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Whether no other server has it. Those who have their database alone need not ask.
    async fn claim(&self) -> ApiResult<bool> {
        Ok(self.caller.peers.is_none() || self.caller.engine.claim_answer(&self.name.1).await?)
    }

    async fn kept_elsewhere(&self) -> ApiResult<Option<KeptAnswer>> {
        if self.caller.peers.is_none() { Ok(None) } else { Ok(self.caller.engine.kept_answer(&self.name.1).await?) }
    }

    /// Other servers may have it again.
    async fn release(&self) {
        if self.caller.peers.is_some() {
            self.caller.engine.release_answer(&self.name.1).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut waiting) = lock(&self.caller.under_way).entry(self.name.clone()) {
            waiting.get_mut().requests -= 1;
            if waiting.get().requests == 0 {
                waiting.remove();
            }
        }
    }
}

fn lock(under_way: &UnderWay) -> MutexGuard<'_, HashMap<Name, Waiting>> {
    under_way.names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a request that has the header.
pub(crate) async fn once(caller: &Arc<View>, request: Request, next: Next) -> Response {
    match answer(caller, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(caller: &Arc<View>, request: Request, next: Next) -> ApiResult<Response> {
    let key = key(&request)?;
    if sse::wanted(request.headers()) {
        let message = "an event stream is not kept, so it cannot be repeated; leave out `Idempotency-Key`, or ask for JSON";
        return Err(ApiError::bad_request("invalid_request", message));
    }
    let (head, body) = request.into_parts();
    let body = json::whole(body, caller).await?;
    // Over HTTP/2 there is a host in the URI as well.
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let mut fingerprint = Sha256::new();
    // What of several the request is about stands in a header of some dialects.
    let about = head.headers.get("x-workspace-id").map(HeaderValue::as_bytes);
    for part in [head.method.as_str().as_bytes(), target.as_bytes(), &body].into_iter().chain(about) {
        fingerprint.update((part.len() as u64).to_be_bytes());
        fingerprint.update(part);
    }
    let fingerprint: Fingerprint = fingerprint.finalize().into();

    let place = Place::take(caller, key, fingerprint)?;
    let turn = place.turn().await;
    if let Some(kept) = caller.engine.kept_answer(&place.name.1).await? {
        return replay(kept, fingerprint);
    }
    let request = Request::from_parts(head, Body::from(body));
    let work = async move {
        // Not before here: nobody who goes away leaves it taken.
        if !place.claim().await? {
            let message = "a request with this `Idempotency-Key` is under way on another server; try again when it is answered";
            return Err(ApiError::new(StatusCode::CONFLICT, "idempotency_key_busy", message).after(RETRY_AFTER));
        }
        // Another server may have answered it meanwhile.
        match place.kept_elsewhere().await {
            Ok(None) => keep(place, turn, fingerprint, next.run(request).await).await,
            Ok(Some(kept)) => {
                place.release().await;
                replay(kept, fingerprint)
            }
            Err(error) => {
                place.release().await;
                Err(error)
            }
        }
    };
    caller.owned(work).await?
}

fn key(request: &Request) -> ApiResult<String> {
    let mut values = request.headers().get_all(&HEADER).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fine = (1..=MAX_KEY).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !fine || values.next().is_some() {
        let message = format!("`Idempotency-Key` is given once and has 1 to {MAX_KEY} printable ASCII characters, such as a UUID");
        return Err(ApiError::bad_request("invalid_idempotency_key", message));
    }
    Ok(value.to_owned())
}

/// Whoever repeats the request meanwhile waits for their turn.
async fn keep(place: Place, turn: OwnedMutexGuard<()>, fingerprint: Fingerprint, response: Response) -> ApiResult<Response> {
    if let Some(unrecorded) = response.extensions().get::<ApiError>().filter(|error| error.is_about_a_record()) {
        let kept = carried_out(fingerprint, unrecorded);
        tokio::spawn(keep_later(place, turn, kept));
        return Ok(response);
    }
    if !response.status().is_success() {
        place.release().await;
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::error!(error = %error, "An answer that was to be kept broke off");
            place.release().await;
            return Err(ApiError::internal());
        }
    };
    let kept = if body.len() <= MAX_KEPT {
        KeptAnswer { fingerprint, status: head.status.as_u16(), body: body.to_vec() }
    } else {
        not_kept(fingerprint, &body)
    };
    if let Err(error) = place.caller.engine.keep_answer(&place.name.1, &kept).await {
        // It has been done, and that is the more important message.
        tracing::warn!(error = %error, "An answer cannot be kept yet: until it is, whoever repeats the request waits");
        tokio::spawn(keep_later(place, turn, kept));
    } else {
        place.release().await;
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// What was done is not done again because the database was away when it was to be told of.
async fn keep_later(place: Place, turn: OwnedMutexGuard<()>, kept: KeptAnswer) {
    let begun = Instant::now();
    while begun.elapsed() < KEPT_WITHIN {
        tokio::time::sleep(RETRY_AFTER).await;
        if place.caller.engine.keep_answer(&place.name.1, &kept).await.is_ok() {
            place.release().await;
            drop(turn);
            return;
        }
    }
    place.release().await;
    tracing::error!("An answer could not be kept: if the request is repeated, it is carried out again");
}

/// What is kept in place of an answer that could not be given.
fn carried_out(fingerprint: Fingerprint, unrecorded: &ApiError) -> KeptAnswer {
    let (_, _, what) = unrecorded.parts();
    let message = format!("this request was carried out, and its answer is not kept: {what}; a new key runs it again");
    refusal(fingerprint, message)
}

/// What is kept in place of an answer that is too long.
fn not_kept(fingerprint: Fingerprint, body: &[u8]) -> KeptAnswer {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let whose = serde_json::from_slice::<Named>(body).map(|named| format!(" of `{}`", named.id)).unwrap_or_default();
    let (bytes, most) = (body.len(), MAX_KEPT >> 20);
    let message = format!(
        "this request was carried out, and its answer of {bytes} bytes is more than the {most} MiB that are kept; look at the record and \
         output{whose}, or take a new key to run it again"
    );
    refusal(fingerprint, message)
}

fn refusal(fingerprint: Fingerprint, message: String) -> KeptAnswer {
    let told = ApiError::new(StatusCode::CONFLICT, "answer_not_kept", message);
    let body = serde_json::to_vec(&told.body()).expect("an error has text keys");
    KeptAnswer { fingerprint, status: StatusCode::CONFLICT.as_u16(), body }
}

fn reused() -> ApiError {
    let message =
        "this `Idempotency-Key` was used for another request; take a new key for each request, and the same body for a repetition";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message)
}

fn replay(kept: KeptAnswer, fingerprint: Fingerprint) -> ApiResult<Response> {
    if kept.fingerprint != fingerprint {
        return Err(reused());
    }
    let mut response = Response::new(Body::from(kept.body));
    *response.status_mut() = StatusCode::from_u16(kept.status).map_err(|_| ApiError::internal())?;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
