//! How far this device has read the database that it shares.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::postgres::PgSettings;
use super::tables::Changes;
use super::{Store, StoreError, Tx, settings};

super::sql::statements! {
    CLEAR = "DELETE FROM settings WHERE key = ?1";
}

/// How far this device has read ([`PullCursor`]). Without it everything is read from the beginning.
pub const READ: &str = "postgres_read";

/// Change numbers up to which the rows of each kind are here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullCursor {
    pub house: Uuid,
    /// The address that was read, as it may be shown. An older program did not keep it.
    #[serde(default)]
    pub address: Option<String>,
    /// Another one each time that reading begins at the beginning.
    #[serde(default)]
    pub reading: Uuid,
    #[serde(flatten)]
    pub at: Changes,
    /// Everything but the voiceprints was read once, so what this device wrote itself need not be read back.
    pub caught_up: bool,
    /// The key and the model with which every voiceprint was looked at. Others may open what these did not.
    #[serde(default)]
    pub voices_of: Option<String>,
}

impl PullCursor {
    /// The highest number up to which anything was read.
    pub(super) fn furthest(&self) -> i64 {
        self.at.highest()
    }

    /// The later of both, kind by kind.
    pub(crate) fn or_further(&self, other: &Self) -> Self {
        Self {
            house: self.house,
            address: self.address.clone(),
            reading: self.reading,
            at: self.at.or_further(other.at),
            caught_up: self.caught_up || other.caught_up,
            voices_of: self.voices_of.clone().filter(|name| other.voices_of.as_ref() == Some(name)),
        }
    }
}

/// How far this device has read `house`; `None` if it is to read everything from the beginning.
pub(crate) async fn read_of(store: &Store, house: Uuid) -> Result<Option<PullCursor>, StoreError> {
    let stored: Option<PullCursor> = settings::get(store, READ).await?;
    Ok(stored.filter(|stored| stored.house == house))
}

/// Whether everything of `house` but the voiceprints was read at least once.
pub(crate) async fn is_read(store: &Store, house: Uuid) -> Result<bool, StoreError> {
    Ok(read_of(store, house).await?.is_some_and(|read| read.caught_up))
}

/// Whether the database at `postgres` was read to its end at least once, but for the voiceprints. It is not
/// asked itself, because it may be away: the address tells whether it is the one that was read.
///
/// # Errors
/// [`StoreError`] of the memory.
pub async fn is_caught_up(store: &Store, postgres: &PgSettings) -> Result<bool, StoreError> {
    let stored: Option<PullCursor> = settings::get(store, READ).await?;
    Ok(stored.is_some_and(|stored| {
        stored.caught_up && stored.address.is_none_or(|address| address == postgres.shown)
    }))
}

/// Forgets how far was read: the next pull begins at the beginning.
pub async fn read_again(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    read_again_in(&mut tx).await?;
    tx.commit().await
}

/// As [`read_again`], in this transaction.
pub(crate) async fn read_again_in(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.execute(sqlx::query(CLEAR).bind(READ)).await.map(drop)
}

/// Whether what is stored was not begun anew since `read`.
pub(crate) async fn goes_on(tx: &mut Tx<'_>, read: &PullCursor) -> Result<bool, StoreError> {
    let stored: Option<PullCursor> = settings::get_in(tx, READ).await?;
    Ok(stored.is_some_and(|stored| stored.reading == read.reading))
}
