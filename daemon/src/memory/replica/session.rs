//! Moves a client's name for a conversation, which only one conversation of a device has at a time, to its
//! present conversation.

use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::bytes;
use crate::memory::{Result, get};
use crate::store::Tx;
use crate::store::tables::ConversationRow;

crate::store::sql::statements! {
    HOLDER = "SELECT rid, named FROM conversations
        WHERE owner = ?1 AND device = ?2 AND session_id = ?3 AND id <> ?4";
    TAKE = "UPDATE conversations SET session_id = NULL WHERE rid = ?1";
}

/// The session id that the pulled `row` of the person `owner` and the device `home` gets here, if it has one.
///
/// Another conversation may still have it: that one was deleted, or lost its names, on its device before the
/// device began the new one. Its own row or deletion is yet to be read, so it gives the id up. Only between
/// two conversations of this very device (`here`) the names given later win: the row may be from before this
/// device was restored.
pub(super) async fn free<'a>(
    tx: &mut Tx<'_>,
    row: &'a ConversationRow,
    owner: i64,
    home: Option<i64>,
    here: i64,
) -> Result<Option<&'a str>> {
    let Some(session) = row.session_id.as_deref() else { return Ok(None) };
    let find = sqlx::query(HOLDER).bind(owner).bind(home).bind(session).bind(bytes(&row.id));
    let Some(holder): Option<SqliteRow> = tx.optional(find).await? else { return Ok(Some(session)) };
    if home == Some(here) && get::<Uuid>(&holder, "named")? >= row.named {
        return Ok(None);
    }
    tx.execute(sqlx::query(TAKE).bind(get::<i64>(&holder, "rid")?)).await?;
    Ok(Some(session))
}
