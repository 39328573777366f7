//! The index of words where much is deleted at once.
//!
//! `secure-delete` takes every word out of its place in the index, a fifth of a millisecond a message and
//! more in a larger one, while everybody waits. Making the index anew of what stays takes 7 µs a message, so
//! where many go, that is done instead. Neither leaves a deleted word in the index.

use super::{Result, get};
use crate::store::Tx;

/// Messages that are always taken out one by one.
const FEW: i64 = 100;
/// Messages that can be put into a new index in the time in which one is taken out of the old one. Measured:
/// 30 to 70.
const WORTH: i64 = 30;

crate::store::sql::statements! {
    ALL = "SELECT coalesce(sum(messages), 0) AS n FROM conversations";
    MARKED_ONLY = "INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 0)";
    ANEW = "INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')";
    TAKEN_OUT = "INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1)";
}

/// Called before as many messages as `count` says (`n`) are deleted in this transaction; what it returns is
/// for [`deleted`], after.
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
        // The old index is thrown away: what is marked there costs little.
        tx.execute(sqlx::query(MARKED_ONLY)).await?;
    }
    Ok(anew)
}

/// They were deleted.
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
