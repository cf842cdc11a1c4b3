//! Manifests and indexes ([OCI image spec]; Docker's version 2, schema 2), as they come from whoever made them: bounded, and with one meaning.
//!
//! [OCI image spec]: https://github.com/opencontainers/image-spec/blob/main/manifest.md

use std::collections::BTreeMap;

use caisson_core::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    error::{in_short, shown},
};

/// The largest manifest, index or configuration, as registries have it.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// What overlayfs can put one above the other is more, but no image of anybody has as many.
pub(crate) const MAX_LAYERS: usize = 127;
/// Entries of an index.
const MAX_MANIFESTS: usize = 1000;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What is asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// A digest as it stands in documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Text(pub(crate) Digest);

impl TryFrom<String> for Text {
    type Error = caisson_core::DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.to_string()
    }
}

/// Names a piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) digest: Text,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    urls: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest: Text(digest), size, urls: None, platform: None, annotations: None }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest.0
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.annotations.as_ref()?.get(name)?.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

/// What kind of machine this is, in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Platform {
    /// Whether this machine surely runs it: a variant may need more than every machine of its architecture has.
    fn is_ours(&self) -> bool {
        let variant = match self.variant.as_deref() {
            None | Some("") => true,
            Some(variant) => matches!((architecture(), variant), ("amd64", "v1") | ("arm64", "v8")),
        };
        self.os == "linux" && self.architecture == architecture() && variant
    }

    fn text(&self) -> String {
        let variant = self.variant.as_deref().filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}"));
        shown(&format!("{}/{}{}", self.os, self.architecture, variant.unwrap_or_default()), 80)
    }
}

/// An image: what it says about itself, and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) media_type: &'static str,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// Images, mostly of one name for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index(pub(crate) Vec<Descriptor>);

/// Either of both as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. `announced` is the media type that whoever sent it said.
pub(crate) fn parse(what: &str, bytes: &[u8], announced: Option<&str>) -> Result<Document, Error> {
    let refuse = |why: String| Error::Manifest { what: what.to_owned(), why };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| refuse(format!("it is no manifest ({})", in_short(&error))))?;
    if raw.schema_version == Some(1) {
        return Err(refuse("it is of Docker's schema 1, which nobody makes any more; push the image again".to_owned()));
    }
    if raw.schema_version.is_some_and(|version| version != 2) {
        return Err(refuse("it is of a version that is not known; 2 is".to_owned()));
    }
    let said = raw.media_type.as_deref().filter(|said| !said.is_empty()).or(announced);
    let of = |known: [&str; 2]| said.is_none_or(|said| known.contains(&said) || !is_a_document(said));
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) if of([OCI_INDEX, DOCKER_INDEX]) => {
            if manifests.len() > MAX_MANIFESTS {
                return Err(refuse(format!("it lists {} images, more than {MAX_MANIFESTS}", manifests.len())));
            }
            Ok(Document::Index(Index(manifests)))
        }
        (None, Some(config), Some(layers)) if of([OCI_MANIFEST, DOCKER_MANIFEST]) => {
            let media_type = if said == Some(DOCKER_MANIFEST) { DOCKER_MANIFEST } else { OCI_MANIFEST };
            let manifest = Manifest { media_type, config, layers };
            manifest.check().map_err(refuse)?;
            Ok(Document::Manifest(Box::new(manifest)))
        }
        (None, None, None) => Err(refuse("it is neither a manifest nor an index".to_owned())),
        // Two readers would see two images in it.
        _ => Err(refuse("it is a manifest and an index at once, or something else than its media type says".to_owned())),
    }
}

fn is_a_document(media_type: &str) -> bool {
    [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

impl Manifest {
    fn check(&self) -> Result<(), String> {
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&self.config.media_type.as_str()) {
            let kind = shown(&self.config.media_type, 100);
            return Err(format!("it is no image of a root file system: its configuration is of type `{kind}`"));
        }
        if self.config.size > MAX_DOCUMENT {
            return Err(format!("its configuration has {} bytes, more than {MAX_DOCUMENT}", self.config.size));
        }
        if self.layers.is_empty() {
            return Err("it has no layers".to_owned());
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(format!("it has {} layers, more than {MAX_LAYERS}; make fewer of them (`--squash`)", self.layers.len()));
        }
        for layer in &self.layers {
            if layer.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                return Err("a layer is to be fetched from another place (`urls`), which is not done".to_owned());
            }
            if !LAYERS.contains(&layer.media_type.as_str()) {
                let kind = shown(&layer.media_type, 100);
                return Err(format!("a layer is of type `{kind}`, which is not known"));
            }
        }
        Ok(())
    }
}

impl Index {
    /// The one for this machine, the first if there are several.
    pub(crate) fn ours(&self) -> Result<&Descriptor, Error> {
        let alone = self.0.len() == 1;
        let ours = self.0.iter().find(|entry| match &entry.platform {
            Some(platform) => platform.is_ours(),
            // Its configuration says it.
            None => alone || entry.media_type == OCI_INDEX || entry.media_type == DOCKER_INDEX,
        });
        ours.ok_or_else(|| {
            let mut there: Vec<_> = self.0.iter().filter_map(|entry| entry.platform.as_ref().map(Platform::text)).take(20).collect();
            // What build tools say about an image stands among the images.
            there.retain(|text| !text.starts_with("unknown/"));
            if there.is_empty() {
                there.push("no machine at all".to_owned());
            }
            Error::Platform { wanted: format!("linux/{}", architecture()), there }
        })
    }
}

/// The manifest of an image whose layers came without one.
pub(crate) fn write(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Written<'a> {
        schema_version: u8,
        media_type: &'a str,
        config: &'a Descriptor,
        layers: &'a [Descriptor],
    }
    let written = Written { schema_version: 2, media_type: OCI_MANIFEST, config, layers };
    serde_json::to_vec(&written).expect("there is nothing in it that JSON cannot say")
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn descriptor(media_type: &str, more: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":7{more}}}"#)
    }

    fn manifest(config: &str, layers: &[String]) -> String {
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(config, ""), layers.join(","))
    }

    #[track_caller]
    fn refused(text: &str, announced: Option<&str>, why: &str) {
        let error = parse("it", text.as_bytes(), announced).unwrap_err().to_string();
        assert!(error.contains(why) && error.len() < 500, "{error}");
    }

    #[test]
    fn manifests_of_both_kinds_are_read() {
        for (config, layer) in [(OCI_CONFIG, LAYERS[2]), (DOCKER_CONFIG, LAYERS[4])] {
            let Document::Manifest(read) = parse("it", manifest(config, &[descriptor(layer, "")]).as_bytes(), None).unwrap() else {
                panic!("it is a manifest");
            };
            assert_eq!((read.layers.len(), read.config.size, read.config.digest().to_string().as_str()), (1, 7, D));
            let again = write(&read.config, &read.layers);
            assert_eq!(parse("it", &again, None).unwrap(), Document::Manifest(read));
        }
        // What a server calls it when it does not know counts for nothing.
        let text = manifest(OCI_CONFIG, &[descriptor(LAYERS[0], "")]);
        assert!(parse("it", text.as_bytes(), Some("application/octet-stream")).is_ok());
    }

    #[test]
    fn r5_3_manifests_that_mean_harm_are_refused() {
        let layer = descriptor(LAYERS[1], "");
        let good = manifest(OCI_CONFIG, std::slice::from_ref(&layer));
        refused(&manifest(OCI_CONFIG, &[descriptor(LAYERS[1], r#","urls":["https://example.com/x"]"#)]), None, "urls");
        refused(&manifest(OCI_CONFIG, &[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "")]), None, "not known");
        refused(&manifest(OCI_CONFIG, &[]), None, "no layers");
        refused(&manifest(OCI_CONFIG, &vec![layer.clone(); 128]), None, "128 layers");
        refused(&manifest("application/vnd.oci.empty.v1+json", std::slice::from_ref(&layer)), None, "no image of a root");
        refused(&good.replace("sha256:", "sha512:"), None, "a digest is");
        refused(&good.replace("sha256:01", "sha256:/."), None, "a digest is");
        refused(&good.replace(":7", ":-7"), None, "no manifest");
        refused(&good.replace(r#"{"schemaVersion":2"#, r#"{"schemaVersion":1"#), None, "schema 1");
        refused(&good.replace(r#"{"schemaVersion":2"#, r#"{"schemaVersion":2,"manifests":[]"#), None, "at once");
        refused(&good.replace(r#"{"schemaVersion":2"#, r#"{"schemaVersion":2,"schemaVersion":2"#), None, "duplicate");
        refused(&good, Some(OCI_INDEX), "media type");
        refused(
            &good.replace(r#"{"schemaVersion":2"#, &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}""#)),
            Some(OCI_MANIFEST),
            "media type",
        );
        refused("[]", None, "no manifest");
        refused(&manifest(OCI_CONFIG, &[descriptor(r"a\u007f\u001bb", "")]), None, "`ab`");
        refused(&good.replace(":7", &format!(r#":"{}""#, "long".repeat(1000))), None, "no manifest");
        refused("{}", None, "neither");
        refused(&"[".repeat(1 << 20), None, "no manifest");
        refused(&format!(r#"{{"x":{}"#, r#"{"x":"#.repeat(100_000)), None, "no manifest");
        refused(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![layer; 1001].join(",")), None, "1001");
    }

    #[test]
    fn this_machine_gets_its_own() {
        let entry = |os: &str, arch: &str, variant: &str| {
            descriptor(OCI_MANIFEST, &format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#))
        };
        let index = |entries: &[String]| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            match parse("it", text.as_bytes(), Some(OCI_INDEX)).unwrap() {
                Document::Index(index) => index,
                Document::Manifest(_) => panic!("it is an index"),
            }
        };
        let ours = architecture();
        let several =
            index(&[entry("windows", ours, ""), entry("linux", "s390x", ""), entry("linux", ours, "v9"), entry("linux", ours, "")]);
        assert_eq!(several.ours().unwrap(), &several.0[3]);
        assert!(index(&[descriptor(OCI_MANIFEST, "")]).ours().is_ok());
        let error = index(&[entry("linux", "s390x", ""), entry("unknown", "unknown", "")]).ours().unwrap_err().to_string();
        assert!(error.contains("for linux/s390x, and"), "{error}");
        assert!(index(&[]).ours().is_err());
    }
}
