//! A layer, streamed to a file and hashed as it comes. When the connection breaks, the rest is asked for.

use std::fs::File;

use caisson_core::Digest;
use http::{StatusCode, header};
use reqwest::{Method, Response};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File as AsyncFile,
    io::{AsyncSeekExt, AsyncWriteExt},
    time::sleep,
};

use super::{Failure, Session, retry};
use crate::Error;

/// Breaks of one blob in all: a registry could send one byte each time.
const MAX_BREAKS: u32 = 30;

/// What has come.
struct Came {
    file: AsyncFile,
    hash: Sha256,
    length: u64,
}

impl Session<'_> {
    /// Writes a blob into `file`, which is empty. `progress` hears how much has come. `full` makes an error of the store of one of the file.
    pub(crate) async fn blob(
        &self,
        digest: Digest,
        size: u64,
        file: File,
        progress: &(dyn Fn(u64) + Send + Sync),
        full: &(dyn Fn(std::io::Error) -> Error + Send + Sync),
    ) -> Result<File, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        let mut came = Came { file: AsyncFile::from_std(file), hash: Sha256::new(), length: 0 };
        let (mut failures, mut breaks) = (0, 0);
        loop {
            let before = came.length;
            let response = self.send(Method::GET, &url, None, came.length).await?;
            let failure = match self.receive(response, digest, size, &mut came, progress, full).await {
                Ok(()) => break,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, .. }) => error,
            };
            breaks += 1;
            failures = if came.length > before { 1 } else { failures + 1 };
            let Some(pause) = retry::pause(failures, None).filter(|_| breaks < MAX_BREAKS) else { return Err(failure) };
            sleep(pause).await;
        }
        let found = Digest::from_bytes(came.hash.finalize().into());
        if found != digest {
            return Err(Error::Digest { what: format!("layer {digest}"), expected: digest, found });
        }
        came.file.flush().await.map_err(full)?;
        Ok(came.file.into_std().await)
    }

    async fn receive(
        &self,
        mut response: Response,
        digest: Digest,
        size: u64,
        came: &mut Came,
        progress: &(dyn Fn(u64) + Send + Sync),
        full: &(dyn Fn(std::io::Error) -> Error + Send + Sync),
    ) -> Result<(), Failure> {
        if came.length > 0 && !goes_on(&response, came.length) {
            // It begins again, and so do we.
            came.file.flush().await.map_err(full)?;
            came.file.set_len(0).await.map_err(full)?;
            came.file.rewind().await.map_err(full)?;
            (came.hash, came.length) = (Sha256::new(), 0);
        }
        let wrong = |found: String| Error::Size { what: format!("layer {digest}"), expected: size, found };
        if let Some(length) = response.content_length()
            && came.length + length != size
        {
            return Err(wrong((came.length + length).to_string()).into());
        }
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(error))? {
            if piece.len() as u64 > size - came.length {
                return Err(wrong(format!("more than {size}")).into());
            }
            came.hash.update(&piece);
            came.file.write_all(&piece).await.map_err(full)?;
            came.length += piece.len() as u64;
            progress(came.length);
        }
        if came.length == size {
            return Ok(());
        }
        // Without a length, the end of a connection looks like the end of the blob.
        Err(Failure::Again { error: wrong(came.length.to_string()), asked: None })
    }
}

/// Whether an answer is the rest that was asked for.
fn goes_on(response: &Response, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let begins = range.and_then(|range| range.trim().strip_prefix("bytes "));
    response.status() == StatusCode::PARTIAL_CONTENT && begins.is_some_and(|begins| begins.starts_with(&format!("{from}-")))
}
