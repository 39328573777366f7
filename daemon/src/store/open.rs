//! Opens the file: checks that it is ours, sound and writable, and repairs or falls back if not.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::heal::{self, FileId, FileState, beside, open_error};
use super::sqlite::{BUSY_TIMEOUT, StoreOptions, classify};
use super::vanished::{self, Missing, Vanished};
use super::{StoreError, holder, peek, schema, settings};
use crate::durable::{create_file, create_folder, folder_of};

/// Readers of one process. A household asks one thing at a time; two keep a long listing from delaying a
/// turn.
const READERS: u32 = 2;

/// Bytes of a page of a new file. A turn changes some 18 scattered pages, and each goes into the log as a
/// whole: small pages spare an SD card (docs/lab/store.md has the numbers).
pub(super) const PAGE_BYTES: u32 = 1024;

/// Checkpoints run between turns; the commit itself runs one only if the WAL reaches this size.
const AUTOCHECKPOINT_BYTES: u64 = 16 << 20;
/// A WAL larger than this is truncated when it is reset.
const JOURNAL_SIZE_LIMIT_BYTES: &str = "8388608";

/// Largest file that gets a quick check at start: it reads the whole file, and start-up must stay fast.
pub const CHECK_AT_OPEN_BYTES: u64 = 16 << 20;

super::sql::statements! {
    QUICK_CHECK = "PRAGMA quick_check(1)";
    // Also checks that indexes agree with their tables.
    INTEGRITY_CHECK = "PRAGMA integrity_check(1)";
    JOURNAL_MODE = "SELECT journal_mode FROM pragma_journal_mode";
    USE_WAL = "PRAGMA journal_mode = WAL";
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    /// Options of a connection that writes.
    pub(super) connect: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
    /// The identity of the database file and its log.
    pub(super) file: FileId,
    pub(super) log: Mutex<Option<FileId>>,
    /// Why the file cannot be written.
    pub(super) read_only: Option<StoreError>,
    /// The vanished memory, while this file is held apart until the owner has decided.
    pub(super) apart: Mutex<Option<Missing>>,
}

impl Opened {
    pub(super) fn log(&self) -> Option<FileId> {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a new writer after the previous one ended with its transaction. The log may be a new file by
    /// now: SQLite removes it when the last connection closes.
    pub(super) async fn writer(&self, path: &Path) -> Result<SqliteConnection, StoreError> {
        let mut conn = self.connect.connect().await.map_err(|e| classify(e, path))?;
        // SQLite creates the log with the first read.
        schema::check_current(&mut conn, path).await?;
        let log = FileId::of(&beside(path, "-wal")).map_err(|e| open_error(path, e))?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log;
        Ok(conn)
    }
}

/// The result of [`open`].
pub(super) struct Ready {
    /// `None` if the file can only be read.
    pub(super) writer: Option<SqliteConnection>,
    pub(super) opened: Opened,
    /// The repair or loss, as a sentence for a person.
    pub(super) problem: Option<String>,
}

/// How thoroughly a file is checked before use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Examination {
    /// Checks the structure, if the file is small enough for that at each start.
    Quick,
    /// A statement met damage: checks the whole file at any size, including indexes against tables.
    Thorough,
    /// Statements meet damage that no check finds: the file is repaired regardless of the check.
    Mistrust(String),
}

/// Refuses a pipe, on which SQLite would wait for a process at the other end.
///
/// # Errors
/// [`StoreError::NotOurs`] for a pipe, a socket or a device.
pub(crate) fn refuse_pipe(path: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            Err(StoreError::NotOurs { path: path.into(), detail: "it is no regular file".to_owned() })
        }
        _ => Ok(()),
    }
}

/// Opens the database at `path`. Creates a missing file, repairs a damaged one, and reads one that cannot be
/// written.
pub(super) async fn open(
    path: &Path,
    options: &StoreOptions,
    examination: &Examination,
) -> Result<Ready, StoreError> {
    refuse_pipe(path)?;
    let thorough = *examination != Examination::Quick;
    let mut told: Vec<String> = Vec::new();
    let policy = &options.vanished;
    let mut begun_anew = false;
    let found = match heal::inspect(path) {
        // Backups lie outside the data folder.
        FileState::Nothing => match vanished::evidence(path, policy) {
            Some(evidence) => FileState::Gone { evidence },
            None => FileState::Nothing,
        },
        found => found,
    };
    match &found {
        FileState::Gone { evidence } => {
            told.extend(gone(path, evidence, options).await?);
        }
        FileState::Unfinished { .. } if options.keep_damaged => {
            let detail = "it is missing, and a repair of it was not finished".to_owned();
            return Err(StoreError::Damaged { path: path.into(), detail });
        }
        FileState::Unfinished { .. } => {
            let healed = heal::heal(
                path,
                "it was missing, and its log or a damaged copy was left",
                policy,
                async || true,
            )
            .await?;
            told.extend(healed.map(|healed| healed.sentence()));
        }
        _ => {}
    }
    if let Examination::Mistrust(detail) = examination
        && !options.keep_damaged
    {
        let healed = heal::heal(path, detail, policy, async || true).await?;
        told.extend(healed.map(|healed| healed.sentence()));
    }
    let mut writer = writable(path, options, thorough).await;
    if let Err(StoreError::Damaged { detail, .. }) = &writer
        && !options.keep_damaged
    {
        let still =
            async || matches!(writable(path, options, thorough).await, Err(StoreError::Damaged { .. }));
        let healed = heal::heal(path, detail, policy, still).await?;
        begun_anew = healed.as_ref().is_some_and(|healed| healed.salvaged.is_nothing());
        told.extend(healed.map(|healed| healed.sentence()));
        writer = writable(path, options, false).await;
    }
    let busy_timeout = options.busy_timeout.unwrap_or(BUSY_TIMEOUT);
    let connect = connect_options(path, options, busy_timeout);
    let (mut writer, reading, read_only) = match writer {
        Ok(writer) => (Some(writer), connect.clone().read_only(true), None),
        Err(why) if found == FileState::Something && only_reading_may_help(&why) => {
            match readable(path, &connect).await {
                Some(reading) => (None, reading, Some(why)),
                None => return Err(why),
            }
        }
        Err(e) => return Err(e),
    };
    begun_anew |= matches!(found, FileState::Gone { .. });
    if let (true, Vanished::PullBack(_), Some(conn)) = (begun_anew, policy, writer.as_mut()) {
        // The new memory of this data folder continues under its id at once.
        let note = sqlx::query(settings::SET).bind(holder::KEY).bind(holder::TAKES_OVER).bind(0_i64);
        note.execute(&mut *conn).await.map_err(|e| classify(e, path))?;
        vanished::note_only_in_backup(path, policy, conn).await?;
    }
    let apart = held_apart(path, options, writer.as_mut(), &reading).await?;
    let readers = SqlitePoolOptions::new()
        .min_connections(0)
        .max_connections(READERS)
        .acquire_timeout(busy_timeout)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .connect_lazy_with(reading);
    let id = |path: &Path| FileId::of(path).map_err(|e| open_error(path, e));
    let file = id(path)?.ok_or_else(|| StoreError::Replaced { path: path.into() })?;
    let log = Mutex::new(id(&beside(path, "-wal"))?);
    let problem = (!told.is_empty()).then(|| told.join("; "));
    Ok(Ready { writer, opened: Opened { connect, readers, file, log, read_only, apart }, problem })
}

/// Handles a vanished memory: refuses, or begins a new file and returns the message for the user.
async fn gone(path: &Path, evidence: &str, options: &StoreOptions) -> Result<Option<String>, StoreError> {
    let policy = &options.vanished;
    let refused = || StoreError::Vanished(vanished::missing(path, evidence.to_owned(), policy));
    if options.keep_damaged {
        return Err(refused());
    }
    let then = match policy {
        Vanished::Begin => "restore the latest backup",
        Vanished::PullBack(_) => "what Postgres has of it is read back, and nothing else",
        Vanished::Refuse(_) => return Err(refused()),
        Vanished::HoldApart(_) => {
            log::error!("{}", refused());
            return vanished::begin_apart(path, evidence).await.map(|()| None);
        }
    };
    let path = path.display();
    Ok(Some(format!(
        "there was a database at {path} ({evidence}) and it is gone; a new one was begun: {then}"
    )))
}

/// Whether the file is held apart; [`StoreError::Vanished`] for callers that do not open such a file.
async fn held_apart(
    path: &Path,
    options: &StoreOptions,
    writer: Option<&mut SqliteConnection>,
    reading: &SqliteConnectOptions,
) -> Result<Mutex<Option<Missing>>, StoreError> {
    let policy = &options.vanished;
    if !policy.lets_the_owner_decide() {
        return Ok(Mutex::default());
    }
    let marked = match writer {
        Some(conn) => {
            let apart = vanished::apart(conn, path, policy).await?;
            if let (Some(evidence), Vanished::HoldApart(_)) = (&apart, policy) {
                vanished::mark(conn, path, evidence).await?;
            }
            apart
        }
        None => {
            let mut conn = reading.connect().await.map_err(|e| classify(e, path))?;
            let marked = vanished::marked(&mut conn, path).await;
            let _ = conn.close().await;
            marked?
        }
    };
    let missing = marked.map(|evidence| vanished::missing(path, evidence, policy));
    match (missing, policy) {
        (Some(missing), Vanished::Refuse(_)) => Err(StoreError::Vanished(missing)),
        (missing, _) => Ok(Mutex::new(missing)),
    }
}

/// Opens a connection that can write, to a checked file with the present schema.
async fn writable(
    path: &Path,
    options: &StoreOptions,
    thorough: bool,
) -> Result<SqliteConnection, StoreError> {
    prepare_file(path)?;
    let busy_timeout = options.busy_timeout.unwrap_or(BUSY_TIMEOUT);
    let connect = connect_options(path, options, busy_timeout);
    let mut writer = connect.connect().await.map_err(|e| classify(e, path))?;
    let checked = async {
        schema::check(&mut writer, path).await?;
        if thorough {
            passes(INTEGRITY_CHECK, &mut writer, path).await?;
        } else if fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_AT_OPEN_BYTES) {
            quick_check(&mut writer, path).await?;
        }
        use_wal(&mut writer, path, busy_timeout).await?;
        schema::migrate(&mut writer, path).await?;
        // SQLite creates the log with the first read.
        schema::check(&mut writer, path).await
    };
    match checked.await {
        Ok(()) => Ok(writer),
        Err(e) => {
            let _ = writer.close().await;
            Err(e)
        }
    }
}

/// Whether a file that gives a writer this error may still be readable.
fn only_reading_may_help(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::ReadOnly { .. }
            | StoreError::DiskFull { .. }
            | StoreError::Open { .. }
            | StoreError::Disk { .. }
    )
}

/// Finds options that can read the file. SQLite's shared index needs room that a full or read-only disk
/// lacks. Reading without it is safe only if there is no log: then nobody writes, and nothing is missing.
async fn readable(path: &Path, connect: &SqliteConnectOptions) -> Option<SqliteConnectOptions> {
    let plain = connect.clone().read_only(true);
    let mut ways = vec![plain.clone()];
    if fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len()) == 0 {
        ways.push(plain.immutable(true));
    }
    for route in ways {
        if let Ok(mut conn) = route.connect().await {
            let current = schema::check_current(&mut conn, path).await.is_ok();
            let _ = conn.close().await;
            if current {
                return Some(route);
            }
        }
    }
    None
}

/// Bytes of a page of the file at `path`; an empty file will have [`PAGE_BYTES`].
fn page_bytes(path: &Path) -> u32 {
    let mut header = [0; 18];
    let read = peek::first_bytes(path, &mut header).unwrap_or(0);
    match (read, u32::from(u16::from_be_bytes([header[16], header[17]]))) {
        (18, 1) => 65_536,
        (18, bytes) if bytes >= 512 => bytes,
        _ => PAGE_BYTES,
    }
}

fn connect_options(path: &Path, options: &StoreOptions, busy_timeout: Duration) -> SqliteConnectOptions {
    let pages = |bytes: u64| (bytes / u64::from(page_bytes(path))).to_string();
    let mut connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .page_size(PAGE_BYTES)
        .busy_timeout(busy_timeout)
        .foreign_keys(true)
        .pragma("synchronous", "FULL")
        .pragma("secure_delete", "ON")
        .pragma("temp_store", "MEMORY") // sorted text must not end up in a temporary file
        .pragma("trusted_schema", "OFF")
        .pragma("wal_autocheckpoint", pages(AUTOCHECKPOINT_BYTES))
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES)
        .thread_name(|n| format!("sqlite-{n}"))
        .log_statements(log::LevelFilter::Off) // statements carry no values, but are of no use in a journal
        .log_slow_statements(log::LevelFilter::Debug, Duration::from_secs(1));
    if let Some(bytes) = options.max_bytes {
        connect = connect.pragma("max_page_count", pages(bytes));
    }
    connect
}

/// Creates the folder of the database, for its owner and group.
pub(super) fn prepare_folder(path: &Path) -> io::Result<()> {
    create_folder(folder_of(path))
}

/// Creates an empty file for its owner only; SQLite gives WAL and shm the mode of the file.
pub(super) fn create(path: &Path) -> io::Result<()> {
    create_file(path).map(drop)
}

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Whether the file begins as a database. A file that cannot be read counts too: its error is then reported.
pub(super) fn begins_as_database(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    peek::first_bytes(path, &mut head).map_or(true, |_| head == *MAGIC)
}

/// Creates missing files with the right mode and refuses a file that is not SQLite before SQLite touches it.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    let open_error = |e| open_error(path, e);
    prepare_folder(path).map_err(open_error)?;
    match create(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        // On a read-only file system the error of creation may come first.
        Err(_) if path.exists() => {}
        Err(e) => return Err(open_error(e)),
    }
    let mut head = [0; MAGIC.len()];
    if peek::first_bytes(path, &mut head).map_err(open_error)? == 0 || head == *MAGIC {
        return Ok(());
    }
    // A file under our name that does not begin as a database: the disk or a person overwrote it.
    Err(StoreError::Damaged { path: path.into(), detail: "it does not begin as an SQLite file".into() })
}

/// Switches to WAL, which needs the file alone and does not wait for a lock by itself. Two processes that
/// create the same database at once meet here.
async fn use_wal(conn: &mut SqliteConnection, path: &Path, patience: Duration) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    loop {
        let mode: String =
            sqlx::query_scalar(JOURNAL_MODE).fetch_one(&mut *conn).await.map_err(|e| classify(e, path))?;
        if mode == "wal" {
            return Ok(());
        }
        match sqlx::query(USE_WAL).execute(&mut *conn).await.map_err(|e| classify(e, path)) {
            Ok(_) => {}
            Err(StoreError::Busy { .. }) if waited < patience => {}
            Err(e) => return Err(e),
        }
        if waited >= patience {
            return Err(StoreError::Busy { path: path.into() });
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
}

pub(super) async fn quick_check(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    passes(QUICK_CHECK, conn, path).await
}

async fn passes(check: &'static str, conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let rows = sqlx::query(check).fetch_all(conn).await.map_err(|e| classify(e, path))?;
    let first: String = match rows.first() {
        Some(row) => row.try_get(0).map_err(StoreError::Sql)?,
        None => return Ok(()),
    };
    if first == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.into(), detail: super::sqlite::briefly(&first) })
}
