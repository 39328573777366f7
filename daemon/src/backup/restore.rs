//! Restores a backup of SQLite.
//!
//! ```text
//!  hashes ─▶ jarvis.db.restore: unpacked, compared, migrated ─▶ hold ─▶ safety backup ─▶ rename over jarvis.db ─▶ log
//! ```
//!
//! The daemon may be running. While the database is held, a turn waits for it, and is answered as not stored
//! if that takes long. So the restore takes no acknowledged turn away. Afterwards the daemon notices the new
//! file, and continues with it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sqlx::SqliteConnection;

use super::create::{Run, create_from};
use super::keys::Keys;
use super::lock::sync_folder;
use super::manifest::{Manifest, Role};
use super::sqlite::{self, Access};
use super::verify::{check_hashes, check_unpacked, open_as_store, unpack};
use super::{BackupError, Kind, Level, merge, way_back};
use crate::durable;
use crate::memory::Imported;
use crate::store::vanished::marked;
use crate::store::{StoreError, VERSION, classify, heal};

crate::store::sql::statements! {
    EMPTY_LOG = "PRAGMA wal_checkpoint(TRUNCATE)";
    HOLD = "BEGIN IMMEDIATE";
    LET_GO = "ROLLBACK";
}

/// The outcome of a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    pub backup: String,
    /// The target, in a form that may be shown.
    pub to: String,
    /// The backup of the replaced database.
    pub safety: Option<String>,
    /// The path of the damaged file that was replaced.
    pub set_aside: Option<PathBuf>,
    /// Turns stored while the memory was missing, which were added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_apart: Option<Imported>,
    pub messages: u64,
    /// Messages that Postgres did not have and that are back on this device.
    #[serde(skip_serializing_if = "is_zero")]
    pub brought_back: u64,
    /// Messages that Postgres did not have and that are only in the backup.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    pub took_ms: u64,
}

/// Serde passes a reference.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Unpacks the database of a backup to the new file `to`, compares it with the manifest and brings it to the
/// present schema.
///
/// # Errors
/// [`BackupError`]; `to` then does not exist.
pub async fn to_file(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    to: &Path,
) -> Result<(), BackupError> {
    not_newer(manifest)?;
    let entry = manifest.file(Role::Database)?;
    check_hashes(run, folder, manifest).await?;
    restore_file(run, folder, manifest, entry, keys, to).await
}

pub(super) async fn restore_file(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &super::manifest::FileEntry,
    keys: &Keys,
    to: &Path,
) -> Result<(), BackupError> {
    run.progress.begin(entry.plain_bytes);
    unpack(run, folder, manifest, entry, keys, to).await?;
    let good = async {
        check_unpacked(run, manifest, entry, to, Level::Restore).await?;
        open_as_store(manifest, to).await?;
        let disk = BackupError::disk("what is restored could not be written", to);
        fs::File::open(to)
            .and_then(|file| file.sync_all())
            .and_then(|()| durable::sync_name(to))
            .map_err(disk)
    };
    let good = good.await;
    if good.is_err() {
        let _ = heal::remove_database(to);
    }
    good
}

/// # Errors
/// [`BackupError::Newer`] if this program does not know the schema in the backup.
pub fn not_newer(manifest: &Manifest) -> Result<(), BackupError> {
    let known = match manifest.origin {
        super::manifest::Origin::Sqlite => VERSION,
        super::manifest::Origin::Postgres => i64::from(crate::store::postgres::VERSION),
    };
    if manifest.schema_version <= known {
        return Ok(());
    }
    let found = manifest.schema_version;
    let detail = format!("schema version {found}, this program knows up to {known}");
    Err(BackupError::Newer { name: manifest.name.clone(), detail })
}

/// Replaces this device's database with that of a backup.
///
/// # Errors
/// [`BackupError`]; the database is then unchanged.
pub async fn in_place(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
) -> Result<Restored, BackupError> {
    let started = std::time::Instant::now();
    let db = &run.settings.paths.db;
    let fresh = heal::beside(db, ".restore");
    data_folder(db)?;
    // A file left by an interrupted restore.
    let disk = BackupError::disk("what is restored could not be written", &fresh);
    heal::remove_database(&fresh).map_err(&disk)?;
    to_file(run, folder, manifest, keys, &fresh).await?;
    let replaced = async {
        sqlite::forget_read(&fresh).await?;
        sqlite::take_over(&fresh).await?;
        replace(run, db, &fresh).await
    };
    let replaced = replaced.await;
    if replaced.is_err() {
        let _ = heal::remove_database(&fresh);
    }
    let Replaced { safety, set_aside, held_apart } = replaced?;
    let restored = Restored {
        backup: manifest.name.clone(),
        to: db.display().to_string(),
        safety,
        set_aside,
        held_apart,
        messages: messages(manifest),
        brought_back: 0,
        left_out: 0,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    note(run, &run.settings.paths.data, &restored)?;
    Ok(restored)
}

pub(super) fn messages(manifest: &Manifest) -> u64 {
    let database = manifest.file(Role::Database).ok();
    database.and_then(|file| file.tables.get("messages")).map_or(0, |messages| messages.rows)
}

pub(super) fn data_folder(db: &Path) -> Result<&Path, BackupError> {
    if let Some(target) = durable::leads_nowhere(db) {
        return Err(BackupError::Refused(format!(
            "{} is a link to {}, which is not there: mount the disk that holds it, or remove the link",
            db.display(),
            target.display()
        )));
    }
    let folder = durable::folder_of(db);
    durable::create_folder(folder)
        .map_err(BackupError::disk("the folder of the database could not be made", folder))?;
    Ok(folder)
}

/// The fate of the replaced database.
#[derive(Debug, Default)]
struct Replaced {
    safety: Option<String>,
    set_aside: Option<PathBuf>,
    held_apart: Option<Imported>,
}

/// Backs up the present database and puts `fresh` in its place. A database held apart while the memory was
/// missing is merged into `fresh` instead.
async fn replace(run: &Run<'_>, db: &Path, fresh: &Path) -> Result<Replaced, BackupError> {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    if bytes(db) == 0 {
        let mut replaced = Replaced::default();
        if bytes(&heal::beside(db, "-wal")) > 0 {
            // The log is all that is left of the database.
            let disk = BackupError::disk("the log of the database could not be set aside", db);
            replaced.set_aside = Some(heal::move_aside(db, run.clock.now_unix_ms()).map_err(disk)?);
        }
        put_in_place(fresh, db).await?;
        return Ok(replaced);
    }
    let safe = async {
        let mut held = hold(db).await?;
        // Uses another connection, which reads the committed rows while this one blocks writers.
        let kept = async {
            // An unreadable file is damaged or not ours; its backup reports that.
            let apart = matches!(marked(&mut held, db).await, Ok(Some(_)));
            if apart || matches!(way_back::missing(run.settings).await, Ok(Some(_))) {
                let held_apart = Some(merge::held_apart(run, db, fresh).await?);
                return Ok(Replaced { held_apart, ..Replaced::default() });
            }
            let safety = Some(create_from(run, Kind::Safety, None).await?.name);
            Ok(Replaced { safety, ..Replaced::default() })
        };
        match kept.await {
            Ok(replaced) => Ok((held, replaced)),
            Err(e) => {
                let_go(held, db).await;
                Err(e)
            }
        }
    };
    match safe.await {
        Ok((held, replaced)) => {
            let put = put_in_place(fresh, db).await;
            let_go(held, db).await;
            put?;
            Ok(replaced)
        }
        Err(BackupError::Store(StoreError::Damaged { detail, .. } | StoreError::NotOurs { detail, .. })) => {
            log::warn!("the database that is replaced is damaged ({detail}) and is set aside as it is");
            let _lock = heal::lock(db).await?;
            let disk = BackupError::disk("the damaged database could not be set aside", db);
            let aside = heal::move_aside(db, run.clock.now_unix_ms()).map_err(&disk)?;
            heal::put_in_place(fresh, db).map_err(disk)?;
            Ok(Replaced { set_aside: Some(aside), ..Replaced::default() })
        }
        Err(e) => Err(without_safety(run, e)),
    }
}

/// Explains that the backup of the present database could not be made, if the folder of the backups is
/// read-only.
fn without_safety(run: &Run<'_>, error: BackupError) -> BackupError {
    let dir = run.lock.dir();
    match &error {
        BackupError::Disk { path, .. } if error.is_unwritable() && path.starts_with(dir) => {
            BackupError::Refused(format!(
                "what is there would be backed up to {} before it is replaced, and that folder cannot be \
                 written to ({}): make it writable, copy the backup to another folder and set backup.dir to \
                 that, or restore with --to FILE",
                dir.display(),
                crate::error::chain(&error)
            ))
        }
        _ => error,
    }
}

async fn put_in_place(fresh: &Path, db: &Path) -> Result<(), BackupError> {
    let _lock = heal::lock(db).await?;
    heal::put_in_place(fresh, db).map_err(BackupError::disk("the database could not be replaced", db))
}

/// Blocks all writers of the database, with an empty log, so that the log can be removed without loss.
async fn hold(db: &Path) -> Result<SqliteConnection, BackupError> {
    const ATTEMPTS: usize = 50;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut conn = sqlite::connect(db, Access::Write).await?;
    let sql = |e| classify(e, db);
    for _ in 0..ATTEMPTS {
        sqlx::query(EMPTY_LOG).execute(&mut conn).await.map_err(sql)?;
        sqlx::query(HOLD).execute(&mut conn).await.map_err(sql)?;
        if fs::metadata(heal::beside(db, "-wal")).map_or(0, |log| log.len()) == 0 {
            return Ok(conn);
        }
        // Another process was faster, or still reads the log.
        sqlx::query(LET_GO).execute(&mut conn).await.map_err(sql)?;
        tokio::time::sleep(PAUSE).await;
    }
    sqlite::close(conn).await;
    Err(StoreError::Busy { path: db.into() }.into())
}

async fn let_go(mut conn: SqliteConnection, db: &Path) {
    if let Err(e) = sqlx::query(LET_GO).execute(&mut conn).await {
        log::debug!("letting go of {}: {e}", db.display());
    }
    sqlite::close(conn).await;
}

/// Adds a line to the log of restores in the data folder.
pub(super) fn note(run: &Run<'_>, data: &Path, restored: &Restored) -> Result<(), BackupError> {
    #[derive(Serialize)]
    struct Line<'a> {
        at_unix_ms: i64,
        #[serde(flatten)]
        restored: &'a Restored,
    }
    let path = data.join("restore.log");
    let line = Line { at_unix_ms: run.clock.now_unix_ms(), restored };
    let write = || {
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        let mut log = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        log.write_all(text.as_bytes())?;
        log.sync_all()
    };
    write()
        .map_err(BackupError::disk("it was restored, and the log of restores could not be written", &path))?;
    sync_folder(data)
}
