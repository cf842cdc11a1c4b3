//! Out of a sandbox onto this machine. Everything that the sandbox says is hostile: names are only ever entries of the directory they were
//! listed in, links are never made, and no file is written through one.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use caisson_core::Stream;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    FILES_AT_ONCE, Report,
    place::{Place, here, is_a_name, last_part},
    remote::{Kind, Remote},
};
use crate::{output, waiting::Copying};

/// Directories within directories. Deeper ones are made by nobody who means well.
const MAX_DEPTH: usize = 256;

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
            tree(remote, from, to, &mut report).await?;
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

async fn tree(remote: &Remote<'_>, from: Vec<u8>, to: PathBuf, report: &mut Report) -> Result<()> {
    let mut directories = vec![(from, to, 0)];
    while let Some((from, to, depth)) = directories.pop() {
        if depth > MAX_DEPTH {
            bail!("`{}` lies more than {MAX_DEPTH} directories deep; copy it by itself", String::from_utf8_lossy(&from));
        }
        make_directory(&to)?;
        let mut files = Vec::new();
        for entry in remote.list(&from).await? {
            let shown = String::from_utf8_lossy(&entry.path).into_owned();
            let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if !is_a_name(name) {
                bail!("the sandbox says that `{shown}` is in `{}`; such a name is not copied", String::from_utf8_lossy(&from));
            }
            let to = to.join(here(name));
            let from = super::place::join(&from, name);
            match entry.kind {
                Kind::Directory => directories.push((from, to, depth + 1)),
                Kind::File => files.push((from, to)),
                Kind::Other => report.left_out.push(format!("`{shown}`, which is a link or no ordinary file")),
            }
        }
        let copies = files.into_iter().map(|(from, to)| async move { file(remote, &from, &to).await });
        stream::iter(copies).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
    }
    Ok(())
}

/// Makes a directory, or finds one that is no link.
fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) => {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot make the directory {}", path.display())),
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

async fn next(body: &mut Incoming) -> Result<Option<bytes::Bytes>> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("the copy is not whole, the connection to the server broke: {error}"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
