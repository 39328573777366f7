//! The table `settings`: small state as JSON under a key; no configuration.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, Tx};

super::sql::statements! {
    GET = "SELECT value FROM settings WHERE key = ?1";
    pub(super) SET = "INSERT INTO settings (key, value, updated_unix_ms) VALUES (?1, ?2, ?3)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_unix_ms = excluded.updated_unix_ms";
}

/// The value under `key`; `None` if it is missing or of another type (an older version wrote it).
pub(crate) async fn get<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, StoreError> {
    let mut reader = store.reader().await?;
    let row = sqlx::query(GET).bind(key).fetch_optional(&mut *reader).await.map_err(|e| store.classify(e))?;
    let Some(row) = row else { return Ok(None) };
    value_of(&row)
}

/// As [`get`], in this transaction.
pub(crate) async fn get_in<T: DeserializeOwned>(tx: &mut Tx<'_>, key: &str) -> Result<Option<T>, StoreError> {
    let Some(row) = tx.optional(sqlx::query(GET).bind(key)).await? else { return Ok(None) };
    value_of(&row)
}

fn value_of<T: DeserializeOwned>(row: &SqliteRow) -> Result<Option<T>, StoreError> {
    value_in(row, "value")
}

/// The value that a statement has read into `column`; NULL means none.
pub(super) fn value_in<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>, StoreError> {
    let value: Option<String> = row.try_get(column).map_err(StoreError::Sql)?;
    Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
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
