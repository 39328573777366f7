//! Tests of the file: schema, refusals, transactions.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::*;

async fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, &StoreOptions::default()).await
}

/// A connection that skips the checks, to make damage.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

async fn run(conn: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(conn).await.unwrap();
}

fn schema_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/sqlite/schema.sql")
}

/// Every object of the schema, sorted by name, as SQLite keeps it.
async fn dump(store: &Store) -> String {
    let mut reader = store.reader().await.unwrap();
    let rows = sqlx::query(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL
        AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name",
    )
    .fetch_all(&mut *reader)
    .await
    .unwrap();
    let mut text = format!(
        "-- Frozen dump of what the migrations produce, schema version {VERSION}. Not applied by anything: a \
         test compares it.\n\
         -- After adding a migration: JARVIS_BLESS=1 cargo test --lib migrations_produce\n"
    );
    for row in rows {
        text.push_str(&format!("\n{};\n", row.get::<String, _>(0)));
    }
    text
}

#[tokio::test]
async fn migrations_produce_exactly_the_frozen_schema() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jarvis.db")).await.unwrap();
    let dump = dump(&store).await;
    if std::env::var_os("JARVIS_BLESS").is_some() {
        fs::write(schema_file(), &dump).unwrap();
    }
    assert_eq!(dump, fs::read_to_string(schema_file()).unwrap());
}

#[tokio::test]
async fn rows_of_every_earlier_version_are_recognised_in_a_damaged_file() {
    use sqlx::{ConnectOptions as _, Row as _};
    let mut conn = sqlx::sqlite::SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
    let mut checked = 0;
    for (document, version) in schema::MIGRATIONS.iter().copied().zip(1..) {
        sqlx::raw_sql(document).execute(&mut conn).await.unwrap();
        for table in tables::file::kept().into_iter().filter(|table| !table.shape.is_empty()) {
            let count = sqlx::query("SELECT count(*) FROM pragma_table_info(?1)").bind(table.name);
            let row = count.fetch_one(&mut conn).await.unwrap();
            let columns = usize::try_from(row.get::<i64, _>(0)).unwrap();
            let known = columns == table.shape.len() || table.older.contains(&columns);
            // A table that came later is not there yet.
            assert!(columns == 0 || known, "{} of version {version} has {columns} columns", table.name);
            checked += usize::from(columns > 0);
        }
    }
    assert!(checked > 40, "{checked}");
}

/// A file written by earlier versions, kept for ever.
const VERSION_1: &str = include_str!("testdata/version-1.sql");

#[tokio::test]
async fn a_database_of_version_1_is_brought_up_to_date_with_every_row_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let mut conn = raw(&path).await;
    run(&mut conn, VERSION_1).await;
    let number = async |conn: &mut SqliteConnection, sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
    };
    let tables = [
        "SELECT count(*) FROM users",
        "SELECT count(*) FROM voiceprints",
        "SELECT count(*) FROM conversations",
        "SELECT count(*) FROM messages",
        "SELECT count(*) FROM message_sources",
        "SELECT count(*) FROM audit",
        "SELECT count(*) FROM queue",
        "SELECT count(*) FROM dead_letter",
        "SELECT count(*) FROM tombstones",
        "SELECT count(*) FROM settings",
        "SELECT seq FROM sqlite_sequence WHERE name = 'queue'",
    ];
    let mut before = Vec::new();
    for sql in tables {
        before.push(number(&mut conn, sql).await);
    }
    assert!(before.iter().all(|n| *n > 0), "{before:?}");
    conn.close().await.unwrap();

    let store = open(&path).await.unwrap();
    store.check().await.unwrap();
    assert_eq!(dump(&store).await, fs::read_to_string(schema_file()).unwrap());
    store.close().await;

    let mut conn = raw(&path).await;
    for (sql, before) in tables.into_iter().zip(before) {
        assert_eq!(number(&mut conn, sql).await, before, "{sql}");
    }
    // The home is the device of the first message; without messages it is the oldest device.
    let homes: Vec<i64> = sqlx::query_scalar("SELECT device FROM conversations ORDER BY rid")
        .fetch_all(&mut conn)
        .await
        .unwrap();
    assert_eq!(homes, [1, 2, 1]);
    // Names that wait to be sent are later than those in Postgres at that time; all others are not.
    for (sql, table) in [
        (
            "SELECT count(*) FROM users WHERE (named > zeroblob(16)) <> (id IN (
            SELECT entity_id FROM queue))",
            "users",
        ),
        (
            "SELECT count(*) FROM conversations WHERE (named > zeroblob(16)) <> (id IN (
                SELECT entity_id FROM queue WHERE op = 'upsert_conversation'))",
            "conversations",
        ),
    ] {
        assert_eq!(number(&mut conn, sql).await, 0, "{table}");
    }
    assert!(number(&mut conn, "SELECT count(*) FROM conversations WHERE named > zeroblob(16)").await > 0);
    for (words, found) in [("spare AND owner : 1", 4), ("schone", 1), ("owner : 2", 0), ("kind : note", 1)] {
        let sql = "SELECT count(*) FROM messages_fts WHERE messages_fts MATCH ?1";
        let n: i64 = sqlx::query_scalar(sql).bind(words).fetch_one(&mut conn).await.unwrap();
        assert_eq!(n, found, "{words}");
    }
    conn.close().await.unwrap();
}

#[tokio::test]
async fn every_statement_prepares_on_the_real_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    open(&path).await.unwrap().close().await;
    let mut conn = raw(&path).await;
    let all = [
        super::compare::STATEMENTS,
        super::compare::tables::STATEMENTS,
        super::holder::STATEMENTS,
        super::resync::STATEMENTS,
        super::open::STATEMENTS,
        super::outgoing::STATEMENTS,
        super::queue::STATEMENTS,
        super::renumber::STATEMENTS,
        super::pull_cursor::STATEMENTS,
        super::salvage::STATEMENTS,
        super::schema::STATEMENTS,
        super::scrub::STATEMENTS,
        super::settings::STATEMENTS,
        super::sqlite::STATEMENTS,
        super::vanished::STATEMENTS,
        crate::backup::restore::STATEMENTS,
        crate::backup::sqlite::STATEMENTS,
    ];
    let constants = all.into_iter().chain(crate::memory::statements()).flatten().copied();
    let built = [super::queue::built(), super::salvage::built()].into_iter().flatten();
    let of_tables = super::tables::all().into_iter().flat_map(|table| table.statements_here());
    let fixed = constants.chain(built).chain(of_tables).map(|(name, sql)| (name, sql.to_owned()));
    let kept = super::tables::file::kept();
    let of_files = kept.iter().flat_map(|table| [(table.name, table.select())]);
    let of_lists = super::salvage::mending().into_iter().chain(crate::backup::sqlite::keep_named());
    let all = fixed.chain(of_files).chain(of_lists.map(|sql| ("a list of tables", sql)));
    let mut count = 0;
    for (name, sql) in all {
        let explain = AssertSqlSafe(format!("EXPLAIN {sql}"));
        sqlx::raw_sql(explain).execute(&mut conn).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        count += 1;
    }
    assert!(count > 60, "{count} statements");
}

#[tokio::test]
async fn every_connection_is_durable_checked_and_scrubs_what_it_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jarvis.db")).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    for (pragma, expected) in [
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("secure_delete", 1),
        ("application_id", 0x4A52_5653),
        ("page_size", i64::from(super::open::PAGE_BYTES)),
    ] {
        let sql = AssertSqlSafe(format!("PRAGMA {pragma}"));
        let row = tx.optional(sqlx::query(sql)).await.unwrap().unwrap();
        assert_eq!(row.get::<i64, _>(0), expected, "{pragma}");
    }
    let mode = tx.optional(sqlx::query("PRAGMA journal_mode")).await.unwrap().unwrap();
    assert_eq!(mode.get::<String, _>(0), "wal");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_bound_in_bytes_holds_whatever_the_pages_of_the_file_are() {
    for page_bytes in [super::open::PAGE_BYTES, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jarvis.db");
        let make = SqliteConnectOptions::new().filename(&path).create_if_missing(true).page_size(page_bytes);
        let mut conn = make.connect().await.unwrap();
        sqlx::raw_sql("VACUUM").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let small = StoreOptions { max_bytes: Some(1 << 20), ..StoreOptions::default() };
        let store = Store::open(&path, &small).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let put = |bytes: i64| {
            sqlx::query(
                "INSERT OR REPLACE INTO settings (key, value, updated_unix_ms)
                VALUES ('x', json_quote(hex(zeroblob(?1))), 0)",
            )
            .bind(bytes)
        };
        tx.execute(put(200_000)).await.unwrap();
        let error = tx.execute(put(600_000)).await.unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{page_bytes}: {error:?}");
        let size = tx.optional(sqlx::query("PRAGMA page_size")).await.unwrap().unwrap();
        assert_eq!(size.get::<u32, _>(0), page_bytes);
    }
}

#[tokio::test]
async fn the_file_and_its_folder_are_created_for_the_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("var/lib/jarvis/jarvis.db");
    let store = open(&path).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
    assert_eq!(mode(path.parent().unwrap()) & 0o007, 0);
    store.close().await;
}

#[tokio::test]
async fn a_newer_database_is_refused_naming_both_versions_and_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    open(&path).await.unwrap().close().await;
    let mut conn = raw(&path).await;
    run(&mut conn, "PRAGMA user_version = 99").await;
    conn.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, known: VERSION, .. }), "{error:?}");
    let sentence = error.to_string();
    assert!(sentence.contains("99") && sentence.contains(&format!("up to {VERSION}")), "{sentence}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let mut conn = raw(&path).await;
    run(&mut conn, "CREATE TABLE recordings (id INTEGER PRIMARY KEY)").await;
    conn.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::NotOurs { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn damage_is_found_at_the_start_and_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let fresh = || async {
        let _ = fs::remove_file(&path);
        open(&path).await.unwrap().close().await;
        fs::read(&path).unwrap()
    };
    const PAGE: usize = super::open::PAGE_BYTES as usize;
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("text instead of a database", |file| *file = b"this is not a database at all, sorry".to_vec()),
        ("header zeroed", |file| file[..100].fill(0)),
        ("a page overwritten", |file| file[PAGE * 3..PAGE * 4].fill(0xA5)),
        ("cut in the middle", |file| file.truncate(PAGE * 5 + 100)),
    ];
    for (what, damage) in damages {
        let mut file = fresh().await;
        damage(&mut file);
        fs::write(&path, &file).unwrap();
        let look_only = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
        let error = Store::open(&path, &look_only).await.expect_err(what);
        assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("restore the latest backup"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), file, "{what}: the file was changed");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    fs::write(&in_the_way, "x").unwrap();
    let error = open(&in_the_way.join("jarvis.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("check the folder"), "{error}");
}

#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_nothing_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jarvis.db")).await.unwrap();
    let put = |key: &'static str| {
        sqlx::query("INSERT INTO settings (key, value, updated_unix_ms) VALUES (?1, '1', 0)").bind(key)
    };
    let mut tx = store.begin().await.unwrap();
    tx.execute(put("dropped")).await.unwrap();
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    tx.execute(put("failed")).await.unwrap();
    assert!(matches!(tx.execute(put("failed")).await, Err(StoreError::Constraint { unique: true, .. })));
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    tx.execute(put("kept")).await.unwrap();
    tx.commit().await.unwrap();
    let mut reader = store.reader().await.unwrap();
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT key FROM settings").fetch_all(&mut *reader).await.unwrap();
    assert_eq!(keys, ["kept"]);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jarvis.db")).await.unwrap();
    let mut reader = store.reader().await.unwrap();
    let error = sqlx::query("DELETE FROM users").execute(&mut *reader).await.unwrap_err();
    assert!(matches!(store.classify(error), StoreError::ReadOnly { .. }));
}

#[tokio::test]
async fn a_second_process_waits_for_the_lock_and_is_told_when_it_waited_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let first = open(&path).await.unwrap();
    let impatient =
        StoreOptions { busy_timeout: Some(std::time::Duration::from_millis(50)), ..StoreOptions::default() };
    let second = Store::open(&path, &impatient).await.unwrap();
    let tx = first.begin().await.unwrap();
    let error = second.begin().await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    drop(tx);
    second.begin().await.unwrap().commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_openings_at_once_create_one_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let opened = futures_util::future::join_all((0..8).map(|_| open(&path))).await;
    for store in opened {
        store.unwrap().check().await.unwrap();
    }
}

#[test]
fn operations_are_stored_under_names_that_can_be_read_back() {
    use super::queue::Op;
    for op in Op::ALL.iter().copied() {
        assert_eq!(Op::parse(op.as_str()), Some(op));
    }
    assert_eq!(Op::parse("drop_table"), None);
}

#[tokio::test]
async fn sqlite_is_built_so_that_deleted_text_leaves_the_file_while_turns_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jarvis.db")).await.unwrap();
    let scrubbed = super::scrub::scrub(&store).await.unwrap();
    assert!(scrubbed.is_some(), "build with .cargo/config.toml of this repository");
}
