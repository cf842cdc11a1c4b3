//! What stays and what goes.

use std::{collections::HashSet, fs};

use caisson_image::{Collected, Error, ImageStore, Options, Source};

use crate::{
    fixture::{Made, Place, digest, noise, reference, sample, tar},
    tools::Mounted,
};

fn base() -> Vec<u8> {
    tar(&[("base", &noise(7, 10_000))])
}

#[tokio::test]
async fn layers_that_others_need_stay() {
    let place = Place::new().await;
    let one = Made::new(&[base(), tar(&[("one", b"1")])]);
    let two = Made::new(&[base(), tar(&[("two", b"2")])]);
    place.import_directory(one.layout("1").path(), "one").await.unwrap();
    place.import_directory(two.layout("1").path(), "two").await.unwrap();
    let done = place.store.remove(&reference("one"), HashSet::new()).await.unwrap();
    assert_eq!((done.images, done.layers), (1, 1));
    assert!(done.bytes > 0 && place.layer(two.diff_ids[0]).join("base").exists() && !place.layer(one.diff_ids[1]).exists());
    assert!(matches!(place.store.remove(&reference("one"), HashSet::new()).await, Err(Error::Unknown { .. })));
    place.store.remove(&reference("two"), HashSet::new()).await.unwrap();
    assert_eq!(place.content(), [] as [&str; 0]);
    assert_eq!(fs::read_dir(place.root().join("leases")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let (place, made) = (Place::new().await, sample());
    place.import_directory(made.layout("1").path(), "used").await.unwrap();
    let everything = place.content();
    let (image, lease) = place.store.resolve(&reference("used")).await.unwrap();
    let done = place.store.remove(&reference("used"), HashSet::new()).await.unwrap();
    assert_eq!((done, place.content()), (Collected { in_use: 1, ..Collected::default() }, everything.clone()));
    assert!(place.store.resolve(&reference("used")).await.is_err(), "its name has gone all the same");
    // Another process sees the lease as well, and another lease keeps it too.
    let other = ImageStore::open(place.root(), Options::default()).await.unwrap();
    assert_eq!(other.gc(HashSet::new()).await.unwrap().in_use, 1);
    drop(lease);
    assert_eq!(other.gc(HashSet::from([image.id])).await.unwrap().in_use, 1, "by the word of whoever calls");
    assert_eq!(place.content(), everything);
    let done = place.store.gc(HashSet::new()).await.unwrap();
    assert_eq!((done.images, done.layers, place.content().len()), (1, 3, 0));
}

#[tokio::test]
async fn a_name_that_moves_leaves_nothing_for_ever() {
    let (place, first, second) = (Place::new().await, Made::new(&[base()]), sample());
    place.import_directory(first.layout("1").path(), "moves").await.unwrap();
    let (old, lease) = place.store.resolve(&reference("moves")).await.unwrap();
    place.import_directory(second.layout("1").path(), "moves").await.unwrap();
    assert_eq!(place.store.gc(HashSet::new()).await.unwrap().in_use, 1);
    assert!(place.layer(old.layers[0]).join("base").exists());
    drop(lease);
    assert_eq!(place.store.gc(HashSet::new()).await.unwrap().layers, 1);
    assert_eq!(place.store.resolve(&reference("moves")).await.unwrap().0.id, digest(&second.config));
    // What comes back before it has gone is not lost.
    place.import_directory(first.layout("1").path(), "moves").await.unwrap();
    place.import_directory(second.layout("1").path(), "moves").await.unwrap();
    place.store.gc(HashSet::new()).await.unwrap();
    assert!(place.layer(second.diff_ids[2]).join("noise").exists());
}

#[tokio::test]
async fn blobs_and_layers_of_nobody_are_removed() {
    let (place, made) = (Place::new().await, sample());
    place.import_directory(made.layout("1").path(), "kept").await.unwrap();
    let everything = place.content();
    let nobody = digest(b"nobody").hex();
    fs::create_dir_all(place.root().join("layers").join(&nobody).join("a/b")).unwrap();
    fs::write(place.root().join("blobs/sha256").join(&nobody), "x").unwrap();
    let done = place.store.gc(HashSet::new()).await.unwrap();
    assert_eq!((done.layers, place.content()), (1, everything));
}

#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let mounted = Mounted::tmpfs("3m");
    let directory = tempfile::tempdir_in(mounted.path()).unwrap();
    let store = ImageStore::open(directory.path().join("images"), Options::default()).await.unwrap();
    let place = Place { directory, store };
    let small = Made::new(&[tar(&[("f", &noise(1, 100_000))])]);
    place.import_directory(small.layout("1").path(), "small").await.unwrap();
    let before = place.content();
    for plain in [noise(2, 2_000_000), vec![b'x'; 20_000_000]] {
        // One does not fit when it is unpacked, the other neither, though its blob is small.
        let big = Made::new(&[tar(&[("f", &plain)])]);
        let error = place.import_directory(big.layout("1").path(), "big").await.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        place.nothing_begun();
        let stream = Source::Stream(Box::new(std::io::Cursor::new(tar(&[("etc/f", &plain)]))));
        let error = place.store.import(stream, Some(reference("big"))).await.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        place.nothing_begun();
        assert_eq!(place.content(), before);
    }
    assert_eq!(place.store.list().await.unwrap().len(), 1);
    place.store.resolve(&reference("small")).await.unwrap();
    drop((place, mounted));
}

#[tokio::test]
async fn an_import_that_nobody_waits_for_ends() {
    let place = Place::new().await;
    // A stream that does not end, of an entry that may be as long as it likes.
    let endless = crate::fixture::header(b'0', "etc/f", "", 0o644, 8 << 30);
    let stream = std::io::Read::chain(std::io::Cursor::new(endless), std::io::repeat(b'x'));
    let source = Source::Stream(Box::new(stream));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), place.store.import(source, Some(reference("endless")))).await;
    assert!(waited.is_err());
    let ended = || fs::read_dir(place.root().join("tmp")).unwrap().all(|own| fs::read_dir(own.unwrap().path()).unwrap().count() == 0);
    for _ in 0..500 {
        if ended() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it goes on");
}
