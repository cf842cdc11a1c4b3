//! What is in folders, and what is in files.

use std::{sync::Arc, time::Duration};

use axum::response::Response;
use caisson_core::{Error, FileKind, FileStat};
use caisson_engine::GrepRequest;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
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
    error::{ApiError, ApiResult},
};

/// Entries of one answer, and what their paths may come to.
const MOST_ENTRIES: usize = 100_000;
const MOST_BYTES: usize = 8 << 20;
/// What looking may take in all.
const MOST_TIME: Duration = GrepRequest::MAX_TIME;
/// Bytes of a pattern for names, and how many of them a request may have.
const LONGEST_NAME: usize = 1024;
const MOST_NAMES: usize = 64;
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

/// Refuses patterns that nobody needs, before anything is matched with them.
fn check_patterns(pattern: &str, glob: Option<&String>, exclude: Option<&Vec<String>>) -> Result<(), Failed> {
    let most = GrepRequest::MAX_PATTERN;
    if pattern.len() > most {
        return Err(told(DaivFsCode::InvalidPattern, format!("pattern has {} bytes, allowed are at most {most}", pattern.len())));
    }
    let exclude = exclude.map(Vec::as_slice).unwrap_or_default();
    if exclude.len() > MOST_NAMES {
        return Err(told(DaivFsCode::InvalidPattern, format!("exclude has {} names, allowed are at most {MOST_NAMES}", exclude.len())));
    }
    if let Some(name) = glob.into_iter().chain(exclude).find(|name| name.len() > LONGEST_NAME) {
        let message = format!("a name in glob or exclude has {} bytes, allowed are at most {LONGEST_NAME}", name.len());
        return Err(told(DaivFsCode::InvalidPattern, message));
    }
    Ok(())
}

/// What is left of what an answer may come to.
struct Room {
    entries: usize,
    bytes: usize,
    until: Instant,
}

impl Room {
    fn new() -> Self {
        Self { entries: MOST_ENTRIES, bytes: MOST_BYTES, until: Instant::now() + MOST_TIME }
    }

    /// Takes one entry, if there is room for it.
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.entries = self.entries.checked_sub(1)?;
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(())
    }
}

fn too_many(given: &str) -> Failed {
    let message = format!("{given} has more than {MOST_ENTRIES} entries, or {MOST_BYTES} bytes of paths; ask for a folder in it");
    told(DaivFsCode::TooLarge, message)
}

fn too_slow(given: &str) -> Failed {
    let message = format!("{given} takes more than {} s to look through; ask for a folder in it", MOST_TIME.as_secs());
    told(DaivFsCode::TooLarge, message)
}

/// Does what takes the processor a while; none when the time is over.
async fn matched<T: Send + 'static>(given: &str, work: impl FnOnce() -> Option<T> + Send + 'static) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(too_slow(given)),
        Err(error) => {
            tracing::error!("Matching names failed: {error}");
            Err(Failed::Refused(ApiError::internal()))
        }
    }
}

async fn entries(session: &Session, given: &str, whole: &str) -> Result<DaivFsEntries, Failed> {
    let mut entries = Vec::new();
    let base = given.trim_end_matches('/');
    for (rest, is_dir) in below(session, given, whole, &Depth::One, &mut Room::new()).await? {
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
    if let Err(failed) = check_patterns(&pattern, None, exclude.as_ref()) {
        return answer(Err(failed), without);
    }
    let pruned: Arc<[Name]> = pattern::names(app.config.daiv.prune.iter().chain(exclude.iter().flatten())).into();
    let session = named.open(&app).await?;
    let found = session.work(&app, |session| async move { Ok(matching(&session, &given, &whole, &pattern, pruned).await) }).await?;
    answer(found, without)
}

async fn matching(session: &Session, given: &str, whole: &str, pattern: &str, pruned: Arc<[Name]>) -> Result<DaivFsGlobbed, Failed> {
    let pattern = Pattern::parse(pattern);
    let base = given.trim_end_matches('/').to_owned();
    let depth = Depth::All(Arc::clone(&pruned));
    let mut room = Room::new();
    let mut all = below(session, given, whole, &depth, &mut room).await?;
    if whole == WORKSPACE {
        all = with_own(session, all, &pruned, &mut room).await?;
    }
    let until = room.until;
    let matches = matched(given, move || {
        let mut matches = Vec::new();
        for (rest, is_dir) in all {
            if Instant::now() > until {
                return None;
            }
            if pattern.matches(&rest) {
                matches.push(DaivFsEntry { path: format!("{base}/{rest}"), is_dir });
            }
        }
        matches.sort();
        Some(matches)
    });
    Ok(DaivFsGlobbed { matches: matches.await?, error: None })
}

/// What is behind links that are made here, where it is not found by itself.
async fn with_own(
    session: &Session,
    mut all: Vec<(String, bool)>,
    pruned: &Arc<[Name]>,
    room: &mut Room,
) -> Result<Vec<(String, bool)>, Failed> {
    for name in OWN.into_iter().filter(|_| session.layout().at_root) {
        let path = format!("{WORKSPACE}/{name}");
        if pruned.iter().any(|pattern| pattern.matches(name)) {
            continue;
        }
        all.iter_mut().filter(|(rest, _)| rest == name).for_each(|(_, is_dir)| *is_dir = true);
        let inside = below(session, &path, &path, &Depth::All(Arc::clone(pruned)), room).await?;
        all.extend(inside.into_iter().map(|(rest, is_dir)| (format!("{name}/{rest}"), is_dir)));
    }
    Ok(all)
}

enum Depth {
    One,
    /// Without what these are.
    All(Arc<[Name]>),
}

/// An entry of one folder.
struct Entry {
    name: String,
    is_text: bool,
    is_dir: bool,
}

impl From<FileStat> for Entry {
    fn from(stat: FileStat) -> Self {
        let name = stat.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_text = std::str::from_utf8(name).is_ok();
        Self { name: String::from_utf8_lossy(name).into_owned(), is_text, is_dir: stat.kind == FileKind::Directory }
    }
}

/// The entries of a folder by their paths below it, and whether each is a folder. Names that are no text are told as they can be.
async fn below(session: &Session, given: &str, whole: &str, depth: &Depth, room: &mut Room) -> Result<Vec<(String, bool)>, Failed> {
    let base = given.len();
    let real = session.layout().real(whole);
    let mut found: Vec<(String, bool)> = Vec::new();
    let mut folders = vec![String::new()];
    // Folder by folder, so that what is passed over is not walked.
    while let Some(folder) = folders.pop() {
        let at = if folder.is_empty() { real.clone() } else { format!("{real}/{folder}") };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let limit = u32::try_from(MOST_ENTRIES).unwrap_or(u32::MAX);
            let listed = session.engine.list_files(session.id, at.as_bytes(), 1, limit, after.as_deref());
            let listing = match timeout_at(room.until, listed).await.map_err(|_| too_slow(given))? {
                Ok(listing) => listing,
                Err(error) if folder.is_empty() => return Err(no_folder(session, given, error).await),
                // It has gone, or is nobody's to look into.
                Err(Error::NotFound { kind: "file", .. } | Error::Conflict { .. } | Error::Invalid { .. }) => break,
                Err(error) => return Err(failed(session, given, error).await),
            };
            let entries: Vec<Entry> = listing.entries.into_iter().map(Entry::from).collect();
            let entries = match depth {
                Depth::One => entries,
                Depth::All(pruned) => {
                    let (pruned, until) = (Arc::clone(pruned), room.until);
                    matched(given, move || not_pruned(entries, &pruned, until)).await?
                }
            };
            for Entry { name, is_text, is_dir } in entries {
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                room.take(base + 1 + path.len()).ok_or_else(|| too_many(given))?;
                if is_dir && is_text && matches!(depth, Depth::All(_)) {
                    folders.push(path.clone());
                }
                found.push((path, is_dir));
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

/// The entries that are not folders with such a name; none when the time is over.
fn not_pruned(mut entries: Vec<Entry>, pruned: &[Name], until: Instant) -> Option<Vec<Entry>> {
    let mut in_time = true;
    entries.retain(|entry| {
        in_time = in_time && Instant::now() <= until;
        in_time && !(entry.is_dir && pruned.iter().any(|pattern| pattern.matches(&entry.name)))
    });
    in_time.then_some(entries)
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
    if let Err(failed) = check_patterns(&pattern, glob.as_ref(), exclude.as_ref()) {
        return answer(Err(failed), without);
    }
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
        let pruned: Arc<[Name]> = pattern::names(self.prune.iter()).into();
        let glob = self.glob.as_deref().map(Name::parse);
        let base = given.trim_end_matches('/');
        let until = Instant::now() + MOST_TIME;
        let mut matches: Vec<DaivFsMatch> = Vec::new();
        let mut truncated = false;
        for place in places {
            let real = layout.real(&place);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                truncated = true;
                break;
            }
            let request = self.request(left);
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
            let above = format!("{base}{}", place.strip_prefix(whole).unwrap_or_default());
            let (pruned, glob) = (Arc::clone(&pruned), glob.clone());
            let of_place = matched(given, move || {
                let mut matches = Vec::new();
                for found in grepped.matches {
                    // What has been found takes a moment, however long it took to find.
                    if Instant::now() > until + MOST_TIME {
                        return None;
                    }
                    let path = String::from_utf8_lossy(&found.path).into_owned();
                    let rest = path.strip_prefix(&real).unwrap_or(&path).trim_start_matches('/');
                    let name = path.rsplit('/').next().unwrap_or_default();
                    if glob.as_ref().is_some_and(|glob| !glob.matches(name)) || is_below(rest, &pruned) {
                        continue;
                    }
                    let path = if rest.is_empty() { above.clone() } else { format!("{above}/{rest}") };
                    let text = String::from_utf8_lossy(&found.line.text).into_owned();
                    matches.push(DaivFsMatch { path, line: found.line.number, text });
                    if matches.len() > MOST_MATCHES {
                        break;
                    }
                }
                Some(matches)
            });
            matches.extend(of_place.await?);
        }
        truncated |= matches.len() > MOST_MATCHES;
        matches.truncate(MOST_MATCHES);
        Ok(DaivFsGrepped { matches, truncated, error: None })
    }

    fn request(&self, max_time: Duration) -> GrepRequest {
        // What is looked for in the sandbox means less than what is asked for here; the rest is left out of what is found.
        let plain = |name: &&String| {
            (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-*?".contains(&byte))
        };
        // One is left for what is included.
        let most = GrepRequest::MAX_GLOBS - 1;
        let exclude: Vec<Vec<u8>> = self.prune.iter().filter(plain).take(most).map(|name| format!("**/{name}/**").into_bytes()).collect();
        let include: Vec<Vec<u8>> = self.glob.iter().filter(plain).map(|glob| glob.clone().into_bytes()).collect();
        let all_there = exclude.len() == self.prune.len() && include.len() == usize::from(self.glob.is_some());
        let most = if all_there { u32::try_from(MOST_MATCHES + 1).unwrap_or(u32::MAX) } else { GrepRequest::MAX_MATCHES };
        GrepRequest {
            // Nothing is found everywhere, as the beginning of a line is.
            pattern: if self.pattern.is_empty() { "^".to_owned() } else { self.pattern.clone() },
            literal: false,
            ignore_case: false,
            include,
            exclude,
            context: 0,
            max_matches: most,
            max_bytes: GrepRequest::MAX_BYTES,
            max_time,
        }
    }
}

/// Whether one of the folders on the way is one of these.
fn is_below(rest: &str, pruned: &[Name]) -> bool {
    rest.rsplit_once('/').is_some_and(|(folders, _)| folders.split('/').any(|part| pruned.iter().any(|name| name.matches(part))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pattern: &str, glob: Option<&str>, prune: usize) -> Wanted {
        let prune = (0..prune).map(|n| format!("folder{n}")).collect();
        Wanted { pattern: pattern.to_owned(), glob: glob.map(str::to_owned), prune }
    }

    #[test]
    fn what_is_looked_for_is_what_a_sandbox_takes() {
        let request = wanted("", Some("*.py"), 40).request(MOST_TIME);
        assert_eq!(request.pattern, "^");
        assert_eq!(
            (request.include.len() + request.exclude.len(), request.max_matches),
            (GrepRequest::MAX_GLOBS, GrepRequest::MAX_MATCHES)
        );
        assert_eq!(wanted("x", None, 29).request(MOST_TIME).max_matches, 201);
    }

    #[test]
    fn r6_3_patterns_are_bounded_before_they_are_used() {
        let (name, longest) = ("x".repeat(LONGEST_NAME + 1), "x".repeat(GrepRequest::MAX_PATTERN));
        assert!(check_patterns(&longest, Some(&"*.py".to_owned()), Some(&vec!["x".to_owned(); MOST_NAMES])).is_ok());
        let longer = format!("{longest}x");
        for (pattern, glob, exclude) in [
            (longer.as_str(), None, None),
            ("x", Some(&name), None),
            ("x", None, Some(&vec![name.clone()])),
            ("x", None, Some(&vec!["x".to_owned(); MOST_NAMES + 1])),
        ] {
            let refused = check_patterns(pattern, glob, exclude);
            assert!(matches!(refused, Err(Failed::Told(DaivFsError { code: DaivFsCode::InvalidPattern, .. }))));
        }
    }

    #[test]
    fn r5_1_an_answer_has_so_many_entries_and_bytes() {
        let mut room = Room::new();
        assert_eq!((room.take(MOST_BYTES), room.take(0), room.take(1)), (Some(()), Some(()), None));
        let entry = |name: &str, is_dir| Entry { name: name.to_owned(), is_text: true, is_dir };
        let kept = not_pruned(vec![entry("a", true), entry("a", false), entry("b", true)], &[Name::parse("a")], room.until).unwrap();
        assert_eq!(kept.iter().map(|entry| (entry.name.as_str(), entry.is_dir)).collect::<Vec<_>>(), [("a", false), ("b", true)]);
        assert!(not_pruned(vec![entry("a", true)], &[], Instant::now() - MOST_TIME).is_none());
    }
}
