//! Images made byte by byte, and stores to put them into.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use caisson_core::{Digest, StoredImage};
use caisson_image::{Error, ImageStore, Options, Reference, Source};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// One header of a tar archive.
pub(crate) fn header(letter: u8, name: &str, link: &str, mode: u32, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut set = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, name.as_bytes());
    set(100, format!("{mode:07o}").as_bytes());
    set(108, b"0000000");
    set(116, b"0000000");
    set(124, format!("{size:011o}").as_bytes());
    set(136, b"00003641100");
    set(148, b"        ");
    set(156, &[letter]);
    set(157, link.as_bytes());
    set(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A tar archive of files; a name that ends with a slash is a directory, a content that begins with `->` a link.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        match content.strip_prefix(b"->") {
            _ if name.ends_with('/') => bytes.extend(header(b'5', name, "", 0o755, 0)),
            Some(link) => bytes.extend(header(b'2', name, std::str::from_utf8(link).unwrap(), 0o777, 0)),
            None => {
                bytes.extend(header(b'0', name, "", 0o644, content.len() as u64));
                bytes.extend_from_slice(content);
                bytes.resize(bytes.len().next_multiple_of(512), 0);
            }
        }
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// Bytes that no compression makes smaller, the same for the same number.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// What an image consists of. Fields may be made wrong before it is served or written.
#[derive(Clone)]
pub(crate) struct Made {
    /// As registries have them, with their media types.
    pub(crate) layers: Vec<(Vec<u8>, &'static str)>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Made {
    /// Of plain layers, each compressed by gzip.
    pub(crate) fn new(plain: &[Vec<u8>]) -> Self {
        Self::of(plain.iter().map(|layer| (layer.clone(), gzip(layer), GZIP)).collect())
    }

    /// Of layers in plain form, as registries have them, and their types.
    pub(crate) fn of(layers: Vec<(Vec<u8>, Vec<u8>, &'static str)>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(&layer.0)).collect();
        let config = json!({
            "os": "linux",
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "config": { "Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["/bin/true"], "WorkingDir": "/srv" },
            "rootfs": { "type": "layers", "diff_ids": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>() },
        });
        let layers = layers.into_iter().map(|(_, raw, media_type)| (raw, media_type)).collect();
        let mut made = Self { layers, diff_ids, config: config.to_string().into_bytes(), manifest: Vec::new() };
        made.describe(|_| ());
        made
    }

    /// Writes the manifest anew, as `change` would have it.
    pub(crate) fn describe(&mut self, change: impl FnOnce(&mut Value)) {
        let layers = self.layers.iter().map(|(raw, media_type)| descriptor(media_type, raw));
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.config),
            "layers": layers.collect::<Vec<_>>(),
        });
        change(&mut manifest);
        self.manifest = manifest.to_string().into_bytes();
    }

    /// All content, by digest.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        [&self.manifest, &self.config].into_iter().chain(self.layers.iter().map(|layer| &layer.0))
    }

    /// An OCI layout in a directory.
    pub(crate) fn layout(&self, name: &str) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let blobs = directory.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs() {
            fs::write(blobs.join(digest(blob).hex()), blob).unwrap();
        }
        fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let mut entry = descriptor(OCI_MANIFEST, &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(directory.path().join("index.json"), index.to_string()).unwrap();
        directory
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes).to_string(), "size": bytes.len() })
}

/// Three layers, with a whiteout and a replaced file.
pub(crate) fn sample() -> Made {
    Made::new(&[
        tar(&[("etc/", b""), ("etc/os", b"sample"), ("etc/old", b"goes"), ("big", &noise(1, 300_000))]),
        tar(&[("etc/.wh.old", b""), ("etc/os", b"sample 2")]),
        tar(&[("bin/", b""), ("bin/l", b"->/etc/os"), ("noise", &noise(2, 200_000))]),
    ])
}

/// A store in a directory of its own.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) store: ImageStore,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("images"), options).await.unwrap();
        Self { directory, store }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    pub(crate) async fn import_directory(&self, directory: &Path, name: &str) -> Result<Arc<StoredImage>, Error> {
        let mut images = self.store.import(Source::Directory(directory.to_owned()), Some(reference(name))).await?;
        Ok(images.remove(0))
    }

    pub(crate) async fn import_bytes(&self, bytes: Vec<u8>, name: Option<&str>) -> Result<Vec<Arc<StoredImage>>, Error> {
        self.store.import(Source::Stream(Box::new(std::io::Cursor::new(bytes))), name.map(reference)).await
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.store.layers_dir().join(diff_id.hex())
    }

    /// Everything that has a final name.
    pub(crate) fn content(&self) -> Vec<String> {
        let mut all = Vec::new();
        for directory in ["blobs/sha256", "layers", "unpacked"] {
            let entries = fs::read_dir(self.root().join(directory)).unwrap();
            all.extend(entries.map(|entry| format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap())));
        }
        all.sort();
        all
    }

    /// Nothing that was begun is left.
    #[track_caller]
    pub(crate) fn nothing_begun(&self) {
        // What goes on beside what has failed may be in a call of the kernel, and removes its own when that is over.
        let begun = Instant::now();
        while self.temporary() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} temporary files are left", self.temporary());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn temporary(&self) -> usize {
        fs::read_dir(self.root().join("tmp")).unwrap().map(|own| fs::read_dir(own.unwrap().path()).unwrap().count()).sum()
    }

    /// Neither layers nor names, nor anything that was begun.
    pub(crate) async fn nothing_visible(&self) {
        self.nothing_begun();
        assert_eq!(self.store.list().await.unwrap(), []);
        let layers: Vec<_> = self.content().into_iter().filter(|name| name.starts_with("layers/")).collect();
        assert!(layers.is_empty(), "{layers:?}");
    }
}

/// The whole chain of an error.
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        all = format!("{all}: {next}");
        cause = next.source();
    }
    all
}
