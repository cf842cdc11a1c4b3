//! API keys: where they are kept, and what they may be made of.

use std::{
    fmt, fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The name of the key file in a data directory.
const FILE: &str = "api-key";
/// No key is longer; a header has to carry it.
const MAX_LEN: usize = 1024;
const RANDOM_CHARS: usize = 40;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A key. Shows itself to nobody by accident.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A key from text. An error says what is wrong with it without showing it.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty; give it a value or leave it out");
        }
        if text.len() > MAX_LEN {
            return Err("is longer than 1024 characters; give a shorter one");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("has characters that a header cannot carry; use visible ASCII characters without spaces");
        }
        Ok(Self(text.to_owned()))
    }

    /// The key itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// One that nobody can guess.
    pub(crate) fn random() -> Result<Self> {
        let mut random = [0u8; RANDOM_CHARS];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("the kernel's random generator failed: {error}"))?;
        // 5 random bits a character: 200 in all.
        Ok(Self(random.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()))
    }
}

/// Where a data directory keeps its key.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The key in a file: its only line. `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Key>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read the key file {}", path.display())),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(&file, MAX_LEN as u64 + 2), &mut text)
        .with_context(|| format!("cannot read the key file {}", path.display()))?;
    match Key::new(text.trim_end_matches(['\n', '\r'])) {
        Ok(key) => Ok(Some(key)),
        Err(what) => bail!("the key in {} {what}", path.display()),
    }
}

/// A key as the server found or made it.
#[derive(Debug)]
pub(crate) enum Stored {
    Found(Key),
    Made(Key),
}

/// The data directory's own key; makes one when there is none. The caller holds the directory's lock.
pub(crate) fn find_or_make(data_dir: &Path) -> Result<Stored> {
    let path = path(data_dir);
    if let Some(key) = read(&path)? {
        let mode = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.mode();
        if mode & 0o077 != 0 {
            bail!(
                "others can read the key file {p} (mode {:04o}); run `chmod 600 {p}`, or remove it to get a new key",
                mode & 0o7777,
                p = path.display()
            );
        }
        return Ok(Stored::Found(key));
    }
    let key = Key::random()?;
    store(&path, &key).with_context(|| format!("cannot write the key file {}", path.display()))?;
    Ok(Stored::Made(key))
}

/// The file appears whole or not at all.
fn store(path: &Path, key: &Key) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", key.reveal())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let Stored::Made(made) = find_or_make(dir.path()).unwrap() else { panic!("there was none") };
        assert_eq!(fs::metadata(path(dir.path())).unwrap().mode() & 0o777, 0o600);
        let Stored::Found(found) = find_or_make(dir.path()).unwrap() else { panic!("there is one") };
        assert_eq!(made, found);
        assert!(found.reveal().len() == RANDOM_CHARS && format!("{found:?}") == "Key");
        fs::set_permissions(path(dir.path()), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(find_or_make(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn files_that_hold_no_key_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path());
        assert!(read(&file).unwrap().is_none());
        for (content, ok) in [
            ("secret\n", true),
            ("secret", true),
            ("secret\r\n", true),
            ("", false),
            ("\n", false),
            ("two\nlines\n", false),
            ("a b", false),
        ] {
            fs::write(&file, content).unwrap();
            assert_eq!(read(&file).is_ok(), ok, "{content:?}");
        }
        fs::write(&file, "x".repeat(2000)).unwrap();
        assert!(read(&file).is_err());
    }
}
