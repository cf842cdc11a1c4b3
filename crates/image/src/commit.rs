//! One more image out of one that is here: its layers, what was changed over them as one more layer, and what it says about itself anew.
//!
//! The changes come as a plain tar in the form of a layer ([OCI image spec, layers]), and are as hostile as any layer of others: they are unpacked
//! as those are, and nothing of where they come from is linked to. On the way they are compressed into the blob that registries will know.
//!
//! [OCI image spec, layers]: https://github.com/opencontainers/image-spec/blob/main/layer.md

mod config;

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use caisson_core::{Digest, StoredImage, Tenant};
use caisson_tree::tar::END;
use flate2::{Compression as Level, write::GzEncoder};
use sha2::{Digest as _, Sha256};

pub use self::config::ConfigChange;
use crate::{
    Error, Reference, Version,
    compression::Compression,
    import,
    manifest::{self, Descriptor, MAX_LAYERS, OCI_CONFIG, Text},
    store::{Budget, Disk, LayerRecord, Name, Record, Unpacked},
};

/// What is to become of an image.
#[derive(Debug, Clone)]
pub struct Commit {
    /// What the new image is called.
    pub name: Reference,
    /// The image below the changes. It may have lost its name meanwhile; whoever commits holds a lease on it.
    pub base: Arc<StoredImage>,
    pub change: ConfigChange,
    /// For the history of the image.
    pub comment: Option<String>,
    /// Whether the image is there for everybody, where the one below is.
    pub for_everybody: bool,
}

/// The changes. Where they come from may say why they break off.
pub struct Changes {
    tar: Box<dyn Read + Send>,
    why: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// A tar, whole when it ends as one. The reason why it broke off, if there is one, is what reading it fails with.
    pub fn new(tar: impl Read + Send + 'static) -> Self {
        Self { tar: Box::new(tar), why: Arc::default() }
    }
}

impl Read for Changes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tar.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        })
    }
}

pub(crate) fn commit(disk: &Disk, tenant: Option<&Tenant>, what: &Commit, changes: Changes, budget: &Budget) -> Result<Name, Error> {
    check(&what.name)?;
    disk.check()?;
    // Until it has its name, nobody may take away what it will stand for.
    let _pulling = disk.pulling()?;
    let (base, is_everybodys) = below(disk, tenant, &what.base)?;
    let own = Name { reference: what.name.clone(), owner: tenant.cloned() };
    // What the tenant has of that name would stand before it.
    let for_everybody = what.for_everybody && is_everybodys && !disk.names()?.images.contains_key(&own.to_string());
    let name = if for_everybody { Name::for_everybody(what.name.clone()) } else { own };
    for diff_id in base.lower_directories() {
        if let Some(facts) = disk.layer(diff_id) {
            budget.take(&facts)?;
        }
    }
    let changed = layer(disk, changes, budget)?;
    let (mut layers, mut descriptors) = (base.layers.clone(), descriptors(disk, &base)?);
    if let Some(changed) = &changed {
        if layers.len() >= MAX_LAYERS {
            let why = format!(
                "it has {} layers, and there can be no more; export what is in it, and import that as a root file system",
                layers.len()
            );
            return Err(Error::Manifest { what: format!("image `{}`", what.base.name), why });
        }
        layers.push(*changed);
        descriptors.push(Descriptor::new(Compression::Gzip.media_type(), changed.blob.0, changed.size));
    }
    let config = config::changed(&disk.document(base.id())?, &base, changed.as_ref(), what)?;
    let about = Descriptor::new(OCI_CONFIG, crate::store::digest_of(&config), config.len() as u64);
    let manifest = manifest::write(&about, &descriptors);
    // They have to hold what is asked of those of others.
    manifest::parse("the new image", &manifest, None)?;
    let record = import::record(disk, &manifest, &config, layers)?;
    if budget.is_given_up() {
        return Err(Error::GivenUp);
    }
    disk.name(&name, record)?;
    Ok(name)
}

/// A digest is what comes out of it.
fn check(name: &Reference) -> Result<(), Error> {
    match name.version() {
        Version::Tag(_) => Ok(()),
        Version::Digest(_) => {
            let why = "a new image gets its digest from what is in it; give it a name with a tag, or without";
            Err(Error::Reference { text: name.to_string(), why: why.to_owned() })
        }
    }
}

/// What is known of the image below, and whether it is there for everybody.
fn below(disk: &Disk, tenant: Option<&Tenant>, image: &StoredImage) -> Result<(Record, bool), Error> {
    let names = disk.names()?;
    if let Ok(name) = image.name.parse::<Reference>()
        && let Ok((name, record)) = names.find(&name, tenant)
        && record.id() == image.id
    {
        return Ok((record.clone(), name.owner.is_none()));
    }
    // The name stands for another one now, or for none.
    let mut of_others = names.images.iter().filter(|(_, record)| record.id() == image.id);
    let is_everybodys = of_others.clone().any(|(name, _)| name.parse().is_ok_and(|name: Name| name.owner.is_none()));
    let found = of_others.next().map(|(_, record)| record).or_else(|| names.unnamed.iter().find(|record| record.id() == image.id));
    let found = found.ok_or_else(|| Error::Unknown { name: image.name.clone(), there: Vec::new() })?;
    Ok((found.clone(), is_everybodys))
}

/// The layers of an image for a new manifest. What Docker calls them has no place in one of OCI's.
fn descriptors(disk: &Disk, record: &Record) -> Result<Vec<Descriptor>, Error> {
    let of = |layer: &LayerRecord| {
        let mut begin = [0; 4];
        let read = disk.open_blob(layer.blob.0)?.read(&mut begin);
        let length = read.map_err(|cause| disk.failure("read", &disk.blob_path(layer.blob.0), cause))?;
        Ok(Descriptor::new(Compression::of(&begin[..length]).media_type(), layer.blob.0, layer.size))
    };
    record.layers.iter().map(of).collect()
}

/// The changes as a layer that is here; none where there are none.
fn layer(disk: &Disk, changes: Changes, budget: &Budget) -> Result<Option<LayerRecord>, Error> {
    let why = Arc::clone(&changes.why);
    let (temporary, file) = disk.temporary_file()?;
    let to = GzEncoder::new(Blob { file, hash: Sha256::new(), size: 0 }, Level::fast());
    let mut kept = Kept { from: changes, to, plain: 0 };
    let unpacked = disk.unpack("what was changed", &mut kept, budget, &|_| ());
    if let Some(why) = why.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(Error::Changes { why });
    }
    let Unpacked { directory, diff_id, mut facts } = unpacked?;
    if kept.plain <= END.len() {
        return Ok(None);
    }
    let written = kept.to.finish();
    let Blob { file, hash, size } = written.map_err(|cause| disk.failure("write", temporary.path(), cause))?;
    let blob = Digest::from_bytes(hash.finalize().into());
    disk.keep_blob(temporary, &file, blob)?;
    facts.blobs.push(Text(blob));
    disk.keep_layer(directory, diff_id, &facts)?;
    Ok(Some(LayerRecord { diff_id: Text(diff_id), blob: Text(blob), size }))
}

/// A stream, of which everything that is read is kept compressed.
struct Kept {
    from: Changes,
    to: GzEncoder<Blob>,
    /// How many bytes that were.
    plain: usize,
}

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        self.plain += count;
        Ok(count)
    }
}

struct Blob {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
