//! Verifies that a backup is unchanged, can be read, and can be restored.

use std::fs;
use std::path::Path;

use super::progress::Progress;
use jiff::Timestamp;

use super::cancel::Cancel;
use super::create::{Run, blocking};
use super::keys::Keys;
use super::lock::SPARE_BYTES;
use super::manifest::{self, FileEntry, Manifest, Origin, Role, Sums, damaged};
use super::sqlite::{self, Access};
use super::stream::{self, pour};
use super::{BackupError, Level, Proof, pg};
use crate::durable;
use crate::store::{Store, StoreError, StoreOptions};

/// The result of a verification.
#[derive(Debug, Clone)]
pub struct Verified {
    pub proof: Proof,
    /// Whether the result was noted beside the backup; `false` if the folder is read-only.
    pub noted: bool,
}

/// Verifies the backup in `folder` and notes the result beside it, if that is writable. A failure that says
/// nothing about the backup (no space, no server, no key) is not noted.
///
/// # Errors
/// [`BackupError::Damaged`] if the backup is not good; else the reason why it could not be verified.
pub async fn verify(run: &Run<'_>, folder: &Path, level: Level, keys: &Keys) -> Result<Proof, BackupError> {
    verify_and_note(run, folder, level, keys).await.map(|looked| looked.proof)
}

/// As [`verify`]; also returns whether the result was noted.
///
/// # Errors
/// As [`verify`].
pub async fn verify_and_note(
    run: &Run<'_>,
    folder: &Path,
    level: Level,
    keys: &Keys,
) -> Result<Verified, BackupError> {
    let found = check(run, folder, level, keys).await;
    let at = Timestamp::from_millisecond(run.clock.now_unix_ms()).unwrap_or_default();
    let proof = match &found {
        Ok(()) => Proof { level, at, ok: true, detail: None },
        Err(BackupError::Damaged { detail, .. }) => {
            Proof { level, at, ok: false, detail: Some(detail.clone()) }
        }
        Err(_) => {
            return found
                .map(|()| Verified { proof: Proof { level, at, ok: false, detail: None }, noted: false });
        }
    };
    let mut written = false;
    // Without a valid manifest a proof has nothing to refer to.
    if let Ok(read) = manifest::read(folder) {
        match manifest::add_proof(folder, &read.sha256, proof.clone()) {
            Ok(()) => written = true,
            Err(e) if found.is_ok() && !e.is_unwritable() => return Err(e),
            Err(e) => log::warn!("{}", crate::error::chain(&e)),
        }
    }
    found.map(|()| Verified { proof, noted: written })
}

async fn check(run: &Run<'_>, folder: &Path, level: Level, keys: &Keys) -> Result<(), BackupError> {
    let manifest = manifest::read(folder)?.manifest;
    check_hashes(run, folder, &manifest).await?;
    if level == Level::Quick {
        return Ok(());
    }
    let plain: u64 = manifest.files.iter().map(|file| file.plain_bytes).sum();
    run.progress.begin(plain);
    for entry in &manifest.files {
        match (entry.role, manifest.origin) {
            (Role::Config, _) => read_config(folder, &manifest, entry, keys)?,
            (Role::Queue, _) | (Role::Database, Origin::Sqlite) => {
                into_scratch(run, folder, &manifest, entry, level, keys).await?;
            }
            (Role::Database, Origin::Postgres) => {
                pg::parse(run, folder, &manifest, entry, keys).await?;
                if level == Level::Restore {
                    let postgres = run.settings.postgres.as_ref().ok_or_else(|| {
                        BackupError::Refused(
                            "this backup is of Postgres and store.postgres_url is not set: it can be \
                             verified up to --level full"
                                .to_owned(),
                        )
                    })?;
                    pg::into_scratch(run, folder, &manifest, entry, keys, postgres).await?;
                }
            }
        }
    }
    Ok(())
}

/// Reads every byte of every file.
pub(super) async fn check_hashes(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
) -> Result<(), BackupError> {
    manifest.file(Role::Database)?;
    run.progress.begin(manifest.files.iter().map(|file| file.bytes).sum());
    let (folder, manifest) = (folder.to_path_buf(), manifest.clone());
    let (progress, cancel) = (run.progress.clone(), run.cancel.clone());
    blocking(move || {
        manifest
            .files
            .iter()
            .try_for_each(|entry| stream::check_hashes(&folder, &manifest, entry, &progress, &cancel))
    })
    .await
}

/// Checks whether the backup could be restored: hashes and key.
///
/// # Errors
/// [`BackupError`].
pub async fn check_readable(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
) -> Result<(), BackupError> {
    check_hashes(run, folder, manifest).await?;
    stream::open(folder, manifest, manifest.file(Role::Database)?, keys).map(drop)
}

fn read_config(
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<(), BackupError> {
    let text = config_text(folder, manifest, entry, keys)?;
    let read: Result<toml::Table, _> = text.parse();
    read.map(drop).map_err(|_| damaged(&manifest.name, "its configuration is no TOML"))
}

/// The configuration in the backup.
pub(super) fn config_text(
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<String, BackupError> {
    const MAX_BYTES: u64 = 16 << 20;
    let mut text = Vec::new();
    if entry.plain_bytes > MAX_BYTES {
        return Err(damaged(&manifest.name, "its configuration is too long to be one"));
    }
    let file = stream::open(folder, manifest, entry, keys)?;
    let (hidden, cancel) = (Progress::hidden(), Cancel::default());
    pour(file, &mut text, (&manifest.name, folder), &hidden, &cancel)?;
    String::from_utf8(text).map_err(|_| damaged(&manifest.name, "its configuration is not UTF-8"))
}

async fn into_scratch(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    level: Level,
    keys: &Keys,
) -> Result<(), BackupError> {
    let scratch = run.lock.scratch_for(entry.plain_bytes.saturating_add(SPARE_BYTES))?;
    let path = scratch.path().join("jarvis.db");
    unpack(run, folder, manifest, entry, keys, &path).await?;
    check_unpacked(run, manifest, entry, &path, level).await?;
    if level == Level::Restore {
        open_as_store(manifest, &path).await?;
    }
    Ok(())
}

/// Decompresses a file of the backup to the new file `to`, synced.
pub(super) async fn unpack(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
    to: &Path,
) -> Result<(), BackupError> {
    let source = stream::open(folder, manifest, entry, keys)?;
    let (to, name) = (to.to_path_buf(), manifest.name.clone());
    let (progress, cancel) = (run.progress.clone(), run.cancel.clone());
    blocking(move || {
        let disk = BackupError::disk("what is restored could not be written", &to);
        let mut file = durable::create_file(&to).map_err(&disk)?;
        let poured = pour(source, &mut file, (&name, &to), &progress, &cancel);
        let synced = poured.and_then(|()| file.sync_all().map_err(disk));
        if synced.is_err() {
            let _ = fs::remove_file(&to);
        }
        synced
    })
    .await
}

/// Checks the structure of the unpacked file; with [`Level::Restore`] also that every table has the rows of
/// the manifest.
pub(super) async fn check_unpacked(
    run: &Run<'_>,
    manifest: &Manifest,
    entry: &FileEntry,
    path: &Path,
    level: Level,
) -> Result<(), BackupError> {
    let looked = async {
        let mut conn = sqlite::connect_until(run.cancel, path, Access::Scratch).await?;
        let identity = sqlite::identity(&mut conn, path).await?;
        sqlite::check(&mut conn, path).await?;
        let sums = match level {
            Level::Restore => Some(sqlite::sums(&mut conn, path, run.cancel).await?),
            _ => None,
        };
        let undelivered = match (entry.role, manifest.undelivered) {
            (Role::Queue, Some(wanted)) => {
                Some(sqlite::undelivered(&mut conn, wanted.everything, path).await?)
            }
            _ => None,
        };
        sqlite::close(conn).await;
        Ok::<_, BackupError>((identity, sums, undelivered))
    };
    let (identity, sums, undelivered) =
        looked.await.map_err(|e| bad_database(manifest, run.cancel.explains(e)))?;
    let of_store = entry.role == Role::Database;
    if !identity.ours || (of_store && identity.schema_version != manifest.schema_version) {
        return Err(damaged(&manifest.name, "its database is of another kind than it says"));
    }
    if let (Some(wanted), Some(found)) = (manifest.undelivered, undelivered)
        && (wanted.messages, wanted.refused) != (found.messages, found.refused)
    {
        let detail =
            format!("it has {} of {} messages that were not in Postgres", found.messages, wanted.messages);
        return Err(damaged(&manifest.name, detail));
    }
    match sums {
        Some(sums) => compare(manifest, &entry.tables, &sums),
        None => Ok(()),
    }
}

/// Turns a fault of an unpacked file into a fault of the backup.
fn bad_database(manifest: &Manifest, error: BackupError) -> BackupError {
    match error {
        BackupError::Store(
            e @ (StoreError::Damaged { .. } | StoreError::Sql(_) | StoreError::NotOurs { .. }),
        ) => {
            let detail = match e {
                StoreError::Damaged { detail, .. } | StoreError::NotOurs { detail, .. } => detail,
                e => crate::error::chain(&e),
            };
            damaged(&manifest.name, format!("its database: {detail}"))
        }
        e => e,
    }
}

/// # Errors
/// `Damaged` with the first table that differs.
pub(super) fn compare(manifest: &Manifest, wanted: &Sums, found: &Sums) -> Result<(), BackupError> {
    for (table, wanted) in wanted {
        let Some(found) = found.get(table) else {
            return Err(damaged(&manifest.name, format!("its database has no table {table}")));
        };
        if found.rows != wanted.rows {
            let detail = format!("table {table} has {} rows instead of {}", found.rows, wanted.rows);
            return Err(damaged(&manifest.name, detail));
        }
        if found.hash != wanted.hash {
            return Err(damaged(
                &manifest.name,
                format!("the rows of table {table} are not what was backed up"),
            ));
        }
    }
    Ok(())
}

/// Opens the file like the daemon, which migrates it, and reads all of it once more.
pub(super) async fn open_as_store(manifest: &Manifest, path: &Path) -> Result<(), BackupError> {
    let opened = async {
        let options = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
        let store = Store::open(path, &options).await?;
        let checked = store.check().await;
        let emptied = store.checkpoint_truncate().await;
        store.close().await;
        checked?;
        emptied.map(drop)
    };
    match opened.await {
        Ok(()) => Ok(()),
        Err(StoreError::Newer { found, known, .. }) => Err(BackupError::Newer {
            name: manifest.name.clone(),
            detail: format!("schema version {found}, this program knows up to {known}"),
        }),
        Err(e) => Err(bad_database(manifest, BackupError::Store(e))),
    }
}
