//! What is asked for. A body is taken as upstream takes it: whatever its type says, unknown fields passed over.

use std::{sync::Arc, time::Duration};

use axum::extract::{FromRequest, Request};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{answer::invalid, settings::BoxboxSettings};
use crate::{
    app::App,
    dialects::few,
    error::{ApiError, ApiResult},
    json,
};

/// Bytes of a body.
const LARGEST: usize = 10 << 20;
/// Characters of `path`.
const LONGEST_PATH: usize = 255;
/// Whatever is asked for.
const LONGEST_RUN: Duration = Duration::from_secs(600);

/// A program to be run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct BoxboxExecute {
    /// `python`, `bash` or `shell`
    language: Option<String>,
    /// Where the code is written to, below the work directory
    path: Option<String>,
    code: Option<String>,
    /// Names of stored files that the program finds in its work directory
    #[serde(deserialize_with = "few::list")]
    files: Option<Vec<String>>,
    /// Seconds; the server's own when absent or not above 0, at most 600
    timeout_seconds: Option<i64>,
}

/// One that can be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// As it was asked for.
    pub(super) language: String,
    pub(super) path: String,
    pub(super) code: String,
    pub(super) files: Vec<String>,
    pub(super) timeout: Duration,
}

impl FromRequest<Arc<App>> for BoxboxExecute {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let bytes = json::whole_within(request.into_body(), app, LARGEST).await.map_err(|error| match error.parts().0 {
            408 => error,
            _ => unparsed(),
        })?;
        parse(&bytes)
    }
}

fn unparsed() -> ApiError {
    invalid("failed to parse request body")
}

fn parse(bytes: &[u8]) -> ApiResult<BoxboxExecute> {
    // A list would be taken for the fields in their order.
    match bytes.trim_ascii() {
        b"null" => Ok(BoxboxExecute::default()),
        [b'{', ..] => serde_json::from_slice(bytes).map_err(|_| unparsed()),
        _ => Err(unparsed()),
    }
}

impl BoxboxExecute {
    /// What is to be done, or the first thing that is wrong with it.
    pub(super) fn checked(self, settings: &BoxboxSettings) -> ApiResult<Job> {
        let language = self.language.filter(|text| !text.is_empty()).ok_or_else(|| invalid("language is required"))?;
        if !["python", "bash", "shell"].contains(&language.as_str()) {
            return Err(invalid("language must be 'python' or 'bash'"));
        }
        let path = self.path.filter(|text| !text.is_empty()).ok_or_else(|| invalid("path is required"))?;
        let code = self.code.filter(|text| !text.is_empty()).ok_or_else(|| invalid("code is required"))?;
        check_path(&path)?;
        let asked = self.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let timeout = asked.map_or(settings.timeout, Duration::from_secs).min(LONGEST_RUN);
        // Upstream knows whole seconds alone.
        let timeout = Duration::from_secs(timeout.as_secs().max(1));
        Ok(Job { language, path, code, files: self.files.unwrap_or_default(), timeout })
    }
}

/// It has to name a file in the work directory.
fn check_path(path: &str) -> ApiResult<()> {
    let refused = |what: &str| Err(invalid(format!("path {what}")));
    if path.chars().count() > LONGEST_PATH {
        return refused("must not be longer than 255 characters");
    }
    if path.starts_with('/') {
        return refused("must be relative to the work directory");
    }
    if path.contains('\0') {
        return refused("must not have NUL characters");
    }
    if path.split('/').any(|part| part == "..") {
        return refused("must not leave the work directory through '..'");
    }
    if matches!(path.rsplit('/').next(), None | Some("" | ".")) {
        return refused("must name a file");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(body: &str) -> Result<Job, String> {
        let settings = BoxboxSettings::default();
        parse(body.as_bytes()).and_then(|body| body.checked(&settings)).map_err(|error| {
            let (status, code, message) = error.parts();
            assert_eq!((status, code), (400, "invalid_request"), "{body:.100}");
            message.to_owned()
        })
    }

    #[track_caller]
    fn refused(body: &str, message: &str) {
        assert_eq!(job(body).unwrap_err(), message, "{body:.100}");
    }

    #[test]
    fn bodies_are_read_as_upstream_reads_them() {
        let fine = job(r#"{"language":"python","path":"a/b.py","code":"x","files":["a","b/c"],"timeout_seconds":60,"more":[{}]}"#);
        let expect = Job {
            language: "python".into(),
            path: "a/b.py".into(),
            code: "x".into(),
            files: vec!["a".into(), "b/c".into()],
            timeout: Duration::from_secs(60),
        };
        assert_eq!(fine, Ok(expect));
        for given in ["null", "0", "-5"] {
            let body = format!(r#"{{"language":"shell","path":"x","code":"y","files":null,"timeout_seconds":{given}}}"#);
            assert_eq!(job(&body).unwrap().timeout, Duration::from_secs(300), "{given}");
        }
        let long = job(r#"{"language":"bash","path":"x","code":"y","timeout_seconds":601}"#).unwrap();
        assert_eq!(long.timeout, Duration::from_secs(600));
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_one_way() {
        let unread = "failed to parse request body";
        for body in ["", "{", "[]", "3", "\"x\"", r#"["python","x","y"]"#, r#"{"language":5}"#, r#"{"files":"a"}"#, r#"{"files":[1]}"#] {
            refused(body, unread);
        }
        for timeout in ["60.0", "\"60\"", "1e2", "99999999999999999999", "true"] {
            refused(&format!(r#"{{"language":"bash","path":"x","code":"y","timeout_seconds":{timeout}}}"#), unread);
        }
        refused(&"[".repeat(100_000), unread);
        refused(&format!(r#"{{"files":[{}""]}}"#, "\"\",".repeat(1000)), unread);
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_told() {
        refused("null", "language is required");
        refused(r#"{"language":"","path":5}"#, "failed to parse request body");
        refused(r#"{"language":""}"#, "language is required");
        refused(r#"{"language":"ruby"}"#, "language must be 'python' or 'bash'");
        refused(r#"{"language":"Python","path":"x","code":"y"}"#, "language must be 'python' or 'bash'");
        refused(r#"{"language":"bash","code":"x"}"#, "path is required");
        refused(r#"{"language":"bash","path":"","code":"x"}"#, "path is required");
        refused(r#"{"language":"bash","path":"/x"}"#, "code is required");
    }

    #[test]
    fn paths_name_files_in_the_work_directory() {
        for (path, word) in [
            ("/etc/x", "relative"),
            ("../x", "'..'"),
            ("a/../../x", "'..'"),
            ("a/..", "'..'"),
            ("a\0b", "NUL"),
            (".", "name a file"),
            ("a/", "name a file"),
            ("a/.", "name a file"),
            (&"x".repeat(256), "255"),
        ] {
            let message = check_path(path).unwrap_err().parts().2.to_owned();
            assert!(message.starts_with("path ") && message.contains(word), "{path:?}: {message}");
        }
        for path in ["main.py", "./main.py", "a//b.py", "..a", "-c", "a b\n'\"$(x).py", &"ü".repeat(255)] {
            assert!(check_path(path).is_ok(), "{path}");
        }
    }
}
