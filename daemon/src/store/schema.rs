//! Migrations: numbered SQL documents, compiled in, applied forward only.

use std::path::Path;

use sqlx::{Row as _, SqliteConnection};

use super::StoreError;
use super::sqlite::classify;

/// One document per version, in order: document n takes a database from version n − 1 to n and ends by
/// setting `PRAGMA user_version = n`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0001_initial.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0002_replica.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0003_named.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0004_leaves.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0005_grams.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0006_hangul.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite/0007_open_turns.sql")),
];

/// Schema version of this program.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// `PRAGMA application_id`: "JRVS".
const APPLICATION_ID: i64 = 0x4A52_5653;

super::sql::statements! {
    READ_IDENTITY = "SELECT (SELECT user_version FROM pragma_user_version) AS version,
        (SELECT application_id FROM pragma_application_id) AS application,
        (SELECT count(*) FROM sqlite_schema) AS objects,
        (SELECT count(*) FROM sqlite_schema WHERE type = 'table'
            AND name IN ('conversations', 'messages', 'message_sources', 'tombstones',
            'dead_letter')) AS ours";
}

/// The identity of a file, from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Empty,
    Ours { version: i64 },
}

async fn identify(conn: &mut SqliteConnection, path: &Path) -> Result<Identity, StoreError> {
    let row = sqlx::query(READ_IDENTITY).fetch_one(conn).await.map_err(|e| classify(e, path))?;
    let get = |column: &str| row.try_get::<i64, _>(column).map_err(StoreError::Sql);
    let (version, application, objects) = (get("version")?, get("application")?, get("objects")?);
    let damaged = |detail: &str| Err(StoreError::Damaged { path: path.into(), detail: detail.into() });
    if application == APPLICATION_ID {
        if !(1..=VERSION + 1_000).contains(&version) {
            return damaged("its header gives a version that there cannot be");
        }
        if version > VERSION {
            return Err(StoreError::Newer { path: path.into(), found: version, known: VERSION });
        }
        return Ok(Identity::Ours { version });
    }
    if application == 0 && version == 0 && objects == 0 {
        return Ok(Identity::Empty);
    }
    if get("ours")? == 5 {
        return damaged("its header says that it is another program's, its tables are ours");
    }
    let detail =
        format!("application id {application}, schema version {version}, {objects} tables and indexes");
    Err(StoreError::NotOurs { path: path.into(), detail })
}

/// Checks that the file is one of ours without changing it.
pub(super) async fn check(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    identify(conn, path).await.map(|_| ())
}

/// Checks that the file is one of ours and needs no migration.
pub(super) async fn check_current(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    match identify(conn, path).await? {
        Identity::Ours { version: VERSION } => Ok(()),
        _ => Err(StoreError::ReadOnly { path: path.into() }),
    }
}

/// Brings the schema to [`VERSION`], all missing versions in one transaction. Two processes may run this at
/// once: the second has nothing left to do.
pub(super) async fn migrate(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let identity = identify(conn, path).await?;
    if identity == (Identity::Ours { version: VERSION }) {
        return Ok(());
    }
    let sql = |e| classify(e, path);
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *conn).await.map_err(sql)?;
    let done = match identify(conn, path).await? {
        Identity::Empty => 0,
        Identity::Ours { version } => version,
    };
    for (document, version) in MIGRATIONS.iter().copied().zip(1_i64..) {
        if version > done {
            log::info!("bringing the database {} to schema version {version}", path.display());
            sqlx::raw_sql(document).execute(&mut *conn).await.map_err(|e| match sql(e) {
                // A step tested on every older version fails only on a file whose header is wrong.
                StoreError::Sql(e) => StoreError::Damaged {
                    path: path.into(),
                    detail: super::sqlite::briefly(&format!("its schema is not that of version {done}: {e}")),
                },
                other => other,
            })?;
        }
    }
    sqlx::raw_sql("COMMIT").execute(&mut *conn).await.map_err(sql)?;
    Ok(())
}
