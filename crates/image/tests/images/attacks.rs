//! Images that mean harm, as files. What single layers may try is tried in `caisson-tree`.

use std::{fs, os::unix::fs::symlink};

use caisson_image::{Error, Limits, Options};

use crate::fixture::{Made, Place, digest, gzip, header, sample, tar, text};

/// Imports an image, expects it to be refused, and nothing of it to be seen.
async fn refused(made: &Made, limits: Limits) -> Error {
    let place = Place::with(Options { limits, ..Options::default() }).await;
    let error = place.import_directory(made.layout("1").path(), "bad").await.unwrap_err();
    place.nothing_begun();
    assert_eq!(place.store.list().await.unwrap(), []);
    error
}

#[tokio::test]
async fn r5_3_every_digest_is_verified() {
    for what in ["manifest", "config", "layer"] {
        let made = sample();
        let layout = made.layout("1");
        let blob = match what {
            "manifest" => digest(&made.manifest),
            "config" => digest(&made.config),
            _ => digest(&made.layers[1].0),
        };
        let path = layout.path().join("blobs/sha256").join(blob.hex());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let place = Place::new().await;
        let error = place.import_directory(layout.path(), "bad").await.unwrap_err();
        assert!(matches!(error, Error::Digest { expected, .. } if expected == blob), "{what}: {error}");
        assert_eq!(place.store.list().await.unwrap(), []);
        place.nothing_begun();
    }
    // The digest of what is unpacked, too.
    let mut made = sample();
    made.config = String::from_utf8(made.config).unwrap().replace(&made.diff_ids[1].hex(), &made.diff_ids[0].hex()).into_bytes();
    made.describe(|_| ());
    let error = refused(&made, Limits::default()).await;
    assert!(matches!(error, Error::Digest { .. }) && error.to_string().contains("unpacked"), "{error}");
}

#[tokio::test]
async fn r5_3_nothing_is_taken_from_behind_a_link_of_a_layout() {
    let made = sample();
    let layout = made.layout("1");
    let path = layout.path().join("blobs/sha256").join(digest(&made.layers[0].0).hex());
    let elsewhere = layout.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let place = Place::new().await;
    let error = place.import_directory(layout.path(), "bad").await.unwrap_err();
    assert!(error.to_string().contains("link"), "{error}");
}

#[tokio::test]
async fn r5_3_whoever_names_a_layer_has_to_have_it() {
    let (place, made) = (Place::new().await, sample());
    place.import_directory(made.layout("1").path(), "mine").await.unwrap();
    // Another image that names the same layers, which are here, and brings none of them.
    let mut thief = made.clone();
    thief.describe(|manifest| manifest["annotations"] = serde_json::json!({ "by": "another" }));
    let layout = thief.layout("1");
    for layer in &made.layers {
        fs::remove_file(layout.path().join("blobs/sha256").join(digest(&layer.0).hex())).unwrap();
    }
    let error = place.import_directory(layout.path(), "stolen").await.unwrap_err();
    assert!(error.to_string().contains("lacks"), "{error}");
    assert_eq!(place.store.list().await.unwrap().len(), 1);
}

fn smallest(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn r5_3_no_layer_is_had_by_its_diff_id() {
    let place = Place::new().await;
    let private = Made::new(&[tar(&[("secret", b"of somebody else")])]);
    place.import_directory(private.layout("1").path(), "private").await.unwrap();
    // A layer of their own that is said to unpack to somebody else's.
    let mut thief = Made::new(&[tar(&[("f", b"")])]);
    thief.config = String::from_utf8(thief.config).unwrap().replace(&thief.diff_ids[0].hex(), &private.diff_ids[0].hex()).into_bytes();
    thief.describe(|_| ());
    let error = place.import_directory(thief.layout("1").path(), "stolen").await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    // The same layer compressed in another way is the same.
    let plain = tar(&[("secret", b"of somebody else")]);
    let same = Made::of(vec![(plain.clone(), plain, "application/vnd.oci.image.layer.v1.tar")]);
    let image = place.import_directory(same.layout("1").path(), "same").await.unwrap();
    assert_eq!(image.layers, private.diff_ids);
}

#[tokio::test]
async fn r5_1_ten_gigabytes_of_zeros_are_refused() {
    // 640 parts that are the same, each 16 MiB of zeros.
    let head = header(b'0', "zeros", "", 0o644, 10 << 30);
    let part = smallest(&vec![0; 16 << 20]);
    let raw = [gzip(&head), part.repeat(640), gzip(&[0; 1024])].concat();
    assert!(raw.len() < 20 << 20);
    // Its digest is never found out: it is refused before.
    let diff_id = digest(b"something");
    let mut made = Made::new(&[tar(&[("f", b"")])]);
    made.config = String::from_utf8(made.config).unwrap().replace(&made.diff_ids[0].hex(), &diff_id.hex()).into_bytes();
    made.layers[0].0 = raw;
    made.describe(|_| ());
    let limits = Limits { bytes: 4 << 30, ..Limits::default() };
    let error = refused(&made, limits).await;
    assert!(matches!(error, Error::TooBig { what: "bytes", most } if most == 4 << 30), "{error}");
}

#[tokio::test]
async fn r5_1_limits_are_those_of_all_layers_together() {
    let layers: Vec<_> = (0..4).map(|n| tar(&[(&format!("f{n}"), &[b'x'; 1000]), ("d/", b"")])).collect();
    let made = Made::new(&layers);
    let limits = |bytes, entries| Limits { bytes, entries };
    assert!(matches!(refused(&made, limits(3999, 100)).await, Error::TooBig { what: "bytes", .. }));
    assert!(matches!(refused(&made, limits(100_000, 7)).await, Error::TooBig { what: "entries", .. }));
    let place = Place::with(Options { limits: limits(100_000, 8), ..Options::default() }).await;
    place.import_directory(made.layout("1").path(), "good").await.unwrap();
}

#[tokio::test]
async fn r5_1_headers_without_end_are_refused() {
    // Extended headers are no entries, so something else bounds them.
    let record = format!("7000 comment={}\n", "x".repeat(7000 - 14)).into_bytes();
    let mut extended = header(b'g', "x", "", 0o644, record.len() as u64);
    extended.extend(record);
    extended.resize(extended.len().next_multiple_of(512), 0);
    let bytes = [extended.repeat(7), tar(&[("f", b"")])].concat();
    let made = Made::new(&[bytes]);
    let error = refused(&made, Limits { bytes: 1000, entries: 10 }).await;
    assert!(text(&error).contains("longer than anything"), "{}", text(&error));
}
