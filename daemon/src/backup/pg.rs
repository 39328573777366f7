//! Backups of Postgres: a dump of one moment, its rows, and the scratch database that proves it.
//!
//! A transaction of this program exports its snapshot. The hashes of the tables are made in it and `pg_dump`
//! reads through it, so both see the same moment. Row-level security silently hides rows from a session that
//! does not identify itself. So the session sets `jarvis.role = forwarder` and the program sets its name. A
//! policy that hides rows from the session is refused before the dump, and the rows in the dump are counted
//! against those of the session.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::mpsc;

use super::BackupError;
use super::columns::Columns;
use super::create::{Run, Source, blocking, queue_file};
use super::keys::Keys;
use super::lock::SPARE_BYTES;
use super::manifest::{FileEntry, Manifest, Origin, Role, Sums, TableSum, damaged};
use super::pg_tools::{PgAccess, Piece, Running, Tool, pipe, split};
use super::scratch::ScratchDatabase;
use super::stream::{self, Sealed, pour};
use super::verify::compare;
use crate::store::postgres::{PgError, PgSettings, open, prove_another_session};
use crate::store::tables;

pub(super) const STEP: &str = "backing up Postgres";
/// Pieces of a dump that wait for the server.
const PIECES: usize = 16;

crate::store::sql::statements! {
    BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    EXPORT = "SELECT pg_export_snapshot()";
    SERVER = "SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::integer AS number";
    /// No deadline: a large table takes its time. The text of a row is hashed, so its format is fixed.
    pub(super) SESSION = "SELECT set_config(name, value, false) FROM (VALUES ('statement_timeout', '0'),
        ('idle_in_transaction_session_timeout', '0'), ('lock_timeout', '60s'), ('datestyle', 'ISO, YMD'),
        ('timezone', 'UTC'),
        ('bytea_output', 'hex'), ('extra_float_digits', '1'), ('row_security', 'on'),
        ('search_path', 'pg_catalog'),
        ('jarvis.role', 'forwarder')) AS settings (name, value)";
    INSTALLED = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'jarvis' AND c.relname = 'schema_version')";
    VERSION = "SELECT coalesce(max(version), 0)::bigint FROM jarvis.schema_version";
    /// Tables in which this session may not see every row.
    HIDDEN = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'jarvis' AND c.relkind = 'r' AND c.relrowsecurity
            AND (EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
                OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive
                AND p.polcmd IN ('*', 'r')
                    AND pg_get_expr(p.polqual, p.polrelid) LIKE '%forwarder%'))
        ORDER BY 1";
    SIZE = "SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n
        ON n.oid = c.relnamespace
        WHERE n.nspname = 'jarvis' AND c.relkind = 'r'";
    pub(super) LEFTOVERS = "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)";
    WHICH = "SELECT id FROM jarvis.house";
}

crate::store::sql::built! {
    /// Whether the counter is behind the highest change number given out.
    COUNTER_BEHIND = {
        let highest = |table| format!("(SELECT max(change) FROM jarvis.{table})");
        let highest = tables::numbered().into_iter().map(highest).collect::<Vec<_>>().join(", ");
        format!("SELECT (SELECT last_value FROM jarvis.changes) < greatest({highest})")
    };
}

/// Every table in Postgres.
pub(crate) fn tables_there() -> Vec<&'static str> {
    let synced = tables::all().into_iter().map(|table| table.name);
    synced.chain(["devices", "house", "message_sources", "schema_version", tables::TOMBSTONES]).collect()
}

/// The input of the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashed {
    Record,
    Text,
}

impl Hashed {
    /// Selects the rows of a table and the sums of two hashes of each row. Two databases with the same rows
    /// have the same sums, in any order of storage.
    pub(crate) fn sum_of(self, table: &str) -> String {
        match self {
            // Available from version 14 on. A server keeps these functions unchanged, since hash-partitioned
            // tables depend on them.
            Self::Record => format!(
                "SELECT count(*) AS rows, 'record ' || coalesce(sum(hash_record_extended(t, 0)), 0)::text
                    || ' ' || coalesce(sum(hash_record_extended(t, 1)), 0)::text AS hash
                    FROM jarvis.{table} t"
            ),
            // SHA-256 of the text of each row takes ten times as long: for servers before 14, and for backups
            // that use it.
            Self::Text => format!(
                "SELECT count(*) AS rows, coalesce(sum(('x' || substr(h, 1, 16))::bit(64)::bigint), 0)::text
                    || ' ' || coalesce(sum(('x' || substr(h, 17, 16))::bit(64)::bigint), 0)::text AS hash
                FROM (SELECT encode(sha256(convert_to(t::text, 'UTF8')), 'hex') AS h
                    FROM jarvis.{table} t) hashed"
            ),
        }
    }

    fn of_server(major: i32) -> Self {
        if major >= 14 { Self::Record } else { Self::Text }
    }

    fn of_backup(tables: &Sums) -> Self {
        let record = tables.values().all(|table| table.hash.starts_with("record "));
        if record { Self::Record } else { Self::Text }
    }
}

/// A session that identifies itself and has no deadlines.
pub(super) async fn session(settings: &PgSettings) -> Result<PgConnection, BackupError> {
    let mut conn = open(settings).await.map_err(|e| BackupError::postgres(&e, &settings.shown))?;
    set_up(&mut conn, settings).await?;
    Ok(conn)
}

/// Proves that a program of Postgres, which has no deadline of its own, gets a session beside this one.
pub(super) async fn another_session(settings: &PgSettings) -> Result<(), BackupError> {
    prove_another_session(settings).await.map_err(|e| BackupError::postgres(&e, &settings.shown))
}

pub(super) async fn set_up(conn: &mut PgConnection, settings: &PgSettings) -> Result<(), BackupError> {
    sqlx::query(SESSION).fetch_all(conn).await.map(drop).map_err(of(settings))
}

pub(super) fn of(settings: &PgSettings) -> impl Fn(sqlx::Error) -> BackupError {
    |e| BackupError::postgres(&PgError::of(STEP, &e), &settings.shown)
}

/// Rows and hash of every table, in the transaction of `conn`.
async fn sums(conn: &mut PgConnection, run: &Run<'_>, hashed: Hashed) -> Result<Sums, sqlx::Error> {
    let mut sums = Sums::new();
    for name in tables_there() {
        if run.cancel.check().is_err() {
            break;
        }
        let statement = AssertSqlSafe(hashed.sum_of(name));
        let row = sqlx::query(statement).fetch_one(&mut *conn).await?;
        let rows = u64::try_from(row.try_get::<i64, _>("rows")?).unwrap_or(0);
        sums.insert(name.to_owned(), TableSum { rows, hash: row.try_get("hash")? });
    }
    Ok(sums)
}

/// Dumps the database into the folder of a backup.
pub(super) async fn dump(
    run: &Run<'_>,
    folder: &Path,
    recipients: &[age::x25519::Recipient],
    settings: &PgSettings,
) -> Result<Source, BackupError> {
    // Connects before the snapshot: an entry delivered in between is in both files, which is harmless.
    let mut conn = session(settings).await?;
    // If there is no id yet, the dump shows it.
    let house = sqlx::query_scalar(WHICH).fetch_optional(&mut conn).await.ok().flatten();
    let queue = queue_file(run, folder, recipients, house).await?;
    let dumped = dump_with(&mut conn, run, folder, recipients, settings).await;
    let _ = conn.close().await;
    let mut source = dumped?;
    if let Some((file, undelivered)) = queue {
        source.files.push(file);
        source.undelivered = Some(undelivered);
    }
    Ok(source)
}

async fn dump_with(
    conn: &mut PgConnection,
    run: &Run<'_>,
    folder: &Path,
    recipients: &[age::x25519::Recipient],
    settings: &PgSettings,
) -> Result<Source, BackupError> {
    let sql = of(settings);
    let server = sqlx::query(SERVER).fetch_one(&mut *conn).await.map_err(&sql)?;
    let server_version: String = server.try_get("version").map_err(&sql)?;
    let major: i32 = server.try_get::<i32, _>("number").map_err(&sql)? / 10_000;
    let tool = blocking(move || Tool::find("pg_dump", u32::try_from(major).unwrap_or(0))).await?;
    another_session(settings).await?;
    sqlx::raw_sql(BEGIN).execute(&mut *conn).await.map_err(&sql)?;
    if !sqlx::query_scalar::<_, bool>(INSTALLED).fetch_one(&mut *conn).await.map_err(&sql)? {
        return Err(BackupError::Refused(format!(
            "there are no tables of Jarvis in {} yet, so there is nothing to back up",
            settings.shown
        )));
    }
    let hidden: Vec<String> = sqlx::query_scalar(HIDDEN).fetch_all(&mut *conn).await.map_err(&sql)?;
    if !hidden.is_empty() {
        return Err(BackupError::Refused(format!(
            "a policy of row-level security that is not of Jarvis hides rows of {} from the backup: drop it, \
             or back up as a \
             role with BYPASSRLS",
            hidden.join(", ")
        )));
    }
    let schema_version: i64 = sqlx::query_scalar(VERSION).fetch_one(&mut *conn).await.map_err(&sql)?;
    let size: i64 = sqlx::query_scalar(SIZE).fetch_one(&mut *conn).await.map_err(&sql)?;
    let size = u64::try_from(size).unwrap_or(0);
    run.lock.needs(size.saturating_add(SPARE_BYTES))?;
    let snapshot: String = sqlx::query_scalar(EXPORT).fetch_one(&mut *conn).await.map_err(&sql)?;
    run.progress.begin(size);
    let sealed = Sealed::create(folder, Role::Database, recipients, Some(Columns::default()))?;
    // Both at once: the server hashes for one connection and dumps to another.
    let (sums, sealed) = tokio::join!(
        sums(conn, run, Hashed::of_server(major)),
        run_dump(run, &tool, (settings, schema_version), &snapshot, sealed)
    );
    let sealed = sealed?;
    run.cancel.check()?;
    let tables = sums.map_err(&sql)?;
    let entry = blocking(move || sealed.finish(tables)).await?;
    Ok(Source {
        origin: Origin::Postgres,
        files: vec![entry],
        schema_version,
        server_version: format!("PostgreSQL {server_version}"),
        tool: Some(tool.version),
        compared_with_source: true,
        undelivered: None,
    })
}

async fn run_dump(
    run: &Run<'_>,
    tool: &Tool,
    (settings, schema_version): (&PgSettings, i64),
    snapshot: &str,
    mut sealed: Sealed,
) -> Result<Sealed, BackupError> {
    let way_in = PgAccess::to(settings, schema_version)?;
    let mut command = tool.command();
    command.args(["--format=custom", "--compress=0", "--schema=jarvis", "--no-owner", "--no-privileges"]);
    // A role may have another encoding set, which the dump would use.
    command.args(["--encoding=UTF8", "--enable-row-security", "--no-password", "--lock-wait-timeout=60000"]);
    let (stdout, to_us) = pipe("pg_dump")?;
    command.arg(format!("--snapshot={snapshot}")).stdout(to_us);
    way_in.apply(&mut command);
    let running = Running::start(command)?;
    drop(way_in);
    let (progress, cancel) = (run.progress.clone(), run.cancel.clone());
    let taking = blocking(move || sealed.take(stdout, &progress, &cancel).map(|()| sealed));
    let (sealed, ended) = running.with(run.cancel, taking).await;
    run.cancel.check()?;
    let sealed = sealed?;
    ended.map(|()| sealed)
}

/// Makes `pg_restore` turn the dump of a backup into a script, and passes its pieces to `take`, on a separate
/// thread.
async fn pieces(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
    take: impl FnMut(Piece) -> Result<(), BackupError> + Send + 'static,
) -> Result<(), BackupError> {
    let source = stream::open(folder, manifest, entry, keys)?;
    let made_by = manifest.tool.as_deref().and_then(|tool| tool.split_whitespace().nth(2));
    let major = made_by.and_then(|version| version.split('.').next()?.parse().ok()).unwrap_or(0);
    let tool = blocking(move || Tool::find("pg_restore", major)).await?;
    let ((stdin, to_it), (stdout, to_us)) = (pipe("pg_restore")?, pipe("pg_restore")?);
    let mut command = tool.command();
    command.args(["--file=-", "--no-owner", "--no-privileges", "--exit-on-error"]).stdin(stdin).stdout(to_us);
    let running = Running::start(command)?;
    let (name, progress, cancel) = (manifest.name.clone(), run.progress.clone(), run.cancel.clone());
    let feeding = blocking(move || pour(source, to_it, (&name, Path::new("pg_restore")), &progress, &cancel));
    let taking = blocking(move || split(stdout, take));
    let (fed, (taken, ended)) = tokio::join!(feeding, running.with(run.cancel, taking));
    run.cancel.check()?;
    match (fed, taken, ended) {
        // A fault of the dump comes first; the program that stopped reading is a consequence.
        (Err(e @ BackupError::Damaged { .. }), ..) => Err(e),
        (fed, Ok(()), Ok(())) => fed,
        (_, Err(e @ BackupError::Tool { .. }), _) | (_, Ok(()), Err(e)) => {
            Err(damaged(&manifest.name, crate::error::chain(&e)))
        }
        (_, Err(e), _) => Err(e),
    }
}

/// Reads the whole dump and counts its rows.
pub(super) async fn parse(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<(), BackupError> {
    let counts = std::sync::Arc::new(std::sync::Mutex::new((String::new(), BTreeMap::<String, u64>::new())));
    let counting = counts.clone();
    pieces(run, folder, manifest, entry, keys, move |piece| {
        let mut counts = counting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (current, rows_of) = &mut *counts;
        match piece {
            Piece::Copy { table, .. } => {
                *current = table.trim_start_matches("jarvis.").to_owned();
                rows_of.insert(current.clone(), 0);
            }
            Piece::Rows { rows, .. } => *rows_of.entry(current.clone()).or_default() += rows,
            Piece::Sql(_) | Piece::CopyEnd => {}
        }
        Ok(())
    })
    .await?;
    let counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (table, wanted) in &entry.tables {
        let found = counts.1.get(table).copied();
        if found != Some(wanted.rows) {
            let found = found.map_or_else(|| "no data".to_owned(), |n| format!("{n} rows"));
            let detail =
                format!("the dump has {found} of table {table}, and there were {} rows", wanted.rows);
            return Err(damaged(&manifest.name, detail));
        }
    }
    Ok(())
}

/// Restores the dump of a backup in the transaction of `conn`, then compares every table with the manifest.
pub(super) async fn load(
    conn: &mut PgConnection,
    run: &Run<'_>,
    backup: (&Path, &Manifest, &FileEntry, &Keys),
    settings: &PgSettings,
) -> Result<(), BackupError> {
    let (folder, manifest, entry, keys) = backup;
    run.progress.begin(entry.plain_bytes);
    let (sender, receiver) = mpsc::channel(PIECES);
    let reading = pieces(run, folder, manifest, entry, keys, move |piece| {
        sender.blocking_send(piece).map_err(|_| BackupError::Cancelled)
    });
    let (read, run_there) = tokio::join!(reading, execute(conn, receiver));
    match (read, run_there) {
        // The reader ended because the execution failed.
        (Err(BackupError::Cancelled), Err(e)) => {
            run.cancel.check()?;
            return Err(rejected(manifest, settings, &e));
        }
        (Err(e), _) => return Err(e),
        (Ok(()), Err(e)) => return Err(rejected(manifest, settings, &e)),
        (Ok(()), Ok(())) => {}
    }
    set_up(conn, settings).await?;
    let found = sums(conn, run, Hashed::of_backup(&entry.tables)).await.map_err(of(settings))?;
    run.cancel.check()?;
    compare(manifest, &entry.tables, &found)?;
    let behind: Option<bool> =
        sqlx::query_scalar(*COUNTER_BEHIND).fetch_one(conn).await.map_err(of(settings))?;
    if behind == Some(true) {
        return Err(damaged(&manifest.name, "its counter of changes is behind its rows"));
    }
    Ok(())
}

/// Blames the dump for a statement that the server refuses, unless the server was away.
fn rejected(manifest: &Manifest, settings: &PgSettings, error: &sqlx::Error) -> BackupError {
    let error = PgError::of("restoring into Postgres", error);
    match error.sqlstate() {
        Some(state)
            if ["22", "23", "42"].iter().any(|class| state.starts_with(class)) && state != "42501" =>
        {
            damaged(&manifest.name, format!("the server refuses a part of the dump: {}", error.cause()))
        }
        _ => BackupError::postgres(&error, &settings.shown),
    }
}

async fn execute(conn: &mut PgConnection, mut pieces: mpsc::Receiver<Piece>) -> Result<(), sqlx::Error> {
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Sql(sql) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
            }
            Piece::Copy { statement, .. } => {
                let mut copy = conn.copy_in_raw(&statement).await?;
                loop {
                    match pieces.recv().await {
                        Some(Piece::Rows { bytes, .. }) => {
                            copy.send(bytes).await?;
                        }
                        Some(_) => break,
                        None => {
                            copy.abort("the dump ended").await?;
                            return Ok(());
                        }
                    }
                }
                copy.finish().await?;
            }
            Piece::Rows { .. } | Piece::CopyEnd => {}
        }
    }
    Ok(())
}

/// Whether a name can stand in a statement unquoted.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Restores the dump into a scratch database and compares every table.
pub(super) async fn into_scratch(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
    settings: &PgSettings,
) -> Result<(), BackupError> {
    let scratch = ScratchDatabase::create(settings).await?;
    let loaded = async {
        let mut conn = session(&scratch.settings).await?;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.map_err(of(settings))?;
        let loaded = load(&mut conn, run, (folder, manifest, entry, keys), &scratch.settings).await;
        if loaded.is_ok() {
            sqlx::raw_sql("COMMIT").execute(&mut conn).await.map_err(of(settings))?;
        }
        let _ = conn.close().await;
        loaded
    };
    let loaded = loaded.await;
    let dropped = scratch.drop().await;
    loaded.and(dropped)
}
