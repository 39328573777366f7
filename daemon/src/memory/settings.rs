//! Small state that must survive a restart, as JSON under a name. Not configuration.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Memory, Result};
use crate::store::settings;

impl Memory {
    /// The value under `key`; `None` if there is none or it is of another type (an older version wrote it).
    pub async fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        Ok(settings::get(&self.store, key).await?)
    }

    pub async fn set_setting<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let (mut tx, stamp) = self.begin().await?;
        settings::set(&mut tx, key, value, stamp.wall_unix_ms).await?;
        Ok(tx.commit().await?)
    }

    /// Changes the value under `key`, its default if there is none, and returns what `change` does; nobody
    /// else changes it in between.
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
