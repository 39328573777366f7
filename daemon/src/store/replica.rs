//! What this device knows of the database that it shares: which one it is, and how far it has read.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Store, StoreError, queue, settings};

super::sql::statements! {
    CLEAR = "DELETE FROM settings WHERE key = ?1";
}

/// Database that this device has last sent to. Without it everything counts as not sent yet.
pub const HOUSE: &str = "postgres_house";
/// How far this device has read ([`Read`]). Without it everything is read from the beginning.
pub const READ: &str = "postgres_read";

/// Change numbers up to which the rows of each kind are here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub house: Uuid,
    pub users: i64,
    pub voiceprints: i64,
    pub conversations: i64,
    pub messages: i64,
    pub tombstones: i64,
    /// Everything was read once, so what this device wrote itself need not be read back.
    pub caught_up: bool,
}

/// Called for each new connection of the forwarder. If `house` is not the database that was last sent to, everything that is
/// here is queued again, in one transaction with the note that it was; returns whether that was so.
pub(super) async fn meet_house(store: &Store, house: Uuid, now_unix_ms: i64) -> Result<bool, StoreError> {
    let known: Option<Uuid> = settings::get(store, HOUSE).await?;
    if known == Some(house) {
        return Ok(false);
    }
    let mut tx = store.begin().await?;
    // Before the first contact the queue has everything from its first entry on.
    let again = known.is_some() || queue::was_sent_from(&mut tx).await?;
    if again {
        queue::enqueue_everything(&mut tx, now_unix_ms).await?;
    }
    settings::set(&mut tx, HOUSE, &house, now_unix_ms).await?;
    tx.commit().await?;
    Ok(again && known.is_some())
}

/// Forgets how far was read: the next pull begins at the beginning.
pub async fn read_again(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    tx.execute(sqlx::query(CLEAR).bind(READ)).await?;
    tx.commit().await
}
