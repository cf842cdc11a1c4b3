//! Reading a file: lines of a text, or all of something else.

use std::time::Duration;

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_core::{Error, FileKind};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use utoipa::ToSchema;

use super::{DaivFsCode, DaivFsError, Failed, answer, failed, path, told};
use crate::{
    caller::Caller,
    dialects::daiv::{
        body::Fields,
        check::{self, Check},
        record::{Named, Session},
    },
    error::{ApiError, ApiResult},
};

/// Bytes of an answer's content.
const MOST: usize = 512_000;
const CUT: &str =
    "\n\n[Output truncated: exceeded the 512000-byte read limit. Continue with a larger offset or smaller limit to read the rest.]";
const EMPTY: &str = "System reminder: File exists but has empty contents";
/// Bytes that are looked at to find out what a file is, or to change it.
pub(super) const LONGEST_FILE: u64 = 16 << 20;
/// Files that the server has in its memory at once, whoever's they are, and what getting one may take.
static IN_MEMORY: Semaphore = Semaphore::const_new(8);
const MOST_TIME: Duration = Duration::from_secs(30);

/// A file to read, and which of its lines.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsRead {
    path: String,
    /// Lines to pass over
    offset: Option<u64>,
    /// Lines at most, 2000 when absent
    limit: Option<u64>,
}

/// What is in it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DaivFsContent {
    #[schema(required)]
    content: Option<String>,
    /// `utf-8`, or `base64` for what is no text
    #[schema(required)]
    encoding: Option<&'static str>,
    #[schema(required)]
    total_lines: Option<u64>,
    /// The last whole line that is told, from 1
    #[schema(required)]
    end_line: Option<u64>,
    /// Whether there was too much
    truncated: bool,
    #[schema(required)]
    error: Option<DaivFsError>,
}

/// Reads lines of a text file, or all of another one.
#[utoipa::path(post, path = "/session/{id}/fs/read", operation_id = "daiv_fs_read", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsRead, responses((status = 200, description = "The content, or why there is none", body = DaivFsContent)))]
pub(crate) async fn read(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let mut faults = Vec::new();
    let mut check = Check::new(&fields, &mut faults);
    let path = check.need("path", check::text);
    let offset = check.may("offset", check::integer_in(0, None)).unwrap_or(0).unsigned_abs();
    let limit = check.may("limit", check::integer_in(1, None)).unwrap_or(2000).unsigned_abs();
    let given = check::done(path, faults)?;
    let whole = match self::path(&given, false) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let session = named.open(&app).await?;
    let read = session.work(&app, |session| async move { Ok(content(&session, &given, &whole, offset, limit).await) }).await?;
    answer(read, without)
}

fn without(error: DaivFsError) -> DaivFsContent {
    DaivFsContent { error: Some(error), ..DaivFsContent::default() }
}

async fn content(session: &Session, given: &str, whole: &str, offset: u64, limit: u64) -> Result<DaivFsContent, Failed> {
    let bytes = match bytes(session, given, &session.layout().real(whole)).await {
        Err(Failed::Told(DaivFsError { code: DaivFsCode::IsADirectory, .. })) => {
            return Err(told(DaivFsCode::IsADirectory, format!("Is a directory: {given} (use fs/ls to list it)")));
        }
        read => read?,
    };
    looked_at(move || page(&bytes.bytes, offset, limit)).await
}

/// Looks at a whole file, which takes a while for a long one.
pub(super) async fn looked_at<T: Send + 'static>(look: impl FnOnce() -> Result<T, DaivFsError> + Send + 'static) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen.map_err(Failed::Told),
        Err(error) => {
            tracing::error!("Looking at a file failed: {error}");
            Err(Failed::Refused(ApiError::internal()))
        }
    }
}

/// All of a file, with the room that it takes.
pub(super) struct Whole {
    pub(super) bytes: Vec<u8>,
    _room: SemaphorePermit<'static>,
}

/// All of a file at a path without links that are made here.
pub(super) async fn bytes(session: &Session, given: &str, real: &str) -> Result<Whole, Failed> {
    let Ok(Ok(room)) = timeout(MOST_TIME, IN_MEMORY.acquire()).await else {
        return Err(told(DaivFsCode::ExecFailed, "the server reads as many files as it can; try again in a moment"));
    };
    match timeout(MOST_TIME, all(session, given, real)).await {
        Ok(bytes) => Ok(Whole { bytes: bytes?, _room: room }),
        Err(_) => Err(told(DaivFsCode::ExecFailed, format!("{given} cannot be read within {} s", MOST_TIME.as_secs()))),
    }
}

async fn all(session: &Session, given: &str, real: &str) -> Result<Vec<u8>, Failed> {
    let too_large = || told(DaivFsCode::TooLarge, format!("{given} has more than {LONGEST_FILE} bytes; work on it with a command"));
    let missing = || told(DaivFsCode::NotFound, format!("No such file: {given}"));
    // A file is read by what it leads to, a folder is told by it.
    match session.engine.stat_file(session.id, real.as_bytes()).await {
        Ok(stat) if stat.kind == FileKind::Directory => return Err(told(DaivFsCode::IsADirectory, String::new())),
        Ok(_) => {}
        Err(Error::NotFound { kind: "file", .. } | Error::Conflict { code: "not_a_directory", .. }) => return Err(missing()),
        Err(error) => return Err(failed(session, given, error).await),
    }
    // One more tells that it has grown meanwhile, or has no size of its own.
    let (size, mut content) = match session.engine.read_file(session.id, real.as_bytes(), 0, Some(LONGEST_FILE + 1)).await {
        Ok((stat, _)) if stat.size > LONGEST_FILE => return Err(too_large()),
        Ok((stat, content)) => (stat.size, content),
        Err(Error::NotFound { kind: "file", .. } | Error::Conflict { code: "not_a_directory" | "not_a_file", .. }) => return Err(missing()),
        Err(Error::Conflict { code: "is_a_directory", .. }) => return Err(told(DaivFsCode::IsADirectory, String::new())),
        Err(error) => return Err(failed(session, given, error).await),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    while let Some(piece) = content.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return Err(told(DaivFsCode::ExecFailed, format!("{given} cannot be read to its end: {error}"))),
        }
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(too_large());
        }
    }
    Ok(bytes)
}

fn page(bytes: &[u8], offset: u64, limit: u64) -> Result<DaivFsContent, DaivFsError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        if bytes.len() > MOST {
            let message = format!("Binary file exceeds maximum preview size of {MOST} bytes");
            return Err(DaivFsError::new(DaivFsCode::TooLarge, message));
        }
        return Ok(DaivFsContent { content: Some(STANDARD.encode(bytes)), encoding: Some("base64"), ..DaivFsContent::default() });
    };
    if text.is_empty() {
        return Ok(DaivFsContent { content: Some(EMPTY.to_owned()), encoding: Some("utf-8"), ..DaivFsContent::default() });
    }
    let total = lines(text).count() as u64;
    let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut content = String::new();
    let mut told = 0u64;
    for line in lines(text).skip(skipped).take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        if told > 0 {
            content.push('\n');
        }
        content.push_str(line);
        told += 1;
        // What is beyond it is cut anyway.
        if content.len() > MOST {
            break;
        }
    }
    if told == 0 && offset > 0 {
        let message = format!("Line offset {offset} exceeds file length ({total} lines)");
        return Err(DaivFsError::new(DaivFsCode::InvalidOffset, message));
    }
    let truncated = content.len() > MOST;
    let mut end_line = offset + told;
    if truncated {
        let mut end = MOST - CUT.len();
        while !content.is_char_boundary(end) {
            end -= 1;
        }
        content.truncate(end);
        // The rest behind the last line break is no whole line.
        end_line = offset + content.matches('\n').count() as u64;
        content.push_str(CUT);
    }
    Ok(DaivFsContent {
        content: Some(content),
        encoding: Some("utf-8"),
        total_lines: Some(total),
        end_line: Some(end_line),
        truncated,
        error: None,
    })
}

/// Lines as Python splits them, without what ends them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}' | '\u{1d}' | '\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((at, end)) = rest.char_indices().find(|(_, c)| ends(*c)) else { return Some(std::mem::take(&mut rest)) };
        let line = &rest[..at];
        let behind = &rest[at..];
        rest = behind.strip_prefix("\r\n").unwrap_or(&behind[end.len_utf8()..]);
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, offset: u64, limit: u64, content: &str, lines: (u64, u64)) {
        let page = page(text.as_bytes(), offset, limit).unwrap();
        assert_eq!((page.content.as_deref(), page.encoding), (Some(content), Some("utf-8")));
        assert_eq!((page.total_lines, page.end_line, page.truncated), (Some(lines.0), Some(lines.1), false));
    }

    #[test]
    fn lines_are_told_from_an_offset() {
        check("a\nb\nc", 0, 2000, "a\nb\nc", (3, 3));
        check("a\r\nb\n", 0, 2000, "a\nb", (2, 2));
        check("a\nb\nc\n", 1, 1, "b", (3, 2));
        check("\n\n", 0, 5, "\n", (2, 2));
        check("a\u{2028}b", 1, 5, "b", (2, 2));
        let beyond = page(b"a\nb\nc", 9, 5).unwrap_err();
        assert_eq!(beyond, DaivFsError::new(DaivFsCode::InvalidOffset, "Line offset 9 exceeds file length (3 lines)"));
        assert_eq!(page(b"a\n", 1, 5).unwrap_err().code, DaivFsCode::InvalidOffset);
        let empty = page(b"", 0, 5).unwrap();
        assert_eq!((empty.content.as_deref(), empty.encoding, empty.total_lines), (Some(EMPTY), Some("utf-8"), None));
    }

    #[test]
    fn what_is_no_text_is_told_whole_or_not_at_all() {
        let page_of = |size: usize| page(&vec![0xff; size], 0, 1);
        let small = page_of(3).unwrap();
        assert_eq!((small.content.as_deref(), small.encoding, small.end_line), (Some("////"), Some("base64"), None));
        assert!(page_of(MOST).is_ok());
        let message = "Binary file exceeds maximum preview size of 512000 bytes";
        assert_eq!(page_of(MOST + 1).unwrap_err(), DaivFsError::new(DaivFsCode::TooLarge, message));
    }

    #[test]
    fn what_is_too_much_is_cut_with_a_word_about_it() {
        let text = "0123456789ü\n".repeat(60_000);
        let page = page(text.as_bytes(), 0, 100_000).unwrap();
        let content = page.content.unwrap();
        let kept = content.strip_suffix(CUT).unwrap();
        assert!(content.len() <= MOST && content.len() > MOST - 4 && text.starts_with(kept));
        assert_eq!((page.truncated, page.total_lines), (true, Some(60_000)));
        assert_eq!(page.end_line, Some(kept.matches('\n').count() as u64));
    }
}
