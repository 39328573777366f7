//! The content of the remote: sizes of all files, and the small files themselves, fetched and read like a
//! local folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::rclone::Rclone;
use crate::backup::create::Run;
use crate::backup::manifest::{self, Manifest, Read};
use crate::backup::{Backup, BackupError, Level, PREFIX, Proof, RELEASED, list, time_of};
use crate::error::chain;

/// Largest small file; the manifest of a backup of 100 GiB is below this.
pub(super) const MAX_SMALL_BYTES: usize = 16 << 20;
/// Largest listing; one of 100,000 files is below this.
const MAX_LISTING_BYTES: usize = 32 << 20;

/// Sizes of the files of one copy.
pub(super) type Files = BTreeMap<String, u64>;

/// One copy.
#[derive(Debug)]
pub struct Copied {
    /// The copy in a listing; its path is the place at the remote.
    pub backup: Backup,
    /// The manifest of the copy, or the reason why it is unusable.
    pub manifest: Result<Read, String>,
}

/// All folders at the remote with a backup's name.
#[derive(Debug, Default)]
pub struct Index {
    /// Oldest first.
    pub copies: Vec<Copied>,
    /// Folders without a manifest: a copy in progress, or one that was interrupted while it was made or
    /// deleted.
    pub partial: Vec<String>,
    remote: String,
}

impl Index {
    /// The copy called `which`; `latest` is the newest.
    ///
    /// # Errors
    /// [`BackupError::NoCopy`].
    pub fn take(mut self, which: &str) -> Result<Copied, BackupError> {
        let at = match which {
            "latest" => self.copies.len().checked_sub(1),
            name => self.copies.iter().position(|copied| copied.backup.name == name),
        };
        match at {
            Some(at) => Ok(self.copies.swap_remove(at)),
            None => Err(BackupError::NoCopy { which: which.to_owned(), remote: self.remote }),
        }
    }
}

/// One file in the output of `rclone lsjson`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: String,
    #[serde(default)]
    size: i64,
}

/// Lists the files below `path` of the remote; none if the folder is missing.
async fn listed(rclone: &Rclone<'_>, path: &str) -> Result<Vec<Listed>, BackupError> {
    let at = rclone.at(path);
    let args = ["lsjson", "-R", "--max-depth", "2", "--files-only", "--no-modtime", "--no-mimetype", &at];
    let Some(text) = rclone.text(&args, MAX_LISTING_BYTES).await? else { return Ok(Vec::new()) };
    serde_json::from_slice(&text).map_err(|_| rclone.failed("the listing that rclone made cannot be read"))
}

/// The files of one copy.
pub(super) async fn files(rclone: &Rclone<'_>, name: &str) -> Result<Files, BackupError> {
    let listed = listed(rclone, name).await?;
    Ok(listed.into_iter().map(|file| (file.path, u64::try_from(file.size).unwrap_or(0))).collect())
}

/// The first file of the manifest that is missing or has another size.
pub(super) fn wrong_size(manifest: &Manifest, files: &Files) -> Option<String> {
    manifest.files.iter().find_map(|entry| {
        let file = entry.role.file(manifest.encrypted);
        match files.get(&file) {
            None => Some(format!("{file}: it is not there")),
            Some(bytes) if *bytes != entry.bytes => {
                Some(format!("{file}: it has {bytes} bytes instead of {}", entry.bytes))
            }
            Some(_) => None,
        }
    })
}

/// Reads the content of the remote.
///
/// # Errors
/// [`BackupError`].
pub async fn index(run: &Run<'_>) -> Result<Index, BackupError> {
    let rclone = Rclone::of(run)?;
    let mut all: BTreeMap<String, Files> = BTreeMap::new();
    for file in listed(&rclone, "").await? {
        if let Some((name, file_name)) = file.path.split_once('/')
            && time_of(name).is_some()
        {
            let bytes = u64::try_from(file.size).unwrap_or(0);
            all.entry(name.to_owned()).or_default().insert(file_name.to_owned(), bytes);
        }
    }
    let mut index = Index { remote: rclone.remote.to_owned(), ..Index::default() };
    if all.is_empty() {
        return Ok(index);
    }
    let scratch = run.lock.scratch()?;
    bring_small(&rclone, scratch.path()).await?;
    for mut backup in list(scratch.path(), run.clock)? {
        let Some(files) = all.remove(&backup.name) else { continue };
        if !files.contains_key(manifest::MANIFEST) {
            index.partial.push(backup.name);
            continue;
        }
        let manifest = manifest::read(&backup.path).map_err(|e| chain(&e));
        if let Ok(read) = &manifest
            && let Some(wrong) = wrong_size(&read.manifest, &files)
        {
            let at = super::now(run);
            backup.proofs.push(Proof { level: Level::Quick, at, ok: false, detail: Some(wrong) });
        }
        // The remote's numbers, which may be any.
        backup.bytes = files.values().copied().fold(0, u64::saturating_add);
        backup.path = PathBuf::from(rclone.at(&backup.name));
        index.copies.push(Copied { backup, manifest });
    }
    let partial = all.into_iter().filter(|(_, files)| !files.contains_key(manifest::MANIFEST));
    index.partial.extend(partial.map(|(name, _)| name));
    Ok(index)
}

/// Copies the small files of every copy into `to`.
async fn bring_small(rclone: &Rclone<'_>, to: &std::path::Path) -> Result<(), BackupError> {
    let from = rclone.at("");
    let mut args: Vec<std::ffi::OsString> = vec!["copy".into(), from.into(), to.into()];
    for file in [manifest::MANIFEST, manifest::PROOFS, RELEASED] {
        args.push("--include".into());
        args.push(format!("/{PREFIX}*/{file}").into());
    }
    args.extend(["--max-size".into(), format!("{}M", MAX_SMALL_BYTES >> 20).into()]);
    rclone.command(&args).await
}
