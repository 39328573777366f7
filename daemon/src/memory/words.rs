//! Updates the index of words when many messages are deleted at once.
//!
//! `secure-delete` removes every word from its place in the index. That takes a fifth of a millisecond a
//! message, more in a larger index, while everybody waits. Rebuilding the index from the remaining messages
//! takes 7 µs a message, so a large deletion does that instead. Neither leaves a deleted word in the index.

use super::{Result, get};
use crate::store::Tx;

/// Deletions up to this many messages are always done one by one.
const FEW: i64 = 100;
/// Messages that can be added to a new index in the time in which one is removed from the old one. Measured:
/// 30 to 70.
const WORTH: i64 = 30;

crate::store::sql::statements! {
    ALL = "SELECT coalesce(sum(messages), 0) AS n FROM conversations";
    MARKED_ONLY = "INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 0)";
    ANEW = "INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')";
    TAKEN_OUT = "INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1)";
}

/// Called before a transaction deletes as many messages as `count` returns (`n`); pass its result to
/// [`deleted`] afterwards.
pub(super) async fn will_delete(
    tx: &mut Tx<'_>,
    count: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
) -> Result<bool> {
    let messages = number(tx, count).await?;
    if messages <= FEW {
        return Ok(false);
    }
    let all = number(tx, sqlx::query(ALL)).await?;
    let anew = messages.saturating_mul(WORTH) > all.saturating_sub(messages);
    if anew {
        // The old index is discarded: marking entries there costs little.
        tx.execute(sqlx::query(MARKED_ONLY)).await?;
    }
    Ok(anew)
}

/// Called after the messages were deleted.
pub(super) async fn deleted(tx: &mut Tx<'_>, anew: bool) -> Result<()> {
    if anew {
        tx.execute(sqlx::query(ANEW)).await?;
        tx.execute(sqlx::query(TAKEN_OUT)).await?;
    }
    Ok(())
}

async fn number(
    tx: &mut Tx<'_>,
    count: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
) -> Result<i64> {
    let row = tx.optional(count).await?;
    Ok(row.map_or(Ok(0), |row| get(&row, "n"))?)
}
