//! What a file is, by its extension, and which kinds of files a program leaves for its chat.

const TYPES: &[(&str, &str)] = &[
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

/// Extensions of files that are copied out. Others stay behind.
pub(super) const OUTPUT: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "tiff", "ico", "mp4", "webm", "avi", "mov", "mkv", "mp3", "wav", "ogg", "flac",
    "aac", "m4a", "pdf", "csv", "json", "xml", "txt", "html", "md", "xlsx", "docx", "pptx",
];

/// The media type of a file.
pub(super) fn of(path: &str) -> &'static str {
    let extension = extension(path);
    TYPES.iter().find(|(known, _)| *known == extension).map_or("application/octet-stream", |(_, media_type)| media_type)
}

fn extension(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_counts_in_either_case() {
        for (path, media_type) in [
            ("chart.png", "image/png"),
            ("a/b.PNG", "image/png"),
            ("a.tar.gz", "application/gzip"),
            ("page.htm", "text/html"),
            ("a.csv/b", "application/octet-stream"),
            ("x.", "application/octet-stream"),
            (".json", "application/json"),
        ] {
            assert_eq!(of(path), media_type, "{path}");
        }
        assert!(TYPES.is_sorted() && OUTPUT.iter().all(|extension| TYPES.iter().any(|(known, _)| known == extension)));
    }
}
