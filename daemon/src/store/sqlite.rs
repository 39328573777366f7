//! Opening the file, the writer, the readers, checkpoints.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, Sqlite, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::{StoreError, schema};

/// How long a statement waits for another process before it fails with [`StoreError::Busy`].
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Readers of one process. A household asks one thing at a time; two keep a long listing from delaying a turn.
const READERS: u32 = 2;

/// A checkpoint moves the WAL into the database and costs fsyncs. It is done between turns ([`Store::checkpoint`]) once the
/// WAL is larger than this …
const CHECKPOINT_WAL_BYTES: u64 = 2 << 20;
/// … and by the commit itself only when nobody did so: 16 MiB at the page size of 4 KiB.
const AUTOCHECKPOINT_PAGES: &str = "4096";
/// A WAL that once grew beyond this is cut back when it is reset.
const JOURNAL_SIZE_LIMIT_BYTES: &str = "8388608";

/// A quick check reads the whole file; at start it is done only below this size, so that start-up stays fast.
const CHECK_AT_OPEN_BYTES: u64 = 16 << 20;

super::sql::statements! {
    QUICK_CHECK = "PRAGMA quick_check(1)";
    JOURNAL_MODE = "SELECT journal_mode FROM pragma_journal_mode";
    USE_WAL = "PRAGMA journal_mode = WAL";
    CHECKPOINT_PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)";
    CHECKPOINT_TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)";
    BEGIN = "BEGIN IMMEDIATE";
    COMMIT = "COMMIT";
    // The copy that VACUUM makes is as large as the database: not in memory, though everything else temporary is.
    TEMP_IN_FILES = "PRAGMA temp_store = FILE";
    TEMP_IN_MEMORY = "PRAGMA temp_store = MEMORY";
    VACUUM = "VACUUM";
}

/// What differs between the daemon and tests.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Upper bound of the database in pages of 4 KiB (`PRAGMA max_page_count`); tests use it as a small disk.
    pub max_pages: Option<u32>,
    /// How long to wait for another process; [`BUSY_TIMEOUT`] by default.
    pub busy_timeout: Option<Duration>,
}

/// The open database file. Cloning shares the connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    options: SqliteConnectOptions,
    /// `None` while a transaction has it, and after one that did not end well.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    /// Counts the commits of this process.
    commits: watch::Sender<u64>,
}

impl Store {
    /// Opens the database at `path`; creates folder (0750) and file (0600) where they are missing; migrates.
    pub async fn open(path: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        prepare_file(path)?;
        let busy_timeout = options.busy_timeout.unwrap_or(BUSY_TIMEOUT);
        let connect = connect_options(path, options, busy_timeout);
        let mut writer = connect.connect().await.map_err(|e| classify(e, path))?;
        schema::check(&mut writer, path).await?;
        let small = fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_AT_OPEN_BYTES);
        if small {
            quick_check(&mut writer, path).await?;
        }
        use_wal(&mut writer, path, busy_timeout).await?;
        schema::migrate(&mut writer, path).await?;
        let readers = SqlitePoolOptions::new()
            .min_connections(0)
            .max_connections(READERS)
            .acquire_timeout(busy_timeout)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_before_acquire(false)
            .connect_lazy_with(connect.clone().read_only(true).create_if_missing(false));
        let inner = Inner {
            path: path.to_path_buf(),
            options: connect,
            writer: Mutex::new(Some(writer)),
            readers,
            commits: watch::Sender::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Starts a write transaction. It waits for this process's other transaction, then for other processes.
    pub async fn begin(&self) -> Result<Tx<'_>, StoreError> {
        let mut home = self.inner.writer.lock().await;
        let mut conn = match home.take() {
            Some(conn) => conn,
            None => self.inner.options.connect().await.map_err(|e| self.classify(e))?,
        };
        sqlx::query(BEGIN).execute(&mut conn).await.map_err(|e| self.classify(e))?;
        Ok(Tx { home, conn: Some(conn), path: &self.inner.path, commits: &self.inner.commits })
    }

    /// Changes with every commit of this process; other processes' commits do not show.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.commits.subscribe()
    }

    /// A connection that can only read. What it reads was committed before the statement began.
    pub async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.inner.readers.acquire().await.map_err(|e| self.classify(e))
    }

    /// Moves the WAL into the database if it has grown; call it between turns, never within one.
    /// Readers are not waited for: what they still need is moved the next time.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        if self.wal_bytes() < CHECKPOINT_WAL_BYTES {
            return Ok(());
        }
        self.on_writer(CHECKPOINT_PASSIVE).await
    }

    /// Moves the WAL into the database and empties it, so that no deleted text stays in it. Waits for readers up to the
    /// busy timeout; returns `false` if one was still in the way (the next checkpoint finishes the work).
    pub async fn checkpoint_truncate(&self) -> Result<bool, StoreError> {
        match self.on_writer(CHECKPOINT_TRUNCATE).await {
            Ok(()) => Ok(self.wal_bytes() == 0),
            Err(StoreError::Busy { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes the whole database anew and empties the WAL.
    ///
    /// `secure_delete` zeroes what is deleted, but when SQLite splits or merges pages it leaves old copies of rows in the
    /// unused middle of pages, and these outlive the row. Only a new copy of the file is free of them.
    ///
    /// # Errors
    /// [`StoreError::Busy`] also if a reader kept the WAL from being emptied: old copies of rows may still be there.
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
        // A connection of its own: FTS5 checks the index against a structure that it has cached, and on a connection that
        // is in use the cache may be older than the file, which it then reports as damage (seen with SQLite 3.51.3).
        let options = self.inner.options.clone().read_only(true).create_if_missing(false);
        let mut conn = options.connect().await.map_err(|e| self.classify(e))?;
        let checked = quick_check(&mut conn, &self.inner.path).await;
        let closed = conn.close().await.map_err(|e| self.classify(e));
        checked.and(closed)
    }

    /// Closes the connections; the last process to do so also empties the WAL.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        if let Some(conn) = self.inner.writer.lock().await.take()
            && let Err(e) = conn.close().await
        {
            log::warn!("closing the database {}: {e}", self.inner.path.display());
        }
    }

    /// Size of the WAL in bytes; 0 if there is none.
    pub fn wal_bytes(&self) -> u64 {
        let mut name = self.inner.path.clone().into_os_string();
        name.push("-wal");
        fs::metadata(PathBuf::from(name)).map_or(0, |file| file.len())
    }

    pub(crate) fn classify(&self, error: sqlx::Error) -> StoreError {
        classify(error, &self.inner.path)
    }

    async fn on_writer(&self, statement: &'static str) -> Result<(), StoreError> {
        let mut home = self.inner.writer.lock().await;
        let mut conn = match home.take() {
            Some(conn) => conn,
            None => self.inner.options.connect().await.map_err(|e| self.classify(e))?,
        };
        sqlx::query(statement).execute(&mut conn).await.map_err(|e| self.classify(e))?;
        *home = Some(conn);
        Ok(())
    }
}

/// An open write transaction. Dropping it closes its connection, and SQLite rolls back: that holds for an error, for a
/// cancelled task and for a panic alike, and the next transaction starts on a fresh connection.
#[derive(Debug)]
pub struct Tx<'a> {
    home: MutexGuard<'a, Option<SqliteConnection>>,
    conn: Option<SqliteConnection>,
    path: &'a Path,
    commits: &'a watch::Sender<u64>,
}

impl Tx<'_> {
    /// Runs `query` and returns the number of changed rows.
    pub(crate) async fn execute(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, StoreError> {
        let path = self.path;
        let done = query.execute(self.conn()?).await.map_err(|e| classify(e, path))?;
        Ok(done.rows_affected())
    }

    /// The first row of `query`, if there is one.
    pub(crate) async fn optional(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Option<sqlx::sqlite::SqliteRow>, StoreError> {
        let path = self.path;
        query.fetch_optional(self.conn()?).await.map_err(|e| classify(e, path))
    }

    /// All rows of `query`.
    pub(crate) async fn all(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
        let path = self.path;
        query.fetch_all(self.conn()?).await.map_err(|e| classify(e, path))
    }

    /// Makes the transaction durable: when this returns, it is on the disk.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let path = self.path;
        sqlx::query(COMMIT).execute(self.conn()?).await.map_err(|e| classify(e, path))?;
        *self.home = self.conn.take();
        self.commits.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }

    fn conn(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.conn.as_mut().ok_or(StoreError::Sql(sqlx::Error::WorkerCrashed))
    }
}

fn connect_options(path: &Path, options: &StoreOptions, busy_timeout: Duration) -> SqliteConnectOptions {
    let mut connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(busy_timeout)
        .foreign_keys(true)
        .pragma("synchronous", "FULL")
        .pragma("secure_delete", "ON")
        .pragma("temp_store", "MEMORY") // sorted text must not end up in a temporary file
        .pragma("trusted_schema", "OFF")
        .pragma("wal_autocheckpoint", AUTOCHECKPOINT_PAGES)
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES)
        .thread_name(|n| format!("sqlite-{n}"))
        .log_statements(log::LevelFilter::Off) // statements carry no values, but are of no use in a journal
        .log_slow_statements(log::LevelFilter::Debug, Duration::from_secs(1));
    if let Some(pages) = options.max_pages {
        connect = connect.pragma("max_page_count", pages.to_string());
    }
    connect
}

/// Creates what is missing with the right mode (SQLite gives WAL and shm the mode of the file) and refuses a file that is
/// not SQLite before SQLite touches it.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    let open_error = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { path: path.into() }
        }
        _ => StoreError::Open { path: path.into(), source: e.into() },
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(open_error)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(open_error(e)),
    }
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut head = Vec::with_capacity(MAGIC.len());
    let file = fs::File::open(path).map_err(open_error)?;
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(open_error)?;
    if head.is_empty() || head == MAGIC {
        return Ok(());
    }
    // A file under our name that does not begin as a database: overwritten by the disk, or by somebody.
    Err(StoreError::Damaged { path: path.into(), detail: "it does not begin as an SQLite file".into() })
}

/// Switching to WAL needs the file alone and does not wait for a lock by itself, so two processes that create the same
/// database at once meet here.
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

async fn quick_check(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let rows = sqlx::query(QUICK_CHECK).fetch_all(conn).await.map_err(|e| classify(e, path))?;
    let first: String = match rows.first() {
        Some(row) => row.try_get(0).map_err(StoreError::Sql)?,
        None => return Ok(()),
    };
    if first == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.into(), detail: first })
}

/// Sorts a failure by what can be done about it. Codes: <https://www.sqlite.org/rescode.html>.
pub(super) fn classify(error: sqlx::Error, path: &Path) -> StoreError {
    let path = path.to_path_buf();
    let (code, detail) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
            (code, database.message().to_owned())
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
