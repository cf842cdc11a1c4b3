//! A part of a form into a file of a sandbox.

use std::io;

use bytes::Bytes;
use caisson_core::{Error, Result, SandboxId};
use caisson_engine::{ByteStream, Engine, FileAttributes};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::multipart::Multipart;
use crate::request_id;

/// Pieces on their way to the sandbox.
const PIECES: usize = 2;

/// Writes the present part, of at most so many bytes; says how many it were.
pub(super) async fn put(engine: &Engine, id: SandboxId, form: &mut Multipart, path: &str, mode: u32, most: u64) -> Result<u64> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let content: ByteStream = Box::pin(ReceiverStream::new(receiver).into_stream());
    let attributes = FileAttributes { mode: Some(mode), modified_at: None };
    let writing = engine.write_file(id, path.as_bytes(), attributes, content);
    let feeding = async {
        let mut size = 0;
        loop {
            let piece = match form.data().await {
                Ok(Some(piece)) => {
                    size += piece.len() as u64;
                    if size > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(piece) }
                }
                Ok(None) => {
                    drop(sender);
                    return size;
                }
                Err(error) => Err(error),
            };
            let broken = piece.is_err();
            // Whoever writes has failed then, and says why.
            if sender.send(piece).await.is_err() || broken {
                return size;
            }
        }
    };
    let (written, size) = tokio::join!(writing, feeding);
    if size > most {
        return Err(Error::TooLarge { message: format!("a file may have {most} bytes here") });
    }
    written.map(|_| size)
}

/// The last part of a name, if it can be one.
pub(super) fn base_name(name: &str) -> Option<&str> {
    let base = name.trim_end_matches('/').rsplit('/').next()?;
    (!matches!(base, "" | "." | "..") && !base.contains('\0')).then_some(base)
}

/// Where a file is while it comes, under a name that nobody has. Of the same file system as everything that can be written.
pub(super) fn under_way(dialect: &str) -> String {
    request_id::random::<16>(&format!("/tmp/.{dialect}-upload-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_base_name_counts() {
        for (name, base) in [
            ("a.txt", Some("a.txt")),
            ("../../etc/passwd", Some("passwd")),
            ("/a/b/", Some("b")),
            ("..", None),
            ("a/..", None),
            (".", None),
            ("", None),
            ("/", None),
            ("a\0b", None),
            (".hidden", Some(".hidden")),
        ] {
            assert_eq!(base_name(name), base, "{name}");
        }
    }
}
