//! Archives on the server's disk, in files without a name: they are read twice, and never whole in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use caisson_core::Tenant;
use tokio::sync::mpsc;

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

/// The present part, of at most so many bytes. What is too much is passed over.
pub(super) async fn part(form: &mut Multipart, directory: PathBuf, tenant: &Tenant, most: u64) -> Result<Spooled, NotSpooled> {
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || -> io::Result<File> {
        let mut file = tempfile::tempfile_in(directory)?;
        while let Some(piece) = receiver.blocking_recv() {
            file.write_all(&piece)?;
        }
        file.rewind()?;
        Ok(file)
    });
    let mut room = Room::new(&TAKEN, tenant);
    let mut size = 0;
    while let Some(piece) = form.data().await.map_err(NotSpooled::Cut)? {
        size += piece.len() as u64;
        if size > most {
            drop(pieces);
            // What is there of it goes at once, not with the rest of the part.
            drop(writing.await);
            drop(room);
            pass_over(form).await.map_err(NotSpooled::Cut)?;
            return Ok(Spooled::TooLarge);
        }
        if !room.grow(piece.len() as u64, most) {
            return Err(NotSpooled::Full);
        }
        // Whoever writes has failed then, and says why.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let file = writing.await.map_err(|error| NotSpooled::Disk(io::Error::other(error)))?.map_err(NotSpooled::Disk)?;
    Ok(Spooled::Whole(file, room))
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
