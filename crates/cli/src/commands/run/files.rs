//! Files that go into the sandbox before the program starts.

use std::{os::unix::ffi::OsStrExt, os::unix::fs::MetadataExt, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use caisson_engine::InputFile;
use caisson_server::native::types::{InputFileBody, Mode};

/// `SRC[:DST]`, split at the last colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileArg {
    source: PathBuf,
    /// Absolute, or relative to the work directory. Never ends in `/`.
    destination: Vec<u8>,
}

impl FromStr for FileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, destination) = match text.rsplit_once(':') {
            Some((source, destination)) => (source, Some(destination)),
            None => (text, None),
        };
        let source = PathBuf::from(source);
        let name = source.file_name().ok_or("expected SRC[:DST], where SRC is a file")?;
        let destination = match destination {
            None => name.as_bytes().to_vec(),
            Some("") => return Err("there is nothing behind the colon; write SRC or SRC:DST".to_owned()),
            Some(directory) if directory.ends_with('/') => [directory.as_bytes(), name.as_bytes()].concat(),
            Some(destination) => destination.as_bytes().to_vec(),
        };
        Ok(Self { source, destination })
    }
}

impl FileArg {
    /// The file with its content. Whether it can be executed goes with it.
    pub(super) fn read(&self) -> Result<InputFile> {
        let shown = self.source.display();
        let metadata = std::fs::metadata(&self.source).with_context(|| format!("cannot read the file {shown} of --file"))?;
        if metadata.is_dir() {
            bail!("--file takes files, and {shown} is a directory; give each of its files, or an archive of it");
        }
        let content = std::fs::read(&self.source).with_context(|| format!("cannot read the file {shown} of --file"))?;
        let mode = if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        Ok(InputFile { path: self.destination.clone(), content: content.into(), mode: Some(mode) })
    }
}

/// As it goes over the line.
pub(super) fn to_body(file: InputFile) -> Result<InputFileBody> {
    let path = String::from_utf8(file.path).context("a file of --file has a name that is not UTF-8; give it another with SRC:DST")?;
    Ok(InputFileBody { path, content: None, content_base64: Some(STANDARD.encode(&file.content)), mode: file.mode.map(Mode) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_destinations() {
        for (text, source, destination) in [
            ("data.csv", "data.csv", "data.csv"),
            ("a/b/data.csv", "a/b/data.csv", "data.csv"),
            ("data.csv:in/x.csv", "data.csv", "in/x.csv"),
            ("data.csv:/tmp/", "data.csv", "/tmp/data.csv"),
            ("a:b:c", "a:b", "c"),
        ] {
            let file: FileArg = text.parse().unwrap();
            assert_eq!((file.source, file.destination), (PathBuf::from(source), destination.as_bytes().to_vec()), "{text}");
        }
        for text in ["", ":x", "x:", "/", ".."] {
            assert!(text.parse::<FileArg>().is_err(), "{text}");
        }
    }
}
