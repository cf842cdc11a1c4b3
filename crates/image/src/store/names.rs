//! Which names there are, and what is behind each: one small file.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
};

use caisson_core::{Digest, StoredImage, Tenant};
use serde::{Deserialize, Serialize};

use super::{disk::Disk, name::Name};
use crate::{
    Error, Reference, config,
    manifest::{self, Document, Text},
};

const VERSION: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Names {
    version: u32,
    pub(crate) images: BTreeMap<String, Record>,
    /// Images that have lost their names and may be in use: to be removed when they are not.
    pub(crate) unnamed: Vec<Record>,
}

/// An image that is whole in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) manifest: Text,
    pub(crate) config: Text,
    /// Of manifest, configuration and layers as they came.
    pub(crate) size: u64,
    /// The lowest first, as many as the manifest has.
    pub(crate) layers: Vec<LayerRecord>,
    /// Seconds since 1970.
    pub(crate) added: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Text,
    pub(crate) blob: Text,
    pub(crate) size: u64,
}

impl Record {
    pub(crate) fn id(&self) -> Digest {
        self.config.0
    }

    /// The diff ids, each once. Where a layer comes twice, the higher one already covers all that the lower one has.
    pub(crate) fn lower_directories(&self) -> Vec<Digest> {
        let mut layers: Vec<Digest> = Vec::with_capacity(self.layers.len());
        for layer in self.layers.iter().rev() {
            if !layers.contains(&layer.diff_id.0) {
                layers.push(layer.diff_id.0);
            }
        }
        layers.reverse();
        layers
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> {
        [self.manifest.0, self.config.0].into_iter().chain(self.layers.iter().map(|layer| layer.blob.0))
    }
}

impl Names {
    /// The images that are there for this tenant, in the order of their names.
    pub(crate) fn of(&self, tenant: Option<&Tenant>) -> impl Iterator<Item = (Name, &Record)> {
        let named = self.images.iter().filter_map(|(name, record)| Some((name.parse::<Name>().ok()?, record)));
        named.filter(move |(name, _)| name.is_for(tenant))
    }

    /// What this name stands for: the tenant's own, and else what is there for everybody.
    pub(crate) fn find(&self, reference: &Reference, tenant: Option<&Tenant>) -> Result<(Name, &Record), Error> {
        let own = tenant.map(|tenant| Name { reference: reference.clone(), owner: Some(tenant.clone()) });
        let names = own.into_iter().chain([Name::for_everybody(reference.clone())]);
        let found = names.into_iter().find_map(|name| Some((self.images.get(&name.to_string())?, name)));
        found.map(|(record, name)| (name, record)).ok_or_else(|| {
            let there = self.of(tenant).map(|(name, _)| name.reference.to_string()).collect();
            Error::Unknown { name: reference.to_string(), there }
        })
    }
}

impl Disk {
    pub(crate) fn names(&self) -> Result<Names, Error> {
        let path = self.at("images.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Names { version: VERSION, ..Names::default() }),
            result => result.map_err(|cause| self.failure("read", &path, cause))?,
        };
        let names: Names = serde_json::from_slice(&bytes).map_err(|error| self.failure("read", &path, io::Error::other(error)))?;
        if names.version != VERSION {
            return Err(self.failure("read", &path, io::Error::other("it is of another version of this program")));
        }
        Ok(names)
    }

    /// Changes names. Whoever calls holds the lock alone.
    pub(super) fn write_names(&self, names: &Names) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(names).expect("there is nothing in it that JSON cannot say");
        self.replace(&self.at("images.json"), &bytes)
    }

    /// Gives an image its name. What had it before keeps none.
    pub(crate) fn name(&self, name: &Name, record: Record) -> Result<(), Error> {
        let _alone = self.locks.alone()?;
        let mut names = self.names()?;
        if let Some(before) = names.images.insert(name.to_string(), record.clone())
            && before != record
        {
            names.unnamed.push(before);
        }
        names.unnamed.retain(|unnamed| unnamed.manifest != record.manifest);
        self.write_names(&names)
    }

    /// The blobs of all images whose names are of a kind.
    pub(crate) fn blobs_of(&self, kind: impl Fn(&Name) -> bool) -> Result<HashSet<Digest>, Error> {
        let names = self.names()?;
        let of_the_kind = names.images.iter().filter(|(name, _)| name.parse().is_ok_and(|name: Name| kind(&name)));
        Ok(of_the_kind.flat_map(|(_, record)| record.blobs().collect::<Vec<_>>()).collect())
    }

    pub(crate) fn record(&self, reference: &Reference, tenant: Option<&Tenant>) -> Result<(Name, Record), Error> {
        let names = self.names()?;
        let (name, record) = names.find(reference, tenant)?;
        Ok((name, record.clone()))
    }

    /// What a record stands for.
    pub(crate) fn stored(&self, name: &str, record: &Record) -> Result<StoredImage, Error> {
        let config = config::parse(name, &self.document(record.id())?, record.layers.len())?;
        Ok(StoredImage { name: name.to_owned(), id: record.id(), layers: record.lower_directories(), config: config.about })
    }

    pub(crate) fn manifest(&self, name: &str, record: &Record) -> Result<(Vec<u8>, manifest::Manifest), Error> {
        let bytes = self.document(record.manifest.0)?;
        match manifest::parse(name, &bytes, None)? {
            Document::Manifest(manifest) => Ok((bytes, *manifest)),
            Document::Index(_) => Err(Error::Manifest { what: name.to_owned(), why: "it is an index".to_owned() }),
        }
    }
}
