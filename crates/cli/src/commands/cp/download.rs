//! Out of a sandbox onto this machine. Everything that the sandbox says is hostile: names only ever lead into the destination, nothing is
//! written through a link, and only links that lead to something in the copy are made.

use std::{
    fs, io,
    io::Write,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    thread::JoinHandle,
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use caisson_core::Stream;
use caisson_tree::{Error, Links, Unpack, Unpacked};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::sync::mpsc;

use super::{
    Report,
    place::{Place, here, last_part},
    remote::{Kind, Remote},
};
use crate::{output, waiting::Copying};

/// Pieces that wait to be written.
const PIECES: usize = 8;

/// Copies a file or a directory, a file to standard output if that is wanted.
pub(super) async fn copy(remote: &Remote<'_>, from: Vec<u8>, to: Place) -> Result<Report> {
    let shown = String::from_utf8_lossy(&from).into_owned();
    let kind = remote.kind(&from).await?;
    let mut report = Report::default();
    match (kind, to) {
        (Some(Kind::Directory), Place::Here(to)) => {
            let to = if to.is_dir() {
                let Some(name) = last_part(&from) else {
                    bail!("`{shown}` has no name; give DST in full, as a directory that does not exist yet")
                };
                to.join(here(name))
            } else {
                to
            };
            report = tree(remote, &from, &to).await?;
        }
        (Some(Kind::Directory), _) => bail!("`{shown}` is a directory, which standard output cannot take; give a path as DST"),
        // What is not there is said best by whoever is asked to read it.
        (_, Place::Here(to)) => {
            let to = if to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/") {
                let Some(name) = last_part(&from) else { bail!("`{shown}` has no name; give DST in full") };
                to.join(here(name))
            } else {
                to
            };
            file(remote, &from, &to).await?;
        }
        (_, _) => {
            let (_, mut body, copying) = open(remote, &from).await?;
            while let Some(data) = next(&mut body).await? {
                copying.advance(data.len());
                output::write(Stream::Stdout, data).await?;
            }
        }
    }
    Ok(report)
}

/// A directory with everything in it, as one archive.
async fn tree(remote: &Remote<'_>, from: &[u8], to: &Path) -> Result<Report> {
    let shown = String::from_utf8_lossy(from).into_owned();
    let mut body = remote.pack(from).await?.into_body();
    let copying = Copying::begin(&shown, None);
    let (root, fresh) = make_directory(to)?;
    let unpacking = Unpacking::begin(root, fresh);
    while let Some(piece) = next(&mut body).await? {
        copying.advance(piece.len());
        // Whoever unpacks has failed, and says why below.
        if !unpacking.take(piece).await {
            break;
        }
    }
    let done = unpacking.finish().map_err(|error| match error {
        Error::Entry { path, cause } => anyhow!(cause).context(format!("cannot write {}", to.join(here(&path)).display())),
        error => anyhow!(error).context(format!("the copy of `{shown}` is not whole")),
    })?;
    let mut report = Report::default();
    report.add(&shown, done.left_out.named().iter().map(|left| (left.path.as_slice(), left.why.as_str())), done.left_out.total());
    Ok(report)
}

/// Makes a directory, or finds one that is no link; whether it is new.
fn make_directory(path: &Path) -> Result<(OwnedFd, bool)> {
    let unusable = || format!("cannot make the directory {}", path.display());
    let fresh = match fs::create_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error).with_context(unusable),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from).with_context(unusable)?, fresh))
}

/// A thread that unpacks what it is given. Dropped early, it takes back the file that is not whole and ends before the drop does.
struct Unpacking {
    pieces: Option<mpsc::Sender<io::Result<Bytes>>>,
    thread: Option<JoinHandle<Result<Unpacked, Error>>>,
}

impl Unpacking {
    fn begin(root: OwnedFd, fresh: bool) -> Self {
        let (pieces, mut waiting) = mpsc::channel::<io::Result<Bytes>>(PIECES);
        let thread = std::thread::spawn(move || {
            let mut unpack = Unpack::new(root, fresh, Links::Within).map_err(|cause| Error::Entry { path: Vec::new(), cause })?;
            unpack.all(std::iter::from_fn(|| waiting.blocking_recv())).map(|()| unpack.done)
        });
        Self { pieces: Some(pieces), thread: Some(thread) }
    }

    /// Waits while the thread is busy. Says whether it goes on.
    async fn take(&self, piece: Bytes) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.send(Ok(piece)).await.is_ok(),
            None => false,
        }
    }

    fn finish(mut self) -> Result<Unpacked, Error> {
        self.pieces = None;
        let thread = self.thread.take().expect("it is taken here alone");
        thread.join().unwrap_or_else(|_| Err(Error::Stream(io::Error::other("the thread that unpacks failed"))))
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // How far it came does not matter to whoever gave it up.
            drop(thread.join());
        }
    }
}

/// Copies one file, which appears whole or not at all.
async fn file(remote: &Remote<'_>, from: &[u8], to: &Path) -> Result<()> {
    let (mode, mut body, copying) = open(remote, from).await?;
    let unwritable = || format!("cannot write {}", to.display());
    // Devices and pipes are written to, not replaced.
    let special = fs::symlink_metadata(to).is_ok_and(|found| !found.is_file() && !found.is_dir() && !found.is_symlink());
    if special {
        let mut out = fs::OpenOptions::new().write(true).open(to).with_context(unwritable)?;
        while let Some(data) = next(&mut body).await? {
            copying.advance(data.len());
            out.write_all(&data).with_context(unwritable)?;
        }
        return Ok(());
    }
    if to.is_dir() {
        bail!("{} is a directory; a file cannot take its place", to.display());
    }
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut out = tempfile::Builder::new()
        .prefix(".caisson-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .with_context(unwritable)?;
    while let Some(data) = next(&mut body).await? {
        copying.advance(data.len());
        out.write_all(&data).with_context(unwritable)?;
    }
    out.persist(to).map_err(|error| error.error).with_context(unwritable)?;
    Ok(())
}

async fn open(remote: &Remote<'_>, from: &[u8]) -> Result<(u32, Incoming, Copying)> {
    let answer = remote.read(from).await?;
    let mode = mode(answer.headers());
    let length = answer.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((mode, answer.into_body(), Copying::begin(&String::from_utf8_lossy(from), length)))
}

/// Permission bits only: programs from a sandbox do not run as somebody else here.
fn mode(headers: &HeaderMap) -> u32 {
    let mode = headers.get("x-caisson-mode").and_then(|value| u32::from_str_radix(value.to_str().ok()?, 8).ok());
    mode.unwrap_or(0o644) & 0o777
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("the copy is not whole, the connection to the server broke: {error}"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
