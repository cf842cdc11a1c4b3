//! From here into a sandbox.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use caisson_tree::Pack;

use super::{
    Report,
    place::{Place, join, last_part},
    remote::{Kind, Remote, bytes},
};
use crate::{
    client::{pieces, read_piece},
    waiting::Copying,
};

/// Copies a file, a directory or standard input.
pub(super) async fn copy(remote: &Remote<'_>, from: Place, to: Vec<u8>) -> Result<Report> {
    let there = remote.kind(&to).await?;
    let into = there == Some(Kind::Directory) || to.ends_with(b"/");
    let Place::Here(source) = from else {
        if into {
            bail!("standard input has no name; give the name of a file as DST");
        }
        put(remote, Source::Stdin, &to).await?;
        return Ok(Report::default());
    };
    let metadata = std::fs::metadata(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let destination = if into { join(&to, &name_of(&source)?) } else { to };
    if !metadata.is_dir() {
        put(remote, Source::File(source), &destination).await?;
        return Ok(Report::default());
    }
    if !into && there.is_some() {
        bail!("`{}` in the sandbox is not a directory, so {} cannot go there", String::from_utf8_lossy(&destination), source.display());
    }
    directory(remote, &source, &destination).await
}

/// A directory with everything in it, as one archive.
async fn directory(remote: &Remote<'_>, source: &Path, destination: &[u8]) -> Result<Report> {
    let name = source.display().to_string();
    let unreadable = || format!("cannot read the directory {name}");
    let root = File::open(source).with_context(unreadable)?;
    let pack = Pack::directory(root.into()).with_context(unreadable)?;
    let copying = Copying::begin(&name, None);
    let pieces = pieces(pack, move |mut pack| {
        let piece = pack.next_piece().map_err(io::Error::other)?;
        Ok(piece.map(|piece| {
            copying.advance(piece.len());
            (Bytes::from(piece), pack)
        }))
    });
    let made = remote.unpack(destination, pieces).await.with_context(|| format!("cannot copy {name}"))?;
    let mut report = Report::default();
    report.add(&name, made.left_out.iter().map(|left| (left.path.as_bytes(), left.reason.as_str())), made.left_out_total);
    Ok(report)
}

/// The name of the source in a directory that it goes into.
fn name_of(source: &Path) -> Result<Vec<u8>> {
    if let Some(name) = last_part(bytes(source)) {
        return Ok(name.to_vec());
    }
    // `.` and `..` have names where they are.
    let real = source.canonicalize().with_context(|| format!("cannot read {}", source.display()))?;
    match last_part(bytes(&real)) {
        Some(name) => Ok(name.to_vec()),
        None => bail!("{} has no name; give DST in full", source.display()),
    }
}

enum Source {
    File(PathBuf),
    Stdin,
}

async fn put(remote: &Remote<'_>, source: Source, destination: &[u8]) -> Result<()> {
    let (content, mode, length, name): (Box<dyn Read + Send>, _, _, _) = match source {
        Source::Stdin => (Box::new(io::stdin()), None, None, "standard input".to_owned()),
        Source::File(path) => {
            let name = path.display().to_string();
            let file = File::open(&path).with_context(|| format!("cannot read {name}"))?;
            let metadata = file.metadata().with_context(|| format!("cannot read {name}"))?;
            // What the kernel makes up when it is read says it is empty.
            let length = Some(metadata.len()).filter(|length| metadata.is_file() && *length > 0);
            let content: Box<dyn Read + Send> = match length {
                Some(length) => Box::new(file.take(length)),
                None => Box::new(file),
            };
            (content, Some(metadata.mode()), length, name)
        }
    };
    let copying = Copying::begin(&name, length);
    let pieces = pieces(content, move |mut content| {
        let piece = read_piece(&mut content)?;
        copying.advance(piece.len());
        Ok((!piece.is_empty()).then_some((piece, content)))
    });
    remote.write(destination, mode, length, pieces).await.with_context(|| format!("cannot copy {name}"))
}
