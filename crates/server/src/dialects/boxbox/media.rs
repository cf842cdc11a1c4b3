//! What a file is, by its extension, and which kinds of files a program leaves for its chat.

use caisson_engine::media_type_of_extension;

/// Extensions of files that are copied out. Others stay behind.
pub(super) const OUTPUT: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "tiff", "ico", "mp4", "webm", "avi", "mov", "mkv", "mp3", "wav", "ogg", "flac",
    "aac", "m4a", "pdf", "csv", "json", "xml", "txt", "html", "md", "xlsx", "docx", "pptx",
];

/// The media type of a file.
pub(super) fn of(path: &str) -> &'static str {
    media_type_of_extension(&extension(path))
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
        assert!(OUTPUT.iter().all(|extension| media_type_of_extension(extension) != "application/octet-stream"));
    }
}
