//! Takes undelivered rows of a device from a backup into the present memory. That memory may be on a new card
//! that has already read the house.
//!
//! Rows that are here or were deleted here stay so. A row that comes back is queued, so that it goes to
//! Postgres as originally planned. The caller adds the people and conversations that a row needs
//! ([`crate::store::outgoing::add_parents`]), because a new card may not have read them yet.

use std::ops::AddAssign;
use std::path::Path;

use uuid::Uuid;

use super::tables::{Place, take_all_back};
use super::{ADD_SOURCE, Applied, begin_row, bytes, dead, messages as pages, tombstone};
use crate::clock::Stamp;
use crate::memory::{Memory, Result, SCRUB_WANTED, get};
use crate::store::Tx;
use crate::store::outgoing::Batch;
use crate::store::queue::{Op, enqueue};
use crate::store::tables::{ConversationRow, MessageRow, Tombstone, UserRow};

crate::store::sql::statements! {
    /// A message of the same id in another conversation, or of another person, is another message.
    HERE = "SELECT 1 FROM messages m JOIN conversations c ON c.rid = m.conversation
        JOIN users u ON u.rid = m.owner WHERE m.id = ?1 AND c.id = ?2 AND u.id = ?3";
    /// The new place of a message whose place another one has.
    BEHIND = "SELECT c.next_seq AS seq FROM conversations c JOIN messages m ON m.conversation = c.rid
        WHERE c.id = ?1 AND m.seq = ?2 AND m.id <> ?3";
}

/// The result of taking a batch back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TakenBack {
    /// Rows that were not here, and now are.
    pub stored: usize,
    /// Rows that are not here, although nobody deleted them here.
    pub left_out: usize,
}

impl AddAssign for TakenBack {
    fn add_assign(&mut self, more: Self) {
        self.stored += more.stored;
        self.left_out += more.left_out;
    }
}

impl Memory {
    /// Stores and queues the rows of `batch`, in one transaction.
    ///
    /// # Errors
    /// Storage errors; a row causes no error.
    pub async fn take_back(&self, batch: &Batch) -> Result<TakenBack> {
        let (mut tx, stamp) = self.begin().await?;
        let taken = self.take_back_in(&mut tx, batch, &stamp).await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// As [`Memory::take_back`], of what a repair lost, with the messages in conversations and of people that
    /// may be lost as well. Nothing is stored, and returns `None`, where the damaged `copy` is gone or about
    /// to go: something was forgotten since, and it might have been among these rows. With `count` the rows
    /// are only counted.
    ///
    /// # Errors
    /// As there.
    pub async fn take_back_lost(
        &self,
        mut batch: Batch,
        copy: &Path,
        count: bool,
    ) -> Result<Option<TakenBack>> {
        self.without_names(&mut batch).await?;
        let (mut tx, stamp) = self.begin().await?;
        // Forgetting leaves this wish before it deletes the copies, and takes it back after that.
        let forgotten = tx.optional(sqlx::query(SCRUB_WANTED)).await?.is_some() || !copy.exists();
        if forgotten && !count {
            tx.rollback().await?;
            return Ok(None);
        }
        without_buried(&mut tx, &mut batch).await?;
        let taken = self.take_back_in(&mut tx, &batch, &stamp).await?;
        if count {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        Ok(Some(taken))
    }

    /// Leaves what messages need and what is not here: names of before may have been forgotten, and a consent
    /// may have been taken back.
    async fn without_names(&self, batch: &mut Batch) -> Result<()> {
        let rows = &mut batch.rows;
        let ids: Vec<Uuid> = rows.conversations.iter().map(|row| row.id).collect();
        let lacking = self.lacks::<ConversationRow>(&ids).await?;
        rows.conversations.retain(|row| lacking.contains(&row.id));
        for row in &mut rows.conversations {
            (row.title, row.title_by_user, row.session_id) = (String::new(), false, None);
            row.named = Uuid::nil();
        }
        let ids: Vec<Uuid> = rows.users.iter().map(|row| row.id).collect();
        let lacking = self.lacks::<UserRow>(&ids).await?;
        rows.users.retain(|row| lacking.contains(&row.id));
        for row in &mut rows.users {
            (row.consent_unix_ms, row.named) = (None, Uuid::nil());
        }
        Ok(())
    }

    async fn take_back_in(&self, tx: &mut Tx<'_>, batch: &Batch, stamp: &Stamp) -> Result<TakenBack> {
        let now = stamp.wall_unix_ms;
        let mut applied = Applied::default();
        for (op, rows) in &batch.deletions {
            for row in rows {
                let Some(kind) = op.tombstone_kind().map(str::to_owned) else { continue };
                let gone = Tombstone { kind, id: row.id, owner: row.owner, deleted_unix_ms: now };
                begin_row(tx).await?;
                let outcome = tombstone::apply(tx, &gone, stamp).await;
                applied.end_row(tx, "deletion", &row.id, outcome).await?;
                enqueue(tx, *op, row.id, Some(row.owner), now).await?;
            }
        }
        let here = Place { device: self.here()?.device, stamp };
        let taken = take_all_back(tx, &batch.rows, &here, &mut applied).await?;
        for (message, source) in &batch.sources {
            tx.execute(sqlx::query(ADD_SOURCE).bind(bytes(source)).bind(bytes(message))).await?;
        }
        Ok(taken)
    }
}

/// Takes out what was deleted here: its messages are refused, and nothing else needs it.
async fn without_buried(tx: &mut Tx<'_>, batch: &mut Batch) -> Result<()> {
    let rows = &mut batch.rows;
    for row in std::mem::take(&mut rows.users) {
        if !dead(tx, "user", &row.id, &row.id).await? {
            rows.users.push(row);
        }
    }
    for row in std::mem::take(&mut rows.conversations) {
        if !dead(tx, "conversation", &row.id, &row.owner).await? {
            rows.conversations.push(row);
        }
    }
    Ok(())
}

/// Moves messages behind those that have taken their place.
pub(super) async fn messages(
    tx: &mut Tx<'_>,
    rows: &[MessageRow],
    stamp: &Stamp,
    applied: &mut Applied,
) -> Result<TakenBack> {
    let mut taken = TakenBack::default();
    for row in rows {
        if take(tx, row, stamp, applied).await? {
            taken.stored += 1;
        } else if !is_here(tx, row).await? && !is_deleted(tx, row).await? {
            taken.left_out += 1;
        }
    }
    Ok(taken)
}

async fn take(tx: &mut Tx<'_>, row: &MessageRow, stamp: &Stamp, applied: &mut Applied) -> Result<bool> {
    if is_here(tx, row).await? {
        return Ok(false);
    }
    let mut row = row.clone();
    let place = sqlx::query(BEHIND).bind(bytes(&row.conversation)).bind(row.seq).bind(bytes(&row.id));
    if let Some(behind) = tx.optional(place).await? {
        row.seq = get(&behind, "seq")?;
    }
    pages::put(tx, std::slice::from_ref(&row), stamp, applied).await?;
    let stored = is_here(tx, &row).await?;
    if stored {
        enqueue(tx, Op::InsertMessage, row.id, Some(row.owner), stamp.wall_unix_ms).await?;
    }
    Ok(stored)
}

async fn is_here(tx: &mut Tx<'_>, row: &MessageRow) -> Result<bool> {
    let here = sqlx::query(HERE).bind(bytes(&row.id)).bind(bytes(&row.conversation)).bind(bytes(&row.owner));
    Ok(tx.optional(here).await?.is_some())
}

async fn is_deleted(tx: &mut Tx<'_>, row: &MessageRow) -> Result<bool> {
    Ok(dead(tx, "message", &row.id, &row.owner).await?
        || dead(tx, "conversation", &row.conversation, &row.owner).await?)
}
