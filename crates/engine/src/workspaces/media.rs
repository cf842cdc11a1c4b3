//! What a file is, by the end of its name.

const UNKNOWN: &str = "application/octet-stream";
const TABLE: &[(&str, &str)] = &[
    ("aac", "audio/aac"),
    ("avi", "video/x-msvideo"),
    ("bmp", "image/bmp"),
    ("csv", "text/csv"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("go", "text/x-go"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "application/javascript"),
    ("json", "application/json"),
    ("m4a", "audio/mp4"),
    ("md", "text/markdown"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("py", "text/x-python"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("ts", "application/typescript"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// The media type of a file of this name, letters of any case; of octets when the name says nothing.
#[must_use]
pub fn media_type(name: &str) -> &'static str {
    extension(name).map_or(UNKNOWN, |extension| media_type_of_extension(&extension))
}

/// The same for an extension, in lower case and without its dot.
#[must_use]
pub fn media_type_of_extension(extension: &str) -> &'static str {
    TABLE.iter().find(|(known, _)| *known == extension).map_or(UNKNOWN, |(_, media_type)| media_type)
}

/// What is behind the last dot of a path's last part, in lower case. A name that begins with its only dot has none.
pub(super) fn extension(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty()).then(|| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_types() {
        for (name, expect) in [
            ("a/chart.PNG", "image/png"),
            ("x.tar.gz", "application/gzip"),
            ("a.b/c", UNKNOWN),
            (".png", UNKNOWN),
            ("png", UNKNOWN),
            ("a.", UNKNOWN),
            ("page.html", "text/html"),
        ] {
            assert_eq!(media_type(name), expect, "{name}");
        }
        assert!(TABLE.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
