//! The suite of every store over SQLite, and what is SQLite's own.

#[macro_use]
mod suite;

use std::os::unix::fs::PermissionsExt;

use caisson_core::{Store, Tenant, TombstoneReason};
use caisson_store::Sqlite;

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let store = Sqlite::open(&dir.path().join("data/caisson.db")).await.unwrap();
                suite::$name(&store).await;
            }
        )*
    };
}

every_test!(suite);

#[tokio::test]
async fn files_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let store = Sqlite::open(&data.join("caisson.db")).await.unwrap();
    store.ping().await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files >= 2, "the write-ahead log lies beside the database");
}

#[tokio::test]
async fn records_outlive_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("caisson.db");
    let tombstone = caisson_core::Tombstone { reason: TombstoneReason::ServerLost, message: String::new(), at: jiff::Timestamp::now() };
    let id = suite::insert_one(&Sqlite::open(&path).await.unwrap()).await;
    // The first writer may still be closing; both may have the file.
    let again = Sqlite::open(&path).await.unwrap();
    assert!(again.sandbox(&Tenant::default(), id).await.unwrap().is_some());
    assert_eq!(again.bury_the_living(&tombstone, &[]).await.unwrap(), (1, 0));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("caisson.db");
    std::fs::write(&path, "this is not a database, whatever its name says").unwrap();
    assert!(Sqlite::open(&path).await.is_err());
    assert!(Sqlite::open(&dir.path().join("caisson.db/below")).await.is_err());
}
