//! Makes a backup.
//!
//! ```text
//!  lock ─▶ room? ─▶ .partial-NAME/: copy, hash, compress ─▶ manifest ─sync─▶ rename to NAME ─sync─▶ verify
//! ```
//!
//! After an interruption at any point, every folder with a backup's name is whole.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use super::progress::Progress;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::cancel::Cancel;
use super::context::Context;
use super::keys::Keys;
use super::lock::{Lock, SPARE_BYTES, Scratch, sync_folder};
use super::manifest::{self, CHUNK_BYTES, FORMAT, FileEntry, Manifest, Origin, Role, Sums, Undelivered};
use super::sqlite::{self, Access};
use super::stream::Sealed;
use super::{BackupError, Kind, PREFIX, known, name_at, order, pg, way_back};
use crate::clock::Clock;
use crate::store::postgres::PgSettings;
use crate::store::{Store, StoreError, StoreOptions, VERSION};

/// Attempts at a copy that is the same as the database, while other connections write.
const COMPARISONS: usize = 3;

/// The context of every step.
#[derive(Debug)]
pub struct Run<'a> {
    pub settings: &'a Context,
    pub clock: &'a Clock,
    pub lock: &'a Lock,
    pub cancel: &'a Cancel,
    pub progress: &'a Progress,
}

/// A backup that is on the disk but not proven yet.
#[derive(Debug)]
pub struct Made {
    pub name: String,
    pub manifest: Manifest,
    /// The keys that open it, possibly known to this process only.
    pub keys: Keys,
}

/// A database written into the folder of the backup.
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) files: Vec<FileEntry>,
    pub(super) schema_version: i64,
    pub(super) server_version: String,
    pub(super) tool: Option<String>,
    pub(super) compared_with_source: bool,
    /// For Postgres: the messages it does not have.
    pub(super) undelivered: Option<Undelivered>,
}

/// Makes a backup of the memory: of Postgres if there is one, else of the device's database.
///
/// # Errors
/// [`BackupError`]; nothing is left behind.
pub async fn create(run: &Run<'_>, kind: Kind) -> Result<Made, BackupError> {
    let postgres = run.settings.postgres.as_ref();
    if postgres.is_some() {
        nothing_is_only_in_another(run).await?;
    }
    create_from(run, kind, postgres).await
}

/// Refuses a backup that would be the newest one while an older one holds words that it lacks.
async fn nothing_is_only_in_another(run: &Run<'_>) -> Result<(), BackupError> {
    let db = &run.settings.paths.db;
    let only = if db.exists() {
        let options = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
        // The backup of a database reports that it cannot be opened.
        let Ok(store) = Store::open(db, &options).await else { return Ok(()) };
        let only = store.only_in_backup().await;
        store.close().await;
        only.ok().flatten()
    } else {
        way_back::asked(run.settings).undelivered
    };
    match only {
        Some(only) => Err(BackupError::Refused(format!("no backup was made, because {only}"))),
        None => Ok(()),
    }
}

/// Makes a backup of one of the two databases.
pub(super) async fn create_from(
    run: &Run<'_>,
    kind: Kind,
    postgres: Option<&PgSettings>,
) -> Result<Made, BackupError> {
    let started = Instant::now();
    let stamp = run.clock.stamp();
    let (name, taken_at) = free_name(run.lock.dir(), stamp.wall_unix_ms)?;
    let seq = order::next_seq(known::highest(run)?, &stamp);
    let partial = run.lock.dir().join(format!(".partial-{name}"));
    let disk = BackupError::disk("the folder of the backup could not be made", &partial);
    let partial = Scratch::of(partial).map_err(&disk)?;
    let identity_file = run.settings.backup.identity_file.as_ref();
    let mut recipients = Vec::new();
    for text in &run.settings.backup.recipients.0 {
        recipients.push(super::keys::recipient(text).map_err(BackupError::Key)?);
    }
    // A missing key does not prevent the backup.
    let mut keys = Keys::read(identity_file).unwrap_or_else(|e| {
        log::warn!("{e}");
        Keys::default()
    });
    if !recipients.is_empty() {
        let (with_own, own) = keys.with_own();
        keys = with_own;
        recipients.push(own);
    }
    let source = match postgres {
        Some(postgres) => pg::dump(run, partial.path(), &recipients, postgres).await,
        None => from_sqlite(run, partial.path(), &recipients).await,
    };
    let mut source = source.map_err(|e| run.cancel.explains(e))?;
    let config = crate::config::print(&run.settings.effective);
    let mut sealed = Sealed::create(partial.path(), Role::Config, &recipients, None)?;
    sealed.take(config.as_bytes(), &Progress::hidden(), run.cancel)?;
    source.files.push(sealed.finish(Sums::new())?);
    let manifest = Manifest {
        format: FORMAT,
        name: name.clone(),
        kind,
        taken_unix_ms: taken_at.as_millisecond(),
        clock_synced: stamp.synced,
        seq: Some(seq),
        boot: Some(manifest::Boot { id: stamp.boot_id.to_string(), monotonic_ns: stamp.monotonic_ns }),
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        device: run.settings.device.clone(),
        program: format!("jarvisd {}", env!("CARGO_PKG_VERSION")),
        origin: source.origin,
        schema_version: source.schema_version,
        server_version: source.server_version,
        tool: source.tool,
        compared_with_source: source.compared_with_source,
        encrypted: !recipients.is_empty(),
        recipients: run.settings.backup.recipients.0.clone(),
        chunk_bytes: CHUNK_BYTES,
        undelivered: source.undelivered,
        files: source.files,
    };
    run.cancel.check()?;
    manifest::write(partial.path(), &manifest)?;
    sync_folder(partial.path())?;
    partial.rename(&run.lock.dir().join(&name)).map_err(disk)?;
    sync_folder(run.lock.dir())?;
    Ok(Made { name, manifest, keys })
}

/// A name that no backup has yet: the time, or the next free second.
fn free_name(dir: &Path, now_unix_ms: i64) -> Result<(String, Timestamp), BackupError> {
    const SECOND: SignedDuration = SignedDuration::from_secs(1);
    let mut time = Timestamp::from_millisecond(now_unix_ms).unwrap_or_default();
    for _ in 0..600 {
        let name = name_at(time);
        if fs::symlink_metadata(dir.join(&name)).is_err() {
            return Ok((name, time));
        }
        time = time.checked_add(SECOND).unwrap_or(time);
    }
    Err(BackupError::Refused(format!(
        "{} is full of folders called {PREFIX}… of this minute: move them away",
        dir.display()
    )))
}

async fn from_sqlite(
    run: &Run<'_>,
    folder: &Path,
    recipients: &[age::x25519::Recipient],
) -> Result<Source, BackupError> {
    let db = &run.settings.paths.db;
    if run.settings.postgres.is_none()
        && let Ok(Some(missing)) = way_back::missing(run.settings).await
    {
        // An empty memory must not become the newest backup.
        return Err(StoreError::Vanished(missing).into());
    }
    if !db.exists() {
        return Err(BackupError::Refused(format!(
            "there is no database at {} yet, so there is nothing to back up",
            db.display()
        )));
    }
    // Room for the copy, and for the compressed copy beside it or the restored one.
    run.lock.needs(bytes_of(db).saturating_mul(2).saturating_add(SPARE_BYTES))?;
    let copy = folder.join("copy.db");
    let made = copy_compared(run, db, &copy).await?;
    let bytes = fs::metadata(&copy).map_or(0, |copy| copy.len());
    run.progress.begin(bytes);
    let entry = compress(run, folder, &copy, Role::Database, recipients, made.sums).await?;
    Ok(Source {
        origin: Origin::Sqlite,
        files: vec![entry],
        schema_version: made.identity.schema_version,
        server_version: format!("SQLite {}", made.identity.engine),
        tool: None,
        compared_with_source: made.compared,
        undelivered: None,
    })
}

/// Size of the database with its log.
fn bytes_of(db: &Path) -> u64 {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    bytes(db).saturating_add(bytes(&crate::store::heal::beside(db, "-wal")))
}

struct Copied {
    sums: Sums,
    identity: sqlite::Identity,
    compared: bool,
}

/// Copies the database, and compares the rows of the copy with the original of the same moment. Copy and
/// original are read one after the other, so a write in between repeats both.
async fn copy_compared(run: &Run<'_>, db: &Path, copy: &Path) -> Result<Copied, BackupError> {
    let mut live = sqlite::connect_until(run.cancel, db, Access::Read).await?;
    let identity = sqlite::identity(&mut live, db).await?;
    if !identity.ours {
        sqlite::close(live).await;
        let detail = "it has no mark of Jarvis".to_owned();
        return Err(StoreError::NotOurs { path: db.into(), detail }.into());
    }
    let mut attempt = 0;
    let copied = loop {
        attempt += 1;
        run.cancel.check()?;
        let before = sqlite::changes(&mut live, db).await?;
        sqlite::copy(&mut live, db, copy).await?;
        let mut scratch = sqlite::connect_until(run.cancel, copy, Access::Scratch).await?;
        let sums = sqlite::sums(&mut scratch, copy, run.cancel).await;
        sqlite::close(scratch).await;
        let sums = sums?;
        if sqlite::sums(&mut live, db, run.cancel).await? == sums {
            break Copied { sums, identity, compared: true };
        }
        if sqlite::changes(&mut live, db).await? == before {
            let detail = "what was copied is not what it holds".to_owned();
            return Err(StoreError::Damaged { path: db.into(), detail }.into());
        }
        if attempt == COMPARISONS {
            // The copy is still one moment of the database, and verifying checks its structure.
            break Copied { sums, identity, compared: false };
        }
        fs::remove_file(copy).map_err(BackupError::disk("the copy could not be made again", copy))?;
    };
    sqlite::close(live).await;
    Ok(copied)
}

/// Compresses a file of the folder into the backup and removes it.
async fn compress(
    run: &Run<'_>,
    folder: &Path,
    copy: &Path,
    role: Role,
    recipients: &[age::x25519::Recipient],
    sums: Sums,
) -> Result<FileEntry, BackupError> {
    let mut sealed = Sealed::create(folder, role, recipients, None)?;
    let (progress, cancel, path) = (run.progress.clone(), run.cancel.clone(), copy.to_path_buf());
    blocking(move || {
        let disk = BackupError::disk("the copy could not be read", &path);
        let file = File::open(&path).map_err(&disk)?;
        sealed.take(file, &progress, &cancel)?;
        let entry = sealed.finish(sums)?;
        fs::remove_file(&path).map_err(disk)?;
        Ok(entry)
    })
    .await
}

/// Writes the entries that this device had not delivered to the database `house` as a file of the backup, and
/// counts them. `None` if the device has no database of its own.
pub(super) async fn queue_file(
    run: &Run<'_>,
    folder: &Path,
    recipients: &[age::x25519::Recipient],
    house: Option<Uuid>,
) -> Result<Option<(FileEntry, Undelivered)>, BackupError> {
    let db = &run.settings.paths.db;
    if !db.exists() {
        return Ok(None);
    }
    // The copy holds everything before it is reduced to the waiting entries.
    run.lock.needs(bytes_of(db).saturating_add(SPARE_BYTES))?;
    let copy = folder.join("queue.db");
    let mut live = sqlite::connect_until(run.cancel, db, Access::Read).await?;
    let copied = sqlite::copy(&mut live, db, &copy).await;
    sqlite::close(live).await;
    copied?;
    let everything = sqlite::keep_what_waits(&copy, house, run.cancel).await?;
    let mut scratch = sqlite::connect_until(run.cancel, &copy, Access::Scratch).await?;
    let sums = sqlite::sums(&mut scratch, &copy, run.cancel).await;
    let undelivered = sqlite::undelivered(&mut scratch, everything, &copy).await;
    sqlite::close(scratch).await;
    let undelivered = undelivered?;
    let entry = compress(run, folder, &copy, Role::Queue, recipients, sums?).await?;
    Ok(Some((entry, undelivered)))
}

/// Counts the operations of this device that Postgres does not have and that this program could send.
/// Operations of a newer program in the queue can only be sent by that program. They go into the safety
/// backup, and do not prevent going back.
///
/// # Errors
/// [`BackupError::Store`].
pub async fn waiting(run: &Run<'_>) -> Result<i64, BackupError> {
    let db = &run.settings.paths.db;
    let mut live = sqlite::connect(db, Access::Read).await?;
    let waiting = async {
        let newer = sqlite::identity(&mut live, db).await?.schema_version > VERSION;
        let waiting = sqlite::waiting(&mut live, db).await?;
        if newer && waiting > 0 {
            log::warn!(
                "{waiting} entries of a newer program were never delivered; they are in the safety backup \
                 only"
            );
        }
        Ok(if newer { 0 } else { waiting })
    };
    let waiting = waiting.await;
    sqlite::close(live).await;
    waiting
}

/// Runs work that keeps a processor or the disk busy.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic has already ended the process.
        Err(_) => Err(BackupError::Cancelled),
    }
}
