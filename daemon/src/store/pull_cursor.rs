//! How far this device has read the shared database.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::postgres::PgSettings;
use super::tables::Changes;
use super::{Store, StoreError, Tx, settings};

super::sql::statements! {
    CLEAR = "DELETE FROM settings WHERE key = ?1";
}

/// Settings key of [`PullCursor`]. Without it everything is read from the beginning.
pub const READ: &str = "postgres_read";

/// Change numbers up to which the rows of each kind are here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullCursor {
    pub house: Uuid,
    /// The address that was read, with its password masked. An older program did not keep it.
    #[serde(default)]
    pub address: Option<String>,
    /// Id of this reading; it changes each time that reading begins anew.
    #[serde(default)]
    pub reading: Uuid,
    #[serde(flatten)]
    pub at: Changes,
    /// Everything except the voiceprints was read once, so this device's own rows need not be read back.
    pub caught_up: bool,
    /// The key and the model with which every voiceprint was tried. Others may open more.
    #[serde(default)]
    pub voices_of: Option<String>,
}

impl PullCursor {
    /// The highest number read in any kind.
    pub(super) fn furthest(&self) -> i64 {
        self.at.highest()
    }

    /// The greater number of both, kind by kind.
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

/// How far this device has read `house`; `None` if everything is to be read from the beginning.
pub(crate) async fn read_of(store: &Store, house: Uuid) -> Result<Option<PullCursor>, StoreError> {
    let stored: Option<PullCursor> = settings::get(store, READ).await?;
    Ok(stored.filter(|stored| stored.house == house))
}

/// Whether everything of `house` except the voiceprints was read at least once.
pub(crate) async fn is_read(store: &Store, house: Uuid) -> Result<bool, StoreError> {
    Ok(read_of(store, house).await?.is_some_and(|read| read.caught_up))
}

/// Whether the database at `postgres` was read to its end at least once, except for the voiceprints. Its
/// address identifies it, since it may be away.
///
/// # Errors
/// [`StoreError`] of the memory.
pub async fn is_caught_up(store: &Store, postgres: &PgSettings) -> Result<bool, StoreError> {
    let stored: Option<PullCursor> = settings::get(store, READ).await?;
    Ok(stored.is_some_and(|stored| {
        stored.caught_up && stored.address.is_none_or(|address| address == postgres.shown)
    }))
}

/// Forgets how far this device has read: the next pull begins anew.
pub async fn read_again(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    read_again_in(&mut tx).await?;
    tx.commit().await
}

/// As [`read_again`], in this transaction.
pub(crate) async fn read_again_in(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.execute(sqlx::query(CLEAR).bind(READ)).await.map(drop)
}

/// Whether the stored reading is still the one of `read`, not begun anew since.
pub(crate) async fn goes_on(tx: &mut Tx<'_>, read: &PullCursor) -> Result<bool, StoreError> {
    let stored: Option<PullCursor> = settings::get_in(tx, READ).await?;
    Ok(stored.is_some_and(|stored| stored.reading == read.reading))
}
