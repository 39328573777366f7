//! Any bytes as the files of a backup.

pub fn manifest(bytes: &[u8]) -> bool {
    super::manifest::fuzz(bytes)
}

pub fn stream(bytes: &[u8]) -> bool {
    super::columns::fuzz(bytes);
    super::stream::fuzz(bytes)
}
