//! Detects a database of the house that was put back to an older state by other means than ours: from a dump,
//! or from a copy of the server's files.
//!
//! Such a database has its old id and lacks the rows sent since. The change numbers reveal it. They come from
//! a sequence, which no transaction and no crash takes below the number of a committed row. So a device
//! stores the number that it saw when its last batch was committed, and compares it at each connection. Its
//! read cursor tells the same.
//!
//! ```text
//!  a batch is committed, the sequence is at n ─▶ its entries leave the queue and n is stored (one transaction)
//!  a connection, the sequence is at m < n     ─▶ the database gets a new id (one transaction)
//!                                                ─▶ every device meets another database (resync.rs)
//! ```
//!
//! A restore of ours gives a new id as well. Devices that lost nothing have read the lost rows: without a new
//! id they would pass over rows that get the same numbers.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use uuid::Uuid;

use super::postgres::write::CHANNEL;
use super::postgres::{Pg, PgError};
use super::{Store, StoreError, Tx, pull_cursor, resync, settings};
use crate::clock::DAY_MS;

/// Settings key: the number at which the database stood when this device last sent something ([`Drawn`]).
const DRAWN: &str = "postgres_drawn";
/// Settings key: the last time that a database was found put back ([`PutBack`]).
const PUT_BACK: &str = "postgres_put_back";

/// The message in the journal, health and doctor.
pub const SENTENCE: &str =
    "Postgres was put back to an older state: every device sends everything that it has again";

/// Statements for Postgres.
mod there {
    crate::store::sql::statements! {
        /// Updates no row if another device was faster.
        pub(super) NEW_HOUSE = "UPDATE jarvis.house SET id = gen_random_uuid() WHERE id = $1";
        pub(super) HOUSE = "SELECT id FROM jarvis.house";
        /// Wakes the connected devices: they look at once.
        pub(super) TELL = "SELECT pg_notify($1, '')";
    }
}

/// All statements, for the test that prepares them.
#[cfg(test)]
pub(crate) const STATEMENTS_THERE: &[(&str, &str)] = there::STATEMENTS;

#[derive(Debug, Serialize, Deserialize)]
struct Drawn {
    house: Uuid,
    number: i64,
}

/// A database that this device found put back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PutBack {
    /// The id that it got then.
    house: Uuid,
    pub noticed_unix_ms: i64,
}

impl PutBack {
    /// Whether it was found in the last day.
    pub fn is_recent(&self, now_unix_ms: i64) -> bool {
        (0..DAY_MS).contains(&now_unix_ms.saturating_sub(self.noticed_unix_ms))
    }
}

/// Stores the number at which `house` stood when a batch of this device was committed.
pub(super) async fn note_drawn(
    tx: &mut Tx<'_>,
    house: Uuid,
    number: i64,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let before: Option<Drawn> = settings::get_in(tx, DRAWN).await?;
    // Another process of this memory may have sent a later batch and stored it first.
    let before = before.filter(|before| before.house == house).map_or(0, |before| before.number);
    settings::set(tx, DRAWN, &Drawn { house, number: number.max(before) }, now_unix_ms).await
}

/// The highest change number of `house` known to this device.
pub(super) async fn known(store: &Store, house: Uuid) -> Result<i64, StoreError> {
    let drawn: Option<Drawn> = settings::get(store, DRAWN).await?;
    let drawn = drawn.filter(|drawn| drawn.house == house).map_or(0, |drawn| drawn.number);
    let read = pull_cursor::read_of(store, house).await?.map_or(0, |read| read.furthest());
    Ok(drawn.max(read))
}

/// Gives the database a new id in the transaction that `pg` is in.
pub(super) async fn renew_house(pg: &mut Pg) -> Result<(), PgError> {
    const STEP: &str = "giving a database that was put back a new id";
    pg.run(sqlx::query(there::NEW_HOUSE).bind(pg.house)).await?;
    pg.run(sqlx::query(there::TELL).bind(CHANNEL)).await?;
    let found = pg.value(STEP, sqlx::query(there::HOUSE), |row| row.try_get("id")).await?;
    pg.house = found.first().copied().unwrap_or(pg.house);
    Ok(())
}

/// Notes that the database, now with the id `house`, was found put back.
pub(super) async fn note(tx: &mut Tx<'_>, house: Uuid, now_unix_ms: i64) -> Result<(), StoreError> {
    log::warn!("{SENTENCE}");
    settings::set(tx, PUT_BACK, &PutBack { house, noticed_unix_ms: now_unix_ms }, now_unix_ms).await
}

/// When the present database was found put back; `None` if it never was.
///
/// # Errors
/// [`StoreError`].
pub async fn found(store: &Store) -> Result<Option<PutBack>, StoreError> {
    let Some(found) = settings::get::<PutBack>(store, PUT_BACK).await? else { return Ok(None) };
    Ok(resync::is_still_with(store, found.house).await?.then_some(found))
}
