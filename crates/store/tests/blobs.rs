//! Files in a directory, as everything behind the port has to keep them. Stores of objects are tested with the program, against servers.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use caisson_core::{AboutBlob, BlobError, BlobKey, BlobStream, Blobs, NewBlob, OnlyIf};
use caisson_store::LocalBlobs;
use futures::{StreamExt, TryStreamExt, stream};

fn key(text: &str) -> BlobKey {
    text.parse().unwrap()
}

fn content(text: &str) -> BlobStream {
    stream::iter(text.as_bytes().chunks(3).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>()).boxed()
}

async fn put_if(blobs: &LocalBlobs, name: &str, text: &str, only_if: OnlyIf) -> Result<String, BlobError> {
    let new = NewBlob { size: text.len() as u64, about: AboutBlob { mode: Some(0o640), ..AboutBlob::default() } };
    blobs.put(&key(name), &new, content(text), &only_if).await
}

async fn put(blobs: &LocalBlobs, name: &str, text: &str) -> String {
    put_if(blobs, name, text, OnlyIf::Always).await.unwrap()
}

async fn read(blobs: &LocalBlobs, name: &str, offset: u64, length: Option<u64>) -> String {
    let (_, content) = blobs.get(&key(name), offset, length).await.unwrap();
    let pieces: Vec<Bytes> = content.try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

async fn keys(blobs: &LocalBlobs, prefix: &str, after: Option<&str>, limit: usize, folders: bool) -> (Vec<String>, bool) {
    let page = blobs.list(prefix, after, limit, folders).await.unwrap();
    let mut all: Vec<String> = page.blobs.iter().map(|blob| blob.key.to_string()).chain(page.folders).collect();
    all.sort();
    (all, page.next.is_some())
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn files_come_back_as_they_were() {
    let home = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(home.path()).await.unwrap();
    let first = put(&blobs, "a/b/c", "content").await;
    let blob = blobs.head(&key("a/b/c")).await.unwrap();
    assert_eq!((blob.size, blob.etag.as_str(), blob.about.mode), (7, first.as_str(), Some(0o640)));
    assert_eq!(read(&blobs, "a/b/c", 0, None).await, "content");
    assert_eq!(read(&blobs, "a/b/c", 2, Some(3)).await, "nte");
    assert_eq!(read(&blobs, "a/b/c", 5, Some(100)).await, "nt");
    assert_ne!(put(&blobs, "a/b/c", "CONTENT").await, first, "another content has another tag");
    let plain = home.path().join("files/a/b/c");
    assert_eq!((fs::read_to_string(&plain).unwrap().as_str(), plain.metadata().unwrap().permissions().mode() & 0o777), ("CONTENT", 0o640));
    assert!(matches!(blobs.head(&key("a/b")).await, Err(BlobError::NotFound)));
    assert!(matches!(blobs.head(&key("a/b/c/d")).await, Err(BlobError::NotFound)));
    assert!(blobs.delete(&key("a/b/c"), &OnlyIf::Always).await.unwrap());
    assert!(!blobs.delete(&key("a/b/c"), &OnlyIf::Always).await.unwrap());
    assert_eq!((count(&home.path().join("files")), count(&home.path().join("new"))), (0, 0), "nothing is left, directories included");
}

#[tokio::test]
async fn conditions_are_about_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(home.path()).await.unwrap();
    assert!(matches!(put_if(&blobs, "a", "x", OnlyIf::Present).await, Err(BlobError::Changed)));
    let first = put_if(&blobs, "a", "one", OnlyIf::Absent).await.unwrap();
    assert!(matches!(put_if(&blobs, "a", "x", OnlyIf::Absent).await, Err(BlobError::Changed)));
    let second = put_if(&blobs, "a", "two", OnlyIf::Matches(first.clone())).await.unwrap();
    assert!(matches!(put_if(&blobs, "a", "x", OnlyIf::Matches(first.clone())).await, Err(BlobError::Changed)));
    assert!(matches!(blobs.delete(&key("a"), &OnlyIf::Matches(first)).await, Err(BlobError::Changed)));
    assert_eq!(read(&blobs, "a", 0, None).await, "two");
    assert!(blobs.delete(&key("a"), &OnlyIf::Matches(second)).await.unwrap());
    assert_eq!(count(&home.path().join("new")), 0);
    let racing = (0..20).map(|_| put_if(&blobs, "b", "x", OnlyIf::Absent));
    let won = futures::future::join_all(racing).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn half_of_a_file_is_no_file() {
    let home = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(home.path()).await.unwrap();
    for (size, bytes) in [(9, "short"), (2, "long")] {
        let new = NewBlob { size, about: AboutBlob::default() };
        assert!(matches!(blobs.put(&key("a"), &new, content(bytes), &OnlyIf::Always).await, Err(BlobError::Content(_))));
    }
    let broken: BlobStream = stream::iter([Ok(Bytes::from_static(b"ab")), Err(std::io::Error::other("broken"))]).boxed();
    let new = NewBlob { size: 4, about: AboutBlob::default() };
    assert!(matches!(blobs.put(&key("a"), &new, broken, &OnlyIf::Always).await, Err(BlobError::Content(_))));
    assert!(matches!(blobs.head(&key("a")).await, Err(BlobError::NotFound)));
    fs::write(home.path().join("new/7"), "left by a server that was killed").unwrap();
    drop(blobs);
    LocalBlobs::open(home.path()).await.unwrap();
    assert_eq!((count(&home.path().join("files")), count(&home.path().join("new"))), (0, 0));
}

#[tokio::test]
async fn lists_are_in_the_order_of_keys_and_go_on_where_they_ended() {
    let home = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(home.path()).await.unwrap();
    let mut all = ["a", "a.b", "a0", "b/1", "b/2/x", "b.c", "b0", "c/d/e", "ä"].map(str::to_owned);
    for name in &all {
        put(&blobs, name, "x").await;
    }
    all.sort();
    assert_eq!(keys(&blobs, "", None, 100, false).await, (all.to_vec(), false));
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, more) = keys(&blobs, "", after.as_deref(), 2, false).await;
        after = page.last().cloned();
        seen.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(seen, all);
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&blobs, "b", None, 100, false).await.0, texts(&["b.c", "b/1", "b/2/x", "b0"]));
    assert_eq!(keys(&blobs, "b/", None, 100, false).await.0, texts(&["b/1", "b/2/x"]));
    assert_eq!(keys(&blobs, "b/", None, 100, true).await.0, texts(&["b/1", "b/2/"]));
    assert_eq!(keys(&blobs, "", Some("b0"), 100, true).await.0, texts(&["c/", "ä"]));
    assert_eq!(keys(&blobs, "../", None, 100, false).await.0, texts(&[]));
    assert_eq!(keys(&blobs, "nothing/", None, 100, false).await.0, texts(&[]));
}

#[tokio::test]
async fn r5_5_no_link_leads_out_and_no_name_is_two_things() {
    let home = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(home.path()).await.unwrap();
    fs::write(home.path().join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("..", home.path().join("files/up")).unwrap();
    std::os::unix::fs::symlink("../secret", home.path().join("files/link")).unwrap();
    for name in ["up/secret", "link"] {
        assert!(blobs.head(&key(name)).await.is_err(), "{name}");
    }
    assert!(put_if(&blobs, "up/new", "x", OnlyIf::Always).await.is_err());
    assert!(!home.path().join("new/new").exists() && !home.path().join("new").join("up").exists());
    put(&blobs, "dir/file", "x").await;
    assert!(matches!(put_if(&blobs, "dir", "x", OnlyIf::Always).await, Err(BlobError::Refused(_))));
    assert!(matches!(put_if(&blobs, "dir/file/below", "x", OnlyIf::Always).await, Err(BlobError::Refused(_))));
    assert_eq!(count(&home.path().join("new")), 0);
}
