//! What this device knows of the database that it shares: which one it is, and how far it has read.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use uuid::Uuid;

use super::{Store, StoreError, Tx, queue};

super::sql::statements! {
    GET = "SELECT value FROM settings WHERE key = ?1";
    SET = "INSERT INTO settings (key, value, updated_unix_ms) VALUES (?1, ?2, ?3)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_unix_ms = excluded.updated_unix_ms";
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
    let known: Option<Uuid> = get(store, HOUSE).await?;
    if known == Some(house) {
        return Ok(false);
    }
    let mut tx = store.begin().await?;
    // Before the first contact the queue has everything from its first entry on.
    let again = known.is_some() || queue::was_sent_from(&mut tx).await?;
    if again {
        queue::enqueue_everything(&mut tx, now_unix_ms).await?;
    }
    set(&mut tx, HOUSE, &house, now_unix_ms).await?;
    tx.commit().await?;
    Ok(again && known.is_some())
}

/// Forgets how far was read: the next pull begins at the beginning.
pub async fn read_again(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    tx.execute(sqlx::query(CLEAR).bind(READ)).await?;
    tx.commit().await
}

/// A value that cannot be read counts as none.
pub(crate) async fn get<T: serde::de::DeserializeOwned>(
    store: &Store,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let mut reader = store.reader().await?;
    let row = sqlx::query(GET).bind(key).fetch_optional(&mut *reader).await.map_err(|e| store.classify(e))?;
    let Some(row) = row else { return Ok(None) };
    let value: String = row.try_get("value").map_err(StoreError::Sql)?;
    Ok(serde_json::from_str(&value).ok())
}

pub(crate) async fn set<T: Serialize>(
    tx: &mut Tx<'_>,
    key: &str,
    value: &T,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let value = serde_json::to_string(value).map_err(|e| StoreError::Sql(sqlx::Error::Encode(e.into())))?;
    tx.execute(sqlx::query(SET).bind(key).bind(value).bind(now_unix_ms)).await.map(|_| ())
}
