//! Whole trees as archives. Only compression is done here, and never more of it than the other side takes: everything about names and
//! files is the agent's affair, inside the sandbox.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_compression::{
    Level,
    tokio::bufread::{GzipDecoder, GzipEncoder, ZstdDecoder, ZstdEncoder},
    zstd::DParameter,
};
use axum::{
    Json as Reply,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use caisson_core::SandboxId;
use caisson_engine::ByteStream;
use futures::{Stream, StreamExt};
use http::header;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    files::{content, path},
    id::Id,
    types::UnpackedBody,
};
use crate::{caller::Caller, error::ApiResult, openapi::Octets, params::Params};

/// Bytes that are compressed or taken apart in one go.
const PIECE: usize = 64 << 10;
/// What a Zstandard stream may make us keep: 8 MiB, which is what RFC 8878 asks of everybody.
const WINDOW: u32 = 23;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    #[default]
    Tar,
    Gzip,
    Zstd,
}

impl std::str::FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or(())
    }
}

impl Format {
    pub(crate) const ALL: [Self; 3] = [Self::Tar, Self::Gzip, Self::Zstd];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "tar.gz",
            Self::Zstd => "tar.zst",
        }
    }

    fn given(params: &mut Params) -> ApiResult<Self> {
        Ok(params.parsed("format", "`tar`, `tar.gz` or `tar.zst`")?.unwrap_or_default())
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::Gzip => "application/gzip",
            Self::Zstd => "application/zstd",
        }
    }
}

/// A directory with everything in it, or a file, as an archive.
///
/// Names in it are below the directory. Permission bits, times and links are kept; owners and set-user-id bits where they
/// are asked for, extended attributes are not.
/// Sockets, fifos, devices, and what the sandbox's user may not read are left out; the archive says so itself, in a last extended header
/// (`CAISSON.left_out`). An archive that does not end with two blocks of zeros broke off.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/archive", operation_id = "download_archive", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("format" = Option<String>, Query, description = "`tar` (when absent), `tar.gz` or `tar.zst`"),
        ("owners" = Option<bool>, Query, description = "Owners and set-user-id bits too; for sandboxes whose user is root"),
    ),
    responses((status = 200, description = "The archive", content(
        (inline(Octets) = "application/x-tar"), (inline(Octets) = "application/gzip"), (inline(Octets) = "application/zstd")))))]
pub(crate) async fn download(Caller(app): Caller, Id(id): Id<SandboxId>, mut params: Params) -> ApiResult<Response> {
    let (path, format, owners) = (path(&mut params)?, Format::given(&mut params)?, params.flag("owners")?);
    params.finish()?;
    let archive = app.engine.pack_files(id, &path, owners).await?;
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(compressed(archive, format))).into_response())
}

/// Unpacks an archive into a directory, which is made if it is not there.
///
/// Files and links replace what is there, directories that are there stay as they are. Owners and set-user-id bits are
/// taken where that is asked for, extended attributes are not. Devices and fifos are left out, and told. Refused is what leads out of the directory (`..`, absolute names, hard links to
/// elsewhere) or through a link, sparse files, and what is not a tar archive to its end; what was unpacked before that stays.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/archive", operation_id = "upload_archive", tag = "files",
    params(
        ("id" = String, Path, description = "The sandbox"),
        ("path" = String, Query, description = "Absolute, or relative to the work dir; percent-encoded bytes"),
        ("format" = Option<String>, Query, description = "`tar` (when absent), `tar.gz` or `tar.zst`"),
        ("owners" = Option<bool>, Query, description = "Owners and set-user-id bits too; for sandboxes whose user is root"),
    ),
    request_body(content_type = "application/octet-stream", description = "The archive, compressed as `format` says"),
    responses((status = 200, description = "What was made", body = UnpackedBody)))]
pub(crate) async fn upload(
    Caller(app): Caller,
    Id(id): Id<SandboxId>,
    mut params: Params,
    request: Request,
) -> ApiResult<Reply<UnpackedBody>> {
    let (path, format, owners) = (path(&mut params)?, Format::given(&mut params)?, params.flag("owners")?);
    params.finish()?;
    let archive = plain(content(request.into_body(), app.config.body_stall), format);
    Ok(Reply(UnpackedBody::from(&app.engine.unpack_files(id, &path, owners, archive).await?)))
}

fn compressed(archive: ByteStream, format: Format) -> ByteStream {
    let reader = StreamReader::new(archive);
    match format {
        Format::Tar => reader.into_inner(),
        // Whoever wants it small asks for Zstandard.
        Format::Gzip => Box::pin(pieces(GzipEncoder::with_quality(reader, Level::Fastest))),
        Format::Zstd => Box::pin(pieces(ZstdEncoder::new(reader))),
    }
}

/// The tar stream in an upload. What cannot be taken apart is an error of the kind `InvalidData`; one of the upload itself stays what it is.
fn plain(upload: ByteStream, format: Format) -> ByteStream {
    let broken = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&broken);
    let upload: ByteStream = Box::pin(upload.inspect(move |piece| note.store(piece.is_err(), Ordering::Relaxed)));
    let invalid = move |what: &'static str| {
        move |piece: io::Result<Bytes>| {
            piece.map_err(|error| match broken.load(Ordering::Relaxed) {
                true => error,
                false => io::Error::new(io::ErrorKind::InvalidData, format!("it is no {what} stream: {error}")),
            })
        }
    };
    let reader = StreamReader::new(upload);
    match format {
        Format::Tar => reader.into_inner(),
        Format::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            Box::pin(pieces(decoder).map(invalid("gzip")))
        }
        Format::Zstd => {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW)]);
            decoder.multiple_members(true);
            Box::pin(pieces(decoder).map(invalid("Zstandard")))
        }
    }
}

fn pieces(reader: impl AsyncRead) -> impl Stream<Item = io::Result<Bytes>> {
    ReaderStream::with_capacity(reader, PIECE)
}

#[cfg(test)]
mod tests {
    use futures::{TryStreamExt, stream};

    use super::*;

    fn one(bytes: Vec<u8>) -> ByteStream {
        Box::pin(stream::iter(vec![Ok(Bytes::from(bytes))]))
    }

    async fn all(stream: ByteStream) -> io::Result<Vec<u8>> {
        Ok(stream.try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn what_is_compressed_comes_back_also_in_several_parts() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for format in [Format::Tar, Format::Gzip, Format::Zstd] {
            let packed = all(compressed(one(content.clone()), format)).await.unwrap();
            assert!(format == Format::Tar || packed.len() < content.len() / 2, "{format:?}: {}", packed.len());
            assert!(all(plain(one(packed.clone()), format)).await.unwrap() == content, "{format:?}");
            if format != Format::Tar {
                assert_eq!(all(plain(one([packed.clone(), packed.clone()].concat()), format)).await.unwrap().len(), 2 * content.len());
                for bad in [packed[..packed.len() - 9].to_vec(), [packed.clone(), b"garbage".to_vec()].concat(), b"no such thing".to_vec()]
                {
                    let error = all(plain(one(bad), format)).await.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{format:?}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_is_not_called_a_bad_archive() {
        let broken: ByteStream = Box::pin(stream::iter([Ok(Bytes::from_static(&[0x1f, 0x8b])), Err(io::ErrorKind::TimedOut.into())]));
        assert_eq!(all(plain(broken, Format::Gzip)).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// A stream of a few bytes that wants a window of gigabytes to be kept.
    #[tokio::test]
    async fn r5_1_large_windows_are_refused() {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf0, 0x01, 0x00, 0x00];
        let error = all(plain(one(frame.to_vec()), Format::Zstd)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
