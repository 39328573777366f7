//! Small state that must survive a restart, as JSON under a key; no configuration.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Memory, Result};
use crate::store::settings;

impl Memory {
    /// The value under `key`; `None` if it is missing or of another type (an older version wrote it).
    pub async fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        Ok(settings::get(&self.store, key).await?)
    }

    pub async fn set_setting<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let (mut tx, stamp) = self.begin().await?;
        settings::set(&mut tx, key, value, stamp.wall_unix_ms).await?;
        Ok(tx.commit().await?)
    }

    /// Changes the value under `key`, or its default if it is missing, and returns the result of `change`. No
    /// other process changes it in between.
    pub async fn update_setting<T, R>(&self, key: &str, change: impl FnOnce(&mut T) -> R) -> Result<R>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let (mut tx, stamp) = self.begin().await?;
        let mut value = settings::get_in(&mut tx, key).await?.unwrap_or_default();
        let result = change(&mut value);
        settings::set(&mut tx, key, &value, stamp.wall_unix_ms).await?;
        tx.commit().await?;
        Ok(result)
    }
}
