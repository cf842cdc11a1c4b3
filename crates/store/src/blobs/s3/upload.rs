//! Objects on their way into a store: small ones in one request, others in parts, with so much memory for all of them.

use std::{io, sync::Arc};

use bytes::Bytes;
use caisson_core::{BlobError, BlobKey, BlobStream, NewBlob, OnlyIf};
use futures::StreamExt;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload, path::Path};
use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};

use super::{S3Blobs, WITHIN, attributes, in_time, unavailable};

/// Stores take no smaller parts but the last.
pub(super) const PART: usize = 5 << 20;
/// Parts of one object.
const PARTS: u64 = 10_000;
/// Parts of one object that are on their way at one time.
const PARTS_AT_ONCE: usize = 3;
/// Memory is given out in pieces of this size.
pub(super) const UNIT: usize = 16 << 10;
/// Memory for everything that is on its way, in units.
pub(super) const MEMORY: usize = (30 << 20) / UNIT;

impl S3Blobs {
    /// Waits until there is memory for so many bytes.
    pub(super) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, BlobError> {
        let units = u32::try_from(bytes.div_ceil(UNIT as u64).max(1)).unwrap_or(u32::MAX);
        Arc::clone(&self.memory).acquire_many_owned(units).await.map_err(|error| BlobError::Unavailable(error.into()))
    }

    /// What was written is called so. Where the store did not say, it is asked.
    pub(super) async fn etag(&self, key: &BlobKey, said: Option<String>) -> Result<String, BlobError> {
        match said {
            Some(etag) => Ok(etag.trim_matches('"').to_owned()),
            None => Ok(caisson_core::Blobs::head(self, key).await?.etag),
        }
    }

    /// Stores check conditions for one request only, so what is there is looked at before the first part and before the last word.
    pub(super) async fn put_in_parts(
        &self,
        key: &BlobKey,
        path: &Path,
        new: &NewBlob,
        content: BlobStream,
        only_if: &OnlyIf,
    ) -> Result<String, BlobError> {
        if new.size > PARTS * PART as u64 {
            return Err(BlobError::Refused(format!("it has {} bytes, and at most {} can be written", new.size, PARTS * PART as u64)));
        }
        self.check(key, only_if).await?;
        let options = PutMultipartOptions { attributes: attributes(&new.about), ..PutMultipartOptions::default() };
        let mut upload = in_time(WITHIN, self.store.put_multipart_opts(path, options)).await?;
        let done = async {
            self.parts(&mut *upload, new.size, content).await?;
            self.check(key, only_if).await?;
            in_time(WITHIN, upload.complete()).await
        };
        match done.await {
            Ok(put) => self.etag(key, put.e_tag).await,
            Err(error) => {
                // What was sent takes up room there; if it cannot be taken back now, the store's own rules have to.
                if let Err(error) = in_time(WITHIN, upload.abort()).await {
                    tracing::warn!(error = %error, "Parts of an object that was not written are left in the store");
                }
                Err(error)
            }
        }
    }

    async fn parts(&self, upload: &mut dyn MultipartUpload, size: u64, content: BlobStream) -> Result<(), BlobError> {
        let mut pieces = Pieces { content, rest: Bytes::new() };
        let mut sending = JoinSet::new();
        let mut left = size;
        while left > 0 {
            while sending.len() >= PARTS_AT_ONCE {
                sent(sending.join_next().await)?;
            }
            let length = left.min(PART as u64);
            let memory = self.room(length).await?;
            let part = upload.put_part(pieces.take(length).await?);
            sending.spawn(async move {
                let done = in_time(WITHIN, part).await;
                drop(memory);
                done
            });
            left -= length;
        }
        while let Some(one) = sending.join_next().await {
            sent(Some(one))?;
        }
        pieces.end().await
    }
}

fn sent(one: Option<Result<Result<(), BlobError>, tokio::task::JoinError>>) -> Result<(), BlobError> {
    match one {
        None => Ok(()),
        Some(Ok(sent)) => sent,
        Some(Err(_)) => Err(unavailable("sending a part failed")),
    }
}

/// A content that is taken in parts.
struct Pieces {
    content: BlobStream,
    rest: Bytes,
}

impl Pieces {
    /// Exactly so many bytes, as they came.
    async fn take(&mut self, length: u64) -> Result<PutPayload, BlobError> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut part = Vec::new();
        while left > 0 {
            if self.rest.is_empty() {
                self.rest = match self.content.next().await {
                    Some(piece) => piece.map_err(BlobError::Content)?,
                    None => return Err(BlobError::Content(io::ErrorKind::UnexpectedEof.into())),
                };
            }
            let piece = self.rest.split_to(left.min(self.rest.len()));
            left -= piece.len();
            part.push(piece);
        }
        Ok(PutPayload::from_iter(part))
    }

    /// There is nothing more.
    async fn end(mut self) -> Result<(), BlobError> {
        let next = self.content.next().await.transpose().map_err(BlobError::Content)?;
        if !self.rest.is_empty() || next.is_some_and(|piece| !piece.is_empty()) {
            Err(BlobError::Content(io::Error::new(io::ErrorKind::InvalidData, "more came than was announced")))
        } else {
            Ok(())
        }
    }
}

/// All of a small content.
pub(super) async fn payload(size: u64, content: BlobStream) -> Result<PutPayload, BlobError> {
    let mut pieces = Pieces { content, rest: Bytes::new() };
    let payload = pieces.take(size).await?;
    pieces.end().await?;
    Ok(payload)
}
