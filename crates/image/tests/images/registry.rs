//! Against the registry that Debian has, filled by `skopeo` with images that `umoci` and we have made.

use std::{fs, os::unix::fs::symlink, path::Path};

use caisson_image::{Error, Login, Logins, Options, Phase, Registry};

use crate::{
    fixture::{Made, Place, digest, gzip, reference, sample, tar, text, zstd},
    tools::{DockerRegistry, Known, Mounted, insecure, run, skopeo, tree},
};

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let (registry, made) = (DockerRegistry::start(), sample());
    registry.fill(made.layout("1").path(), "team/app:1", &[]);
    let place = Place::with(registry.options()).await;
    let name = registry.name("team/app:1");
    let pull = place.store.pull(reference(&name), Logins::none());
    let progress = pull.progress();
    let image = pull.finish().await.unwrap();
    assert_eq!((&image.name, image.id, &image.layers), (&name, digest(&made.config), &made.diff_ids));
    let told = progress.borrow().clone();
    let size: u64 = made.layers.iter().map(|layer| layer.0.len() as u64).sum();
    assert_eq!(told.bytes(), (size, size));
    assert!(told.layers.iter().all(|layer| layer.phase == Phase::Done));
    assert_eq!(fs::read_to_string(place.layer(made.diff_ids[1]).join("etc/os")).unwrap(), "sample 2");
    place.nothing_begun();
    assert_eq!(place.store.pull(reference(&name), Logins::none()).finish().await.unwrap(), image);
    // By its digest it is the same.
    let by_digest = format!("{}@{}", registry.name("team/app"), digest(&made.manifest));
    assert_eq!(place.store.pull(reference(&by_digest), Logins::none()).finish().await.unwrap().id, image.id);
}

#[tokio::test]
async fn images_of_docker_and_of_every_compression_are_pulled() {
    let registry = DockerRegistry::start();
    registry.fill(sample().layout("1").path(), "docker:2", &["--format", "v2s2"]);
    let plain = tar(&[("f", b"zstd")]);
    let zstandard = Made::of(vec![(plain.clone(), zstd(&plain), "application/vnd.oci.image.layer.v1.tar+zstd")]);
    registry.fill(zstandard.layout("1").path(), "kinds:zstd", &["--preserve-digests"]);
    let plainly = Made::of(vec![(plain.clone(), plain.clone(), "application/vnd.oci.image.layer.v1.tar")]);
    registry.fill(plainly.layout("1").path(), "kinds:plain", &["--preserve-digests", "--dest-compress=false"]);
    let place = Place::with(registry.options()).await;
    for (name, layers) in [("docker:2", sample().diff_ids), ("kinds:zstd", vec![digest(&plain)]), ("kinds:plain", vec![digest(&plain)])] {
        let image = place.store.pull(reference(&registry.name(name)), Logins::none()).finish().await.unwrap();
        assert_eq!(image.layers, layers, "{name}");
    }
}

#[tokio::test]
async fn what_umoci_makes_is_what_overlayfs_shows() {
    let (work, registry) = (tempfile::tempdir().unwrap(), DockerRegistry::start());
    let at = |name: &str| work.path().join(name).display().to_string();
    let image = format!("{}:base", at("layout"));
    run("umoci", &["init", "--layout", &at("layout")]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["unpack", "--image", &image, &at("bundle")]);
    let root = work.path().join("bundle/rootfs");
    for directory in ["bin", "etc/deep/er", "gone/with", "tmp", "var"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    fs::hard_link(root.join("bin/busybox"), root.join("bin/sh")).unwrap();
    symlink("busybox", root.join("bin/ls")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(root.join("gone/with/wind"), "x").unwrap();
    fs::write(root.join("var/old"), "x").unwrap();
    run("chmod", &["4755", &root.join("bin/busybox").display().to_string()]);
    run("chmod", &["1777", &root.join("tmp").display().to_string()]);
    run("chown", &["7:8", &root.join("etc/passwd").display().to_string()]);
    run("umoci", &["repack", "--image", &image, "--refresh-bundle", &at("bundle")]);
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_file(root.join("var/old")).unwrap();
    fs::write(root.join("etc/passwd"), "changed\n").unwrap();
    fs::write(root.join("var/new"), "new").unwrap();
    run("umoci", &["repack", "--image", &image, "--refresh-bundle", &at("bundle")]);
    fs::create_dir(root.join("gone")).unwrap();
    fs::write(root.join("gone/back"), "other").unwrap();
    run("umoci", &["repack", "--image", &image, &at("bundle")]);
    run("umoci", &["config", "--image", &image, "--config.env", "A=b", "--config.user", "1:2", "--config.cmd", "/bin/sh"]);
    registry.fill(Path::new(&at("layout")), "umoci:1", &[]);
    let place = Place::with(registry.options()).await;
    let pulled = place.store.pull(reference(&registry.name("umoci:1")), Logins::none()).finish().await.unwrap();
    assert_eq!((pulled.layers.len(), pulled.config.user.as_deref(), pulled.config.cmd[0].as_str()), (3, Some("1:2"), "/bin/sh"));
    run("umoci", &["unpack", "--image", &image, &at("again")]);
    let layers: Vec<_> = pulled.layers.iter().rev().map(|layer| place.layer(*layer)).collect();
    let seen = Mounted::layers(&layers);
    assert_eq!(tree(seen.path()), tree(&work.path().join("again/rootfs")));
    drop(seen);
    // And out again: to somebody else's eyes it is the image that umoci has made.
    let archive = place.store.export(&reference(&registry.name("umoci:1")), Vec::new()).await.unwrap();
    fs::write(work.path().join("out.tar"), archive).unwrap();
    let digest_of = |text: &str| text.split('"').find(|part| part.starts_with("sha256:")).unwrap().to_owned();
    let original = skopeo(&["inspect", &format!("oci:{image}")]);
    let exported = skopeo(&["inspect", &format!("oci-archive:{}:1", at("out.tar"))]);
    assert_eq!(digest_of(&exported), digest_of(&original));
    skopeo(&["copy", "--quiet", &format!("docker-archive:{}", at("out.tar")), &format!("oci:{}:loaded", at("loaded"))]);
    skopeo(&["copy", "--quiet", &format!("oci:{image}"), &format!("docker-archive:{}:saved:1", at("saved.tar"))]);
    let saved = place.import_bytes(fs::read(work.path().join("saved.tar")).unwrap(), None).await.unwrap();
    assert_eq!((saved[0].name.as_str(), &saved[0].layers), ("docker.io/library/saved:1", &pulled.layers));
    skopeo(&["copy", "--quiet", &format!("oci:{image}"), &format!("oci-archive:{}:r.example/x:1", at("layout.tar"))]);
    let images = place.import_bytes(gzip(&fs::read(work.path().join("layout.tar")).unwrap()), None).await.unwrap();
    assert_eq!((images[0].name.as_str(), images[0].id), ("r.example/x:1", pulled.id));
}

#[tokio::test]
async fn logins_open_what_is_closed() {
    let registry = DockerRegistry::with_login();
    registry.fill(sample().layout("1").path(), "closed:1", &["--dest-creds", "user:secret"]);
    let place = Place::with(registry.options()).await;
    let name = reference(&registry.name("closed:1"));
    let login = |password: &str| {
        let mut logins = Logins::none();
        logins.add(&registry.host, Login { user: "user".into(), password: password.into() }).unwrap();
        logins
    };
    for (logins, who) in [(Logins::none(), "everybody"), (login("wrong"), "the user that is logged in")] {
        let error = place.store.pull(name.clone(), logins).finish().await.unwrap_err();
        assert!(matches!(&*error, Error::Denied { .. }) && error.to_string().contains(who), "{error}");
    }
    place.nothing_visible().await;
    place.store.pull(name.clone(), login("secret")).finish().await.unwrap();
    // That it is here opens it to nobody else.
    assert!(matches!(&*place.store.pull(name, Logins::none()).finish().await.unwrap_err(), Error::Denied { .. }));
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let registry = DockerRegistry::start();
    registry.fill(sample().layout("1").path(), "app:1", &[]);
    let place = Place::with(registry.options()).await;
    for name in ["app:2", "other:1"] {
        let error = place.store.pull(reference(&registry.name(name)), Logins::none()).finish().await.unwrap_err();
        assert!(matches!(&*error, Error::NotFound { .. }), "{error}");
    }
    // Without a word in the configuration, neither plain HTTP nor this machine's own addresses are asked.
    let place = Place::with(Options::default()).await;
    let error = place.store.pull(reference(&registry.name("app:1")), Logins::none()).finish().await.unwrap_err();
    assert!(matches!(&*error, Error::Forbidden { .. }), "{}", text(&*error));
    // With the name but without `insecure`, it is TLS or nothing.
    let mut options = Options::default();
    options.registries.add(&registry.host, Registry::default()).unwrap();
    let place = Place::with(options).await;
    let error = place.store.pull(reference(&registry.name("app:1")), Logins::none()).finish().await.unwrap_err();
    assert!(matches!(&*error, Error::Unreachable { .. }), "{}", text(&*error));
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let (mirror, registry) = (DockerRegistry::start(), DockerRegistry::start());
    let made = sample();
    mirror.fill(made.layout("1").path(), "both:1", &[]);
    registry.fill(Made::new(&[tar(&[("f", b"other")])]).layout("1").path(), "both:1", &[]);
    registry.fill(made.layout("1").path(), "only:1", &[]);
    let mut options = insecure(&mirror.host);
    options.registries.add(&registry.host, Registry { insecure: true, mirrors: vec![mirror.host.clone()] }).unwrap();
    let place = Place::with(options).await;
    for name in ["both:1", "only:1"] {
        let image = place.store.pull(reference(&registry.name(name)), Logins::none()).finish().await.unwrap();
        assert_eq!((image.id, image.name.clone()), (digest(&made.config), registry.name(name)));
    }
}

#[tokio::test]
async fn pulls_at_the_same_time_share_what_they_can() {
    let registry = DockerRegistry::start();
    let base = tar(&[("base", &crate::fixture::noise(9, 2_000_000))]);
    let images: Vec<_> = (0..4).map(|n| Made::new(&[base.clone(), tar(&[("own", &[n])])])).collect();
    for (n, made) in images.iter().enumerate() {
        registry.fill(made.layout("1").path(), &format!("share:{n}"), &[]);
    }
    let place = Place::with(registry.options()).await;
    let pulls: Vec<_> = (0..20).map(|n| place.store.pull(reference(&registry.name(&format!("share:{}", n % 4))), Logins::none())).collect();
    let ends = futures::future::join_all(pulls.into_iter().map(caisson_image::Pull::finish)).await;
    for (n, end) in ends.into_iter().enumerate() {
        assert_eq!(end.unwrap().layers, images[n % 4].diff_ids);
    }
    assert_eq!(fs::read_dir(place.store.layers_dir()).unwrap().count(), 5);
    place.nothing_begun();
}
