//! The database of a server: a file in its data directory, another file, or a server of databases.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result, anyhow};
use caisson_core::Store;
use caisson_store::{Location, Membership, Postgres, Sqlite};

use crate::{
    config::Config,
    data_dir::{DataDir, take_lock},
};

/// Records, and what keeps other servers away from them for as long as this lives.
pub(crate) struct Database {
    pub(crate) store: Arc<dyn Store>,
    /// A file in the data directory is kept by the directory's own lock.
    _lock: Option<fs::File>,
}

impl Database {
    /// Opens it and brings its schema up to date.
    pub(crate) async fn open(config: &Config, data_dir: &DataDir) -> Result<Self> {
        Ok(match &config.database {
            None => Self { store: Arc::new(sqlite(&data_dir.database()).await?), _lock: None },
            Some(Location::Sqlite(path)) => {
                let lock = lock_beside(path)?;
                Self { store: Arc::new(sqlite(path).await?), _lock: Some(lock) }
            }
            Some(Location::Postgres(url)) => {
                let id = data_dir.server_id()?;
                let store = Postgres::open(url, Membership { id, sharing: config.sharing.clone() }).await?;
                tracing::info!("Records are kept in {url}");
                if let Some(sharing) = &config.sharing {
                    tracing::info!("This is server {id}, which others reach at {}", sharing.url);
                }
                Self { store: Arc::new(store), _lock: None }
            }
        })
    }
}

async fn sqlite(path: &Path) -> Result<Sqlite> {
    let opened = Sqlite::open(path).await;
    opened.map_err(|error| anyhow!(error).context(format!("cannot open the database {}", path.display())))
}

/// Not on the file itself: SQLite has locks of its own on that.
fn lock_beside(path: &Path) -> Result<fs::File> {
    let shown = path.display();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}; correct CAISSON_DATABASE_URL", directory.display()))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    take_lock(beside.as_ref(), |owner| {
        format!("another `caisson serve`{owner} uses the database {shown}; stop it, or name another one in CAISSON_DATABASE_URL")
    })
}
