//! What is in directories: all of it, or what a pattern says.

use std::time::{Duration, Instant};

use caisson_tree::{Visit, Walk, normal, on_proc};
use caisson_wire::{Listing, Refusal, RefusalCode, path};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::fs::{FileType, OFlags};

use super::{LONGEST_PATH, bytes, describe, glob::Glob, join, place, told};
use crate::{
    body::Answer,
    query::Query,
    refusal::{of_errno, of_path, refuse},
    service::json,
    setup::Agent,
};

/// Entries in a listing, unless fewer are asked for.
const MAX_ENTRIES: u32 = 100_000;
const DEFAULT_ENTRIES: u32 = 10_000;
/// What their names may come to in one answer, and what an entry costs beyond them; whoever asked goes on from there.
const MAX_ANSWER: usize = 8 << 20;
const ENTRY: usize = 100;
/// How long one look may take; whoever asked goes on from there.
const LONGEST: Duration = Duration::from_secs(20);
/// How many entries are passed over between two looks at the clock.
const CLOCK: u64 = 1024;

pub(crate) async fn list(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let depth = query.number::<u32>("depth")?.unwrap_or(1);
    look(agent, query, depth, None).await
}

pub(crate) async fn glob(agent: &Agent, request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let query = Query::of(request.uri());
    let glob = Glob::parse(&query.bytes("pattern")?.unwrap_or_default())?;
    look(agent, query, u32::MAX, Some(glob)).await
}

async fn look(agent: &Agent, query: Query<'_>, depth: u32, glob: Option<Glob>) -> Result<Response<Answer>, Refusal> {
    let root = bytes(query.path(&agent.config.work_dir)?);
    let limit = query.number("limit")?.unwrap_or(DEFAULT_ENTRIES).min(MAX_ENTRIES) as usize;
    let after = match query.bytes("after")? {
        None => None,
        Some(after) => match normal(&after) {
            Ok(after) if !after.is_empty() => Some(after),
            _ => return Err(refuse(RefusalCode::Invalid, "`after` is no path below the directory")),
        },
    };
    let wanted = Wanted { depth: depth as usize, limit, after, glob };
    let listing = agent.workers.run(move || tree(&root, &wanted)).await?;
    Ok(json(&listing))
}

/// What is looked for.
struct Wanted {
    depth: usize,
    limit: usize,
    /// Where to go on.
    after: Option<Vec<u8>>,
    glob: Option<Glob>,
}

impl Wanted {
    fn is(&self, visit: &Visit) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(&visit.path))
    }

    fn leads_into(&self, visit: &Visit) -> bool {
        visit.kind == FileType::Directory
            && visit.depth() < self.depth
            && self.glob.as_ref().is_none_or(|glob| glob.leads_into(&visit.path))
    }
}

fn tree(root: &[u8], wanted: &Wanted) -> Result<Listing, Refusal> {
    let begin = Instant::now();
    let directory = place::open(root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|error| of_errno(error, root))?;
    if on_proc(&directory).map_err(|error| of_errno(error, root))? {
        return Err(place::in_proc(root));
    }
    let walk = match &wanted.after {
        None => Walk::new(directory),
        Some(after) => Walk::resume(directory, after, wanted.depth),
    };
    let mut walk = walk.map_err(|error| of_path(&error, root))?;
    let mut listing = Listing { entries: Vec::new(), next: None, unreadable: 0 };
    let mut last = Vec::new();
    let mut told_bytes = 0;
    let longest = LONGEST_PATH.saturating_sub(join(told(root), b"").len());
    for passed in 1u64.. {
        let visit = match walk.next_entry() {
            Ok(Some(visit)) => visit,
            Ok(None) => break,
            Err(_) => {
                listing.unreadable += 1;
                continue;
            }
        };
        let late = passed.is_multiple_of(CLOCK) && begin.elapsed() > LONGEST;
        let is_wanted = wanted.is(&visit);
        let is_full = listing.entries.len() == wanted.limit || told_bytes >= MAX_ANSWER;
        if late || (is_wanted && is_full) {
            if last.is_empty() {
                return Err(refuse(RefusalCode::Exhausted, "it takes too long to find something there that has a name".to_owned()));
            }
            listing.next = Some(path::encode(&last));
            break;
        }
        // Trees may be deeper than names are long. What nobody can name in one go is not told, and neither is what is in it.
        if visit.path.len() > longest {
            listing.unreadable += 1;
            if visit.path.len() <= LONGEST_PATH {
                last = visit.path;
            }
            continue;
        }
        if is_wanted
            // What has gone since its directory was read is not there.
            && let Ok(stat) = walk.stat(&visit)
        {
            let target = if visit.kind == FileType::Symlink { walk.read_link(&visit).ok() } else { None };
            let whole = join(told(root), &visit.path);
            told_bytes += ENTRY + whole.len() + target.as_ref().map_or(0, Vec::len);
            listing.entries.push(describe(&whole, &stat, target.as_deref()));
        }
        // A directory that may not be read is listed without its content, as `find` does.
        if wanted.leads_into(&visit) && walk.descend(&visit).is_err() {
            listing.unreadable += 1;
        }
        last = visit.path;
    }
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStrExt};

    use rustix::fs::{Mode, mkdirat, openat};

    use super::*;

    fn wanted(depth: usize, limit: usize, pattern: Option<&str>) -> Wanted {
        Wanted { depth, limit, after: None, glob: pattern.map(|pattern| Glob::parse(pattern.as_bytes()).unwrap()) }
    }

    #[test]
    fn pages_put_together_are_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a/b/c", "a/d", "e", "f/g", "h\u{e4}"] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = directory.path().as_os_str().as_bytes();
        let whole = tree(root, &wanted(9, 100, None)).unwrap();
        assert_eq!((whole.entries.len(), &whole.next, whole.unreadable), (8, &None, 0));
        for (mut looked_for, expect) in
            [(wanted(9, 1, None), 8), (wanted(9, 3, None), 8), (wanted(1, 2, None), 4), (wanted(9, 1, Some("**/[cdg]")), 3)]
        {
            let mut entries = Vec::new();
            loop {
                let page = tree(root, &looked_for).unwrap();
                assert!(page.entries.len() <= looked_for.limit);
                entries.extend(page.entries);
                let Some(next) = page.next else { break };
                looked_for.after = path::decode(&next);
            }
            assert_eq!(entries.len(), expect);
            assert!(entries.iter().all(|entry| whole.entries.contains(entry)));
        }
    }

    #[test]
    fn what_is_too_deep_to_be_named_is_counted_and_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let name = "d".repeat(240);
        let mut deep = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..20 {
            mkdirat(&deep, &name, Mode::RWXU).unwrap();
            deep = openat(&deep, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        fs::write(directory.path().join("z"), "").unwrap();
        let root = directory.path().as_os_str().as_bytes();
        for (limit, pattern) in [(100, None), (1, None), (100, Some("**")), (1, Some("**"))] {
            let (mut looked_for, mut paths, mut unreadable) = (wanted(64, limit, pattern), Vec::new(), 0);
            loop {
                let page = tree(root, &looked_for).unwrap();
                paths.extend(page.entries.iter().map(|entry| path::decode(&entry.path).unwrap()));
                unreadable += page.unreadable;
                let Some(next) = page.next else { break };
                looked_for.after = path::decode(&next);
            }
            let longest = paths.iter().map(Vec::len).max().unwrap();
            assert!(longest <= LONGEST_PATH && longest + 241 > LONGEST_PATH, "{longest}");
            assert!(paths.last().unwrap().ends_with(b"/z"), "what is behind it is told");
            assert!(unreadable >= 1);
        }
    }

    #[test]
    fn long_names_make_short_pages() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join(format!("{}/", "n".repeat(250)).repeat(13));
        fs::create_dir_all(&deep).unwrap();
        for index in 0..3000 {
            fs::write(deep.join(format!("{index:0>250}")), "").unwrap();
        }
        let root = directory.path().as_os_str().as_bytes();
        let (mut looked_for, mut entries, mut pages) = (wanted(64, 100_000, None), 0, 0);
        loop {
            let page = tree(root, &looked_for).unwrap();
            assert!(serde_json::to_vec(&page).unwrap().len() < 2 * MAX_ANSWER);
            (entries, pages) = (entries + page.entries.len(), pages + 1);
            let Some(next) = page.next else { break };
            looked_for.after = path::decode(&next);
        }
        assert_eq!((entries, pages), (3013, 2));
    }
}
