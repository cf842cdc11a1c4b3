//! What documents of images mean, for whoever looks from outside with documents of his own making.

use caisson_core::{Digest, ImageConfig};

use crate::{
    Error, config,
    manifest::{self, Document},
};

/// What a manifest or an index is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Image {
        config: Digest,
        layers: Vec<Digest>,
        /// As this crate writes it.
        again: Vec<u8>,
    },
    Index {
        images: Vec<Digest>,
        /// The one for this machine.
        ours: Option<Digest>,
    },
}

/// Reads a manifest or an index. `announced` is the media type that whoever sent it said.
pub fn manifest(bytes: &[u8], announced: Option<&str>) -> Result<Meaning, Error> {
    Ok(match manifest::parse("the manifest", bytes, announced)? {
        Document::Manifest(manifest) => Meaning::Image {
            config: manifest.config.digest(),
            layers: manifest.layers.iter().map(manifest::Descriptor::digest).collect(),
            again: manifest::write(&manifest.config, &manifest.layers),
        },
        Document::Index(index) => Meaning::Index {
            images: index.0.iter().map(manifest::Descriptor::digest).collect(),
            ours: index.ours().ok().map(manifest::Descriptor::digest),
        },
    })
}

/// Reads the configuration of an image of so many layers.
pub fn configuration(bytes: &[u8], layers: usize) -> Result<ImageConfig, Error> {
    config::parse("the configuration", bytes, layers).map(|config| config.about)
}
