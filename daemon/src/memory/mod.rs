//! What the device remembers, and for whom: the one interface through which everything else reads and writes it.
//!
//! Invariants, each with a test:
//!
//! 1. Every call that touches a person's rows takes that person's id, and no statement reads or changes a row of
//!    another; an id of somebody else's row is `NotFound`.
//! 2. A turn (the person's words and the answer) is one transaction with its queue entries; when
//!    [`Memory::append_turn`] returns, it is on the disk.
//! 3. `seq` of a conversation grows without gaps while nothing is forgotten and is never used twice.
//! 4. Forgetting removes the message, the answer to it, every answer made from it, their words in the index and their
//!    queue entries, and then empties the WAL.

mod audit;
mod conversations;
mod error;
mod export;
mod ids;
mod messages;
mod search;
mod settings;
mod turns;
mod users;
mod voiceprints;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Stamp};
use crate::store::{Store, StoreError, StoreOptions, Tx};

pub use audit::{AuditEntry, NewAudit};
pub use conversations::{Conversation, Cursor, Page};
pub use error::MemoryError;
pub use export::{Export, ExportedConversation};
pub use ids::{AuditId, ConversationId, MessageId, UserId, VoiceprintId};
pub use messages::{Kind, MAX_MESSAGE_BYTES, Message, Role};
pub use search::{Hit, Words};
pub use turns::{Appended, NewTurn, Target, TurnMeta};
pub use users::{MAX_NAME_CHARS, User};
pub use voiceprints::{NewVoiceprint, Voiceprint, VoiceprintInfo};

type Result<T, E = MemoryError> = std::result::Result<T, E>;

/// The device that writes: `[device] id` of the configuration.
#[derive(Debug, Clone)]
pub struct Device {
    pub id: String,
}

/// The memory of this device. Clones share the open database.
#[derive(Debug, Clone)]
pub struct Memory {
    store: Store,
    clock: Clock,
    device: Arc<Local>,
}

/// Rows that every written row refers to.
#[derive(Debug)]
struct Local {
    id: String,
    device: i64,
    boot: i64,
}

crate::store::sql::statements! {
    FIND_BOOT = "SELECT rid FROM boots WHERE boot_id = ?1";
    ADD_BOOT = "INSERT INTO boots (boot_id) VALUES (?1) ON CONFLICT DO NOTHING";
    FIND_DEVICE = "SELECT rid FROM devices WHERE id = ?1";
    ADD_DEVICE = "INSERT INTO devices (id, created_unix_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
}

impl Memory {
    /// Opens the database at `path` (created where missing) for the device that is writing.
    ///
    /// # Errors
    /// [`StoreError`] in [`MemoryError::Store`]: a damaged, newer or foreign file, a full disk, missing permissions.
    pub async fn open(path: &Path, device: &Device, clock: Clock) -> Result<Self> {
        Self::open_with(path, device, clock, &StoreOptions::default()).await
    }

    /// [`Memory::open`] with limits that tests set.
    pub async fn open_with(
        path: &Path,
        device: &Device,
        clock: Clock,
        options: &StoreOptions,
    ) -> Result<Self> {
        let store = Store::open(path, options).await?;
        let stamp = clock.stamp();
        let known = |sql, key| sqlx::query(sql).bind(key);
        let mut reader = store.reader().await?;
        let mut find = async |sql, key: String| -> Result<Option<i64>, StoreError> {
            let row = known(sql, key).fetch_optional(&mut *reader).await.map_err(|e| store.classify(e))?;
            row.map(|row| row.try_get(0).map_err(StoreError::Sql)).transpose()
        };
        let boot = find(FIND_BOOT, stamp.boot_id.to_string()).await?;
        let local = find(FIND_DEVICE, device.id.clone()).await?;
        drop(reader);
        let (boot, local) = match (boot, local) {
            (Some(boot), Some(local)) => (boot, local),
            _ => {
                let mut tx = store.begin().await?;
                tx.execute(sqlx::query(ADD_BOOT).bind(&*stamp.boot_id)).await?;
                tx.execute(sqlx::query(ADD_DEVICE).bind(&device.id).bind(stamp.wall_unix_ms)).await?;
                let boot = tx.optional(sqlx::query(FIND_BOOT).bind(&*stamp.boot_id)).await?;
                let local = tx.optional(sqlx::query(FIND_DEVICE).bind(&device.id)).await?;
                tx.commit().await?;
                let rid = |row: Option<sqlx::sqlite::SqliteRow>| match row {
                    Some(row) => row.try_get::<i64, _>(0).map_err(StoreError::Sql),
                    None => Err(StoreError::Sql(sqlx::Error::RowNotFound)),
                };
                (rid(boot)?, rid(local)?)
            }
        };
        let device = Local { id: device.id.clone(), device: local, boot };
        Ok(Self { store, clock, device: Arc::new(device) })
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Keeps the WAL short, between turns. Ends when `stop` is cancelled; errors are logged, the next round tries again.
    pub async fn maintain(&self, stop: CancellationToken) {
        const EVERY: Duration = Duration::from_secs(30);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(e) = self.store.checkpoint().await {
                log::warn!(
                    "the write-ahead log of the database was not shortened: {}",
                    crate::error::chain(&e)
                );
            }
        }
    }

    /// Reads the whole database file and says whether its structure is sound.
    pub async fn check(&self) -> Result<()> {
        Ok(self.store.check().await?)
    }

    /// Closes the file; the last process to do so moves the WAL into it.
    pub async fn close(&self) {
        self.store.close().await;
    }

    async fn begin(&self) -> Result<(Tx<'_>, Stamp)> {
        let tx = self.store.begin().await?;
        Ok((tx, self.clock.stamp()))
    }

    /// After text was deleted: takes it out of the WAL as well.
    async fn scrub(&self) {
        match self.store.checkpoint_truncate().await {
            Ok(true) => {}
            Ok(false) => log::debug!("deleted text leaves the write-ahead log with the next checkpoint"),
            Err(e) => {
                log::warn!("deleted text may still be in the write-ahead log: {}", crate::error::chain(&e))
            }
        }
    }

    async fn read_all(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>> {
        let mut reader = self.store.reader().await?;
        Ok(query.fetch_all(&mut *reader).await.map_err(|e| self.store.classify(e))?)
    }

    async fn read_optional(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Option<sqlx::sqlite::SqliteRow>> {
        let mut reader = self.store.reader().await?;
        Ok(query.fetch_optional(&mut *reader).await.map_err(|e| self.store.classify(e))?)
    }
}

/// Every statement of this module, for the test that prepares them.
#[cfg(test)]
pub(crate) fn statements() -> Vec<&'static [(&'static str, &'static str)]> {
    vec![
        STATEMENTS,
        audit::STATEMENTS,
        conversations::STATEMENTS,
        messages::STATEMENTS,
        search::STATEMENTS,
        settings::STATEMENTS,
        turns::STATEMENTS,
        users::STATEMENTS,
        voiceprints::STATEMENTS,
    ]
}

/// Reads a column of a row; a mismatch is a bug in a statement.
fn get<'r, T>(row: &'r sqlx::sqlite::SqliteRow, column: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(StoreError::Sql)
}
