//! The engine of the configuration: files as written → checked sections.
//!
//! ```text
//!  jarvis.toml ─▶ conf.d/*.toml ─▶ JARVIS__SECTION__KEY     the later wins, key by key   (source.rs)
//!        └──────────────┴──────────────────┴──▶ Layers ──▶ sections, each value checked   (schema.rs, value.rs)
//! ```
//!
//! A section is declared once with `section!`, by the part of the program that it sets: the struct, the
//! checks, `docs/configuration.md` and the reload come from that. `app/settings.rs` gathers the sections and
//! checks them for contradictions. A fault never stops the reading: all of them are reported at once, each
//! with its place and key.

mod address;
mod fault;
mod file_path;
mod live;
mod paths;
mod reference;
mod schema;
mod source;
mod suggest;
mod value;
mod zone;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use address::{BrokerUrl, PostgresUrl};
pub(crate) use fault::quote;
pub use fault::{Fault, Origin};
pub(crate) use file_path::masked_words;
pub use file_path::{FilePath, Masked};
pub use live::Live;
pub use paths::Paths;
pub use reference::{page_of, print};
pub use schema::{Key, Rule, Section, take_value};
pub(crate) use schema::{section, unwrap_lines};
pub use source::{Effective, KnownKeys, Layers};
pub(crate) use value::{Raw, Value, Words, line, lines, path_from, toml_list, toml_text};

/// Where to look for the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder that stands for `/`: the configuration and all data lie below it.
    pub root: Option<PathBuf>,
    /// File to read instead of `etc/jarvis/jarvis.toml`; it must exist.
    pub config_file: Option<PathBuf>,
    /// The environment of the process.
    pub env: Vec<(OsString, OsString)>,
}

impl Options {
    /// The places before any file is read: the configuration can name another folder for backups.
    pub fn paths(&self) -> Paths {
        let (root, named) = self.places();
        Paths::new(&root, named.as_deref(), &self.env)
    }

    /// The folder that stands for `/`, and the configuration file if one is named.
    fn places(&self) -> (PathBuf, Option<PathBuf>) {
        let root = match &self.root {
            Some(root) => std::path::absolute(root).unwrap_or_else(|_| root.clone()),
            None => PathBuf::from("/"),
        };
        let named = self.config_file.as_ref();
        (root, named.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())))
    }
}

/// Reads the files and the environment. Faults are added in the order of reading.
pub(crate) fn read(options: &Options, known: KnownKeys, faults: &mut Vec<Fault>) -> (Layers, Paths) {
    let (root, named) = options.places();
    let mut paths = Paths::new(&root, named.as_deref(), &options.env);
    paths.models.dedup();
    // A root that does not exist yet counts as empty: the first writer makes it.
    if root.exists() && !root.is_dir() {
        let place: Arc<Path> = root.as_path().into();
        faults.push(Fault::new(Origin::file(&place, 0), None, "--root names a file; it takes a folder"));
    }
    let mut layers = Layers::new(known);
    layers.read_file(&paths.config_file, named.is_some(), faults);
    layers.read_folder(&paths.config_dir, faults);
    layers.read_env(&options.env, faults);
    layers.find_near_misses(&options.env, faults);
    faults.extend(zone::fault(&options.env));
    (layers, paths)
}
