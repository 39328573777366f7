//! Small state that must survive a restart, as JSON under a name. Not configuration.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Memory, Result, get};
use crate::store::StoreError;

crate::store::sql::statements! {
    GET = "SELECT value FROM settings WHERE key = ?1";
    SET = "INSERT INTO settings (key, value, updated_unix_ms) VALUES (?1, ?2, ?3)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_unix_ms = excluded.updated_unix_ms";
}

impl Memory {
    /// The value under `key`; `None` if there is none or it is of another type (an older version wrote it).
    pub async fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(row) = self.read_optional(sqlx::query(GET).bind(key)).await? else { return Ok(None) };
        let value: String = get(&row, "value")?;
        Ok(serde_json::from_str(&value).ok())
    }

    pub async fn set_setting<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let value =
            serde_json::to_string(value).map_err(|e| StoreError::Sql(sqlx::Error::Encode(e.into())))?;
        let (mut tx, stamp) = self.begin().await?;
        tx.execute(sqlx::query(SET).bind(key).bind(value).bind(stamp.wall_unix_ms)).await?;
        Ok(tx.commit().await?)
    }
}
