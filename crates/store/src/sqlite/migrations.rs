//! The schema's history. A migration that has been released is never edited; the next one changes what it made.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

const HISTORY: &[(i64, &str, &str)] = &[(1, "records", include_str!("../../migrations/0001_records.sql"))];

/// Everything that brings an empty file to the present schema.
pub(super) fn migrator() -> Migrator {
    let migrations = HISTORY
        .iter()
        .map(|&(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false))
        .collect();
    Migrator::with_migrations(migrations)
}

#[cfg(test)]
mod tests {
    use super::HISTORY;

    #[test]
    fn every_migration_file_is_in_the_history() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
        assert_eq!(files, HISTORY.len());
        assert!(HISTORY.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
