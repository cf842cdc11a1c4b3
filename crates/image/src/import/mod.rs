//! Images that come as files: an OCI layout (a directory, or a tar of one), what `docker save` writes, or the tar of a root file system.
//!
//! Which it is, the name of the first member says. Each may be compressed as a whole by gzip or Zstandard.

mod parcel;
mod root_file_system;

use std::{
    io::{self, Read},
    path::PathBuf,
};

use bytes::Bytes;
use caisson_core::Digest;
use caisson_tree::{normal, tar::Members};
use jiff::Timestamp;
use serde::Deserialize;

use self::parcel::Parcel;
use crate::{
    Error, Reference,
    compression::{Compression, plain},
    config,
    error::in_short,
    manifest::{self, Descriptor, Document, Index, Manifest, OCI_CONFIG, OCI_INDEX, Text},
    store::{Budget, Disk, LayerRecord, Name, Record, verify},
};

/// So much is looked at to see what it is.
const HEAD: usize = 1 << 20;
/// Indexes within indexes.
const MAX_DEPTH: usize = 3;
/// Images of one archive.
const MAX_IMAGES: usize = 100;
/// The whole name of an image in a layout, and its tag alone.
pub(crate) const WHOLE_NAME: &str = "io.containerd.image.name";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where an import comes from.
pub enum Source {
    /// An OCI layout.
    Directory(PathBuf),
    /// Any kind, compressed or not.
    Stream(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Imports all images that there are, or one under the name that is given.
pub(crate) fn import(disk: &Disk, source: Source, name: Option<&Reference>, budget: &Budget) -> Result<Vec<(Reference, Record)>, Error> {
    disk.check()?;
    // Until it has its names, nobody may take away what they will stand for.
    let _pulling = disk.pulling()?;
    let images = match source {
        Source::Directory(path) => Import { disk, budget, parcel: Parcel::directory(disk, &path)? }.images(name)?,
        Source::Stream(mut stream) => {
            let mut head = Vec::new();
            (&mut stream).take(HEAD as u64).read_to_end(&mut head).map_err(|error| refused(format!("breaks off: {error}")))?;
            let is_parcel = first_name(&head)?.is_some_and(|name| parcel::belongs(&name));
            let whole = io::Cursor::new(head).chain(stream);
            if is_parcel {
                Import { disk, budget, parcel: Parcel::archive(disk, whole, budget)? }.images(name)?
            } else {
                let name = name.ok_or_else(|| refused("is a root file system, which has no name; give it one"))?;
                vec![(name.clone(), root_file_system::import(disk, whole, budget)?)]
            }
        }
    };
    if budget.is_given_up() {
        return Err(Error::GivenUp);
    }
    for (name, record) in &images {
        disk.name(&Name::for_everybody(name.clone()), record.clone())?;
    }
    Ok(images)
}

pub(crate) fn refused(why: impl Into<String>) -> Error {
    Error::Import { why: why.into() }
}

/// The first name of an archive that says anything.
fn first_name(head: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let unreadable = |error: &dyn std::fmt::Display| {
        refused(format!("is neither an OCI layout nor a `docker save` nor the tar of a root file system: {error}"))
    };
    let plain = plain(head).map_err(|error| unreadable(&error))?;
    let mut members = Members::new(pieces(plain));
    loop {
        match members.next_member().map_err(|error| unreadable(&error))? {
            Some(member) => match normal(&member.path) {
                Ok(name) if name.is_empty() => {}
                Ok(name) => return Ok(Some(name)),
                // The reader of layers has its own mind about these.
                Err(_) => return Ok(None),
            },
            None => return Err(refused("is an empty archive")),
        }
    }
}

fn pieces(mut from: impl Read) -> impl Iterator<Item = io::Result<Bytes>> {
    std::iter::from_fn(move || {
        let mut piece = vec![0; 128 << 10];
        loop {
            return match from.read(&mut piece) {
                Ok(0) => None,
                Ok(count) => {
                    piece.truncate(count);
                    Some(Ok(Bytes::from(std::mem::take(&mut piece))))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Some(Err(error)),
            };
        }
    })
}

/// What `docker save` says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Import<'a> {
    disk: &'a Disk,
    budget: &'a Budget,
    parcel: Parcel<'a>,
}

impl Import<'_> {
    fn images(mut self, name: Option<&Reference>) -> Result<Vec<(Reference, Record)>, Error> {
        if let Some(index) = self.parcel.small("index.json")? {
            return self.layout(&index, name);
        }
        match self.parcel.small("manifest.json")? {
            Some(saved) => self.saved(&saved, name),
            None => Err(refused("has neither `index.json` (of an OCI layout) nor `manifest.json` (of `docker save`)")),
        }
    }

    fn layout(&mut self, index: &[u8], name: Option<&Reference>) -> Result<Vec<(Reference, Record)>, Error> {
        let Document::Index(index) = manifest::parse("`index.json`", index, Some(OCI_INDEX))? else {
            return Err(refused("has an `index.json` that is no index"));
        };
        if let Some(name) = name {
            let known = index.0.len() == 1 || index.ours().is_ok();
            let entry = if known { index.ours()? } else { return Err(several(index.0.len())) };
            return Ok(vec![(name.clone(), self.entry(entry, MAX_DEPTH)?)]);
        }
        let mut images = Vec::new();
        for entry in named(&index)? {
            images.push((entry.1, self.entry(entry.0, MAX_DEPTH)?));
        }
        Ok(images)
    }

    /// An image by what an index says of it.
    fn entry(&mut self, entry: &Descriptor, depth: usize) -> Result<Record, Error> {
        let what = format!("manifest {}", entry.digest());
        let bytes = self.document(entry, &what)?;
        match manifest::parse(&what, &bytes, Some(entry.media_type.as_str()).filter(|said| !said.is_empty()))? {
            Document::Manifest(manifest) => self.manifest(&bytes, &manifest),
            Document::Index(_) if depth == 0 => Err(refused("has indexes within indexes within indexes")),
            Document::Index(index) => self.entry(index.ours()?, depth - 1),
        }
    }

    fn manifest(&mut self, bytes: &[u8], manifest: &Manifest) -> Result<Record, Error> {
        let what = format!("configuration {}", manifest.config.digest());
        let config_bytes = self.document(&manifest.config, &what)?;
        let config = config::parse(&what, &config_bytes, manifest.layers.len())?;
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            let (digest, size) = (layer.digest(), layer.size);
            // Also where it is here already: whoever names a layer has to have it.
            let found = self.parcel.keep(&blob(digest))?;
            same(&format!("layer {digest}"), (digest, size), found)?;
            layers.push(self.layer(digest, size, *diff_id)?);
        }
        self.record(bytes, &config_bytes, layers)
    }

    fn saved(&mut self, saved: &[u8], name: Option<&Reference>) -> Result<Vec<(Reference, Record)>, Error> {
        let saved: Vec<Saved> = serde_json::from_slice(saved)
            .map_err(|error| refused(format!("has a `manifest.json` that cannot be read: {}", in_short(&error))))?;
        if saved.len() > MAX_IMAGES || (name.is_some() && saved.len() != 1) {
            return Err(several(saved.len()));
        }
        let mut images = Vec::new();
        for image in &saved {
            let names = match (name, image.repo_tags.as_deref().unwrap_or_default()) {
                (Some(name), _) => vec![name.clone()],
                (None, []) => return Err(refused("has an image without a name; give it one")),
                (None, tags) if tags.len() <= MAX_IMAGES => tags.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?,
                (None, tags) => return Err(several(tags.len())),
            };
            let record = self.saved_image(image)?;
            images.extend(names.into_iter().map(|name| (name, record.clone())));
        }
        Ok(images)
    }

    fn saved_image(&mut self, image: &Saved) -> Result<Record, Error> {
        let Some(config_bytes) = self.parcel.small(&image.config)? else {
            return Err(refused(format!("lacks the configuration `{}`", image.config.escape_debug())));
        };
        let config = config::parse("the image", &config_bytes, image.layers.len())?;
        let (mut layers, mut descriptors) = (Vec::new(), Vec::new());
        for (path, diff_id) in image.layers.iter().zip(&config.diff_ids) {
            let (digest, size) = self.parcel.keep(path)?;
            let mut begin = [0; 4];
            let read = self.disk.open_blob(digest)?.read(&mut begin);
            let length = read.map_err(|cause| self.disk.failure("read", &self.disk.blob_path(digest), cause))?;
            descriptors.push(Descriptor::new(Compression::of(&begin[..length]).media_type(), digest, size));
            layers.push(self.layer(digest, size, *diff_id)?);
        }
        let config = Descriptor::new(OCI_CONFIG, crate::store::digest_of(&config_bytes), config_bytes.len() as u64);
        let manifest = manifest::write(&config, &descriptors);
        // It has to hold what is asked of those of others.
        manifest::parse("the image", &manifest, None)?;
        self.record(&manifest, &config_bytes, layers)
    }

    fn layer(&self, blob: Digest, size: u64, diff_id: Digest) -> Result<LayerRecord, Error> {
        self.disk.unpack_blob(blob, diff_id, self.budget, &|_| ())?;
        Ok(LayerRecord { diff_id: Text(diff_id), blob: Text(blob), size })
    }

    fn document(&mut self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
        let Some(bytes) = self.parcel.small(&blob(descriptor.digest()))? else {
            return Err(refused(format!("lacks the {what}")));
        };
        if bytes.len() as u64 != descriptor.size {
            return Err(Error::Size { what: what.to_owned(), expected: descriptor.size, found: bytes.len().to_string() });
        }
        verify(what, &bytes, descriptor.digest())?;
        Ok(bytes)
    }

    fn record(&self, manifest: &[u8], config: &[u8], layers: Vec<LayerRecord>) -> Result<Record, Error> {
        record(self.disk, manifest, config, layers)
    }
}

/// Keeps what describes an image whose layers are there.
pub(crate) fn record(disk: &Disk, manifest: &[u8], config: &[u8], layers: Vec<LayerRecord>) -> Result<Record, Error> {
    let size = (manifest.len() + config.len()) as u64 + layers.iter().map(|layer| layer.size).sum::<u64>();
    Ok(Record {
        config: Text(disk.keep_document(config)?),
        manifest: Text(disk.keep_document(manifest)?),
        size,
        layers,
        added: Timestamp::now().as_second(),
    })
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn several(count: usize) -> Error {
    refused(format!("has {count} images: one name is not enough for all, and one image alone is taken under a name"))
}

fn same(what: &str, expected: (Digest, u64), found: (Digest, u64)) -> Result<(), Error> {
    if expected.1 != found.1 {
        return Err(Error::Size { what: what.to_owned(), expected: expected.1, found: found.1.to_string() });
    }
    if expected.0 != found.0 {
        return Err(Error::Digest { what: what.to_owned(), expected: expected.0, found: found.0 });
    }
    Ok(())
}

/// Those that say their whole names.
fn named(index: &Index) -> Result<Vec<(&Descriptor, Reference)>, Error> {
    if index.0.len() > MAX_IMAGES {
        return Err(several(index.0.len()));
    }
    let mut all = Vec::new();
    for entry in &index.0 {
        // A tag alone does not say of what.
        let whole = entry.annotation(REF_NAME).filter(|name| name.contains(['/', ':']));
        if let Some(name) = entry.annotation(WHOLE_NAME).or(whole) {
            all.push((entry, name.parse()?));
        }
    }
    if all.is_empty() {
        return Err(refused("says no whole name of an image; give it one"));
    }
    Ok(all)
}
