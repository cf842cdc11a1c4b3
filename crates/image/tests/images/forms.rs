//! Every form in which images come and go.

use std::{fs, os::unix::fs::FileTypeExt};

use caisson_core::Digest;
use caisson_image::Error;
use serde_json::json;

use crate::fixture::{Made, Place, digest, gzip, noise, reference, sample, tar, text, zstd};

#[tokio::test]
async fn a_layout_in_a_directory_becomes_layers() {
    let (place, made) = (Place::new().await, sample());
    let image = place.import_directory(made.layout("1").path(), "sample:1").await.unwrap();
    assert_eq!((image.name.as_str(), image.id), ("docker.io/library/sample:1", digest(&made.config)));
    assert_eq!((image.layers.clone(), image.config.work_dir.as_deref()), (made.diff_ids.clone(), Some("/srv")));
    assert_eq!(image.config.env[1], ("GREETING".to_owned(), "hello".to_owned()));
    assert!(fs::symlink_metadata(place.layer(made.diff_ids[1]).join("etc/old")).unwrap().file_type().is_char_device());
    assert_eq!(fs::read_to_string(place.layer(made.diff_ids[1]).join("etc/os")).unwrap(), "sample 2");
    assert_eq!(fs::read_link(place.layer(made.diff_ids[2]).join("bin/l")).unwrap().to_str(), Some("/etc/os"));
    assert_eq!(fs::read(place.layer(made.diff_ids[0]).join("big")).unwrap(), noise(1, 300_000));
    place.nothing_begun();
    let inspected = place.store.inspect(&reference("sample:1")).await.unwrap();
    assert_eq!((inspected.image, inspected.layers.len()), ((*image).clone(), 3));
    assert_eq!(inspected.layers.iter().map(|layer| layer.unpacked).sum::<u64>(), inspected.listed.unpacked);
    let error = place.store.resolve(&reference("other")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image `docker.io/library/other:latest` here; pull or import it; there are docker.io/library/sample:1"
    );
}

#[tokio::test]
async fn layers_may_be_compressed_by_anything() {
    let place = Place::new().await;
    let layers = [noise(1, 5000), noise(2, 5000), noise(3, 5000)].map(|content| tar(&[("f", &content)]));
    let made = Made::of(vec![
        (layers[0].clone(), layers[0].clone(), "application/vnd.oci.image.layer.v1.tar"),
        (layers[1].clone(), gzip(&layers[1]), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        (layers[2].clone(), zstd(&layers[2]), "application/vnd.oci.image.layer.v1.tar+zstd"),
    ]);
    let image = place.import_directory(made.layout("1").path(), "kinds").await.unwrap();
    for (index, layer) in image.layers.iter().enumerate() {
        assert_eq!(fs::read(place.layer(*layer).join("f")).unwrap(), noise(index as u64 + 1, 5000));
    }
}

#[tokio::test]
async fn what_is_exported_is_what_was_imported() {
    let (first, second, made) = (Place::new().await, Place::new().await, sample());
    first.import_directory(made.layout("1").path(), "r.example/team/sample:1").await.unwrap();
    let archive = first.store.export(&reference("r.example/team/sample:1"), Vec::new()).await.unwrap();
    for (index, archive) in [archive.clone(), gzip(&archive), zstd(&archive)].into_iter().enumerate() {
        // It says its name itself; another one may be given.
        let name = (index > 0).then(|| format!("other:{index}"));
        let images = second.import_bytes(archive, name.as_deref()).await.unwrap();
        let expected = name.map_or("r.example/team/sample:1".to_owned(), |name| format!("docker.io/library/{name}"));
        assert_eq!((images.len(), images[0].name.as_str(), &images[0].layers), (1, expected.as_str(), &made.diff_ids));
    }
    let digests: Vec<Digest> = second.store.list().await.unwrap().iter().map(|listed| listed.digest).collect();
    assert_eq!(digests, [digest(&made.manifest); 3]);
    assert_eq!(first.content(), second.content());
    let again = second.store.export(&reference("r.example/team/sample:1"), Vec::new()).await.unwrap();
    assert!(again == archive, "to the byte");
}

#[tokio::test]
async fn what_docker_saves_is_taken() {
    let place = Place::new().await;
    let layers = [tar(&[("f", b"1")]), tar(&[("g", b"2")])];
    let made = Made::new(&[layers[0].clone(), layers[1].clone(), layers[0].clone()]);
    let id = digest(&made.config).hex();
    let config = format!("{id}.json");
    let (a, b, c) =
        (format!("{}/layer.tar", "a".repeat(64)), format!("{}/layer.tar", "b".repeat(64)), format!("{}/layer.tar", "c".repeat(64)));
    let saved = json!([{ "Config": config, "RepoTags": ["saved:1", "r.example/saved:2"], "Layers": [a, b, c] }]).to_string();
    let link = format!("->../{a}");
    let archive =
        tar(&[(&config, &made.config), (&a, &layers[0]), (&b, &layers[1]), (&c, link.as_bytes()), ("manifest.json", saved.as_bytes())]);
    let images = place.import_bytes(archive, None).await.unwrap();
    let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["docker.io/library/saved:1", "r.example/saved:2"]);
    assert_eq!(images[0].id, digest(&made.config));
    // The higher of two layers that are the same covers all that the lower one has.
    assert_eq!(images[0].layers, [made.diff_ids[1], made.diff_ids[0]]);
    let without = tar(&[(&config, &made.config), ("manifest.json", saved.as_bytes())]);
    let error = place.import_bytes(without, None).await.unwrap_err();
    assert!(matches!(&error, Error::Import { why } if why.contains("lacks")), "{error}");
}

#[tokio::test]
async fn a_root_file_system_becomes_an_image_of_one_layer() {
    let place = Place::new().await;
    let plain = tar(&[("./", b""), ("./bin/", b""), ("./bin/sh", b"#!"), ("./etc/", b"")]);
    for (index, raw) in [plain.clone(), gzip(&plain), zstd(&plain)].into_iter().enumerate() {
        let name = format!("root:{index}");
        let images = place.import_bytes(raw.clone(), Some(&name)).await.unwrap();
        assert_eq!(images[0].layers, [digest(&plain)]);
        let inspected = place.store.inspect(&reference(&name)).await.unwrap();
        assert_eq!((inspected.layers[0].digest, inspected.layers[0].size), (digest(&raw), raw.len() as u64));
    }
    let error = place.import_bytes(plain, None).await.unwrap_err();
    assert!(error.to_string().contains("give it one"), "{error}");
    place.nothing_begun();
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let place = Place::new().await;
    for (bytes, why) in [
        (Vec::new(), "empty"),
        (b"hello, this is no archive at all".to_vec(), "is neither"),
        (gzip(b"nor is this"), "is neither"),
        (vec![0; 1024], "empty archive"),
        (tar(&[("oci-layout", b"{}")]), "has neither `index.json`"),
        (tar(&[("index.json", b"{}")]), "neither a manifest nor an index"),
        (tar(&[("manifest.json", b"{}")]), "cannot be read"),
        (tar(&[("manifest.json", b"[]")]), "has 0 images"),
        (tar(&[("etc/", b"")])[..600].to_vec(), "breaks off"),
        (tar(&[("oci-layout", b"{}"), ("../x", b"")]), "`..`"),
        (tar(&[("oci-layout", b"{}"), ("blobs/x", b"->/etc/passwd")]), "leads out"),
    ] {
        let error = place.import_bytes(bytes, Some("x")).await.unwrap_err();
        assert!(text(&error).contains(why), "{why}: {}", text(&error));
    }
    assert_eq!(place.content(), [] as [&str; 0]);
    place.nothing_visible().await;
}
