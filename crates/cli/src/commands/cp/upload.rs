//! From here into a sandbox.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::{
    FILES_AT_ONCE, Report,
    place::{Place, join, last_part},
    remote::{Kind, Remote, bytes},
};
use crate::{client::Body, waiting::Copying};

/// Bytes read in one go.
const PIECE: usize = 256 << 10;
/// A file of this name makes an empty directory, and goes again at once.
const PLACEHOLDER: &[u8] = b".caisson-empty";

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
    let mut report = Report::default();
    let tree = walk(source, destination, &mut report)?;
    let copies = tree.into_iter().map(|item| async move {
        match item {
            Item::File { source, destination } => put(remote, Source::File(source), &destination).await,
            Item::EmptyDirectory { destination } => make_empty(remote, &destination).await,
        }
    });
    stream::iter(copies).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
    Ok(report)
}

/// What has to be copied for a directory.
enum Item {
    File { source: PathBuf, destination: Vec<u8> },
    EmptyDirectory { destination: Vec<u8> },
}

/// Everything below a directory; links are not followed.
fn walk(source: PathBuf, destination: Vec<u8>, report: &mut Report) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut directories = vec![(source, destination)];
    while let Some((source, destination)) = directories.pop() {
        let unreadable = || format!("cannot read the directory {}", source.display());
        let mut is_empty = true;
        for entry in std::fs::read_dir(&source).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(unreadable)?);
            let destination = join(&destination, entry.file_name().as_encoded_bytes());
            is_empty = false;
            if kind.is_dir() {
                directories.push((path, destination));
            } else if kind.is_file() {
                items.push(Item::File { source: path, destination });
            } else {
                let what = if kind.is_symlink() { "a link" } else { "no ordinary file" };
                report.left_out.push(format!("{}, which is {what}", path.display()));
            }
        }
        if is_empty {
            items.push(Item::EmptyDirectory { destination });
        }
    }
    Ok(items)
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

/// The interface makes directories on the way to files only.
async fn make_empty(remote: &Remote<'_>, directory: &[u8]) -> Result<()> {
    let placeholder = join(directory, PLACEHOLDER);
    let nothing: Body = Full::default().map_err(|never| match never {}).boxed_unsync();
    remote.write(&placeholder, None, Some(0), nothing).await?;
    remote.remove(&placeholder).await
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
    let body = body(content, Copying::begin(&name, length));
    remote.write(destination, mode, length, body).await.with_context(|| format!("cannot copy {name}"))
}

/// The content as it is read, in tasks that may block.
fn body(content: Box<dyn Read + Send>, copying: Copying) -> Body {
    let frames = stream::unfold(Some(content), move |content| {
        let copying = copying.clone();
        async move {
            let mut content = content?;
            let read = tokio::task::spawn_blocking(move || {
                let piece = read_piece(&mut content);
                (piece, content)
            });
            match read.await {
                Ok((Ok(piece), content)) => {
                    copying.advance(piece.len());
                    (!piece.is_empty()).then_some((Ok(Frame::data(piece)), Some(content)))
                }
                Ok((Err(error), _)) => Some((Err(error), None)),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn read_piece(content: &mut impl Read) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(PIECE);
    loop {
        match content.read(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_walked_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/empty")).unwrap();
        std::fs::write(at("a/x"), "x").unwrap();
        std::fs::write(at("y"), "y").unwrap();
        std::os::unix::fs::symlink("/", at("a/link")).unwrap();
        let mut report = Report::default();
        let items = walk(dir.path().to_owned(), b"/d".to_vec(), &mut report).unwrap();
        let mut found: Vec<String> = items
            .into_iter()
            .map(|item| match item {
                Item::File { destination, .. } => String::from_utf8(destination).unwrap(),
                Item::EmptyDirectory { destination } => format!("{}/", String::from_utf8(destination).unwrap()),
            })
            .collect();
        found.sort();
        assert_eq!(found, ["/d/a/empty/", "/d/a/x", "/d/y"]);
        assert!(report.left_out.len() == 1 && report.left_out[0].ends_with("a/link, which is a link"), "{report:?}");
    }
}
