//! Reads rows of other devices, page by page.
//!
//! Each row is checked like any input. A column of the wrong type, a text that is too long or an invalid time
//! makes the row `None`. It is counted and left out, and never blocks the next one.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row as _};
use uuid::Uuid;

use super::{PgError, STATEMENT_DEADLINE, within};
use crate::store::tables::{self, Changes, PgQuery, Synced, Tombstone, VoiceprintRow};

/// Rows of a page: storing a turn waits for at most one of them.
pub const PAGE: i64 = 200;

const STEP: &str = "reading from Postgres";

/// A row and its change number; `None` if the row is unusable.
pub type Numbered<T> = (i64, Option<T>);

/// Highest change number of each kind, and the id of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub house: Uuid,
    pub at: Changes,
}

/// The rows of one kind to read.
#[derive(Debug, Clone, Copy)]
pub struct Since<'a> {
    pub change: i64,
    /// The device whose own changes are left out, unless `all`.
    pub device: &'a str,
    pub all: bool,
}

crate::store::sql::built! {
    HEADS = {
        let head = |table| format!(", (SELECT coalesce(max(change), 0) FROM jarvis.{table}) AS {table}");
        let heads: String = tables::numbered().into_iter().map(head).collect();
        format!("SELECT (SELECT id FROM jarvis.house) AS house{heads}")
    };
}

crate::store::sql::statements! {
    COUNT_VOICEPRINTS = "SELECT count(*) FROM jarvis.voiceprints";
    /// Links are read from both ends: a source may come after its answer, for instance when it was dated
    /// again.
    SOURCES = "SELECT message, source FROM jarvis.message_sources WHERE message = ANY($1)
        UNION SELECT message, source FROM jarvis.message_sources WHERE source = ANY($1)";
    TOMBSTONES = "SELECT change, kind, id, owner,
            CASE WHEN isfinite(deleted_at) THEN round(extract(epoch FROM deleted_at) * 1000)::bigint
                END AS deleted_unix_ms
        FROM jarvis.tombstones WHERE change > $1 AND (origin <> $2 OR $3) ORDER BY change LIMIT $4";
}

pub async fn heads(conn: &mut PgConnection) -> Result<Heads, PgError> {
    let row = within(STATEMENT_DEADLINE, STEP, sqlx::query(*HEADS).fetch_one(conn)).await?;
    let read = || Ok(Heads { house: row.try_get("house")?, at: Changes::read(&row)? });
    read().map_err(|e| PgError::of(STEP, &e))
}

/// A page of a table that devices read.
pub(crate) async fn rows<T: Synced>(
    conn: &mut PgConnection,
    since: Since<'_>,
) -> Result<Vec<Numbered<T>>, PgError> {
    page(conn, since.bound(T::table().there.page.unwrap_or_default())).await
}

pub(crate) async fn by_id<T: Synced>(
    conn: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Numbered<T>>, PgError> {
    page(conn, sqlx::query(T::table().there.by_id).bind(ids)).await
}

/// Every voiceprint of these people, in the order in which they were written.
pub async fn voiceprints_of(
    conn: &mut PgConnection,
    people: &[Uuid],
) -> Result<Vec<Numbered<VoiceprintRow>>, PgError> {
    page(conn, sqlx::query(VoiceprintRow::table().there.of_owners).bind(people)).await
}

pub async fn count_voiceprints(conn: &mut PgConnection) -> Result<i64, PgError> {
    within(STATEMENT_DEADLINE, STEP, sqlx::query_scalar(COUNT_VOICEPRINTS).fetch_one(conn)).await
}

/// Pairs (answer, source message) with either one in `messages`.
pub async fn sources(conn: &mut PgConnection, messages: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, PgError> {
    let query = sqlx::query_as(SOURCES).bind(messages);
    within(STATEMENT_DEADLINE, STEP, query.fetch_all(conn)).await
}

pub async fn tombstones(
    conn: &mut PgConnection,
    since: Since<'_>,
) -> Result<Vec<Numbered<Tombstone>>, PgError> {
    page(conn, since.bound(TOMBSTONES)).await
}

impl<'a> Since<'a> {
    fn bound(self, sql: &'static str) -> PgQuery<'a> {
        sqlx::query(sql).bind(self.change).bind(self.device).bind(self.all).bind(PAGE)
    }
}

async fn page<T: for<'r> FromRow<'r, PgRow>>(
    conn: &mut PgConnection,
    query: PgQuery<'_>,
) -> Result<Vec<Numbered<T>>, PgError> {
    let rows = within(STATEMENT_DEADLINE, STEP, query.fetch_all(conn)).await?;
    rows.iter()
        .map(|row| {
            // A row without its number cannot be passed over.
            let change = row.try_get("change").map_err(|e| PgError::of(STEP, &e))?;
            Ok((change, T::from_row(row).ok()))
        })
        .collect()
}
