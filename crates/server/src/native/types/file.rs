//! Files inside a sandbox.

use bytes::Bytes;
use caisson_core::{Error, FileStat, Listing, Result};
use caisson_engine::{ChangedFile, InputFile};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::{
    super::cursor,
    field::{decode, encode, text_and_bytes},
    time,
};

/// Permission bits: a number, or text in octal as in `chmod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mode(pub u32);

impl Mode {
    pub(crate) const MAX: u32 = 0o777;

    fn checked(bits: u32) -> Option<Self> {
        (bits <= Self::MAX).then_some(Self(bits))
    }
}

impl std::str::FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        // `from_str_radix` would take a sign.
        let octal = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let bits = if octal { u32::from_str_radix(digits, 8).ok() } else { None };
        bits.and_then(Self::checked).ok_or("permission bits in octal, 0 to 0777")
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bits;
        impl de::Visitor<'_> for Bits {
            type Value = Mode;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("permission bits: a number from 0 to 511, or octal text from \"0\" to \"0777\"")
            }

            fn visit_u64<E: de::Error>(self, bits: u64) -> Result<Mode, E> {
                let mode = u32::try_from(bits).ok().and_then(Mode::checked);
                mode.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(bits), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Bits)
    }
}

/// A file to put in before a one-shot starts: `content` or `content_base64`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputFile)]
pub struct InputFileBody {
    /// Absolute, or relative to the work dir. Directories on the way are made.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    /// Permission bits, as octal text (`"0755"`) or as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "0644")]
    pub mode: Option<Mode>,
}

impl InputFileBody {
    pub(super) fn into_core(self, index: usize) -> Result<InputFile> {
        let content = match (self.content, self.content_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => Bytes::from(decode(&format!("files[{index}].content_base64"), &base64)?),
            _ => {
                let message = format!("field `files[{index}]` needs exactly one of `content` and `content_base64`");
                return Err(Error::invalid("invalid_request", message));
            }
        };
        Ok(InputFile { path: self.path.into_bytes(), content, mode: self.mode.map(|mode| mode.0) })
    }
}

/// What is known of one directory entry; links are not followed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = File)]
pub struct FileBody {
    /// Absolute path inside the sandbox. What is not UTF-8 in it is replaced, and `path_base64` has the bytes.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits as a number.
    pub mode: u32,
    /// RFC 3339.
    pub modified_at: String,
    /// The owner, as ids inside the sandbox.
    pub uid: u32,
    pub gid: u32,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_base64: Option<String>,
}

impl From<&FileStat> for FileBody {
    fn from(stat: &FileStat) -> Self {
        let (path, path_base64) = text_and_bytes(&stat.path);
        let (target, target_base64) = stat.target.as_deref().map(text_and_bytes).unzip();
        Self {
            path,
            path_base64,
            kind: stat.kind.as_str().to_owned(),
            size: stat.size,
            mode: stat.mode,
            modified_at: time(stat.modified_at),
            uid: stat.uid,
            gid: stat.gid,
            target,
            target_base64: target_base64.flatten(),
        }
    }
}

/// A file that a one-shot made or changed, with its content as far as `max_file_bytes` goes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ChangedFile)]
pub struct ChangedFileBody {
    #[serde(flatten)]
    pub stat: FileBody,
    /// The content when it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The content when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
}

impl From<ChangedFile> for ChangedFileBody {
    fn from(file: ChangedFile) -> Self {
        let stat = FileBody::from(&file.stat);
        match file.content.map(|bytes| String::from_utf8(bytes.into())) {
            None => Self { stat, content: None, content_base64: None },
            Some(Ok(text)) => Self { stat, content: Some(text), content_base64: None },
            Some(Err(error)) => Self { stat, content: None, content_base64: Some(encode(error.as_bytes())) },
        }
    }
}

/// What is in a directory, or a part of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Listing)]
pub struct ListingBody {
    pub data: Vec<FileBody>,
    /// Whether there is more.
    pub truncated: bool,
    /// Give it back as `cursor` to get what comes next; null when that was all.
    pub next_cursor: Option<String>,
    /// Directories that the sandbox's user may not read, so that nothing in them is listed.
    pub unreadable: u64,
}

impl From<&Listing> for ListingBody {
    fn from(listing: &Listing) -> Self {
        Self {
            data: listing.entries.iter().map(FileBody::from).collect(),
            truncated: listing.next.is_some(),
            next_cursor: listing.next.as_deref().map(cursor::encode),
            unreadable: listing.unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use caisson_core::FileKind;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn modes_are_octal_text_or_numbers() {
        for (text, mode) in [("\"0755\"", 0o755), ("\"644\"", 0o644), ("\"0o600\"", 0o600), ("493", 0o755), ("0", 0)] {
            assert_eq!(serde_json::from_str::<Mode>(text).unwrap(), Mode(mode), "{text}");
        }
        for bad in ["\"\"", "\"8\"", "\"-1\"", "\"+7\"", "\"4755\"", "512", "-1", "1.5", "null"] {
            assert!(serde_json::from_str::<Mode>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_and_contents_keep_their_bytes() {
        let stat = FileStat {
            path: b"/a\xff".to_vec(),
            kind: FileKind::Symlink,
            size: 1,
            mode: 0o600,
            modified_at: Timestamp::UNIX_EPOCH,
            uid: 0,
            gid: 0,
            inode: 1,
            target: Some(b"b".to_vec()),
        };
        let body = FileBody::from(&stat);
        assert_eq!((body.path.as_str(), body.path_base64.as_deref()), ("/a\u{fffd}", Some("L2H/")));
        assert_eq!((body.target.as_deref(), body.target_base64), (Some("b"), None));
        let changed =
            |content: &'static [u8]| ChangedFileBody::from(ChangedFile { stat: stat.clone(), content: Some(Bytes::from_static(content)) });
        assert_eq!(changed("ä".as_bytes()).content.as_deref(), Some("ä"));
        assert_eq!(changed(b"\xff").content_base64.as_deref(), Some("/w=="));
    }
}
