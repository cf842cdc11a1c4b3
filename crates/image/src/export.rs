//! An image as one archive that is an OCI layout and what `docker load` takes at once. Every blob is as it came, so digests stay.

use std::io::{self, Read, Write};

use caisson_core::{Digest, Tenant};
use caisson_tree::tar;
use serde_json::json;

use crate::{
    Error, Reference,
    import::{REF_NAME, WHOLE_NAME},
    manifest::OCI_INDEX,
    reference::Version,
    store::Disk,
};

/// Writes it.
pub(crate) fn export(disk: &Disk, name: &Reference, tenant: Option<&Tenant>, to: &mut impl Write) -> Result<(), Error> {
    // Under a lease, so that all of it stays.
    let (record, _lease) = disk.lease(name, tenant)?;
    let (manifest_bytes, manifest) = disk.manifest(&name.to_string(), &record)?;
    let mut annotations = json!({ WHOLE_NAME: name.to_string() });
    let mut tags = Vec::new();
    if let Version::Tag(tag) = name.version() {
        annotations[REF_NAME] = json!(tag);
        tags.push(name.to_string());
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": manifest.media_type,
            "digest": record.manifest,
            "size": manifest_bytes.len(),
            "annotations": annotations,
        }],
    });
    let layers: Vec<String> = record.layers.iter().map(|layer| path(layer.blob.0)).collect();
    let saved = json!([{ "Config": path(record.id()), "RepoTags": tags, "Layers": layers }]);
    let mut archive = Archive { disk, to, written: Vec::new() };
    archive.small("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    archive.small("index.json", index.to_string().as_bytes())?;
    archive.small("manifest.json", saved.to_string().as_bytes())?;
    for digest in record.blobs() {
        archive.blob(digest)?;
    }
    archive.write(&tar::END)?;
    archive.to.flush().map_err(unwritten)
}

fn path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn unwritten(cause: io::Error) -> Error {
    Error::Store { doing: "write", path: "the archive".to_owned(), cause }
}

struct Archive<'a, W> {
    disk: &'a Disk,
    to: &'a mut W,
    written: Vec<Digest>,
}

impl<W: Write> Archive<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.to.write_all(bytes).map_err(unwritten)
    }

    fn small(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        tar::file(&mut bytes, path.as_bytes(), content.len() as u64);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len() + tar::padding(content.len() as u64), 0);
        self.write(&bytes)
    }

    /// Each once: an image may have one layer several times.
    fn blob(&mut self, digest: Digest) -> Result<(), Error> {
        if self.written.contains(&digest) {
            return Ok(());
        }
        let file = self.disk.open_blob(digest)?;
        let blob = self.disk.blob_path(digest);
        let size = file.metadata().map_err(|cause| self.disk.failure("read", &blob, cause))?.len();
        let mut header = Vec::new();
        tar::file(&mut header, path(digest).as_bytes(), size);
        self.write(&header)?;
        let (mut left, mut file, mut buffer) = (size, file, vec![0; 128 << 10]);
        while left > 0 {
            let count = file.read(&mut buffer).map_err(|cause| self.disk.failure("read", &blob, cause))?;
            if count == 0 || count as u64 > left {
                return Err(self.disk.failure("read", &blob, io::Error::other("it has changed meanwhile")));
            }
            self.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.written.push(digest);
        self.write(&vec![0; tar::padding(size)])
    }
}
