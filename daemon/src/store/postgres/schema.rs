//! Migrations of Postgres: numbered documents, applied forward only, each in one transaction under
//! [`WRITE_LOCK`].

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{PgError, STATEMENT_DEADLINE, within};

/// One document per version, in order.
const MIGRATIONS: &[&str] = &[
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres/0001_initial.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres/0002_named.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres/0003_parents.sql")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres/0004_holders.sql")),
];

/// Schema version of this program.
#[expect(clippy::cast_possible_truncation, reason = "a handful of documents")]
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// Advisory lock of every transaction that writes ("JRVS", 1): change numbers become visible in order.
pub const WRITE_LOCK: i64 = 0x4A52_5653_0000_0001;

super::super::sql::statements! {
    /// Read from the tables themselves: `to_regclass` answers from a cache that may be older than the lock.
    INSTALLED = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'jarvis') AS schema,
        EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'jarvis' AND c.relname = 'schema_version') AS tables";
    FOUND_VERSION = "SELECT coalesce(max(version), 0) FROM jarvis.schema_version";
    pub(super) HOUSE = "SELECT id FROM jarvis.house";
    LOCK = "SELECT pg_advisory_xact_lock($1)";
    MAKE_SCHEMA = "CREATE SCHEMA jarvis";
}

/// Whether a database with this version is in use and will be migrated by the next connection.
pub fn is_old(found: i32) -> bool {
    (1..VERSION).contains(&found)
}

/// Brings the schema to [`VERSION`] and returns the id of the database; `before` runs first if the database
/// is in use. Several devices may do this at once.
pub(super) async fn migrate(
    conn: &mut PgConnection,
    before: impl Future<Output = ()>,
) -> Result<Uuid, PgError> {
    let mut found = version(conn).await?;
    if is_old(found) {
        before.await;
    }
    while found < VERSION {
        next_version(conn).await?;
        found = version(conn).await?;
    }
    house(conn).await
}

/// The id of this database.
pub(super) async fn house(conn: &mut PgConnection) -> Result<Uuid, PgError> {
    const STEP: &str = "reading the schema of Postgres";
    within(STATEMENT_DEADLINE, STEP, sqlx::query_scalar(HOUSE).fetch_one(&mut *conn)).await
}

/// The version there; a version unknown to this program is refused.
pub(super) async fn version(conn: &mut PgConnection) -> Result<i32, PgError> {
    let found = found(conn).await?;
    if found <= VERSION {
        return Ok(found);
    }
    let cause = format!("it has version {found}, this program knows up to {VERSION}");
    Err(PgError::settings("the schema in Postgres is newer than this program", Some(cause))
        .advised("install the newer jarvisd"))
}

/// The version there; 0: nothing yet.
async fn found(conn: &mut PgConnection) -> Result<i32, PgError> {
    const STEP: &str = "reading the schema of Postgres";
    within(STATEMENT_DEADLINE, STEP, async {
        let row = sqlx::query(INSTALLED).fetch_one(&mut *conn).await?;
        if !row.try_get::<bool, _>("tables")? {
            return Ok(0);
        }
        sqlx::query_scalar(FOUND_VERSION).fetch_one(&mut *conn).await
    })
    .await
}

/// Applies the document after the present version, or nothing if another device was faster.
async fn next_version(conn: &mut PgConnection) -> Result<(), PgError> {
    const STEP: &str = "making the schema in Postgres";
    within(STATEMENT_DEADLINE, STEP, sqlx::raw_sql("BEGIN").execute(&mut *conn)).await?;
    let done = apply(conn).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = within(STATEMENT_DEADLINE, STEP, sqlx::raw_sql(end).execute(&mut *conn)).await;
    done?;
    ended.map(|_| ())
}

async fn apply(conn: &mut PgConnection) -> Result<(), PgError> {
    const STEP: &str = "making the schema in Postgres";
    within(STATEMENT_DEADLINE, STEP, sqlx::query(LOCK).bind(WRITE_LOCK).execute(&mut *conn)).await?;
    let before = found(conn).await?;
    let Some(document) = usize::try_from(before).ok().and_then(|n| MIGRATIONS.get(n)).copied() else {
        return Ok(());
    };
    within(STATEMENT_DEADLINE, STEP, async {
        let row = sqlx::query(INSTALLED).fetch_one(&mut *conn).await?;
        // IF NOT EXISTS needs the right to create a schema even if it exists.
        if !row.try_get::<bool, _>("schema")? {
            sqlx::query(MAKE_SCHEMA).execute(&mut *conn).await?;
        }
        sqlx::raw_sql(document).execute(&mut *conn).await
    })
    .await?;
    log::info!("the schema in Postgres has version {} now", before + 1);
    Ok(())
}
