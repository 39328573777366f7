//! What other devices wrote, page by page.
//!
//! Each row is judged like any input: a column of the wrong type, a text that is too long or a time
//! that is none makes the row `None`; it is counted and left out, and never in the way of the next one.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, PgConnection, Row as _};
use uuid::Uuid;

use super::{PgError, STATEMENT_DEADLINE, within};
use crate::store::rows::{ConversationRow, MessageRow, Tombstone, UserRow, VoiceprintRow};

/// Rows of a page: a turn that is to be stored meanwhile waits for at most one of them.
pub const PAGE: i64 = 200;

const STEP: &str = "reading from Postgres";

/// A row and its change number; `None` where the row cannot be used.
pub type Numbered<T> = (i64, Option<T>);

/// Highest change number of each kind, and which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub house: Uuid,
    pub users: i64,
    pub voiceprints: i64,
    pub conversations: i64,
    pub messages: i64,
    pub tombstones: i64,
}

/// Which rows of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Since<'a> {
    pub change: i64,
    /// Rows that this device changed last are left out, unless `all`.
    pub device: &'a str,
    pub all: bool,
}

/// Columns of a person, and of a conversation: since a change, and by id. Longer texts than any device
/// writes, and times that are none, come back as NULL.
macro_rules! of_user {
    ($of:literal) => {
        concat!(
            "SELECT change, id, CASE WHEN octet_length(name) <= 1024 THEN name END AS name,
                CASE WHEN isfinite(consent_at) THEN round(extract(epoch FROM consent_at) * 1000)::bigint END AS consent_unix_ms,
                CASE WHEN isfinite(created_at) THEN round(extract(epoch FROM created_at) * 1000)::bigint END AS created_unix_ms,
                clock_synced AS synced, named
            FROM jarvis.users WHERE ",
            $of
        )
    };
}
macro_rules! of_conversation {
    ($of:literal) => {
        concat!(
            "SELECT change, id, owner, device, session_id,
                CASE WHEN octet_length(title) <= 4096 THEN title END AS title, title_by_user, named, next_seq,
                CASE WHEN isfinite(created_at) THEN round(extract(epoch FROM created_at) * 1000)::bigint END AS created_unix_ms,
                created_synced,
                CASE WHEN isfinite(updated_at) THEN round(extract(epoch FROM updated_at) * 1000)::bigint END AS updated_unix_ms,
                updated_synced, updated_monotonic_ns, boot_id
            FROM jarvis.conversations WHERE ",
            $of
        )
    };
}
macro_rules! of_voiceprint {
    ($of:literal) => {
        concat!(
            "SELECT change, id, owner, CASE WHEN octet_length(wrapped_key) <= 4096 THEN wrapped_key END AS wrapped_key,
                CASE WHEN octet_length(blob) <= 262144 THEN blob END AS blob, model_sha256, front_end_sha256, samples,
                net_speech_s, CASE WHEN octet_length(quality::text) <= 65536 THEN quality::text END AS quality,
                CASE WHEN isfinite(created_at) THEN round(extract(epoch FROM created_at) * 1000)::bigint END AS created_unix_ms,
                clock_synced AS synced
            FROM jarvis.voiceprints WHERE ",
            $of
        )
    };
}

crate::store::sql::statements! {
    HEADS = "SELECT (SELECT id FROM jarvis.house) AS house,
        (SELECT coalesce(max(change), 0) FROM jarvis.users) AS users,
        (SELECT coalesce(max(change), 0) FROM jarvis.voiceprints) AS voiceprints,
        (SELECT coalesce(max(change), 0) FROM jarvis.conversations) AS conversations,
        (SELECT coalesce(max(change), 0) FROM jarvis.messages) AS messages,
        (SELECT coalesce(max(change), 0) FROM jarvis.tombstones) AS tombstones";
    // Without an origin a row is of several devices.
    USERS = of_user!("change > $1 AND (origin IS DISTINCT FROM $2 OR $3) ORDER BY change LIMIT $4");
    USERS_BY_ID = of_user!("id = ANY($1)");
    VOICEPRINTS = of_voiceprint!("change > $1 AND (origin <> $2 OR $3) ORDER BY change LIMIT $4");
    VOICEPRINTS_OF = of_voiceprint!("owner = ANY($1) ORDER BY change");
    COUNT_VOICEPRINTS = "SELECT count(*) FROM jarvis.voiceprints";
    CONVERSATIONS = of_conversation!("change > $1 AND (origin IS DISTINCT FROM $2 OR $3) ORDER BY change LIMIT $4");
    CONVERSATIONS_BY_ID = of_conversation!("id = ANY($1)");
    /// A page ends early where its texts come to more than 4 MiB.
    MESSAGES = "SELECT change, id, conversation, owner, seq, role, kind,
            CASE WHEN octet_length(text) <= 786432 THEN text END AS text,
            CASE WHEN octet_length(meta::text) <= 65536 THEN meta::text END AS meta,
            CASE WHEN isfinite(wall_time) THEN round(extract(epoch FROM wall_time) * 1000)::bigint END AS wall_unix_ms,
            clock_synced AS synced,
            monotonic_ns, boot_id, device
        FROM (SELECT m.*, sum(least(octet_length(m.text), 786432)) OVER (ORDER BY m.change) AS bytes,
                    row_number() OVER (ORDER BY m.change) AS n
                FROM (SELECT * FROM jarvis.messages WHERE change > $1 AND (origin <> $2 OR $3) ORDER BY change LIMIT $4) m) x
        WHERE n = 1 OR bytes <= 4194304 ORDER BY change";
    /// Of both ends: a source may come after the answer that was made from it, for instance when it was dated
    /// again.
    SOURCES = "SELECT message, source FROM jarvis.message_sources WHERE message = ANY($1)
        UNION SELECT message, source FROM jarvis.message_sources WHERE source = ANY($1)";
    TOMBSTONES = "SELECT change, kind, id, owner,
            CASE WHEN isfinite(deleted_at) THEN round(extract(epoch FROM deleted_at) * 1000)::bigint END AS deleted_unix_ms
        FROM jarvis.tombstones WHERE change > $1 AND (origin <> $2 OR $3) ORDER BY change LIMIT $4";
}

pub async fn heads(conn: &mut PgConnection) -> Result<Heads, PgError> {
    let row = within(STATEMENT_DEADLINE, STEP, sqlx::query(HEADS).fetch_one(conn)).await?;
    let read = || {
        Ok(Heads {
            house: row.try_get("house")?,
            users: row.try_get("users")?,
            voiceprints: row.try_get("voiceprints")?,
            conversations: row.try_get("conversations")?,
            messages: row.try_get("messages")?,
            tombstones: row.try_get("tombstones")?,
        })
    };
    read().map_err(|e| PgError::of(STEP, &e))
}

pub async fn users(conn: &mut PgConnection, since: Since<'_>) -> Result<Vec<Numbered<UserRow>>, PgError> {
    page(conn, since.bound(USERS)).await
}

pub async fn users_by_id(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Numbered<UserRow>>, PgError> {
    page(conn, sqlx::query(USERS_BY_ID).bind(ids)).await
}

pub async fn voiceprints(
    conn: &mut PgConnection,
    since: Since<'_>,
) -> Result<Vec<Numbered<VoiceprintRow>>, PgError> {
    page(conn, since.bound(VOICEPRINTS)).await
}

/// Every voiceprint of these people, in the order in which they were written.
pub async fn voiceprints_of(
    conn: &mut PgConnection,
    people: &[Uuid],
) -> Result<Vec<Numbered<VoiceprintRow>>, PgError> {
    page(conn, sqlx::query(VOICEPRINTS_OF).bind(people)).await
}

pub async fn count_voiceprints(conn: &mut PgConnection) -> Result<i64, PgError> {
    within(STATEMENT_DEADLINE, STEP, sqlx::query_scalar(COUNT_VOICEPRINTS).fetch_one(conn)).await
}

pub async fn conversations(
    conn: &mut PgConnection,
    since: Since<'_>,
) -> Result<Vec<Numbered<ConversationRow>>, PgError> {
    page(conn, since.bound(CONVERSATIONS)).await
}

pub async fn conversations_by_id(
    conn: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Numbered<ConversationRow>>, PgError> {
    page(conn, sqlx::query(CONVERSATIONS_BY_ID).bind(ids)).await
}

pub async fn messages(
    conn: &mut PgConnection,
    since: Since<'_>,
) -> Result<Vec<Numbered<MessageRow>>, PgError> {
    page(conn, since.bound(MESSAGES)).await
}

/// (answer, what it was made from), where either is among `messages`.
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
    fn bound(self, sql: &'static str) -> Query<'a, sqlx::Postgres, PgArguments> {
        sqlx::query(sql).bind(self.change).bind(self.device).bind(self.all).bind(PAGE)
    }
}

async fn page<T: for<'r> FromRow<'r, PgRow>>(
    conn: &mut PgConnection,
    query: Query<'_, sqlx::Postgres, PgArguments>,
) -> Result<Vec<Numbered<T>>, PgError> {
    let rows = within(STATEMENT_DEADLINE, STEP, query.fetch_all(conn)).await?;
    rows.iter()
        .map(|row| {
            // Without its number a row cannot be passed over.
            let change = row.try_get("change").map_err(|e| PgError::of(STEP, &e))?;
            Ok((change, T::from_row(row).ok()))
        })
        .collect()
}
