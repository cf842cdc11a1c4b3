//! Searching in contents, line by line. Whatever ends the search early is told.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    time::{Duration, Instant},
};

use caisson_tree::Walk;
use caisson_wire::{Grep, GrepLimit, GrepLine, GrepMatch, Grepped, Refusal, RefusalCode, path};
use http::{Request, Response};
use hyper::body::Incoming;
use memchr::memchr;
use regex_automata::{
    Input,
    hybrid::{dfa, regex::Cache, regex::Regex},
    nfa::thompson,
    util::syntax,
};
use rustix::fs::{FileType, OFlags, fstat};

use super::{LONGEST_PATH, bytes, glob::Glob, join, place, read::open_for_reading, told};
use crate::{
    body::Answer,
    query::absolute,
    refusal::{of_errno, of_path, refuse},
    service::{json, read_json},
    setup::Agent,
};

/// Bytes read at once. A file with a NUL in the first of them is no text.
const CHUNK: usize = 64 << 10;
/// The longest line that is searched in full.
const MAX_LINE: usize = 1 << 20;
/// What is told of a line at most, and how much of that in front of the first match.
const MAX_TEXT: usize = 1 << 10;
const LEAD: usize = 200;
/// Matches told of one line.
const MAX_SPANS: usize = 100;
/// What is told in all, before it is encoded.
const MAX_ANSWER: usize = 4 << 20;
/// What a line costs beyond its text, and a span, in an answer.
const LINE: usize = 64;
const SPAN: usize = 16;
const MAX_CONTEXT: u32 = 20;
/// What patterns may cost: memory of the compiled one, memory of what is remembered while searching (twice), and nesting, for which the
/// stack of a worker must be enough.
const MAX_COMPILED: usize = 1 << 20;
const REMEMBERED: usize = 512 << 10;
const MAX_NESTING: u32 = 40;
/// How many lines are searched between two looks at the clock.
const CLOCK: u64 = 4096;

pub(crate) async fn grep(agent: &Agent, request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asked: Grep = read_json(request).await?;
    let root = bytes(absolute(&asked.path, &agent.config.work_dir)?);
    let grepped = agent.workers.run(move || search(&root, &asked)).await?;
    Ok(json(&grepped))
}

fn search(root: &[u8], asked: &Grep) -> Result<Grepped, Refusal> {
    let refusal = |error| of_errno(error, root);
    let (include, exclude) = (globs(&asked.include)?, globs(&asked.exclude)?);
    let mut search = Search::new(asked)?;
    let entry = place::open(root, OFlags::PATH).map_err(refusal)?;
    if FileType::from_raw_mode(fstat(&entry).map_err(refusal)?.st_mode) != FileType::Directory {
        let (file, _) = open_for_reading(root)?;
        search.file(root, file);
        return Ok(search.found);
    }
    let directory = place::open(root, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
    if caisson_tree::on_proc(&directory).map_err(refusal)? {
        return Err(super::read::not_a_file(root));
    }
    let mut walk = Walk::new(directory).map_err(|error| of_path(&error, root))?;
    while search.found.stopped_by.is_none() {
        match walk.next_entry() {
            Ok(None) => break,
            Ok(Some(visit)) if visit.kind == FileType::Directory => {
                let out = exclude.iter().any(|glob| glob.is_about(&visit.path));
                if !out && walk.descend(&visit).is_err() {
                    search.found.unreadable += 1;
                }
            }
            Ok(Some(visit)) if visit.kind == FileType::RegularFile => {
                let about = |glob: &Glob| glob.is_about(&visit.path);
                if exclude.iter().any(about) || !(include.is_empty() || include.iter().any(about)) {
                    continue;
                }
                let whole = join(told(root), &visit.path);
                match walk.open(&visit) {
                    // What nobody can name in one go is not told.
                    Ok(_) if whole.len() > LONGEST_PATH => search.found.unreadable += 1,
                    Ok((file, _)) => search.file(&whole, file.into()),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(_) => search.found.unreadable += 1,
                }
            }
            // Links lead to what is found by its own name, or is elsewhere.
            Ok(Some(_)) => {}
            Err(_) => search.found.unreadable += 1,
        }
        search.look_at_the_clock();
    }
    Ok(search.found)
}

fn globs(patterns: &[String]) -> Result<Vec<Glob>, Refusal> {
    patterns.iter().map(|pattern| Glob::parse(&path::decode(pattern).unwrap_or_default())).collect()
}

/// A search that goes on.
struct Search {
    regex: Regex,
    cache: Cache,
    context: usize,
    max_matches: usize,
    max_bytes: u64,
    deadline: Instant,
    /// What has been told so far, in bytes of the answer.
    told: usize,
    found: Grepped,
}

/// A file that is being searched.
struct Lines<'a> {
    path: &'a [u8],
    number: u64,
    /// Lines that the next match may want to have in front of it.
    before: VecDeque<GrepLine>,
    /// The first match that has not all lines behind it yet.
    incomplete: usize,
}

impl Search {
    fn new(asked: &Grep) -> Result<Self, Refusal> {
        let regex = compile(asked)?;
        let found = Grepped { matches: Vec::new(), files: 0, bytes: 0, binary: 0, unreadable: 0, long_lines: 0, stopped_by: None };
        Ok(Self {
            cache: regex.create_cache(),
            regex,
            context: asked.context.min(MAX_CONTEXT) as usize,
            max_matches: asked.max_matches as usize,
            max_bytes: asked.max_bytes,
            deadline: Instant::now() + Duration::from_millis(asked.max_ms),
            told: 0,
            found,
        })
    }

    fn look_at_the_clock(&mut self) {
        if Instant::now() >= self.deadline {
            self.stop(GrepLimit::Time);
        }
    }

    /// The first reason counts.
    fn stop(&mut self, limit: GrepLimit) {
        self.found.stopped_by.get_or_insert(limit);
    }

    fn file(&mut self, path: &[u8], mut file: File) {
        let mut lines = Lines { path, number: 0, before: VecDeque::new(), incomplete: self.found.matches.len() };
        let mut buffer: Vec<u8> = Vec::with_capacity(CHUNK);
        // Whether the line that goes on was searched as far as it is searched.
        let mut skipping = false;
        let mut first = true;
        loop {
            let room = self.max_bytes.saturating_sub(self.found.bytes);
            let most = usize::try_from(room).unwrap_or(CHUNK).min(CHUNK);
            let begin = buffer.len();
            buffer.resize(begin + most, 0);
            let count = loop {
                match file.read(&mut buffer[begin..]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.found.unreadable += 1;
                        return;
                    }
                    Ok(count) => break count,
                }
            };
            buffer.truncate(begin + count);
            if std::mem::take(&mut first) {
                if memchr(0, &buffer).is_some() {
                    self.found.binary += 1;
                    return;
                }
                self.found.files += 1;
            }
            self.found.bytes += count as u64;
            // Here as well: some files have no lines.
            self.look_at_the_clock();
            let end = count == 0;
            let mut done = 0;
            while let Some(length) = memchr(b'\n', &buffer[done..]) {
                if !std::mem::take(&mut skipping) {
                    self.line(&mut lines, &buffer[done..done + length]);
                }
                done += length + 1;
                if self.found.stopped_by.is_some() {
                    return;
                }
            }
            buffer.drain(..done);
            if (end && !buffer.is_empty() || buffer.len() >= MAX_LINE) && !skipping {
                self.line(&mut lines, &buffer);
                if !end {
                    self.found.long_lines += 1;
                    skipping = true;
                }
            }
            if skipping {
                buffer.clear();
            }
            if end && most > 0 {
                return;
            }
            if most == 0 {
                self.stop(GrepLimit::Bytes);
            }
            if self.found.stopped_by.is_some() {
                return;
            }
        }
    }

    fn line(&mut self, lines: &mut Lines<'_>, text: &[u8]) {
        lines.number += 1;
        if lines.number.is_multiple_of(CLOCK) {
            self.look_at_the_clock();
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let hit = self.regex.try_search(&mut self.cache, &Input::new(text)).ok().flatten();
        let line = (self.context > 0).then(|| shown(lines.number, text, 0));
        if let Some(line) = &line {
            self.behind(lines, line);
        }
        if let Some(first) = hit {
            self.hit(lines, text, first.start());
        }
        if let Some(line) = line {
            lines.before.push_back(line);
            if lines.before.len() > self.context {
                lines.before.pop_front();
            }
        }
    }

    /// Tells of a line in which something was found.
    fn hit(&mut self, lines: &Lines<'_>, text: &[u8], first: usize) {
        if self.found.matches.len() >= self.max_matches {
            return self.stop(GrepLimit::Matches);
        }
        if self.told >= MAX_ANSWER {
            return self.stop(GrepLimit::Answer);
        }
        let begin = if text.len() <= MAX_TEXT { 0 } else { first.saturating_sub(LEAD) };
        let line = shown(lines.number, text, begin);
        let end = begin + MAX_TEXT.min(text.len() - begin);
        let hits = self.regex.find_iter(&mut self.cache, text).take(MAX_SPANS);
        let spans = hits.map(|hit| (hit.start(), hit.end())).take_while(|(_, last)| *last <= end);
        #[expect(clippy::cast_possible_truncation, reason = "what is told of a line is short")]
        let spans: Vec<_> = spans.map(|(from, to)| ((from - begin) as u32, (to - begin) as u32)).collect();
        let before: Vec<_> = lines.before.iter().cloned().collect();
        self.told += lines.path.len() + cost(&line) + SPAN * spans.len() + before.iter().map(cost).sum::<usize>();
        self.found.matches.push(GrepMatch { path: path::encode(lines.path), line, spans, before, after: Vec::new() });
    }

    /// Gives a line to the matches in front of it.
    fn behind(&mut self, lines: &mut Lines<'_>, line: &GrepLine) {
        for earlier in &mut self.found.matches[lines.incomplete..] {
            self.told += cost(line);
            earlier.after.push(line.clone());
        }
        while self.found.matches.get(lines.incomplete).is_some_and(|earlier| earlier.after.len() >= self.context) {
            lines.incomplete += 1;
        }
    }
}

fn cost(line: &GrepLine) -> usize {
    LINE + line.text.len()
}

/// A line as it is told, from `begin` on.
fn shown(number: u64, text: &[u8], begin: usize) -> GrepLine {
    let part = &text[begin..];
    let part = &part[..part.len().min(MAX_TEXT)];
    GrepLine { number, text: path::encode(part), begin: begin as u64, cut: part.len() < text.len() }
}

/// Bytes, not characters: classes and letters of either case are those of ASCII, everything else is found as it is written.
fn compile(asked: &Grep) -> Result<Regex, Refusal> {
    let pattern = if asked.literal { escape(&asked.pattern) } else { asked.pattern.clone() };
    let built = Regex::builder()
        .syntax(syntax::Config::new().unicode(false).utf8(false).case_insensitive(asked.ignore_case).nest_limit(MAX_NESTING))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_COMPILED)))
        .dfa(dfa::Config::new().cache_capacity(REMEMBERED).skip_cache_capacity_check(true))
        .build(&pattern);
    built.map_err(|error| {
        use std::error::Error;
        // The innermost cause draws where in the pattern it is, and says what it is in the last line.
        let mut cause: &dyn Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let drawn = cause.to_string();
        let why = drawn.lines().last().unwrap_or_default();
        refuse(RefusalCode::InvalidPattern, format!("the pattern cannot be used: {}", why.strip_prefix("error: ").unwrap_or(why)))
    })
}

/// The pattern that finds a text as it is.
fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::ffi::OsStrExt, path::Path as FilePath};

    use super::*;

    fn asked(pattern: &str) -> Grep {
        Grep {
            path: String::new(),
            pattern: pattern.to_owned(),
            literal: false,
            ignore_case: false,
            include: Vec::new(),
            exclude: Vec::new(),
            context: 0,
            max_matches: 1000,
            max_bytes: 1 << 30,
            max_ms: 10_000,
        }
    }

    fn grep(root: &FilePath, asked: &Grep) -> Grepped {
        search(root.as_os_str().as_bytes(), asked).unwrap()
    }

    fn texts(found: &Grepped) -> Vec<(u64, String)> {
        let text = |line: &GrepLine| (line.number, String::from_utf8_lossy(&path::decode(&line.text).unwrap()).into_owned());
        found.matches.iter().map(|hit| text(&hit.line)).collect()
    }

    #[test]
    fn lines_are_found_with_their_numbers_spans_and_context() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "one\ntwo two\r\nthree\n\nfive two").unwrap();
        let found = grep(&file, &Grep { context: 1, ..asked("two") });
        assert_eq!(texts(&found), [(2, "two two".to_owned()), (5, "five two".to_owned())]);
        assert_eq!(found.matches[0].spans, [(0, 3), (4, 7)]);
        let numbers = |lines: &[GrepLine]| lines.iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!((numbers(&found.matches[0].before), numbers(&found.matches[0].after)), (vec![1], vec![3]));
        assert_eq!((numbers(&found.matches[1].before), numbers(&found.matches[1].after)), (vec![4], vec![]));
        assert_eq!((found.files, found.bytes, found.stopped_by), (1, 28, None));
        for (pattern, count) in [("^t", 2), ("e$", 2), ("^$", 1), (r"\d", 0), ("o\\s", 1), ("TWO", 0), ("(?i)TWO", 2), (r"\Ato|\Afive", 1)]
        {
            assert_eq!(grep(&file, &asked(pattern)).matches.len(), count, "{pattern}");
        }
        assert_eq!(grep(&file, &Grep { literal: true, ..asked("o t") }).matches.len(), 1);
        assert_eq!(grep(&file, &Grep { literal: true, ..asked("o.t") }).matches.len(), 0);
        assert_eq!(grep(&file, &Grep { ignore_case: true, ..asked("FIVE") }).matches.len(), 1);
    }

    #[test]
    fn every_byte_is_searched_wherever_pieces_and_lines_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        for length in [CHUNK - 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            fs::write(&file, format!("{}needle\nlast needle", "x".repeat(length))).unwrap();
            let found = grep(&file, &asked("needle"));
            assert_eq!(found.matches.iter().map(|hit| hit.line.number).collect::<Vec<_>>(), [1, 2], "{length}");
            let hit = &found.matches[0];
            assert_eq!((hit.line.begin, hit.line.cut, hit.spans.as_slice()), ((length - LEAD) as u64, true, &[(200, 206)][..]));
        }
        fs::write(&file, format!("{}needle\nneedle\n", "x".repeat(3 * MAX_LINE))).unwrap();
        let found = grep(&file, &asked("needle"));
        assert_eq!((found.matches.len(), found.matches[0].line.number, found.long_lines), (1, 2, 1));
    }

    #[test]
    fn limits_are_kept_and_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), "x\n".repeat(1000)).unwrap();
        fs::write(directory.path().join("g"), b"x\0").unwrap();
        let found = grep(directory.path(), &Grep { max_matches: 10, ..asked("x") });
        assert_eq!((found.matches.len(), found.stopped_by), (10, Some(GrepLimit::Matches)));
        let found = grep(directory.path(), &Grep { max_bytes: 100, ..asked("x") });
        assert_eq!((found.matches.len(), found.bytes, found.stopped_by), (50, 100, Some(GrepLimit::Bytes)));
        let found = grep(directory.path(), &Grep { max_ms: 0, ..asked("y") });
        assert_eq!(found.stopped_by, Some(GrepLimit::Time));
        let found = grep(directory.path(), &asked("x"));
        assert_eq!((found.matches.len(), found.binary, found.stopped_by), (1000, 1, None));
        // All that is told counts, also the lines in front of a match, empty ones and spans.
        let line = format!("{}\n", "x".repeat(1000));
        for (pattern, context, text) in [
            ("x", 0, line.repeat(5000)),
            ("y", 20, format!("{}y\n", line.repeat(20)).repeat(500)),
            ("y", 20, format!("{}y\n", "\n".repeat(40)).repeat(5000)),
            (".", 0, format!("{}\n", "y".repeat(100)).repeat(5000)),
        ] {
            fs::write(directory.path().join("f"), text).unwrap();
            let found = grep(directory.path(), &Grep { max_matches: 10_000, context, ..asked(pattern) });
            assert_eq!(found.stopped_by, Some(GrepLimit::Answer), "{pattern} {context}");
            let answer = serde_json::to_vec(&found).unwrap().len();
            assert!(answer < 4 * MAX_ANSWER, "{pattern} {context}: {answer}");
        }
    }

    #[test]
    fn files_without_lines_are_searched_no_longer_than_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = fs::File::create(directory.path().join("f")).unwrap();
        (&file).write_all(&[b'x'; CHUNK]).unwrap();
        file.set_len(1 << 40).unwrap();
        let begin = Instant::now();
        let found = grep(directory.path(), &Grep { max_bytes: u64::MAX, max_ms: 100, ..asked("y") });
        assert_eq!((found.stopped_by, found.long_lines), (Some(GrepLimit::Time), 1));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }

    #[test]
    fn globs_choose_files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.rs", "b.py", "target/c.rs", "deep/er/d.rs"] {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink("a.rs", directory.path().join("link.rs")).unwrap();
        let count = |include: &[&str], exclude: &[&str]| {
            let own = |globs: &[&str]| globs.iter().map(|glob| path::encode(glob.as_bytes())).collect();
            grep(directory.path(), &Grep { include: own(include), exclude: own(exclude), ..asked("x") }).matches.len()
        };
        assert_eq!(count(&[], &[]), 4);
        assert_eq!(count(&["*.rs"], &[]), 3);
        assert_eq!(count(&["*.rs"], &["target"]), 2);
        assert_eq!(count(&["deep/**/*.rs", "*.py"], &[]), 2);
    }

    #[test]
    fn patterns_that_cost_too_much_are_refused_and_the_rest_is_harmless() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), "a".repeat(100_000)).unwrap();
        let root = directory.path().as_os_str().as_bytes();
        for bad in ["(", "[a", "a{1000}{1000}{1000}", &"(".repeat(1000), r"\p{Greek}", &format!("{}a{}", "(".repeat(500), ")".repeat(500))]
        {
            assert_eq!(search(root, &asked(bad)).unwrap_err().code, RefusalCode::InvalidPattern, "{bad:.20}");
        }
        // On the stack that workers have.
        let work = move || {
            let begin = Instant::now();
            for pattern in ["(a*)*b", "(a|a)*b", "(a|aa)+$b", &format!("{}a{}", "(".repeat(19), ")*".repeat(19)), "(?:a?){100}a{100}"] {
                grep(directory.path(), &asked(pattern));
            }
            assert!(begin.elapsed() < Duration::from_secs(20));
        };
        std::thread::Builder::new().stack_size(crate::worker::STACK_BYTES).spawn(work).unwrap().join().unwrap();
    }
}
