//! Where files of workspaces are kept.

use std::path::{Path, PathBuf};

use caisson_store::{S3Config, S3Secret};

use super::{settings::Setting, values::Reader};

/// What stores of objects need to know beside their address.
const OF_S3: [Setting; 5] =
    [Setting::S3Endpoint, Setting::S3Region, Setting::S3AccessKeyId, Setting::S3SecretAccessKey, Setting::S3SessionToken];

/// A storage for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlobStorage {
    Directory(PathBuf),
    S3(S3Config),
}

/// What `CAISSON_BLOB_URL` says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Directory(PathBuf),
    Bucket { name: String, prefix: String },
}

/// `blobs` in the data directory, when nothing is said. `None` with a problem noted.
pub(super) fn read(reader: &mut Reader<'_>, data_dir: Option<&Path>) -> Option<BlobStorage> {
    let address = match reader.get(Setting::BlobUrl, address) {
        Some(address) => address,
        None => Address::Directory(data_dir?.join("blobs")),
    };
    match address {
        Address::Directory(directory) => {
            for key in OF_S3 {
                // Variables that others read as well are there for them.
                if let Some(place) = reader.place(key).filter(|place| !place.starts_with("AWS_") && !place.starts_with("S3_")) {
                    reader.problem(format!(
                        "{place} is for stores of objects, and CAISSON_BLOB_URL is not s3://BUCKET; leave out one, or set the other"
                    ));
                }
            }
            Some(BlobStorage::Directory(directory))
        }
        Address::Bucket { name, prefix } => {
            let text = |text: &str| Ok(text.to_owned());
            let endpoint = reader.get(Setting::S3Endpoint, text);
            let region = reader.get(Setting::S3Region, text);
            let access_key_id = reader.get(Setting::S3AccessKeyId, text);
            let secret_access_key = reader.get(Setting::S3SecretAccessKey, |text| Ok(S3Secret(text.to_owned())));
            let session_token = reader.get(Setting::S3SessionToken, |text| Ok(S3Secret(text.to_owned())));
            let (Some(access_key_id), Some(secret_access_key)) = (access_key_id, secret_access_key) else {
                reader.problem(
                    "CAISSON_BLOB_URL is a bucket; set CAISSON_S3_ACCESS_KEY_ID and CAISSON_S3_SECRET_ACCESS_KEY as well".to_owned(),
                );
                return None;
            };
            let config = S3Config { bucket: name, prefix, endpoint, region, access_key_id, secret_access_key, session_token };
            match config.check() {
                Ok(()) => Some(BlobStorage::S3(config)),
                Err(error) => {
                    reader.problem(format!("CAISSON_BLOB_URL and CAISSON_S3_ENDPOINT lead nowhere: {error}"));
                    None
                }
            }
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    let expected = || "expected file:///DIRECTORY or s3://BUCKET/PREFIX".to_owned();
    if let Some(path) = text.strip_prefix("file://") {
        let path = Path::new(path);
        return if path.is_absolute() { Ok(Address::Directory(path.to_owned())) } else { Err(expected()) };
    }
    let rest = text.strip_prefix("s3://").ok_or_else(expected)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() {
        Err(expected())
    } else {
        Ok(Address::Bucket { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_directories_or_buckets() {
        let bucket = |name: &str, prefix: &str| Some(Address::Bucket { name: name.to_owned(), prefix: prefix.to_owned() });
        for (text, expect) in [
            ("file:///srv/blobs", Some(Address::Directory(PathBuf::from("/srv/blobs")))),
            ("s3://b", bucket("b", "")),
            ("s3://b/", bucket("b", "")),
            ("s3://b/p/q/", bucket("b", "p/q")),
            ("file://srv", None),
            ("/srv", None),
            ("s3://", None),
            ("s3:///p", None),
            ("https://b", None),
        ] {
            assert_eq!(address(text).ok(), expect, "{text}");
        }
    }
}
