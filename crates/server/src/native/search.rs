//! Finding files by their names and by their contents.

use std::time::Duration;

use axum::Json as Reply;
use caisson_core::SandboxId;
use caisson_engine::GrepRequest;

use super::{
    cursor,
    files::{ENTRIES, MAX_ENTRIES, bounded, path},
    id::Id,
    types::{GrepBody, ListingBody},
};
use crate::{
    caller::Caller,
    error::{ApiError, ApiResult},
    params::Params,
};

/// What a search is limited to when the request says nothing.
const MATCHES: u32 = 1000;
const BYTES: u64 = 1 << 30;
const SECONDS: f64 = 10.0;

/// What of a directory's content, however deep, a pattern is about.
///
/// `?`, `*`, `[a-z]`, `[!a-z]` and `{a,b}` stand for parts of a name, `**` for any number of directories; names that begin with a dot are
/// nothing special. Links are not followed. A page may have fewer entries than `limit` although more come: `next_cursor` says.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/glob", operation_id = "glob_files", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = Option<String>, Query, description = "The directory, absolute or relative to the work dir, which it is when absent"),
        ("pattern" = String, Query, description = "Of paths below it, such as `**/*.py`; percent-encoded bytes"),
        ("limit" = Option<u32>, Query, description = "Entries: 1 to 10000, 1000 when absent"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "The entries, in the order of their paths", body = ListingBody)))]
pub(crate) async fn glob(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<ListingBody>> {
    let path = root(&mut params)?;
    let pattern = params.bytes("pattern")?.ok_or_else(missing_pattern)?;
    let limit = bounded(&mut params, "limit", ENTRIES, MAX_ENTRIES)?;
    let after = cursor::given(&mut params)?;
    params.finish()?;
    Ok(Reply(ListingBody::from(&app.engine.glob_files(id, &path, &pattern, limit, after.as_deref()).await?)))
}

/// Searches a file, or all files in a directory, line by line.
///
/// The pattern is a regular expression over bytes, in time linear in what is searched: classes, word boundaries and `ignore_case` are those of ASCII,
/// other characters are found as they are written. Links are not followed; files with a NUL in their first 64 KiB are not text. `include` and `exclude` are patterns as of `glob`, about names when they have no slash and about paths below
/// the directory when they have one. Whatever ends the search early is told in `stopped_by`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/grep", operation_id = "grep_files", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = Option<String>, Query, description = "File or directory, absolute or relative to the work dir, which it is when absent"),
        ("pattern" = String, Query, description = "The regular expression"),
        ("literal" = Option<bool>, Query, description = "Whether the pattern is a text to be found as it is"),
        ("ignore_case" = Option<bool>, Query, description = "Whether `a` finds `A`"),
        ("include" = Option<Vec<String>>, Query, description = "Only files that a pattern is about; may repeat"),
        ("exclude" = Option<Vec<String>>, Query, description = "No files and directories that a pattern is about; may repeat"),
        ("context" = Option<u32>, Query, description = "Lines before and behind each match: 0 (when absent) to 20"),
        ("max_matches" = Option<u32>, Query, description = "1 to 10000, 1000 when absent"),
        ("max_bytes" = Option<u64>, Query, description = "Bytes that are searched at most, 1 GiB when absent"),
        ("max_seconds" = Option<f64>, Query, description = "More than 0 to 50, 10 when absent"),
    ),
    responses((status = 200, description = "What was found", body = GrepBody)))]
pub(crate) async fn grep(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Reply<GrepBody>> {
    let path = root(&mut params)?;
    let request = GrepRequest {
        pattern: params.text("pattern")?.ok_or_else(missing_pattern)?,
        literal: params.flag("literal")?,
        ignore_case: params.flag("ignore_case")?,
        include: params.all_bytes("include"),
        exclude: params.all_bytes("exclude"),
        context: params.parsed("context", "a whole number from 0 to 20")?.unwrap_or(0),
        max_matches: bounded(&mut params, "max_matches", MATCHES, GrepRequest::MAX_MATCHES)?,
        max_bytes: params.parsed("max_bytes", "a number of bytes")?.unwrap_or(BYTES),
        max_time: seconds(&mut params)?,
    };
    params.finish()?;
    Ok(Reply(GrepBody::from(&app.engine.grep_files(id, &path, &request).await?)))
}

/// The directory that is searched: the work dir, when nothing is said.
fn root(params: &mut Params) -> ApiResult<Vec<u8>> {
    if params.has("path") { path(params) } else { Ok(b".".to_vec()) }
}

fn missing_pattern() -> ApiError {
    ApiError::bad_request("invalid_parameter", "parameter `pattern` is missing")
}

fn seconds(params: &mut Params) -> ApiResult<Duration> {
    let max = GrepRequest::MAX_TIME.as_secs_f64();
    let what = format!("seconds, more than 0 and at most {max}");
    let seconds = params.parsed::<f64>("max_seconds", &what)?.unwrap_or(SECONDS);
    if seconds > 0.0 && seconds <= max {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(ApiError::bad_request("invalid_parameter", format!("parameter `max_seconds` is {seconds}, expected {what}")))
    }
}
