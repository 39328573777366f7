//! Backups of SQLite: a copy of one moment of the database, its rows, and the undelivered part.
//!
//! `VACUUM INTO` makes the copy. It is one read transaction, so it blocks nobody. It leaves out the unused
//! parts of pages, in which forgotten text may still stand. It fails on a page that cannot be read, while a
//! copy of pages would carry the damage along.

use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Row as _, Sqlite, SqliteConnection,
    TypeInfo as _, ValueRef as _,
};
use uuid::Uuid;

use super::cancel::Cancel;
use super::manifest::{Sums, TableSum, Undelivered};
use crate::durable;
use crate::store::tables::{self, Table};
use crate::store::{BUSY_TIMEOUT, StoreError, classify, holder, queue, refuse_pipe};
use crate::text::hex;

/// SQL: 1 while everything is queued again for another database.
macro_rules! is_queued_again {
    () => {
        "SELECT EXISTS (SELECT 1 FROM settings WHERE key = 'postgres_again')
            AND NOT EXISTS (SELECT 1 FROM settings WHERE key = 'postgres_house')"
    };
}

/// Rows named by an entry: they wait for Postgres, were refused, or were then given up. They are only on this
/// device.
macro_rules! named {
    () => {
        "SELECT entity_id FROM queue UNION SELECT entity_id FROM dead_letter"
    };
}

crate::store::sql::statements! {
    COPY = "VACUUM INTO ?1";
    VACUUM = "VACUUM";
    CHANGES = "SELECT data_version FROM pragma_data_version";
    IDENTITY = "SELECT (SELECT user_version FROM pragma_user_version) AS version,
        (SELECT application_id FROM pragma_application_id) AS application, sqlite_version() AS engine";
    INTEGRITY = "PRAGMA integrity_check(1)";
    FOREIGN_KEYS = "PRAGMA foreign_key_check";
    /// While everything is queued again (store/resync.rs), more waits than the queue holds.
    WAITING = concat!("SELECT count(*) + (", is_queued_again!(), ") FROM queue");
    IS_QUEUED_AGAIN = is_queued_again!();
    /// 1 unless everything was queued for this database.
    IS_ELSEWHERE = "SELECT NOT EXISTS (SELECT 1 FROM settings WHERE key = 'postgres_house' AND value = ?1)";
    // The copy is discarded after any error.
    WITHOUT_JOURNAL = "PRAGMA journal_mode = OFF";
    UNINDEX = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = 'messages_fts_delete'";
    NO_UNINDEX = "DROP TRIGGER IF EXISTS messages_fts_delete";
    INDEX_AGAIN = "INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')";
    COUNT_MESSAGES = "UPDATE conversations SET summary = '', summary_seq = 0,
        messages = (SELECT count(*) FROM messages m WHERE m.conversation = conversations.rid)";
    /// Messages that Postgres does not have. ?1: everything in the file waits for the database that was
    /// backed up.
    UNDELIVERED = concat!("SELECT count(*) FROM messages WHERE ?1 OR id IN (", named!(), ")");
    /// The messages counted by [`UNDELIVERED`]: the ids of message, conversation and person, in hexadecimal.
    UNDELIVERED_IDS = concat!("SELECT coalesce(json_group_array(
            json_array(hex(m.id), hex(c.id), hex(u.id))), '[]')
        FROM messages m JOIN conversations c ON c.rid = m.conversation JOIN users u ON u.rid = m.owner
        WHERE ?1 OR m.id IN (", named!(), ")");
    AMONG = "SELECT count(*) FROM json_each(?1) wanted
        JOIN messages m ON m.id = unhex(wanted.value ->> 0)
        JOIN conversations c ON c.rid = m.conversation AND c.id = unhex(wanted.value ->> 1)
        JOIN users u ON u.rid = m.owner AND u.id = unhex(wanted.value ->> 2)";
    // The rows of other devices are read from the beginning.
    FORGET_READ = "DELETE FROM settings WHERE key = 'postgres_read'";
    TAKE_OVER = "INSERT INTO settings (key, value, updated_unix_ms) VALUES (?1, ?2, 0)
        ON CONFLICT (key) DO UPDATE SET value = json_set(value, '$.take_over', json('true'))";
    OWN_JOURNAL = "PRAGMA journal_mode = DELETE";
}

/// Steps of SQLite between two checks for a stop: less than a millisecond.
const LOOK_EVERY: i32 = 10_000;

/// "JRVS".
const APPLICATION_ID: i64 = 0x4A52_5653;

/// The identity of a file, from its header.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) schema_version: i64,
    pub(super) ours: bool,
    /// Version of SQLite.
    pub(super) engine: String,
}

/// The way to open a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// A database that other processes may write to.
    Read,
    /// A file that belongs to this process alone.
    Scratch,
    Write,
}

pub(super) async fn connect(path: &Path, access: Access) -> Result<SqliteConnection, StoreError> {
    refuse_pipe(path)?;
    let mut options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("trusted_schema", "OFF")
        .log_statements(log::LevelFilter::Off)
        .log_slow_statements(log::LevelFilter::Off, Duration::MAX);
    options = match access {
        Access::Read => options.read_only(true),
        Access::Scratch => options.read_only(true).immutable(true),
        Access::Write => options.pragma("synchronous", "FULL").pragma("secure_delete", "ON"),
    };
    options.connect().await.map_err(|e| classify(e, path))
}

/// As [`connect`]; a statement that runs during a cancellation ends with an error.
pub(super) async fn connect_until(
    cancel: &Cancel,
    path: &Path,
    access: Access,
) -> Result<SqliteConnection, StoreError> {
    let mut conn = connect(path, access).await?;
    let cancel = cancel.clone();
    let mut handle = conn.lock_handle().await.map_err(|e| classify(e, path))?;
    handle.set_progress_handler(LOOK_EVERY, move || !cancel.is_asked());
    drop(handle);
    Ok(conn)
}

pub(super) async fn close(conn: SqliteConnection) {
    if let Err(e) = conn.close().await {
        log::debug!("closing a database: {e}");
    }
}

/// Writes one moment of the database to the new file `to`.
pub(super) async fn copy(conn: &mut SqliteConnection, from: &Path, to: &Path) -> Result<(), StoreError> {
    // Created here, since SQLite would make it readable for everyone.
    durable::create_file(to).map_err(|e| StoreError::Open { path: to.into(), source: e.into() })?;
    let copy = sqlx::query(COPY).bind(to.display().to_string());
    copy.execute(conn).await.map(drop).map_err(|e| match classify(e, from) {
        // The disk of the copy is full.
        StoreError::DiskFull { .. } => StoreError::DiskFull { path: to.into() },
        e => e,
    })
}

/// A number that changes after another connection has written.
pub(super) async fn changes(conn: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    sqlx::query_scalar(CHANGES).fetch_one(conn).await.map_err(|e| classify(e, path))
}

pub(super) async fn identity(conn: &mut SqliteConnection, path: &Path) -> Result<Identity, StoreError> {
    let row = sqlx::query(IDENTITY).fetch_one(conn).await.map_err(|e| classify(e, path))?;
    let read = || {
        Ok(Identity {
            schema_version: row.try_get("version")?,
            ours: row.try_get::<i64, _>("application")? == APPLICATION_ID,
            engine: row.try_get("engine")?,
        })
    };
    read().map_err(StoreError::Sql)
}

/// The number of operations not delivered.
pub(super) async fn waiting(conn: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    sqlx::query_scalar(WAITING).fetch_one(conn).await.map_err(|e| classify(e, path))
}

/// The messages in the copy of a queue that Postgres does not have.
pub(super) async fn undelivered(
    conn: &mut SqliteConnection,
    everything: bool,
    path: &Path,
) -> Result<Undelivered, StoreError> {
    let sql = |e| classify(e, path);
    let messages = sqlx::query_scalar::<_, i64>(UNDELIVERED).bind(everything);
    let messages = messages.fetch_one(&mut *conn).await.map_err(sql)?;
    let refused = queue::refused_in(conn).await.map_err(sql)?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Undelivered {
        messages: count(messages),
        refused: count(refused.messages.saturating_add(refused.given_up)),
        given_up: count(refused.given_up),
        everything,
    })
}

/// The ids of the messages that [`undelivered`] counts, as [`messages_among`] takes them.
pub(super) async fn undelivered_ids(
    conn: &mut SqliteConnection,
    everything: bool,
    path: &Path,
) -> Result<String, StoreError> {
    let ids = sqlx::query_scalar(UNDELIVERED_IDS).bind(everything);
    ids.fetch_one(conn).await.map_err(|e| classify(e, path))
}

/// Counts the messages of `ids` in the database.
pub(super) async fn messages_among(
    conn: &mut SqliteConnection,
    ids: &str,
    path: &Path,
) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar::<_, i64>(AMONG).bind(ids).fetch_one(conn).await;
    count.map(|n| u64::try_from(n).unwrap_or(0)).map_err(|e| classify(e, path))
}

/// Reads the whole file: structure, indexes, full-text index, references.
///
/// # Errors
/// [`StoreError::Damaged`].
pub(super) async fn check(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let damaged = |detail: String| StoreError::Damaged { path: path.into(), detail };
    let rows = sqlx::query(INTEGRITY).fetch_all(&mut *conn).await.map_err(|e| classify(e, path))?;
    let first: Option<String> = rows.first().and_then(|row| row.try_get(0).ok());
    match first.as_deref() {
        Some("ok") => {}
        other => return Err(damaged(other.unwrap_or("no answer").to_owned())),
    }
    let stray = sqlx::query(FOREIGN_KEYS).fetch_optional(conn).await.map_err(|e| classify(e, path))?;
    match stray {
        None => Ok(()),
        Some(_) => Err(damaged("a row refers to one that is not there".to_owned())),
    }
}

/// Rows and hash of each table, in the transaction of `conn`.
pub(super) async fn sums(
    conn: &mut SqliteConnection,
    path: &Path,
    cancel: &Cancel,
) -> Result<Sums, super::BackupError> {
    let mut sums = Sums::new();
    for table in tables::file::kept() {
        let (mut rows, mut hash) = (0_u64, Sha256::new());
        let mut found = sqlx::query(AssertSqlSafe(table.select())).fetch(&mut *conn);
        while let Some(row) = found.try_next().await.map_err(|e| classify(e, path))? {
            if rows == 0 {
                row.columns().iter().for_each(|column| field(&mut hash, b'c', column.name().as_bytes()));
            }
            add_row(&mut hash, &row).map_err(StoreError::Sql)?;
            rows += 1;
            if rows.is_multiple_of(1024) {
                cancel.check()?;
            }
        }
        sums.insert(table.name.to_owned(), TableSum { rows, hash: hex(&hash.finalize()) });
    }
    Ok(sums)
}

/// Hashes a value with its kind, its length and its bytes, so that different rows never look alike.
fn add_row(hash: &mut Sha256, row: &SqliteRow) -> Result<(), sqlx::Error> {
    hash.update(b"r");
    for n in 0..row.len() {
        let value = row.try_get_raw(n)?;
        if value.is_null() {
            field(hash, b'n', b"");
            continue;
        }
        let kind = value.type_info().name().to_owned();
        let decoding = sqlx::Error::Decode;
        match kind.as_str() {
            "INTEGER" => {
                let number = <i64 as sqlx::Decode<Sqlite>>::decode(value).map_err(decoding)?;
                field(hash, b'i', &number.to_le_bytes());
            }
            "REAL" => {
                let number = <f64 as sqlx::Decode<Sqlite>>::decode(value).map_err(decoding)?;
                field(hash, b'f', &number.to_bits().to_le_bytes());
            }
            kind => {
                let bytes = <&[u8] as sqlx::Decode<Sqlite>>::decode(value).map_err(decoding)?;
                field(hash, if kind == "TEXT" { b't' } else { b'b' }, bytes);
            }
        }
    }
    Ok(())
}

fn field(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Deletes all rows except the waiting ones and the rows they need, children first. Answers keep their
/// sources, and rows their conversation and person.
pub(crate) fn keep_named() -> Vec<String> {
    let tables = tables::all();
    let keep = |table: &&Table| {
        let needed = match table.name {
            "messages" => format!(
                " AND rid NOT IN (SELECT s.source FROM message_sources s JOIN messages m ON m.rid = s.message
                    WHERE m.id IN ({}))",
                named!()
            ),
            "conversations" => " AND rid NOT IN (SELECT conversation FROM messages)".to_owned(),
            "users" => {
                let owners = tables.iter().filter(|table| table.is_owned).map(|table| {
                    format!(" AND rid NOT IN (SELECT owner FROM {} WHERE owner IS NOT NULL)", table.name)
                });
                " AND id NOT IN (SELECT user_id FROM queue WHERE user_id IS NOT NULL
                    UNION SELECT user_id FROM dead_letter WHERE user_id IS NOT NULL)"
                    .to_owned()
                    + &owners.collect::<String>()
            }
            _ => String::new(),
        };
        format!("DELETE FROM {} WHERE id NOT IN ({}){needed}", table.name, named!())
    };
    tables.iter().rev().map(keep).collect()
}

/// Reduces the copy at `path` to the rows that wait for the Postgres database `house`, and the rows they
/// need. A new device can deliver them with this small database. Returns whether that is everything.
pub(super) async fn keep_what_waits(
    path: &Path,
    house: Option<Uuid>,
    cancel: &Cancel,
) -> Result<bool, StoreError> {
    let mut conn = connect_until(cancel, path, Access::Write).await?;
    let sql = |e| classify(e, path);
    sqlx::query(WITHOUT_JOURNAL).execute(&mut conn).await.map_err(sql)?;
    // Everything waits before and while it is queued for another database.
    let everything = match house {
        Some(house) => sqlx::query_scalar(IS_ELSEWHERE).bind(format!("\"{house}\"")),
        None => sqlx::query_scalar(IS_QUEUED_AGAIN),
    };
    let everything: bool = everything.fetch_one(&mut conn).await.map_err(sql)?;
    if everything {
        sqlx::query(FORGET_READ).execute(&mut conn).await.map_err(sql)?;
        close(conn).await;
        return Ok(true);
    }
    // Removing a million messages from the full-text index one by one, each erased byte by byte, would take
    // hours.
    let unindex: Option<String> = sqlx::query_scalar(UNINDEX).fetch_optional(&mut conn).await.map_err(sql)?;
    sqlx::query(NO_UNINDEX).execute(&mut conn).await.map_err(sql)?;
    for statement in keep_named() {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut conn).await.map_err(sql)?;
    }
    for statement in [COUNT_MESSAGES, FORGET_READ, INDEX_AGAIN] {
        sqlx::query(statement).execute(&mut conn).await.map_err(sql)?;
    }
    if let Some(unindex) = unindex {
        sqlx::raw_sql(AssertSqlSafe(unindex)).execute(&mut conn).await.map_err(sql)?;
    }
    sqlx::query(VACUUM).execute(&mut conn).await.map_err(sql)?;
    close(conn).await;
    Ok(false)
}

/// Forgets how far the database at `path` has read Postgres: an older database has not read the rows that
/// this device wrote and lost since.
pub(super) async fn forget_read(path: &Path) -> Result<(), StoreError> {
    let mut conn = connect(path, Access::Write).await?;
    let done = sqlx::query(FORGET_READ).execute(&mut conn).await;
    close(conn).await;
    done.map(|_| ()).map_err(|e| classify(e, path))
}

/// Notes in the file at `path` that it sends under the device's id from now on, in place of any earlier
/// memory (store/holder.rs). The file is to become the memory of this device.
pub(super) async fn take_over(path: &Path) -> Result<(), StoreError> {
    let mut conn = connect(path, Access::Write).await?;
    let sql = |e| classify(e, path);
    sqlx::query(OWN_JOURNAL).execute(&mut conn).await.map_err(sql)?;
    let note = sqlx::query(TAKE_OVER).bind(holder::KEY).bind(holder::TAKES_OVER);
    note.execute(&mut conn).await.map_err(sql)?;
    close(conn).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_statement_that_would_take_days_ends_when_everything_is_asked_to_stop() {
        const DAYS: &str = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c
            WHERE n < 1000000000000) SELECT sum(n) FROM c";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        durable::create_file(&path).unwrap();
        let cancel = Cancel::default();
        let mut conn = connect_until(&cancel, &path, Access::Read).await.unwrap();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(sqlx::query(DAYS).fetch_one(&mut conn), stop);
        let error = cancel.explains(classify(ended.unwrap_err(), &path).into());
        assert!(matches!(error, super::super::BackupError::Cancelled), "{error:?}");
    }
}
