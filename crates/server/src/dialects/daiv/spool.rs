//! Archives on the server's disk, in files without a name: written anew as they come, never whole in memory, and for nobody before their end.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Seek, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use caisson_core::Tenant;
use tokio::sync::mpsc;

use super::archive::{self, Most, NotTidied, PIECE, Refused};
use crate::dialects::multipart::Multipart;

/// Pieces on their way to the disk.
const PIECES: usize = 4;
/// All archives together may take so many times what one may have, and those of one tenant a part of it: both that a session begins with.
const ALL: u64 = 4;
const OF_TENANT: u64 = 2;

/// What all archives on the disk take.
static TAKEN: Taken = Taken::new();

/// What has come of an upload.
#[derive(Debug)]
pub(super) enum Spooled {
    Whole(File, Room),
    Refused(Refused),
    /// There was more than is taken, which is so many bytes, and nothing of it is kept.
    TooLarge(u64),
}

/// Why nothing has come of it.
#[derive(Debug)]
pub(super) enum NotSpooled {
    /// The client's doing.
    Cut(io::Error),
    /// Ours.
    Disk(io::Error),
    /// Too many archives come at once.
    Full,
}

/// Bytes on the disk by whose they are.
#[derive(Debug)]
struct Taken(Mutex<BTreeMap<Tenant, u64>>);

impl Taken {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

/// What one archive takes, for as long as it is there.
#[derive(Debug)]
pub(super) struct Room {
    of: &'static Taken,
    tenant: Tenant,
    bytes: u64,
}

impl Room {
    fn new(of: &'static Taken, tenant: &Tenant) -> Self {
        Self { of, tenant: tenant.clone(), bytes: 0 }
    }

    /// Takes more, if there is as much, where one archive may have `most`.
    fn grow(&mut self, bytes: u64, most: u64) -> bool {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = taken.values().sum::<u64>().saturating_add(bytes);
        let own = taken.get(&self.tenant).copied().unwrap_or_default().saturating_add(bytes);
        if all > most.saturating_mul(ALL) || own > most.saturating_mul(OF_TENANT) {
            return false;
        }
        taken.insert(self.tenant.clone(), own);
        self.bytes += bytes;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.tenant) {
            *own -= self.bytes;
            if *own == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

/// An archive as it is made.
struct Draft {
    file: File,
    room: Room,
    /// What one may have.
    most: u64,
    is_full: bool,
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.is_full |= !self.room.grow(count as u64, self.most);
        if self.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn draw_up(pieces: impl Iterator<Item = Bytes>, draft: Draft, most: Most) -> Result<Spooled, NotSpooled> {
    let mut out = BufWriter::with_capacity(PIECE, draft);
    let tidied = archive::tidied(pieces, most, &mut out);
    // What is left of one that failed is not wanted.
    let (Draft { mut file, room, is_full, .. }, _) = out.into_parts();
    match tidied {
        Ok(()) => file.rewind().map(|()| Spooled::Whole(file, room)).map_err(NotSpooled::Disk),
        Err(NotTidied::Refused(refused)) => Ok(Spooled::Refused(refused)),
        Err(NotTidied::Written(_)) if is_full => Err(NotSpooled::Full),
        Err(NotTidied::Written(error)) => Err(NotSpooled::Disk(error)),
    }
}

/// The archive that is made of the present part, which has at most so many bytes. What is too much is passed over.
pub(super) async fn part(form: &mut Multipart, directory: PathBuf, tenant: &Tenant, size: u64, most: Most) -> Result<Spooled, NotSpooled> {
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
    let room = Room::new(&TAKEN, tenant);
    let writing = tokio::task::spawn_blocking(move || {
        let file = tempfile::tempfile_in(directory).map_err(NotSpooled::Disk)?;
        let pieces = std::iter::from_fn(|| receiver.blocking_recv());
        draw_up(pieces, Draft { file, room, most: size, is_full: false }, most)
    });
    let mut left = size;
    while let Some(piece) = form.data().await.map_err(NotSpooled::Cut)? {
        let Some(rest) = left.checked_sub(piece.len() as u64) else {
            drop(pieces);
            // What is there of it goes at once, not with the rest of the part.
            drop(writing.await);
            pass_over(form).await.map_err(NotSpooled::Cut)?;
            return Ok(Spooled::TooLarge(most.bytes));
        };
        left = rest;
        // Nothing more is wanted where the archive has ended, or was refused.
        if pieces.send(piece).await.is_err() {
            pass_over(form).await.map_err(NotSpooled::Cut)?;
            break;
        }
    }
    drop(pieces);
    writing.await.map_err(|error| NotSpooled::Disk(io::Error::other(error)))?
}

/// The rest of the present part, of which nothing is kept.
pub(super) async fn pass_over(form: &mut Multipart) -> io::Result<()> {
    while form.data().await?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_1_archives_share_the_room_that_there_is_for_them() {
        static TAKEN: Taken = Taken::new();
        let room = |tenant: &str| Room::new(&TAKEN, &tenant.parse().unwrap());
        let (mut one, mut more) = (room("one"), room("one"));
        assert!(one.grow(150, 100) && more.grow(50, 100) && !more.grow(1, 100), "of one tenant");
        let (mut two, mut three) = (room("two"), room("three"));
        assert!(two.grow(150, 100) && !three.grow(51, 100) && three.grow(50, 100), "of all");
        drop(one);
        assert!(more.grow(150, 100));
        drop((more, two, three));
        assert!(TAKEN.0.lock().unwrap().is_empty());
    }
}
