//! The schema's history. A migration that has been released is never edited; the next one changes what it made.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

const HISTORY: &[(i64, &str, &str)] = &[
    (1, "records", include_str!("../../migrations_postgres/0001_records.sql")),
    (2, "ledger", include_str!("../../migrations_postgres/0002_ledger.sql")),
    (3, "events", include_str!("../../migrations_postgres/0003_events.sql")),
    (4, "workspace quota", include_str!("../../migrations_postgres/0004_workspace_quota.sql")),
    (5, "documents end", include_str!("../../migrations_postgres/0005_documents_end.sql")),
    (6, "stopped", include_str!("../../migrations_postgres/0006_stopped.sql")),
    (7, "servers", include_str!("../../migrations_postgres/0007_servers.sql")),
    (8, "events of network", include_str!("../../migrations_postgres/0008_events_of_network.sql")),
];

/// Whether a schema to which so many migrations were applied is the present one.
pub(super) fn is_present(applied: i64) -> bool {
    usize::try_from(applied).is_ok_and(|applied| applied >= HISTORY.len())
}

/// Everything that brings an empty schema to the present one. Whoever runs it has the database for itself.
pub(super) fn migrator() -> Migrator {
    let migrations = HISTORY
        .iter()
        .map(|&(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false))
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.set_locking(false);
    migrator
}

#[cfg(test)]
mod tests {
    use super::HISTORY;

    #[test]
    fn every_migration_file_is_in_the_history() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations_postgres")).unwrap().count();
        assert_eq!(files, HISTORY.len());
        assert!(HISTORY.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
