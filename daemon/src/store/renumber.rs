//! Moves messages whose place in their conversation is taken in Postgres by another message.
//!
//! Two memories continued the same conversation: a copy of a card, or two devices with one id. Both added
//! messages, and none may be lost. So the messages not yet there move to the end, here and then there.

use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::forward::ForwardError;
use super::postgres::Pg;
use super::tables::MessageRow;
use super::{Store, StoreError, pull_cursor};

const STEP: &str = "asking Postgres for the end of a conversation";

super::sql::statements! {
    /// Messages from a place on that may not be there yet.
    WAITING = "SELECT m.rid, m.id AS id FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE c.id = ?1 AND m.seq >= ?2 AND (m.id IN (SELECT entity_id FROM queue WHERE op = 'insert_message')
            OR m.id IN (SELECT entity_id FROM dead_letter WHERE op = 'insert_message'))
        ORDER BY m.seq";
    NEXT = "SELECT next_seq FROM conversations WHERE id = ?1";
    MOVE = "UPDATE messages SET seq = ?2 WHERE rid = ?1";
    ADVANCE = "UPDATE conversations SET next_seq = ?2, summary = '', summary_seq = 0 WHERE id = ?1";
}

/// Statements for Postgres.
mod there {
    crate::store::sql::statements! {
        pub(super) NEXT = "SELECT greatest((SELECT max(next_seq) FROM jarvis.conversations WHERE id = $1),
            (SELECT max(seq) + 1 FROM jarvis.messages WHERE conversation = $1), 1) AS next";
        pub(super) KNOWN = "SELECT id FROM jarvis.messages WHERE conversation = $1 AND id = ANY($2)";
    }
}

/// All statements, for the test that prepares them.
#[cfg(test)]
pub(crate) const STATEMENTS_THERE: &[(&str, &str)] = there::STATEMENTS;

/// Moves `message`, and the later messages of its conversation that are not there either, behind all messages
/// that are there. Returns whether it was moved. The messages of others there are read anew.
pub(super) async fn behind(store: &Store, pg: &mut Pg, message: &MessageRow) -> Result<bool, ForwardError> {
    let conversation = message.conversation;
    let next = pg.value(STEP, sqlx::query(there::NEXT).bind(conversation), |row| row.try_get("next")).await;
    let next_there: i64 = next.map_err(ForwardError::Postgres)?.first().copied().unwrap_or(1);
    // Read before the transaction: no turn here waits for the network.
    let mut reader = store.reader().await?;
    let rows =
        waiting(conversation, message.seq).fetch_all(&mut *reader).await.map_err(|e| store.classify(e))?;
    drop(reader);
    let ids: Vec<Uuid> = read(&rows)?.into_iter().map(|(_, id)| id).collect();
    let known = sqlx::query(there::KNOWN).bind(conversation).bind(&ids);
    let known: Vec<Uuid> =
        pg.value(STEP, known, |row| row.try_get("id")).await.map_err(ForwardError::Postgres)?;
    let mut tx = store.begin().await?;
    let waiting = read(&tx.all(waiting(conversation, message.seq)).await?)?;
    let here = tx.optional(sqlx::query(NEXT).bind(conversation)).await?;
    let next_here = here.map_or(Ok(1), |row| row.try_get::<i64, _>("next_seq")).map_err(StoreError::Sql)?;
    let mut next = next_there.max(next_here);
    let moved: Vec<i64> =
        waiting.into_iter().filter(|(_, id)| !known.contains(id)).map(|(rid, _)| rid).collect();
    for rid in &moved {
        tx.execute(sqlx::query(MOVE).bind(*rid).bind(next)).await?;
        next = next.saturating_add(1);
    }
    tx.execute(sqlx::query(ADVANCE).bind(conversation).bind(next)).await?;
    pull_cursor::read_again_in(&mut tx).await?;
    tx.commit().await?;
    log::warn!(
        "{} messages went to the end of their conversation: another device has used their numbers in \
         Postgres",
        moved.len()
    );
    Ok(!moved.is_empty())
}

fn waiting(conversation: Uuid, from: i64) -> Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    sqlx::query(WAITING).bind(conversation).bind(from)
}

fn read(rows: &[SqliteRow]) -> Result<Vec<(i64, Uuid)>, StoreError> {
    let read = |row: &SqliteRow| Ok((row.try_get("rid")?, row.try_get("id")?));
    rows.iter().map(|row| read(row).map_err(StoreError::Sql)).collect()
}
