//! Files beside the database, each about one row: `jarvis.db.turn-ID`, `jarvis.db.undo-ID`.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::durable;

/// The file with `mark` between the name of the database and the id.
pub(super) fn path(database: &Path, mark: &str, id: Uuid) -> PathBuf {
    crate::store::heal::beside(database, &format!("{mark}{}", id.simple()))
}

/// All files with this mark.
pub(super) fn all(database: &Path, mark: &str) -> Vec<(Uuid, PathBuf)> {
    let Some(name) = database.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(durable::folder_of(database)) else { return Vec::new() };
    let marked = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let id = file.to_str()?.strip_prefix(name)?.strip_prefix(mark)?.parse().ok()?;
        Some((id, entry.path()))
    };
    entries.flatten().filter_map(marked).collect()
}
