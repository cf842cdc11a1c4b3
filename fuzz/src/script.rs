//! What an agent says, from arbitrary choices: half of it close to what a good one says, so that the way behind the first check is reached
//! as well.

use arbitrary::Arbitrary;
use bytes::{BufMut, Bytes, BytesMut};
use caisson_wire::{
    Copied, Ended, ExecExit, FileKind, FileStat, Found, GrepLine, GrepMatch, Grepped, LeftOut, Listing, Refusal, RefusalCode, Started,
    Unpacked, Watch, WatchEvent,
    frame::{Frame, Kind, MAX_DATA},
    path,
};

/// An answer to one request.
#[derive(Debug, Clone, Arbitrary)]
pub struct Answer {
    pub status: Status,
    /// The header with a file's stat.
    pub stat: Option<Header>,
    pub body: Vec<Piece>,
    pub end: End,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Status {
    Good,
    /// Of the answers with a reason for refusing.
    Bad,
    Other(u16),
}

#[derive(Debug, Clone, Arbitrary)]
pub enum Header {
    Stat(Stat),
    Raw(Vec<u8>),
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum End {
    InOrder,
    /// It does not.
    Never,
    /// By `RST_STREAM`.
    Reset,
}

/// A part of a body.
#[derive(Debug, Clone, Arbitrary)]
pub enum Piece {
    /// These bytes.
    Raw(Vec<u8>),
    /// So many of this one.
    Many(u8, u16),
    /// What follows travels apart from what came before.
    Cut,
    /// A frame that is as long as it says.
    Frame(u8, Vec<u8>),
    Started(String),
    /// So much output, repeated from one byte; beyond a frame's limit the length is wrong.
    Output {
        stderr: bool,
        byte: u8,
        length: u32,
    },
    /// So much of standard input has left, mostly within what was sent.
    Taken(u32),
    Closed,
    Exit(Exit),
    Refused(Reason),
    /// JSON without a frame.
    Json(Json),
}

#[derive(Debug, Clone, Arbitrary)]
pub enum Json {
    Stat(Stat),
    Listing(Vec<Stat>, Option<String>),
    Found(Vec<String>),
    Refusal(Reason),
    Grepped(Vec<(Place, Line, u32, u32, Option<Line>)>),
    Copied(Stat, Vec<(String, String)>),
    Event(u8, Place, Option<Place>),
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Line {
    number: u64,
    text: String,
    begin: u64,
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Exit {
    exit_code: Option<i32>,
    signal: Option<u8>,
    timed_out: Option<bool>,
    duration_us: u64,
    cpu_us: u64,
    peak_memory_bytes: u64,
    changes: Vec<Stat>,
    changes_truncated: bool,
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Stat {
    path: Place,
    kind: u8,
    size: u64,
    mode: u32,
    mtime_ns: i64,
    target: Option<Place>,
}

#[derive(Debug, Clone, Arbitrary)]
pub enum Place {
    Absolute(Vec<u8>),
    Text(String),
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Reason {
    code: u8,
    message: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        match self.status {
            Status::Good => 200,
            Status::Bad => 400,
            // What HTTP has no word for cannot be sent.
            Status::Other(code) => code % 500 + 100,
        }
    }

    /// The body in the parts in which it travels.
    pub fn parts(&self) -> Vec<Bytes> {
        let mut parts = vec![BytesMut::new()];
        for piece in &self.body {
            match piece {
                Piece::Cut => parts.push(BytesMut::new()),
                piece => put(piece, parts.last_mut().expect("there is one from the start")),
            }
        }
        parts.into_iter().map(BytesMut::freeze).filter(|part| !part.is_empty()).collect()
    }
}

impl Header {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Stat(stat) => serde_json::to_vec(&stat.wire()).expect("wire types are plain data"),
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

fn put(piece: &Piece, out: &mut BytesMut) {
    match piece {
        Piece::Cut => {}
        Piece::Raw(bytes) => out.extend_from_slice(bytes),
        Piece::Many(byte, count) => out.put_bytes(*byte, usize::from(*count)),
        Piece::Frame(kind, payload) => frame(*kind, payload, out),
        Piece::Started(program) => Frame::json(Kind::Started, &Started { pid: 1, program: program.clone() }).encode_into(out),
        Piece::Output { stderr, byte, length } => {
            let kind = if *stderr { Kind::Stderr } else { Kind::Stdout };
            // Mostly short, at times at the limit.
            let length = *length as usize % if *byte == b'L' { MAX_DATA + 2 } else { 4096 };
            frame(kind as u8, &vec![*byte; length], out);
        }
        Piece::Taken(count) => Frame::new(Kind::InputTaken, count.to_be_bytes().to_vec()).encode_into(out),
        Piece::Closed => Frame::new(Kind::InputClosed, Bytes::new()).encode_into(out),
        Piece::Exit(exit) => Frame::json(Kind::Exit, &exit.wire()).encode_into(out),
        Piece::Refused(reason) => frame(Kind::Refused as u8, &text(&reason.wire()), out),
        Piece::Json(json) => out.extend_from_slice(&match json {
            Json::Stat(stat) => text(&stat.wire()),
            Json::Listing(entries, next) => {
                text(&Listing { entries: entries.iter().map(Stat::wire).collect(), next: next.clone(), unreadable: 1 })
            }
            Json::Found(names) => text(&Found { names: names.clone() }),
            Json::Refusal(reason) => text(&reason.wire()),
            Json::Grepped(matches) => {
                let matches = matches.iter().map(|(path, line, first, last, before)| GrepMatch {
                    path: path.text(),
                    line: line.wire(),
                    spans: vec![(*first, *last)],
                    before: before.iter().map(Line::wire).collect(),
                    after: Vec::new(),
                });
                let matches = matches.collect();
                text(&Grepped { matches, files: 1, bytes: 2, binary: 3, unreadable: 4, long_lines: 5, stopped_by: None })
            }
            Json::Copied(stat, left_out) => {
                let left_out = left_out.iter().map(|(path, why)| LeftOut { path: path.clone(), why: why.clone() }).collect();
                let made = Unpacked { files: 1, directories: 2, links: 3, bytes: 4, left_out, left_out_total: 5 };
                text(&Copied { stat: stat.wire(), made })
            }
            Json::Event(what, path, to) => {
                let all = [Watch::Ready, Watch::Created, Watch::Modified, Watch::Deleted, Watch::Moved, Watch::Overflow, Watch::Gone];
                let what = all[usize::from(*what) % all.len()];
                let mut line = text(&WatchEvent { what, path: path.text(), to: to.as_ref().map(Place::text), directory: false });
                line.push(b'\n');
                line
            }
        }),
    }
}

fn frame(kind: u8, payload: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u32(u32::try_from(payload.len()).expect("inputs are short"));
    out.extend_from_slice(payload);
}

fn text(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("wire types are plain data")
}

impl Exit {
    fn wire(&self) -> ExecExit {
        ExecExit {
            exit_code: self.exit_code,
            signal: self.signal.map(i32::from),
            ended: self.timed_out.map(|timed_out| if timed_out { Ended::TimedOut } else { Ended::OutputLimit }),
            duration_us: self.duration_us,
            cpu_us: self.cpu_us,
            peak_memory_bytes: self.peak_memory_bytes,
            changes: self.changes.iter().map(Stat::wire).collect(),
            changes_truncated: self.changes_truncated,
        }
    }
}

impl Line {
    fn wire(&self) -> GrepLine {
        GrepLine { number: self.number, text: self.text.clone(), begin: self.begin, cut: false }
    }
}

impl Stat {
    fn wire(&self) -> FileStat {
        let kinds = [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Other];
        FileStat {
            path: self.path.text(),
            kind: kinds[usize::from(self.kind) % kinds.len()],
            size: self.size,
            mode: self.mode,
            mtime_ns: self.mtime_ns,
            uid: 1000,
            gid: 1000,
            inode: 1,
            target: self.target.as_ref().map(Place::text),
        }
    }
}

impl Place {
    fn text(&self) -> String {
        match self {
            Self::Absolute(bytes) => format!("/{}", path::encode(bytes)),
            Self::Text(text) => text.clone(),
        }
    }
}

impl Reason {
    fn wire(&self) -> Refusal {
        use RefusalCode as Code;
        let codes = [
            Code::Invalid,
            Code::NotFound,
            Code::AlreadyExists,
            Code::InvalidArchive,
            Code::InvalidPattern,
            Code::ProgramNotFound,
            Code::PermissionDenied,
            Code::NotADirectory,
            Code::IsADirectory,
            Code::DirectoryNotEmpty,
            Code::NotAFile,
            Code::NoSpace,
            Code::Exhausted,
            Code::NotExecutable,
            Code::Failed,
        ];
        Refusal { code: codes[usize::from(self.code) % codes.len()], message: self.message.clone() }
    }
}
