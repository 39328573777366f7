//! The open file: the writer, the readers, checkpoints, and the repair after the file changed or vanished.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions as _, Connection as _, Sqlite, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::heal::{self, FileId, FileState};
use super::open::{self, Examination, Opened, Ready};
use super::vanished::{self, Missing, OnlyInBackup, Vanished};
use super::{StoreError, scrub};

/// How long a statement waits for another process before it fails with [`StoreError::Busy`].
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A checkpoint moves the WAL into the database and costs fsyncs. It is done between turns
/// ([`Store::checkpoint`]) once the WAL is larger than this.
const CHECKPOINT_WAL_BYTES: u64 = 2 << 20;

/// No statement met damage that a check of the file does not find.
const TRUSTED: u8 = 0;
/// A statement did: the file is repaired the next time.
const DOUBTED: u8 = 1;
/// The file was repaired because of that.
const REPAIRED: u8 = 2;

super::sql::statements! {
    CHECKPOINT_PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)";
    CHECKPOINT_TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)";
    BEGIN = "BEGIN IMMEDIATE";
    ROLLBACK = "ROLLBACK";
    WRITE_ANEW = "VACUUM INTO ?1";
    COMMIT = "COMMIT";
    // The copy that VACUUM makes is as large as the database. So it goes to a file, while other temporary
    // data stays in memory.
    TEMP_IN_FILES = "PRAGMA temp_store = FILE";
    TEMP_IN_MEMORY = "PRAGMA temp_store = MEMORY";
    VACUUM = "VACUUM";
}

/// Options that differ between the daemon, commands and tests.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Upper bound of the database in bytes (`PRAGMA max_page_count`); tests use it as a small disk.
    pub max_bytes: Option<u64>,
    /// How long to wait for another process; [`BUSY_TIMEOUT`] by default.
    pub busy_timeout: Option<Duration>,
    /// Refuse a damaged file instead of repairing it (`doctor` changes nothing).
    pub keep_damaged: bool,
    /// The action if there was a memory and nothing of it is left.
    pub vanished: Vanished,
}

/// The open database file. Cloning shares the connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    options: StoreOptions,
    /// `None` while a transaction holds it, after a transaction that failed, and while the file can only be
    /// read.
    writer: Mutex<Option<SqliteConnection>>,
    open: ArcSwap<Opened>,
    /// Grows each time another file takes the place of the present one: row numbers may differ.
    generation: AtomicU64,
    /// Damage that a statement met, checked before the next transaction.
    damage: std::sync::Mutex<Option<String>>,
    /// Whether statements met damage that no check finds: [`TRUSTED`], [`DOUBTED`] or [`REPAIRED`].
    doubt: AtomicU8,
    /// A repair or loss not reported yet.
    problem: std::sync::Mutex<Option<String>>,
    /// Counts the commits of this process.
    commits: watch::Sender<u64>,
}

impl Store {
    /// Opens the database at `path`. Creates a missing folder (0750) and file (0600), migrates, and repairs.
    pub async fn open(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let Ready { writer, opened, problem } = open::open(path, options, &Examination::Quick).await?;
        let inner = Inner {
            path: path.to_path_buf(),
            options: options.clone(),
            writer: Mutex::new(writer),
            open: ArcSwap::from_pointee(opened),
            generation: AtomicU64::new(1),
            damage: std::sync::Mutex::new(None),
            doubt: AtomicU8::new(TRUSTED),
            problem: std::sync::Mutex::new(problem),
            commits: watch::Sender::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Starts a write transaction. It waits for the other transaction of this process, then for other
    /// processes.
    pub async fn begin(&self) -> Result<Tx<'_>, StoreError> {
        let (home, mut conn) = self.take_writer().await?;
        sqlx::query(BEGIN).execute(&mut conn).await.map_err(|e| self.classify(e))?;
        Ok(Tx { home, conn: Some(conn), inner: &self.inner })
    }

    /// Changes with every commit of this process; commits of other processes do not show.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.commits.subscribe()
    }

    /// Takes the writer, on the file that is at the path now.
    async fn take_writer(
        &self,
    ) -> Result<(MutexGuard<'_, Option<SqliteConnection>>, SqliteConnection), StoreError> {
        let mut home = self.inner.writer.lock().await;
        self.inner.ready(&mut home).await?;
        let conn = match home.take() {
            Some(conn) => conn,
            None => self
                .inner
                .open
                .load_full()
                .writer(&self.inner.path)
                .await
                .inspect_err(|e| self.inner.notice(e))?,
        };
        Ok((home, conn))
    }

    /// Checks that the file is the opened one, sound as far as known, and writable; repairs it if not.
    pub async fn mend(&self) -> Result<(), StoreError> {
        let mut home = self.inner.writer.lock().await;
        self.inner.ready(&mut home).await
    }

    /// Grows when another file takes the place of the present one, so that row numbers read before are
    /// invalid.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Why the file cannot be written at present; `None` if it can.
    pub fn read_only(&self) -> Option<String> {
        self.inner.open.load().read_only.as_ref().map(|e| crate::error::chain(e))
    }

    /// The missing memory, while this file is held apart. The owner may accept the file in another process.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub async fn apart(&self) -> Result<Option<Missing>, StoreError> {
        let open = self.inner.open.load_full();
        let missing = open.apart.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(missing) = missing else { return Ok(None) };
        let mut reader = self.reader().await?;
        if vanished::marked(&mut reader, &self.inner.path).await?.is_some() {
            return Ok(Some(missing));
        }
        *open.apart.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(None)
    }

    /// The part of the vanished memory that only a backup holds.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub async fn only_in_backup(&self) -> Result<Option<OnlyInBackup>, StoreError> {
        super::settings::get(self, vanished::ONLY_IN_BACKUP).await
    }

    /// Accepts the file as the memory.
    ///
    /// # Errors
    /// [`StoreError`]; the file then stays held apart.
    pub async fn accept(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.execute(sqlx::query(vanished::ACCEPT)).await?;
        super::settings::set(&mut tx, vanished::ACCEPTED, &true, 0).await?;
        tx.commit().await?;
        vanished::remove_mark(&self.inner.path);
        Ok(())
    }

    /// Whether somebody was known in this file, or in an earlier one that nobody gave up.
    pub fn is_marked(&self) -> bool {
        vanished::has_mark(&self.inner.path)
    }

    /// Leaves a mark beside the file once somebody is known. If the file vanishes, the mark shows that there
    /// was one.
    pub async fn leave_mark(&self) {
        if self.inner.options.vanished.is_kept()
            && let Ok(mut reader) = self.reader().await
        {
            vanished::leave_mark(&self.inner.path, &mut reader).await;
        }
    }

    /// Returns the repair or loss since the last call, as a sentence for a person.
    pub fn take_problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Damaged files that were set aside.
    pub fn damaged_copies(&self) -> Vec<PathBuf> {
        heal::copies(&self.inner.path)
    }

    /// Deletes these copies: they hold rows that are to be forgotten.
    pub fn remove_damaged_copies(&self) -> Result<(), StoreError> {
        let removed =
            heal::remove_copies(&self.inner.path).map_err(|e| heal::open_error(&self.inner.path, e))?;
        if removed > 0 {
            log::info!("the damaged copies of the database were deleted with what was forgotten");
        }
        Ok(())
    }

    /// A connection that can only read. It sees rows committed before the statement began.
    pub async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        // A separate handle of the pool: a repair may replace the pool meanwhile.
        let readers = self.inner.open.load().readers.clone();
        readers.acquire().await.map_err(|e| self.classify(e))
    }

    /// Moves the WAL into the database if it has grown; call it between turns, never within one. It does not
    /// wait for readers: the pages they still need are moved the next time.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        if self.wal_bytes() < CHECKPOINT_WAL_BYTES {
            return Ok(());
        }
        self.checkpoint_passive().await
    }

    /// Moves the part of the WAL that no reader still needs into the database.
    pub(super) async fn checkpoint_passive(&self) -> Result<(), StoreError> {
        self.on_writer(CHECKPOINT_PASSIVE).await
    }

    /// Moves the WAL into the database and empties it, so that no deleted text stays in it. Waits for readers
    /// up to the busy timeout; returns `false` if one was still in the way (the next checkpoint finishes the
    /// work).
    pub async fn checkpoint_truncate(&self) -> Result<bool, StoreError> {
        match self.on_writer(CHECKPOINT_TRUNCATE).await {
            Ok(()) => Ok(self.wal_bytes() == 0),
            Err(StoreError::Busy { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes sure that no byte of deleted rows stays in the file or its log (`store::scrub`). Turns go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Busy`] also if a reader kept the WAL from being emptied: old copies of rows may still be
    /// there.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        match scrub::scrub(self).await? {
            Some(done) => {
                log::debug!("deleted text was in {} of {} pages of the database", done.cleaned, done.pages);
                Ok(())
            }
            None => self.vacuum().await,
        }
    }

    /// Rewrites the whole database and empties the WAL. The effect is that of [`Store::scrub`], but turns
    /// wait for it.
    ///
    /// # Errors
    /// [`StoreError::Busy`] also if a reader kept the WAL from being emptied: old copies of rows may still be
    /// there.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        for statement in [TEMP_IN_FILES, VACUUM, TEMP_IN_MEMORY] {
            self.on_writer(statement).await?;
        }
        if self.checkpoint_truncate().await? {
            Ok(())
        } else {
            Err(StoreError::Busy { path: self.inner.path.clone() })
        }
    }

    /// Reads the whole file and returns [`StoreError::Damaged`] if its structure is broken.
    pub async fn check(&self) -> Result<(), StoreError> {
        // A separate connection, because FTS5 checks the index against a cached structure. On a connection in
        // use the cache may be older than the file, and FTS5 then reports damage (seen with SQLite 3.51.3).
        let mut conn = self.connect_to_read().await?;
        let checked = open::quick_check(&mut conn, &self.inner.path).await;
        if let Err(error) = &checked {
            self.inner.notice(error);
        }
        let closed = conn.close().await.map_err(|e| self.classify(e));
        checked.and(closed)
    }

    /// A separate connection that can only read.
    pub(super) async fn connect_to_read(&self) -> Result<SqliteConnection, StoreError> {
        let options = self.inner.open.load().connect.clone().read_only(true);
        options.connect().await.map_err(|e| self.classify(e))
    }

    /// Closes the connections; the last process to do so also empties the WAL.
    pub async fn close(&self) {
        self.inner.open.load_full().readers.close().await;
        if let Some(conn) = self.inner.writer.lock().await.take()
            && let Err(e) = conn.close().await
        {
            log::warn!("closing the database {}: {e}", self.inner.path.display());
        }
    }

    /// Size of the WAL in bytes; 0 if there is none.
    pub fn wal_bytes(&self) -> u64 {
        self.inner.wal_bytes()
    }

    /// Size of the database in bytes, the WAL not counted.
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.inner.path).map_or(0, |file| file.len())
    }

    pub(crate) fn classify(&self, error: sqlx::Error) -> StoreError {
        self.inner.classify(error)
    }

    async fn on_writer(&self, statement: &'static str) -> Result<(), StoreError> {
        let (mut home, mut conn) = self.take_writer().await?;
        sqlx::query(statement).execute(&mut conn).await.map_err(|e| self.classify(e))?;
        *home = Some(conn);
        Ok(())
    }
}

impl Inner {
    /// Classifies an error, and remembers damage.
    fn classify(&self, error: sqlx::Error) -> StoreError {
        let error = classify(error, &self.path);
        self.notice(&error);
        error
    }

    fn notice(&self, error: &StoreError) {
        if let StoreError::Damaged { detail, .. } = error {
            *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = Some(detail.clone());
        }
    }

    fn wal_bytes(&self) -> u64 {
        fs::metadata(heal::beside(&self.path, "-wal")).map_or(0, |file| file.len())
    }

    /// Whether the database and its log are still the files that were opened.
    fn in_place(&self) -> bool {
        let open = self.open.load();
        let is = |path: &Path, id: Option<FileId>| FileId::of(path).is_ok_and(|now| now == id);
        is(&self.path, Some(open.file)) && is(&heal::beside(&self.path, "-wal"), open.log())
    }

    /// Makes the file at the path usable, whatever happened to the earlier one.
    async fn ready(&self, home: &mut Option<SqliteConnection>) -> Result<(), StoreError> {
        let open = self.open.load_full();
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(detail) = damage {
            return self.examine(home, detail).await;
        }
        if let Some(why) = &open.read_only {
            log::debug!("trying to write to the database again: {}", crate::error::chain(why));
            self.reopen(home, None, &Examination::Quick).await?;
            return match &self.open.load().read_only {
                None => Ok(()),
                Some(StoreError::DiskFull { path }) => Err(StoreError::DiskFull { path: path.clone() }),
                Some(_) => Err(StoreError::ReadOnly { path: self.path.clone() }),
            };
        }
        match FileId::of(&self.path).map_err(|e| heal::open_error(&self.path, e))? {
            None => self.write_anew(home).await,
            Some(file) if file != open.file => {
                // The log beside a replaced file may still be that of the old file.
                let log = heal::beside(&self.path, "-wal");
                if open.log().is_some() && FileId::of(&log).is_ok_and(|now| now == open.log()) {
                    self.close(home).await;
                    let _ = fs::remove_file(&log);
                    let _ = fs::remove_file(heal::beside(&self.path, "-shm"));
                }
                let problem = "the database was replaced while it was in use; what is in the new file counts \
                    from now on";
                self.reopen(home, Some(problem.to_owned()), &Examination::Quick).await
            }
            Some(_) => match home.as_mut() {
                // The log was removed: its content is still reachable through the open connection, and is
                // moved into the database now.
                Some(conn) if !self.in_place() => {
                    let another = self.wal_bytes() > 0;
                    sqlx::query(CHECKPOINT_TRUNCATE).execute(conn).await.map_err(|e| self.classify(e))?;
                    let removed = "the log of the database was removed while it was in use";
                    if another {
                        let problem = format!(
                            "{removed}, and another program wrote meanwhile: some of that may be lost"
                        );
                        return self.reopen(home, Some(problem), &Examination::Thorough).await;
                    }
                    self.reopen(home, Some(format!("{removed}; nothing is lost")), &Examination::Quick).await
                }
                _ => Ok(()),
            },
        }
    }

    /// Writes the removed file again. Its content exists as long as a connection has it open.
    async fn write_anew(&self, home: &mut Option<SqliteConnection>) -> Result<(), StoreError> {
        let _lock = heal::lock(&self.path).await?;
        if heal::inspect(&self.path) == FileState::Something {
            // Another process was faster.
            drop(_lock);
            return self.reopen(home, None, &Examination::Quick).await;
        }
        let disk = |e| heal::open_error(&self.path, e);
        let fresh = heal::beside(&self.path, ".anew");
        open::prepare_folder(&self.path).map_err(disk)?;
        heal::remove_database(&fresh).map_err(disk)?;
        open::create(&fresh).map_err(disk)?;
        let write = sqlx::query(WRITE_ANEW).bind(fresh.display().to_string());
        let written = match home.as_mut() {
            Some(conn) => write.execute(conn).await.map(drop),
            None => match self.open.load_full().readers.acquire().await {
                Ok(mut reader) => write.execute(&mut *reader).await.map(drop),
                Err(e) => Err(e),
            },
        };
        self.close(home).await;
        let problem = match written {
            Ok(()) => {
                fs::File::open(&fresh).and_then(|file| file.sync_all()).map_err(disk)?;
                heal::put_in_place(&fresh, &self.path).map_err(disk)?;
                "the file of the database was removed while it was in use; it was written again, nothing is \
                 lost"
            }
            Err(e) => {
                log::error!(
                    "the database is gone and cannot be written again: {}",
                    crate::error::chain(&self.classify(e))
                );
                let _ = heal::remove_database(&fresh);
                for ending in ["-wal", "-shm"] {
                    let _ = fs::remove_file(heal::beside(&self.path, ending));
                }
                "the file of the database was removed while it was in use, and nothing of it can be written \
                 again"
            }
        };
        drop(_lock);
        self.reopen(home, Some(problem.to_owned()), &Examination::Quick).await
    }

    /// Handles damage that a statement met. The whole file is checked, and repaired if the check finds
    /// damage. If it finds none, the file is opened anew, which helps if a cached page was bad, and the user
    /// is told. If a statement meets damage again, the file is repaired regardless. The check covers the
    /// structure of tables and indexes, but not everything that a statement needs (a row of the full-text
    /// index without its message, for instance). This repair runs once in the life of a process.
    async fn examine(&self, home: &mut Option<SqliteConnection>, detail: String) -> Result<(), StoreError> {
        let doubt = self.doubt.load(Ordering::Acquire);
        let look =
            if doubt == DOUBTED { Examination::Mistrust(detail.clone()) } else { Examination::Thorough };
        let told = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reopened = self.reopen(home, None, &look).await;
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match reopened {
            Err(e) => {
                *problem = told;
                // The damage stays noted, since the repair failed.
                *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = Some(detail);
                return Err(e);
            }
            Ok(()) if problem.is_some() => {
                let after = if doubt == DOUBTED { REPAIRED } else { doubt };
                self.doubt.store(after, Ordering::Release);
            }
            Ok(()) => {
                let next = match doubt {
                    TRUSTED => "if it happens again, the database is repaired",
                    _ => {
                        "the database was repaired because of that before, so the disk or the memory of this \
                         device may be failing"
                    }
                };
                if doubt == TRUSTED {
                    self.doubt.store(DOUBTED, Ordering::Release);
                }
                let sentence = format!(
                    "a statement met damage in the database ({detail}) that a check of the whole file does \
                     not find; it was \
                     opened anew, and {next}"
                );
                log::error!("{sentence}");
                *problem = Some(sentence);
            }
        }
        *problem = Some(told.into_iter().chain(problem.take()).collect::<Vec<_>>().join("; "));
        Ok(())
    }

    /// Closes the present file and opens the file at the path.
    async fn reopen(
        &self,
        home: &mut Option<SqliteConnection>,
        problem: Option<String>,
        examination: &Examination,
    ) -> Result<(), StoreError> {
        self.close(home).await;
        let ready = open::open(&self.path, &self.options, examination).await?;
        *home = ready.writer;
        self.open.store(Arc::new(ready.opened));
        self.generation.fetch_add(1, Ordering::AcqRel);
        let told: Vec<String> = problem.into_iter().chain(ready.problem).collect();
        if !told.is_empty() {
            log::error!("{}", told.join("; "));
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(told.join("; "));
        }
        Ok(())
    }

    /// Closes the connections to a file that is no longer the right one. A reader in use ends by itself.
    async fn close(&self, home: &mut Option<SqliteConnection>) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let _ = tokio::time::timeout(PATIENCE, self.open.load_full().readers.close()).await;
        if let Some(conn) = home.take() {
            let _ = conn.close().await;
        }
    }
}

/// An open write transaction. Dropping it closes its connection, and SQLite rolls back. This covers an error,
/// a cancelled task and a panic alike; the next transaction starts on a fresh connection.
#[derive(Debug)]
pub struct Tx<'a> {
    home: MutexGuard<'a, Option<SqliteConnection>>,
    conn: Option<SqliteConnection>,
    inner: &'a Inner,
}

impl Tx<'_> {
    /// Runs `query` and returns the number of changed rows.
    pub(crate) async fn execute(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, StoreError> {
        let inner = self.inner;
        let done = query.execute(self.conn()?).await.map_err(|e| inner.classify(e))?;
        Ok(done.rows_affected())
    }

    /// The first row of `query`, if there is one.
    pub(crate) async fn optional(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Option<sqlx::sqlite::SqliteRow>, StoreError> {
        let inner = self.inner;
        query.fetch_optional(self.conn()?).await.map_err(|e| inner.classify(e))
    }

    /// All rows of `query`.
    pub(crate) async fn all(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
        let inner = self.inner;
        query.fetch_all(self.conn()?).await.map_err(|e| inner.classify(e))
    }

    /// Makes the transaction durable: when this returns `Ok`, it is on the disk, in the file at the path.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] if the file was moved or replaced meanwhile. The transaction then counts as
    /// not stored, though a restored file may contain it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let inner = self.inner;
        let in_place = inner.in_place();
        let statement = if in_place { COMMIT } else { ROLLBACK };
        sqlx::query(statement).execute(self.conn()?).await.map_err(|e| inner.classify(e))?;
        // A connection to a removed file goes home too: the file can be written again through it.
        *self.home = self.conn.take();
        if in_place && inner.in_place() {
            inner.commits.send_modify(|n| *n = n.wrapping_add(1));
            return Ok(());
        }
        Err(StoreError::Replaced { path: inner.path.clone() })
    }

    /// Rolls the transaction back and keeps its connection.
    pub(crate) async fn rollback(mut self) -> Result<(), StoreError> {
        let inner = self.inner;
        sqlx::query(ROLLBACK).execute(self.conn()?).await.map_err(|e| inner.classify(e))?;
        *self.home = self.conn.take();
        Ok(())
    }

    fn conn(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.conn.as_mut().ok_or(StoreError::Sql(sqlx::Error::WorkerCrashed))
    }
}

/// The beginning of SQLite's message, on one line. Its messages repeat statements and definitions of tables.
pub(super) fn briefly(message: &str) -> String {
    const MOST: usize = 120;
    let line = crate::plain::visible(message.lines().next().unwrap_or_default().trim());
    if line.chars().count() <= MOST {
        return line;
    }
    line.chars().take(MOST).chain(['…']).collect()
}

/// Classifies an error by its remedy. Codes: <https://www.sqlite.org/rescode.html>.
pub(crate) fn classify(error: sqlx::Error, path: &Path) -> StoreError {
    let path = path.to_path_buf();
    let (code, detail) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
            (code, briefly(database.message()))
        }
        sqlx::Error::PoolTimedOut => return StoreError::Busy { path },
        _ => return StoreError::Sql(error),
    };
    const IOERR_SHMSIZE: i32 = 4874; // the disk is full, or a limit is reached, while the shared index grows
    const UNIQUE: i32 = 2067;
    const PRIMARY_KEY: i32 = 1555;
    match (code & 0xff, code) {
        (5 | 6, _) => StoreError::Busy { path },
        (8, _) => StoreError::ReadOnly { path },
        (13, _) | (_, IOERR_SHMSIZE) => StoreError::DiskFull { path },
        (10, _) => StoreError::Disk { path, source: error },
        (11 | 26, _) => StoreError::Damaged { path, detail },
        (14, _) => StoreError::Open { path, source: error.into() },
        (19, _) => StoreError::Constraint { unique: matches!(code, UNIQUE | PRIMARY_KEY), source: error },
        _ => StoreError::Sql(error),
    }
}
