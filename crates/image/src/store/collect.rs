//! Removing what nobody needs any more.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt};

use caisson_core::{Digest, Tenant};

use super::{disk::Disk, names::Names};
use crate::{Error, Reference};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images that had no name any more.
    pub images: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// On the disk, about.
    pub bytes: u64,
    /// Images without a name that stay because they are in use.
    pub in_use: u64,
    /// A pull or an import is under way, which may count on layers that no name stands for yet: all of them stay until another time.
    pub pull_under_way: bool,
}

impl Disk {
    /// Takes a name away, and removes what no other name needs, unless it is in use; then, unless `forced`, the name stays as well.
    pub(crate) fn forget(
        &self,
        reference: &Reference,
        tenant: Option<&Tenant>,
        in_use: &HashSet<Digest>,
        forced: bool,
    ) -> Result<Collected, Error> {
        {
            let _alone = self.locks.alone()?;
            let mut names = self.names()?;
            let (name, id) = names.find(reference, tenant).map(|(name, record)| (name.to_string(), record.id()))?;
            let is_last = names.images.values().filter(|record| record.id() == id).count() == 1;
            if !forced && is_last && (in_use.contains(&id) || self.locks.is_leased(id)?) {
                return Err(Error::InUse { name: reference.to_string() });
            }
            names.unnamed.extend(names.images.remove(&name));
            self.write_names(&names)?;
        }
        self.collect(in_use)
    }

    /// Removes every image that has no name and is not in use, by the caller's word or anybody's lease, and every layer and blob of none.
    pub(crate) fn collect(&self, in_use: &HashSet<Digest>) -> Result<Collected, Error> {
        let _alone = self.locks.alone()?;
        let (mut names, mut done) = (self.names()?, Collected::default());
        let mut kept = Vec::new();
        for record in std::mem::take(&mut names.unnamed) {
            if in_use.contains(&record.id()) || self.locks.is_leased(record.id())? {
                kept.push(record);
            } else {
                done.images += 1;
            }
        }
        done.in_use = kept.len() as u64;
        names.unnamed = kept;
        if done.images > 0 {
            // Before anything of them goes.
            self.write_names(&names)?;
        }
        self.sweep(&names, &mut done)?;
        Ok(done)
    }

    /// Removes what was kept for an image that did not become one.
    pub(crate) fn make_room(&self) -> Result<(), Error> {
        let _alone = self.locks.alone()?;
        self.sweep(&self.names()?, &mut Collected::default())
    }

    /// Whoever calls holds the lock alone.
    fn sweep(&self, names: &Names, done: &mut Collected) -> Result<(), Error> {
        let Some(_nobody) = self.locks.nobody_pulls()? else {
            done.pull_under_way = true;
            return Ok(());
        };
        let all = || names.images.values().chain(&names.unnamed);
        let layers: HashSet<Digest> = all().flat_map(|record| record.layers.iter().map(|layer| layer.diff_id.0)).collect();
        let blobs: HashSet<Digest> = all().flat_map(|record| record.blobs().collect::<Vec<_>>()).collect();
        for diff_id in self.found("layers")? {
            if !layers.contains(&diff_id) {
                done.bytes += self.layer(diff_id).map_or(0, |facts| facts.bytes);
                done.layers += 1;
                self.remove_layer(diff_id)?;
            }
        }
        for digest in self.found("blobs/sha256")? {
            if !blobs.contains(&digest) {
                let path = self.blob_path(digest);
                done.bytes += fs::symlink_metadata(&path).map_or(0, |found| found.blocks() * 512);
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// What in a directory is named by a digest.
    fn found(&self, directory: &str) -> Result<Vec<Digest>, Error> {
        let path = self.at(directory);
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|cause| self.failure("read", &path, cause))?;
        Ok(entries.iter().filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok()).collect())
    }
}
