//! What is in folders, and what is in files.

use std::time::Duration;

use axum::response::Response;
use caisson_core::{Error, FileKind};
use caisson_engine::GrepRequest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DaivFsCode, DaivFsError, Failed, answer, failed, path, told};
use crate::{
    caller::Caller,
    dialects::daiv::{
        body::Fields,
        check::{self, Check},
        layout::WORKSPACE,
        pattern::{self, Name, Pattern},
        python::repr,
        record::{Named, Session},
    },
    error::ApiResult,
};

/// Entries of one answer, and what their names may come to.
const MOST_ENTRIES: usize = 100_000;
/// Matches of one answer.
const MOST_MATCHES: usize = 200;
/// Folders below `/workspace` that may be links made here.
const OWN: [&str; 2] = ["repo", "skills"];

/// A folder to list.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsLs {
    path: String,
}

/// Paths that match.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsGlob {
    /// `*`, `**`, `?` and `[…]`, against paths below `path`
    pattern: String,
    path: String,
    /// Names of further folders to pass over, as patterns
    exclude: Option<Vec<String>>,
}

/// Lines that match.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "it is taken field by field")]
pub(crate) struct DaivFsGrep {
    /// A regular expression
    pattern: String,
    path: String,
    /// Only in files whose names match
    glob: Option<String>,
    /// Names of further folders to pass over, as patterns
    exclude: Option<Vec<String>>,
}

/// What is in a folder.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsEntries {
    entries: Vec<DaivFsEntry>,
    #[schema(required)]
    error: Option<DaivFsError>,
}

/// An entry.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct DaivFsEntry {
    path: String,
    is_dir: bool,
}

/// What matches.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsGlobbed {
    matches: Vec<DaivFsEntry>,
    #[schema(required)]
    error: Option<DaivFsError>,
}

/// Lines that match, at most 200.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsGrepped {
    matches: Vec<DaivFsMatch>,
    truncated: bool,
    #[schema(required)]
    error: Option<DaivFsError>,
}

/// A line.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DaivFsMatch {
    path: String,
    /// From 1
    line: u64,
    text: String,
}

/// Lists a folder.
#[utoipa::path(post, path = "/session/{id}/fs/ls", operation_id = "daiv_fs_ls", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsLs, responses((status = 200, description = "The entries, or why there are none", body = DaivFsEntries)))]
pub(crate) async fn ls(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsEntries { entries: Vec::new(), error: Some(error) };
    let mut faults = Vec::new();
    let path = Check::new(&fields, &mut faults).need("path", check::text);
    let given = check::done(path, faults)?;
    let whole = match self::path(&given, true) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let session = named.open(&app).await?;
    let listed = session.work(&app, |session| async move { Ok(entries(&session, &given, &whole).await) }).await?;
    answer(listed, without)
}

async fn entries(session: &Session, given: &str, whole: &str) -> Result<DaivFsEntries, Failed> {
    let mut entries = Vec::new();
    let base = given.trim_end_matches('/');
    for (rest, is_dir) in below(session, given, whole, Depth::One).await? {
        let is_dir = is_dir || (whole == WORKSPACE && OWN.contains(&rest.as_str()));
        entries.push(DaivFsEntry { path: format!("{base}/{rest}"), is_dir });
    }
    entries.sort();
    Ok(DaivFsEntries { entries, error: None })
}

/// Finds paths by a pattern.
#[utoipa::path(post, path = "/session/{id}/fs/glob", operation_id = "daiv_fs_glob", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsGlob, responses((status = 200, description = "What matches, or why nothing does", body = DaivFsGlobbed)))]
pub(crate) async fn glob(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsGlobbed { matches: Vec::new(), error: Some(error) };
    let mut faults = Vec::new();
    let mut check = Check::new(&fields, &mut faults);
    let pattern = check.need("pattern", check::text);
    let path = check.need("path", check::text);
    let exclude = check.may_texts("exclude");
    let (pattern, given) = check::done(pattern.zip(path), faults)?;
    let whole = match self::path(&given, true) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let pruned = pattern::names(app.config.daiv.prune.iter().chain(exclude.iter().flatten()));
    let session = named.open(&app).await?;
    let found = session.work(&app, |session| async move { Ok(matching(&session, &given, &whole, &pattern, &pruned).await) }).await?;
    answer(found, without)
}

async fn matching(session: &Session, given: &str, whole: &str, pattern: &str, pruned: &[Name]) -> Result<DaivFsGlobbed, Failed> {
    let pattern = Pattern::parse(pattern);
    let base = given.trim_end_matches('/');
    let mut all = below(session, given, whole, Depth::All(pruned)).await?;
    if whole == WORKSPACE {
        all = with_own(session, all, pruned).await?;
    }
    let mut matches: Vec<DaivFsEntry> = all
        .into_iter()
        .filter(|(rest, _)| pattern.matches(rest))
        .map(|(rest, is_dir)| DaivFsEntry { path: format!("{base}/{rest}"), is_dir })
        .collect();
    matches.sort();
    Ok(DaivFsGlobbed { matches, error: None })
}

/// What is behind links that are made here, where it is not found by itself.
async fn with_own(session: &Session, mut all: Vec<(String, bool)>, pruned: &[Name]) -> Result<Vec<(String, bool)>, Failed> {
    for name in OWN.into_iter().filter(|_| session.layout().at_root) {
        let path = format!("{WORKSPACE}/{name}");
        if pruned.iter().any(|pattern| pattern.matches(name)) {
            continue;
        }
        all.iter_mut().filter(|(rest, _)| rest == name).for_each(|(_, is_dir)| *is_dir = true);
        let inside = below(session, &path, &path, Depth::All(pruned)).await?;
        all.extend(inside.into_iter().map(|(rest, is_dir)| (format!("{name}/{rest}"), is_dir)));
    }
    Ok(all)
}

#[derive(Clone, Copy)]
enum Depth<'a> {
    One,
    /// Without what these are.
    All(&'a [Name]),
}

/// The entries of a folder by their paths below it, and whether each is a folder. Names that are no text are told as they can be.
async fn below(session: &Session, given: &str, whole: &str, depth: Depth<'_>) -> Result<Vec<(String, bool)>, Failed> {
    let real = session.layout().real(whole);
    let mut found: Vec<(String, bool)> = Vec::new();
    let mut folders = vec![String::new()];
    // Folder by folder, so that what is passed over is not walked.
    while let Some(folder) = folders.pop() {
        let at = if folder.is_empty() { real.clone() } else { format!("{real}/{folder}") };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let limit = u32::try_from(MOST_ENTRIES).unwrap_or(u32::MAX);
            let listing = match session.engine.list_files(session.id, at.as_bytes(), 1, limit, after.as_deref()).await {
                Ok(listing) => listing,
                Err(error) if folder.is_empty() => return Err(no_folder(session, given, error).await),
                // It has gone, or is nobody's to look into.
                Err(Error::NotFound { kind: "file", .. } | Error::Conflict { .. } | Error::Invalid { .. }) => break,
                Err(error) => return Err(failed(session, given, error).await),
            };
            for stat in listing.entries {
                let name = stat.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let is_text = std::str::from_utf8(name).is_ok();
                let name = String::from_utf8_lossy(name).into_owned();
                let is_dir = stat.kind == FileKind::Directory;
                if let (Depth::All(pruned), true) = (depth, is_dir) {
                    if pruned.iter().any(|pattern| pattern.matches(&name)) {
                        continue;
                    }
                    if is_text {
                        folders.push(if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") });
                    }
                }
                found.push((if folder.is_empty() { name } else { format!("{folder}/{name}") }, is_dir));
                if found.len() > MOST_ENTRIES {
                    let message = format!("{given} has more than {MOST_ENTRIES} entries; ask for a folder in it");
                    return Err(told(DaivFsCode::TooLarge, message));
                }
            }
            // Whoever does not get on cannot say to go on.
            after = listing.next.filter(|next| after.as_ref() != Some(next));
            if after.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

async fn no_folder(session: &Session, given: &str, error: Error) -> Failed {
    match error {
        Error::NotFound { kind: "file", .. } => told(DaivFsCode::NotFound, format!("No such directory: {given}")),
        Error::Conflict { code: "not_a_directory", .. } => told(DaivFsCode::NotADirectory, format!("Not a directory: {given}")),
        error => failed(session, given, error).await,
    }
}

/// Finds lines by a regular expression.
#[utoipa::path(post, path = "/session/{id}/fs/grep", operation_id = "daiv_fs_grep", tag = "daiv", params(("id" = String, Path)),
    request_body = DaivFsGrep, responses((status = 200, description = "What matches, or why nothing does", body = DaivFsGrepped)))]
pub(crate) async fn grep(Caller(app): Caller, named: Named, Fields(fields): Fields) -> ApiResult<Response> {
    let without = |error| DaivFsGrepped { matches: Vec::new(), truncated: false, error: Some(error) };
    let mut faults = Vec::new();
    let mut check = Check::new(&fields, &mut faults);
    let pattern = check.need("pattern", check::text);
    let path = check.need("path", check::text);
    let glob = check.may("glob", check::text);
    let exclude = check.may_texts("exclude");
    let (pattern, given) = check::done(pattern.zip(path), faults)?;
    let whole = match self::path(&given, true) {
        Ok(whole) => whole,
        Err(failed) => return answer(Err(failed), without),
    };
    let prune: Vec<String> = app.config.daiv.prune.iter().cloned().chain(exclude.into_iter().flatten()).collect();
    let session = named.open(&app).await?;
    let wanted = Wanted { pattern, glob, prune };
    let found = session.work(&app, |session| async move { Ok(wanted.find(&session, &given, &whole).await) }).await?;
    answer(found, without)
}

/// Which lines are wanted.
struct Wanted {
    pattern: String,
    glob: Option<String>,
    prune: Vec<String>,
}

impl Wanted {
    async fn find(&self, session: &Session, given: &str, whole: &str) -> Result<DaivFsGrepped, Failed> {
        let layout = session.layout();
        let mut places = vec![whole.to_owned()];
        if whole == WORKSPACE && layout.at_root {
            places.extend(OWN.map(|name| format!("{WORKSPACE}/{name}")));
        }
        let pruned = pattern::names(self.prune.iter());
        let glob = self.glob.as_deref().map(Name::parse);
        let base = given.trim_end_matches('/');
        let mut matches: Vec<DaivFsMatch> = Vec::new();
        let mut truncated = false;
        for place in places {
            let real = layout.real(&place);
            let request = self.request();
            let grepped = match session.engine.grep_files(session.id, real.as_bytes(), &request).await {
                Ok(grepped) => grepped,
                Err(Error::NotFound { kind: "file", .. } | Error::Conflict { code: "not_a_directory", .. }) => {
                    return Err(told(DaivFsCode::NotFound, format!("No such path: {given}")));
                }
                Err(Error::Invalid { code: "invalid_pattern", .. }) => {
                    let message = format!("invalid regular expression: {}", repr(self.pattern.as_bytes()));
                    return Err(told(DaivFsCode::InvalidPattern, message));
                }
                Err(error) => return Err(failed(session, given, error).await),
            };
            truncated |= grepped.stopped_by.is_some();
            for found in grepped.matches {
                let path = String::from_utf8_lossy(&found.path).into_owned();
                let rest = path.strip_prefix(&real).unwrap_or(&path).trim_start_matches('/');
                let name = path.rsplit('/').next().unwrap_or_default();
                if glob.as_ref().is_some_and(|glob| !glob.matches(name)) || is_below(rest, &pruned) {
                    continue;
                }
                let above = place.strip_prefix(whole).unwrap_or_default();
                let path = if rest.is_empty() { format!("{base}{above}") } else { format!("{base}{above}/{rest}") };
                let text = String::from_utf8_lossy(&found.line.text).into_owned();
                matches.push(DaivFsMatch { path, line: found.line.number, text });
            }
        }
        truncated |= matches.len() > MOST_MATCHES;
        matches.truncate(MOST_MATCHES);
        Ok(DaivFsGrepped { matches, truncated, error: None })
    }

    fn request(&self) -> GrepRequest {
        // What is looked for in the sandbox means less than what is asked for here; the rest is left out of what is found.
        let plain = |name: &&String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-*?".contains(&byte));
        let exclude: Vec<Vec<u8>> =
            self.prune.iter().filter(plain).take(GrepRequest::MAX_GLOBS).map(|name| format!("**/{name}/**").into_bytes()).collect();
        let include: Vec<Vec<u8>> = self.glob.iter().filter(plain).map(|glob| glob.clone().into_bytes()).collect();
        let all_there = exclude.len() == self.prune.len() && include.len() == usize::from(self.glob.is_some());
        let most = if all_there { u32::try_from(MOST_MATCHES + 1).unwrap_or(u32::MAX) } else { GrepRequest::MAX_MATCHES };
        GrepRequest {
            pattern: self.pattern.clone(),
            literal: false,
            ignore_case: false,
            include,
            exclude,
            context: 0,
            max_matches: most,
            max_bytes: GrepRequest::MAX_BYTES,
            max_time: Duration::from_secs(50),
        }
    }
}

/// Whether one of the folders on the way is one of these.
fn is_below(rest: &str, pruned: &[Name]) -> bool {
    rest.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|part| pruned.iter().any(|name| name.matches(part))))
}
