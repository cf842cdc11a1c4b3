//! Files that are written, edited and removed.

use axum::response::Response;
use caisson_core::{Error, FileKind};
use caisson_engine::FileAttributes;
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    DaivFsCode, DaivFsError, Failed, answer, failed, path, place,
    read::{LONGEST_FILE, bytes, looked_at},
    root_of, told,
};
use crate::{
    caller::Caller,
    dialects::daiv::{
        body::Fields,
        check::{self, Check},
        files::{Last, mode, put},
        record::{Named, Session},
    },
    error::ApiResult,
};

/// A file to write where there is none.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsWrite {
    path: String,
    /// The whole file as base64
    content: String,
    /// 0644 when absent
    #[schema(minimum = 0, maximum = 4095)]
    mode: Option<u32>,
}

/// A text in a file to be replaced by another one.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsEdit {
    path: String,
    old: String,
    new: String,
    replace_all: Option<bool>,
}

/// A file to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsDelete {
    path: String,
}

/// Whether it was written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsWritten {
    #[schema(required)]
    error: Option<DaivFsError>,
    ok: bool,
}

/// How often it was replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsEdited {
    #[schema(required)]
    occurrences: Option<u64>,
    #[schema(required)]
    error: Option<DaivFsError>,
}

/// Whether there was something to remove.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsDeleted {
    removed: bool,
    #[schema(required)]
    error: Option<DaivFsError>,
    ok: bool,
}

/// Writes a file where there is nothing.
#[utoipa::path(post, path = "/session/{id}/fs/write", operation_id = "daiv_fs_write", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsWrite, responses((status = 200, description = "It is there, or why not", body = DaivFsWritten)))]
pub(crate) async fn write(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsWritten { error: Some(error), ok: false };
    let mut faults = Vec::new();
    let mut check = Check::new(&fields, &mut faults);
    let path = check.need("path", check::text);
    let content = check.need("content", check::base64);
    let mode = check.may("mode", mode).unwrap_or(0o644);
    let (given, content) = check::done(path.zip(content), faults)?;
    let whole = match self::path(&given, false) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let session = named.open(&app).await?;
    let written = session.work(&app, |session| async move { Ok(new(&session, &given, &whole, content, mode).await) });
    answer(written.await?, without)
}

async fn new(session: &Session, given: &str, whole: &str, content: bytes::Bytes, mode: u32) -> Result<DaivFsWritten, Failed> {
    let real = session.layout().real(whole);
    match session.engine.stat_file(session.id, real.as_bytes()).await {
        Ok(_) => {
            let message = format!("Cannot write to {given} because it already exists. Read and then make an edit, or write to a new path.");
            return Err(told(DaivFsCode::AlreadyExists, message));
        }
        Err(Error::NotFound { kind: "file", .. } | Error::Conflict { code: "not_a_directory", .. }) => {}
        Err(error) => return Err(failed(session, given, error).await),
    }
    let (root, rest) = root_of(&real);
    match put(&session.engine, session.id, root, rest, content, mode).await {
        Ok(()) => Ok(DaivFsWritten { error: None, ok: true }),
        Err(error) => Err(failed(session, given, error).await),
    }
}

/// Replaces a text in a file, as it is given or with the file's line breaks.
#[utoipa::path(post, path = "/session/{id}/fs/edit", operation_id = "daiv_fs_edit", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsEdit, responses((status = 200, description = "How often, or why not", body = DaivFsEdited)))]
pub(crate) async fn edit(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsEdited { occurrences: None, error: Some(error) };
    let mut faults = Vec::new();
    let mut check = Check::new(&fields, &mut faults);
    let path = check.need("path", check::text);
    let old = check.need("old", check::text);
    let new = check.need("new", check::text);
    let replace_all = check.may("replace_all", check::truth).unwrap_or(false);
    let (given, edit) = check::done(path.zip(old.zip(new)), faults)?;
    let whole = match self::path(&given, false) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let edit = Edit { old: edit.0, new: edit.1, replace_all };
    let session = named.open(&app).await?;
    let edited = session.work(&app, |session| async move { Ok(edit.carry_out(&session, &given, &whole).await) }).await?;
    answer(edited, without)
}

/// What is to be replaced.
struct Edit {
    old: String,
    new: String,
    replace_all: bool,
}

impl Edit {
    async fn carry_out(self, session: &Session, given: &str, whole: &str) -> Result<DaivFsEdited, Failed> {
        let place = place(session, given, &session.layout().real(whole), Last::Followed).await?;
        let mut read = match bytes(session, given, &place).await {
            Err(Failed::Told(DaivFsError { code: DaivFsCode::IsADirectory, .. })) => {
                return Err(told(DaivFsCode::IsADirectory, format!("Is a directory: {given}")));
            }
            read => read?,
        };
        let bytes = std::mem::take(&mut read.bytes);
        let not_a_text = DaivFsError::new(DaivFsCode::NotATextFile, format!("Not a text file: {given}"));
        let applied = looked_at(move || self.applied(&String::from_utf8(bytes).map_err(|_| not_a_text)?));
        let (text, occurrences) = applied.await?;
        // Others need not wait for the sandbox to take it.
        drop(read);
        // Those of the file that is there stay.
        let attributes = FileAttributes { mode: None, modified_at: None };
        let content = Box::pin(stream::once(std::future::ready(Ok(text.into()))));
        match session.engine.write_file(session.id, place.as_bytes(), attributes, content).await {
            Ok(_) => Ok(DaivFsEdited { occurrences: Some(occurrences as u64), error: None }),
            Err(error) => Err(failed(session, given, error).await),
        }
    }

    /// The text as it is then, and how often something was replaced.
    fn applied(&self, text: &str) -> Result<(String, usize), DaivFsError> {
        let lf = |text: &str| text.replace("\r\n", "\n");
        let crlf = |text: &str| lf(text).replace('\n', "\r\n");
        let (old, new) = (&self.old, &self.new);
        let tries = [(old.clone(), new.clone()), (crlf(old), crlf(new)), (lf(old), lf(new))];
        let found = tries.into_iter().map(|(old, new)| (text.matches(&old).count(), old, new)).find(|(count, ..)| *count > 0);
        let Some((count, old, new)) = found else {
            return Err(DaivFsError::new(DaivFsCode::StringNotFound, not_found(&lf(text), &lf(old))));
        };
        if count > 1 && !self.replace_all {
            let message = format!(
                "String appears {count} times in file. Use replace_all=True to replace all instances, or provide a more specific string with \
                 surrounding context."
            );
            return Err(DaivFsError::new(DaivFsCode::MultipleOccurrences, message));
        }
        let grown = new.len().saturating_sub(old.len()).saturating_mul(count).saturating_add(text.len());
        if grown as u64 > LONGEST_FILE {
            let message = format!("The file would have more than {LONGEST_FILE} bytes; change it with a command");
            return Err(DaivFsError::new(DaivFsCode::TooLarge, message));
        }
        let replaced = if self.replace_all { text.replace(&old, &new) } else { text.replacen(&old, &new, 1) };
        Ok((replaced, count))
    }
}

/// Why a text is not found: nothing more is known, or it is only the last line break that is missing.
fn not_found(text: &str, old: &str) -> String {
    let Some(stripped) = old.strip_suffix('\n').filter(|stripped| !stripped.is_empty() && text.ends_with(stripped)) else {
        return "string_not_found".to_owned();
    };
    let begin = "old_string ends with a newline, but the file does not end with a newline.";
    match text.matches(stripped).count() {
        1 => {
            format!("{begin} Retry with the trailing newline removed from old_string (and from new_string if it also ends with a newline).")
        }
        count => format!(
            "{begin} With the trailing newline removed, old_string would appear {count} times in the file. Retry with the trailing newline \
             removed and add surrounding context so the match is unique."
        ),
    }
}

/// Removes a file; one that is not there is as good as removed.
#[utoipa::path(post, path = "/session/{id}/fs/delete", operation_id = "daiv_fs_delete", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsDelete, responses((status = 200, description = "Whether it was there, or why it is still", body = DaivFsDeleted)))]
pub(crate) async fn delete(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsDeleted { removed: false, error: Some(error), ok: false };
    let mut faults = Vec::new();
    let path = Check::new(&fields, &mut faults).need("path", check::text);
    let given = check::done(path, faults)?;
    let whole = match self::path(&given, false) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let session = named.open(&app).await?;
    let removed = session.work(&app, |session| async move { Ok(remove(&session, &given, &whole).await) }).await?;
    answer(removed, without)
}

async fn remove(session: &Session, given: &str, whole: &str) -> Result<DaivFsDeleted, Failed> {
    let is_folder = || told(DaivFsCode::IsADirectory, format!("Is a directory: {given}"));
    let absent = Ok(DaivFsDeleted { removed: false, error: None, ok: true });
    if ["/workspace/repo", "/workspace/skills"].contains(&whole) {
        return Err(is_folder());
    }
    let place = place(session, given, &session.layout().real(whole), Last::Kept).await?;
    match session.engine.stat_file(session.id, place.as_bytes()).await {
        Ok(stat) if stat.kind == FileKind::Directory => return Err(is_folder()),
        Ok(_) => {}
        Err(Error::NotFound { kind: "file", .. } | Error::Conflict { code: "not_a_directory", .. }) => return absent,
        Err(error) => return Err(failed(session, given, error).await),
    }
    match session.engine.delete_file(session.id, place.as_bytes(), false).await {
        Ok(()) => Ok(DaivFsDeleted { removed: true, error: None, ok: true }),
        Err(Error::NotFound { kind: "file", .. }) => absent,
        Err(Error::Conflict { code: "is_a_directory" | "directory_not_empty", .. }) => Err(is_folder()),
        Err(error) => Err(failed(session, given, error).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, old: &str, new: &str, replace_all: bool) -> Result<(String, usize), (DaivFsCode, String)> {
        let edit = Edit { old: old.to_owned(), new: new.to_owned(), replace_all };
        edit.applied(text).map_err(|error| (error.code, error.message))
    }

    #[test]
    fn texts_are_found_with_the_files_line_breaks() {
        for (text, old, new, all, expect, count) in [
            ("one two", "two", "2", false, "one 2", 1),
            ("a a a", "a", "b", true, "b b b", 3),
            ("a\r\nb\r\n", "a\nb", "x\ny", false, "x\r\ny\r\n", 1),
            ("a\nb\n", "a\r\nb", "x\r\ny", false, "x\ny\n", 1),
            ("a", "a", "", false, "", 1),
        ] {
            assert_eq!(applied(text, old, new, all), Ok((expect.to_owned(), count)), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_found_once_is_told() {
        let (code, message) = applied("a", "b", "c", false).unwrap_err();
        assert_eq!((code, message.as_str()), (DaivFsCode::StringNotFound, "string_not_found"));
        let (code, message) = applied("a a", "a", "b", false).unwrap_err();
        assert_eq!(code, DaivFsCode::MultipleOccurrences);
        assert!(message.starts_with("String appears 2 times in file."), "{message}");
        let (code, message) = applied(&"a".repeat(1 << 20), "a", &"b".repeat(1 << 20), true).unwrap_err();
        assert!(code == DaivFsCode::TooLarge && message.contains("more than 16777216 bytes"), "{message}");
        let (_, message) = applied("one\ntwo", "two\n", "2\n", false).unwrap_err();
        assert!(message.starts_with("old_string ends with a newline, but the file does not") && message.contains("Retry"), "{message}");
        let (_, message) = applied("xx two\nthe two", "two\nthe two\n", "2\n", false).unwrap_err();
        assert!(message.contains("old_string ends"), "{message}");
    }
}
