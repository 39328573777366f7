//! How far this device has read the database that it shares.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Store, StoreError, Tx, settings};

super::sql::statements! {
    CLEAR = "DELETE FROM settings WHERE key = ?1";
}

/// How far this device has read ([`Read`]). Without it everything is read from the beginning.
pub const READ: &str = "postgres_read";

/// Change numbers up to which the rows of each kind are here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub house: Uuid,
    /// Another one each time that reading begins at the beginning.
    #[serde(default)]
    pub reading: Uuid,
    pub users: i64,
    pub voiceprints: i64,
    pub conversations: i64,
    pub messages: i64,
    pub tombstones: i64,
    /// Everything was read once, so what this device wrote itself need not be read back.
    pub caught_up: bool,
}

/// Forgets how far was read: the next pull begins at the beginning.
pub async fn read_again(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    tx.execute(sqlx::query(CLEAR).bind(READ)).await?;
    tx.commit().await
}

/// Whether what is stored was not begun anew since `read`.
pub(crate) async fn goes_on(tx: &mut Tx<'_>, read: &Read) -> Result<bool, StoreError> {
    let stored: Option<Read> = settings::get_in(tx, READ).await?;
    Ok(stored.is_some_and(|stored| stored.reading == read.reading))
}
