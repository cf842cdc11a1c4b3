//! The tar of a root file system becomes an image of one layer, which is kept as it came.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use caisson_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::{
    Error,
    compression::Compression,
    config, import,
    manifest::{self, Descriptor, OCI_CONFIG, Text},
    store::{Budget, Disk, LayerRecord, Record, digest_of},
};

pub(super) fn import(disk: &Disk, raw: impl Read + Send, budget: &Budget) -> Result<Record, Error> {
    let (temporary, file) = disk.temporary_file()?;
    let mut copied = Copied { from: raw, file, hash: Sha256::new(), size: 0, begin: Vec::new() };
    let unpacked = disk.unpack("the root file system", &mut copied, budget, &|_| ())?;
    // Behind the end of the archive nothing may come, but the decompression may have stopped before the end of the stream.
    let rest = io::copy(&mut copied, &mut io::sink());
    rest.map_err(|cause| disk.failure("write", temporary.path(), cause))?;
    let (blob, size) = (Digest::from_bytes(copied.hash.finalize().into()), copied.size);
    disk.keep_blob(temporary, &copied.file, blob)?;
    let mut facts = unpacked.facts;
    facts.blobs.push(Text(blob));
    disk.keep_layer(unpacked.directory, unpacked.diff_id, &facts)?;
    let config = config::write(unpacked.diff_id);
    let about = Descriptor::new(OCI_CONFIG, digest_of(&config), config.len() as u64);
    let layer = Descriptor::new(Compression::of(&copied.begin).media_type(), blob, size);
    let manifest = manifest::write(&about, &[layer]);
    import::record(disk, &manifest, &config, vec![LayerRecord { diff_id: Text(unpacked.diff_id), blob: Text(blob), size }])
}

/// A stream, of which everything that is read is written to a file too.
struct Copied<R> {
    from: R,
    file: File,
    hash: Sha256,
    size: u64,
    begin: Vec<u8>,
}

impl<R: Read> Read for Copied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        let read = &buffer[..count];
        self.file.write_all(read)?;
        self.hash.update(read);
        self.size += count as u64;
        self.begin.extend(read.iter().take(4_usize.saturating_sub(self.begin.len())));
        Ok(count)
    }
}
