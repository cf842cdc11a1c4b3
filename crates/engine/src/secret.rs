//! A secret of the data directory, for what has to be sealed or signed over restarts. It is made when it is first needed.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use caisson_core::{Error, Result};

use crate::{Engine, core::Core};

/// The name of its file in the data directory.
const FILE: &str = "secret";
const BYTES: usize = 32;

impl Engine {
    /// The secret, or that of all servers on the database. Whoever uses it derives a key of their own from it.
    pub async fn secret(&self) -> Result<&[u8; BYTES]> {
        self.core.secret().await
    }
}

impl Core {
    pub(crate) async fn secret(&self) -> Result<&[u8; BYTES]> {
        // What is sealed or signed on one server is looked at on others.
        if let Some(fleet) = &self.fleet {
            return Ok(fleet.secret());
        }
        self.secret.get_or_try_init(|| of_data_dir(&self.config.data_dir)).await
    }
}

/// That of the data directory.
pub(crate) async fn of_data_dir(data_dir: &Path) -> Result<[u8; BYTES]> {
    let path = data_dir.join(FILE);
    let found = tokio::task::spawn_blocking(move || find_or_make(&path)).await.map_err(io::Error::other);
    found.and_then(|found| found).map_err(|error| Error::internal("the secret of the data directory cannot be read or made", error))
}

/// Whoever calls has the data directory for itself, and calls once at a time.
fn find_or_make(path: &Path) -> io::Result<[u8; BYTES]> {
    match fs::File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

fn read(path: &Path, mut file: fs::File) -> io::Result<[u8; BYTES]> {
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("others can read {}; run `chmod 600` on it", path.display())));
    }
    let mut secret = [0; BYTES];
    file.read_exact(&mut secret)?;
    Ok(secret)
}

/// Under another name until it is whole, so that half of one is never taken for it.
fn make(path: &Path) -> io::Result<[u8; BYTES]> {
    let mut secret = [0; BYTES];
    getrandom::fill(&mut secret).map_err(|error| io::Error::other(error.to_string()))?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let made = find_or_make(&path).unwrap();
        assert_ne!(made, [0; BYTES]);
        assert_eq!(find_or_make(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(find_or_make(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(find_or_make(&path).is_err(), "what was damaged is not replaced: something is sealed with it");
    }
}
