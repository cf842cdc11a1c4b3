//! Archives on the server's disk, in files without a name: they are read twice, and never whole in memory.

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::PathBuf,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::dialects::multipart::Multipart;

/// Pieces on their way to the disk.
const PIECES: usize = 4;

/// What has come of an upload.
#[derive(Debug)]
pub(super) enum Spooled {
    Whole(File),
    /// There was more than is taken, and nothing of it is kept.
    TooLarge,
}

/// Why nothing has come of it.
#[derive(Debug)]
pub(super) enum NotSpooled {
    /// The client's doing.
    Cut(io::Error),
    /// Ours.
    Disk(io::Error),
}

/// The present part, of at most so many bytes. What is too much is passed over.
pub(super) async fn part(form: &mut Multipart, directory: PathBuf, most: u64) -> Result<Spooled, NotSpooled> {
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || -> io::Result<File> {
        let mut file = tempfile::tempfile_in(directory)?;
        while let Some(piece) = receiver.blocking_recv() {
            file.write_all(&piece)?;
        }
        file.rewind()?;
        Ok(file)
    });
    let mut size = 0;
    let mut pieces = Some(pieces);
    while let Some(piece) = form.data().await.map_err(NotSpooled::Cut)? {
        size += piece.len() as u64;
        if size > most {
            pieces = None;
        }
        // Whoever writes has failed then, and says why.
        if let Some(sender) = &pieces
            && sender.send(piece).await.is_err()
        {
            break;
        }
    }
    drop(pieces);
    let file = writing.await.map_err(|error| NotSpooled::Disk(io::Error::other(error)))?.map_err(NotSpooled::Disk)?;
    Ok(if size > most { Spooled::TooLarge } else { Spooled::Whole(file) })
}
