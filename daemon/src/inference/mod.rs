//! Neural models: found by name in a manifest, checked by hash, run by tract with concrete shapes only.
//!
//! ```text
//!  models/manifest.toml ──▶ ModelStore ──name──▶ file (first folder that holds it) ──SHA-256──▶ tract ──▶ Plan (Arc)
//!                              │                        │ missing, damaged: refused                          │
//!                              └──▶ status: models list └──▶ sentence with the command that fixes it         └──▶ Session
//! ```
//!
//! Invariants: the bytes that are parsed are the bytes that were hashed; a [`Plan`] is immutable and shared
//! between threads; state that changes from run to run lives in a [`Session`] of one user. A symbolic axis
//! makes tract several times slower, so every plan is made for one exact shape. tract panics on graphs that
//! no exporter writes, so nothing of it runs outside [`guarded`].

pub mod allocator;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod manifest;
#[cfg(test)]
pub(crate) mod npy;
mod plan;
pub mod reference;
mod store;
#[cfg(test)]
mod tests;

pub use manifest::{Manifest, ModelEntry, Role};
pub(crate) use manifest::{into_folder, normal_name};
pub(crate) use plan::fold_large_casts;
pub use plan::{Buffer, ElementType, Input, InputFact, Outputs, Plan, Session};
pub(crate) use store::install_dir;
pub use store::{ModelState, ModelStatus, ModelStore};

use std::path::PathBuf;

use tract_onnx::prelude::TractResult;

use crate::supervisor::guarded;

/// The reasons why a model cannot be used. Each names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(
        "no {MANIFEST} in {}: reinstall the package, or set the model folder to the one of a checkout",
        list(.dirs)
    )]
    NoManifest { dirs: Vec<PathBuf> },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a model manifest; restore it from the package", .path.display())]
    Manifest { path: PathBuf, source: crate::error::TomlFault },
    #[error("{}, model {name:?}: {fault}", .path.display())]
    ManifestEntry { path: PathBuf, name: String, fault: String },
    #[error("there is no model named {name:?}; the manifest knows {known}")]
    Unknown { name: String, known: String },
    #[error("model {name} is missing: {file} is in none of {}; {fix}", list(.dirs))]
    Missing { name: String, file: String, dirs: Vec<PathBuf>, fix: String },
    #[error(
        "{} is not the file that was checked: its SHA-256 is {found}, expected {expected}; {fix}",
        .path.display()
    )]
    Damaged { path: PathBuf, expected: String, found: String, fix: String },
    #[error("{} has {bytes} bytes, more than the {limit} a model may have", .path.display())]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    #[error(
        "{} is not an ONNX model that this program can run; copy the file again, or set another model",
        .path.display()
    )]
    Parse { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{} has the wrong shape: {what} is {found}, expected {expected}", .path.display())]
    Shape { path: PathBuf, what: String, expected: String, found: String },
    #[error("model {model} does not run; copy its file again, or set another one")]
    Run { model: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("input {index} of model {model} takes {expected} values, got {found}")]
    InputSize { model: String, index: usize, expected: usize, found: usize },
    #[error("model {model} gave a value that is not a number; copy its file again, or set another one")]
    NotFinite { model: String },
}

/// Name of the manifest in a model folder.
pub const MANIFEST: &str = "manifest.toml";

/// Runs a step of tract; a panic in it is an error like its others.
pub(crate) fn contained<T>(work: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    guarded(work).unwrap_or_else(|caught| Err(caught.into()))
}

pub(crate) fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ")
}
