//! The schema's history. A migration that has been released is never edited; the next one changes what it made.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

const HISTORY: &[(i64, &str, &str)] = &[
    (1, "records", include_str!("../../migrations/0001_records.sql")),
    (2, "tenants", include_str!("../../migrations/0002_tenants.sql")),
    (3, "events", include_str!("../../migrations/0003_events.sql")),
    (4, "events of sandbox", include_str!("../../migrations/0004_events_of_sandbox.sql")),
    (5, "webhooks", include_str!("../../migrations/0005_webhooks.sql")),
    (6, "documents", include_str!("../../migrations/0006_documents.sql")),
    (7, "workspace quota", include_str!("../../migrations/0007_workspace_quota.sql")),
    (8, "documents end", include_str!("../../migrations/0008_documents_end.sql")),
    (9, "stopped", include_str!("../../migrations/0009_stopped.sql")),
    (10, "events of network", include_str!("../../migrations/0010_events_of_network.sql")),
];

/// Everything that brings an empty file to the present schema.
pub(super) fn migrator() -> Migrator {
    up_to(HISTORY.len())
}

/// The first `count` migrations.
fn up_to(count: usize) -> Migrator {
    let migrations = HISTORY[..count]
        .iter()
        .map(|&(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false))
        .collect();
    Migrator::with_migrations(migrations)
}

#[cfg(test)]
mod tests {
    use caisson_core::{SandboxId, Store, Tenant};
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};

    use super::{HISTORY, up_to};
    use crate::Sqlite;

    #[test]
    fn every_migration_file_is_in_the_history() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
        assert_eq!(files, HISTORY.len());
        assert!(HISTORY.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[tokio::test]
    async fn what_is_older_than_tenants_is_the_default_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caisson.db");
        let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
        up_to(1).run(&mut old).await.unwrap();
        let id = SandboxId::random();
        let spec = r#"{"image":"host","storage":"memory","network":"none","hostname":"h","work_dir":"/w","env":{},
            "user":{"uid":1000,"gid":1000,"name":"user","home":"/home/user"},
            "limits":{"memory_bytes":1,"cpu_millis":1,"pids":1,"disk_bytes":1,"disk_inodes":1,"open_files":1}}"#;
        sqlx::query(
            "insert into sandboxes (id, name, state, spec, metadata, created_at, last_active_at) values (?, 'n', 'running', ?, '{}', 1, 1)",
        )
        .bind(id.to_string())
        .bind(spec)
        .execute(&mut old)
        .await
        .unwrap();
        sqlx::Connection::close(old).await.unwrap();

        let store = Sqlite::open(&path).await.unwrap();
        let found = store.sandbox(&Tenant::default(), id).await.unwrap().unwrap();
        assert_eq!((found.tenant, found.name.as_deref()), (Tenant::default(), Some("n")));
        assert_eq!(store.sandbox(&"other".parse().unwrap(), id).await.unwrap(), None);
    }
}
