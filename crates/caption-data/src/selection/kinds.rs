//! Kinds of files, by their names.

/// Extensions of the pictures that [`ImageDecoder`](crate::ImageDecoder) reads.
pub const PICTURES: [&str; 22] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "gif", "webp", "bmp", "tif", "tiff", "ico", "pnm", "pbm",
    "pgm", "ppm", "pam", "tga", "icb", "vda", "vst", "qoi",
];

/// Extensions of pictures in unsupported formats; such files are reported.
pub const UNREAD_PICTURES: [&str; 26] = [
    "avif", "heic", "heif", "jxl", "svg", "svgz", "jp2", "j2k", "jpx", "psd", "xcf", "eps", "dib", "pcx",
    "dds", "exr", "hdr", "icns", "cr2", "cr3", "nef", "arw", "dng", "raf", "orf", "rw2",
];

/// Extensions of the text files beside pictures that hold their captions; if there are several, the first is
/// read.
pub const CAPTIONS: [&str; 2] = ["txt", "caption"];

/// Whether a file has one of [`PICTURES`]' extensions.
pub fn is_picture(path: &str) -> bool {
    PICTURES.contains(&extension(path).as_str())
}

/// Names of the files that describe the pictures of their folder; if a folder has several, the first is read.
pub const METADATA: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];

/// Whether a file describes the pictures of its folder.
pub fn is_metadata(path: &str) -> bool {
    METADATA.contains(&path.rsplit('/').next().unwrap_or(path))
}

/// The part of a path after its last dot, in lower case.
pub fn extension(path: &str) -> String {
    path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// The folder that a path is in; empty for the dataset's own.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
