//! How layers and archives are compressed, told by their first bytes: what a media type says of it may be wrong, the bytes are not.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

const BUFFER: usize = 128 << 10;
/// What `zstd` itself takes at most when nothing is said; a window of 128 MiB.
const WINDOW_LOG: u32 = 27;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1F, 0x8B, ..] => Self::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The media type of a layer like this.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The plain bytes.
pub(crate) fn plain<'a>(raw: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut raw = BufReader::with_capacity(BUFFER, raw);
    Ok(match Compression::of(raw.fill_buf()?) {
        Compression::None => Box::new(raw),
        Compression::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_kind_is_read_also_in_several_parts() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |text: &[u8]| zstd::stream::encode_all(text, 1).unwrap();
        for bytes in [b"two parts".to_vec(), [gzip(b"two "), gzip(b"parts")].concat(), [zstd(b"two "), zstd(b"parts")].concat()] {
            let mut text = String::new();
            plain(&bytes[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "two parts");
            if Compression::of(&bytes) != Compression::None {
                assert!(plain(&bytes[..bytes.len() - 3]).unwrap().read_to_string(&mut text).is_err(), "what breaks off is an error");
            }
        }
    }
}
