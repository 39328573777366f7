//! Finds models for unit tests, and real recordings and reference vectors from outside the repository.
use std::path::{Path, PathBuf};

use crate::inference::ModelStore;

#[path = "../../tests/support/missing.rs"]
mod missing;
pub use missing::skipped;

/// A file or folder of the shared test data: below `JARVIS_TEST_DATA`, else below `../shared` beside the
/// repository. If it is missing, the test is noted as skipped.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let base = std::env::var_os("JARVIS_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = base.join(relative);
    if path.exists() {
        return Some(path);
    }
    skipped(format!("test data {relative} is not on this machine"));
    None
}

/// The committed manifest over the committed and the fetched models.
pub fn models() -> ModelStore {
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")];
    dirs.extend(std::env::var_os("JARVIS_MODELS_DIR").map(PathBuf::from));
    dirs.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share/jarvis/models")));
    ModelStore::open(&dirs).unwrap()
}
