//! [`S3Blobs`]: objects in a bucket of a store that speaks S3.

mod config;
mod errors;
mod upload;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use caisson_core::{AboutBlob, Blob, BlobError, BlobKey, BlobPage, BlobStream, Blobs, NewBlob, OnlyIf};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use jiff::Timestamp;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    UpdateVersion,
    aws::AmazonS3,
    client::HttpClient,
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
    signer::Signer,
};
use tokio::sync::{OnceCell, Semaphore};

pub use self::config::{InvalidS3, S3Config, S3Secret};
use self::errors::{blob_error, in_time, unavailable};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the store may be silent.
const SILENT: Duration = Duration::from_secs(20);
const RETRIES: usize = 2;
const RETRIES_WITHIN: Duration = Duration::from_secs(20);
const BACKOFF: BackoffConfig = BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
/// Everything that is asked for, repetitions included.
const WITHIN: Duration = Duration::from_secs(120);
/// The most objects on one page of the store's lists.
const PAGE: usize = 1000;

const MODE: &str = "caisson-mode";
const DIGEST: &str = "caisson-sha256";
/// What is written to find out what the store can do.
const PROBE: &str = "_caisson/conditions";

/// Files in a bucket.
pub struct S3Blobs {
    store: Arc<AmazonS3>,
    config: S3Config,
    /// Whether it refuses what must not be replaced.
    conditions: OnceCell<bool>,
    /// Bytes on their way to it, in units of [`upload::UNIT`].
    memory: Arc<Semaphore>,
}

impl fmt::Debug for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Blobs").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl S3Blobs {
    /// Asks nobody yet: a store that is not there is told by what needs it.
    pub async fn open(config: S3Config) -> Result<Self, InvalidS3> {
        let client = caisson_outgoing::client_builder("stores of objects can be used without TLS alone").await;
        let client = client.connect_timeout(CONNECT_WITHIN).read_timeout(SILENT).build();
        let client = client.map_err(|error| InvalidS3(format!("requests to stores of objects cannot be made: {error}")))?;
        let store = Arc::new(config.build(HttpClient::new(client))?);
        Ok(Self { store, config, conditions: OnceCell::new(), memory: Arc::new(Semaphore::new(upload::MEMORY)) })
    }

    fn path(&self, key: &BlobKey) -> Result<Path, BlobError> {
        let whole = self.whole(key.as_str());
        if whole.len() > BlobKey::MAX_BYTES {
            let (length, most) = (whole.len(), BlobKey::MAX_BYTES);
            return Err(BlobError::Refused(format!(
                "its key has {length} bytes with everything before it, and stores of objects take {most}"
            )));
        }
        Path::parse(&whole).map_err(|error| BlobError::Refused(format!("it cannot be in a store of objects: {error}")))
    }

    /// Below the operator's prefix.
    fn whole(&self, text: &str) -> String {
        if self.config.prefix.is_empty() { text.to_owned() } else { format!("{}/{text}", self.config.prefix) }
    }

    fn below<'a>(&self, whole: &'a str) -> Option<&'a str> {
        if self.config.prefix.is_empty() { Some(whole) } else { whole.strip_prefix(&self.config.prefix)?.strip_prefix('/') }
    }

    fn blob(&self, meta: &ObjectMeta, attributes: &Attributes) -> Option<Blob> {
        let key = self.below(meta.location.as_ref())?.parse().ok()?;
        let metadata = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).map(|value| value.as_ref());
        let about = AboutBlob {
            mode: metadata(MODE).and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777),
            digest: metadata(DIGEST).and_then(|text| format!("sha256:{text}").parse().ok()),
            media_type: attributes.get(&Attribute::ContentType).map(|value| value.as_ref().to_owned()),
        };
        let etag = meta.e_tag.as_deref().unwrap_or_default();
        let modified_at = Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(Blob { key, size: meta.size, etag: etag.trim_matches('"').to_owned(), modified_at, about })
    }

    async fn look(&self, key: &BlobKey, options: GetOptions) -> Result<(Blob, BlobStream), BlobError> {
        let path = self.path(key)?;
        let found = in_time(WITHIN, self.store.get_opts(&path, options)).await?;
        let blob = self.blob(&found.meta, &found.attributes).ok_or_else(|| unavailable("an object of another name came"))?;
        let content = found.into_stream().map_err(std::io::Error::other);
        Ok((Blob { key: key.clone(), ..blob }, Box::pin(content)))
    }

    /// What is there, for stores that cannot check it themselves.
    async fn check(&self, key: &BlobKey, only_if: &OnlyIf) -> Result<(), BlobError> {
        if *only_if == OnlyIf::Always {
            return Ok(());
        }
        let there = match self.head(key).await {
            Ok(blob) => Some(blob.etag),
            Err(BlobError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if only_if.holds(there.as_deref()) { Ok(()) } else { Err(BlobError::Changed) }
    }

    /// Finds out once, by writing an object that must not be replaced.
    async fn has_conditions(&self) -> Result<bool, BlobError> {
        let find = || async {
            let path = Path::from(self.whole(PROBE));
            in_time(WITHIN, self.store.put(&path, PROBE.into())).await?;
            for mode in [PutMode::Create, update("0")] {
                let options = PutOptions { mode, ..PutOptions::default() };
                match in_time(WITHIN, self.store.put_opts(&path, PROBE.into(), options)).await {
                    Err(BlobError::Changed) => {}
                    Ok(_) | Err(BlobError::Refused(_)) => {
                        tracing::warn!(
                            "The store of objects does not check what it replaces: of two who write the same file in the same moment, one may not be told"
                        );
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        };
        self.conditions.get_or_try_init(find).await.copied()
    }
}

fn update(etag: &str) -> PutMode {
    PutMode::Update(UpdateVersion { e_tag: Some(format!("\"{etag}\"")), version: None })
}

fn attributes(about: &AboutBlob) -> Attributes {
    let mut attributes = Attributes::new();
    if let Some(mode) = about.mode {
        attributes.insert(Attribute::Metadata(MODE.into()), format!("{mode:04o}").into());
    }
    if let Some(digest) = about.digest {
        attributes.insert(Attribute::Metadata(DIGEST.into()), digest.hex().into());
    }
    if let Some(media_type) = &about.media_type {
        attributes.insert(Attribute::ContentType, media_type.clone().into());
    }
    attributes
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize, folders: bool) -> Result<BlobPage, BlobError> {
        let whole = self.whole(prefix);
        let options = PaginatedListOptions {
            offset: after.map(|after| self.whole(after)),
            delimiter: folders.then(|| "/".into()),
            max_keys: Some(limit.min(PAGE)),
            ..PaginatedListOptions::default()
        };
        let found = in_time(WITHIN, self.store.list_paginated(Some(&whole), options)).await?;
        let mut blobs: Vec<Blob> = found.result.objects.iter().filter_map(|meta| self.blob(meta, &Attributes::new())).collect();
        blobs.sort_by(|a, b| a.key.cmp(&b.key));
        let mut names: Vec<String> =
            found.result.common_prefixes.iter().filter_map(|path| Some(format!("{}/", self.below(path.as_ref())?))).collect();
        names.sort_unstable();
        Ok(BlobPage { blobs, folders: names, next: found.page_token })
    }

    async fn head(&self, key: &BlobKey) -> Result<Blob, BlobError> {
        Ok(self.look(key, GetOptions { head: true, ..GetOptions::default() }).await?.0)
    }

    async fn get(&self, key: &BlobKey, offset: u64, length: Option<u64>) -> Result<(Blob, BlobStream), BlobError> {
        let range = match (offset, length) {
            (0, None) => None,
            // A range of nothing cannot be asked for.
            (_, Some(0)) => return Ok((self.head(key).await?, futures::stream::empty().boxed())),
            (offset, Some(length)) => Some(GetRange::Bounded(offset..offset.saturating_add(length))),
            (offset, None) => Some(GetRange::Offset(offset)),
        };
        self.look(key, GetOptions { range, ..GetOptions::default() }).await
    }

    async fn put(&self, key: &BlobKey, new: &NewBlob, content: BlobStream, only_if: &OnlyIf) -> Result<String, BlobError> {
        let path = self.path(key)?;
        if new.size > upload::PART as u64 {
            return self.put_in_parts(key, &path, new, content, only_if).await;
        }
        let _memory = self.room(new.size).await?;
        let payload = upload::payload(new.size, content).await?;
        let mode = match only_if {
            OnlyIf::Always => PutMode::Overwrite,
            // Stores have no condition for it.
            OnlyIf::Present => {
                self.check(key, only_if).await?;
                PutMode::Overwrite
            }
            _ if !self.has_conditions().await? => {
                self.check(key, only_if).await?;
                PutMode::Overwrite
            }
            OnlyIf::Absent => PutMode::Create,
            OnlyIf::Matches(etag) => update(etag),
        };
        let options = PutOptions { mode, attributes: attributes(&new.about), ..PutOptions::default() };
        let put = in_time(WITHIN, self.store.put_opts(&path, payload, options)).await?;
        self.etag(key, put.e_tag).await
    }

    async fn delete(&self, key: &BlobKey, only_if: &OnlyIf) -> Result<bool, BlobError> {
        let path = self.path(key)?;
        let there = match self.head(key).await {
            Ok(blob) => Some(blob.etag),
            Err(BlobError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if !only_if.holds(there.as_deref()) {
            return Err(BlobError::Changed);
        }
        if there.is_none() {
            return Ok(false);
        }
        match in_time(WITHIN, self.store.delete(&path)).await {
            Err(BlobError::NotFound) => Ok(false),
            other => other.map(|()| true),
        }
    }

    async fn signed_url(&self, key: &BlobKey, lasts: Duration) -> Result<Option<String>, BlobError> {
        let path = self.path(key)?;
        let url = self.store.signed_url(Method::GET, &path, lasts).await.map_err(blob_error)?;
        Ok(Some(url.to_string()))
    }

    fn place(&self) -> String {
        let at = self.config.endpoint.as_deref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("s3://{}/{}{at}", self.config.bucket, self.config.prefix)
    }
}
