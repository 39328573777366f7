//! The audit log: who was heard, let in, enrolled or deleted. It holds no text and no sound.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;

use super::{AuditId, Memory, Result, UserId, get};
use crate::clock::{DAY_MS, Stamp};
use crate::store::queue::{Op, enqueue};
use crate::store::{StoreError, Tx};

/// A row to write.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// The person it is about, if known.
    pub user: Option<UserId>,
    /// `verify`, `enrol`, `voiceprint_delete`, `user_delete`, …
    pub action: &'static str,
    /// `verified`, `rejected`, `done`, …
    pub outcome: &'static str,
    /// Figures only.
    pub detail: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditEntry {
    pub id: AuditId,
    pub user_id: Option<UserId>,
    pub user_name: Option<String>,
    pub action: String,
    pub outcome: String,
    pub detail: Option<serde_json::Value>,
    pub wall_unix_ms: i64,
    pub clock_synced: bool,
    /// Pass to [`Memory::list_audit`] for the next page.
    pub cursor: i64,
}

crate::store::sql::statements! {
    APPEND = "INSERT INTO audit (id, owner, action, outcome, detail, wall_unix_ms, clock_synced,
        monotonic_ns, boot, device)
        VALUES (?1, (SELECT rid FROM users WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    LIST = "SELECT a.rid, a.id AS id, u.id AS user_id, u.name AS user_name, a.action, a.outcome, a.detail,
            a.wall_unix_ms, a.clock_synced
        FROM audit a LEFT JOIN users u ON u.rid = a.owner
        WHERE a.rid < ?1 ORDER BY a.rid DESC LIMIT ?2";
    LIST_OF_USER = "SELECT a.rid, a.id AS id, u.id AS user_id, u.name AS user_name, a.action, a.outcome,
            a.detail, a.wall_unix_ms, a.clock_synced
        FROM audit a JOIN users u ON u.rid = a.owner
        WHERE u.id = ?3 AND a.rid < ?1 ORDER BY a.rid DESC LIMIT ?2";
    // A row with a guessed time is as old as the rows around it.
    PRUNE = "DELETE FROM audit WHERE rid IN (SELECT rid FROM audit
        WHERE (clock_synced = 1 AND wall_unix_ms < ?1) OR (clock_synced = 0 AND rid <
            (SELECT max(rid) FROM audit WHERE clock_synced = 1 AND wall_unix_ms < ?1))
        ORDER BY rid LIMIT ?2)";
}

/// Rows deleted in one transaction: a turn waits for no more than that.
const PRUNED_AT_ONCE: u32 = 500;

impl Memory {
    pub async fn append_audit(&self, entry: &NewAudit) -> Result<AuditId> {
        let (mut tx, stamp) = self.begin().await?;
        let id = self.audit_within(&mut tx, &stamp, entry).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Writes the row in the transaction of the event.
    pub(super) async fn audit_within(
        &self,
        tx: &mut Tx<'_>,
        stamp: &Stamp,
        entry: &NewAudit,
    ) -> Result<AuditId> {
        let (id, here) = (AuditId::new(), self.here()?);
        let append = sqlx::query(APPEND)
            .bind(id.bytes())
            .bind(entry.user.as_ref().map(UserId::bytes))
            .bind(entry.action)
            .bind(entry.outcome)
            .bind(entry.detail.as_ref().map(serde_json::Value::to_string))
            .bind(stamp.wall_unix_ms)
            .bind(stamp.synced)
            .bind(stamp.monotonic_ns)
            .bind(here.boot)
            .bind(here.device);
        tx.execute(append).await?;
        enqueue(tx, Op::AppendAudit, id.0, entry.user.map(|user| user.0), stamp.wall_unix_ms).await?;
        Ok(id)
    }

    /// Deletes the rows older than `days`. Returns their number; `None` while the clock is not set.
    ///
    /// # Errors
    /// [`super::MemoryError`]; rows deleted by then stay deleted.
    pub async fn prune_audit(&self, days: u32) -> Result<Option<u64>> {
        let mut pruned = 0;
        loop {
            let (mut tx, now) = self.begin().await?;
            if !now.synced {
                tx.rollback().await?;
                return Ok(None);
            }
            let before = now.wall_unix_ms.saturating_sub(i64::from(days) * DAY_MS);
            let rows = tx.execute(sqlx::query(PRUNE).bind(before).bind(PRUNED_AT_ONCE)).await?;
            if rows == 0 {
                tx.rollback().await?;
                if pruned > 0 {
                    log::info!("{pruned} rows of the audit log were older than {days} days and were deleted");
                }
                return Ok(Some(pruned));
            }
            tx.commit().await?;
            pruned += rows;
        }
    }

    /// Newest first, of one person or (for the operator of the device) of all; `before` is the cursor of the
    /// last row of the previous page.
    pub async fn list_audit(
        &self,
        user: Option<UserId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>> {
        let before = before.unwrap_or(i64::MAX);
        let rows = match user {
            None => self.read_all(sqlx::query(LIST).bind(before).bind(limit)).await?,
            Some(user) => {
                self.read_all(sqlx::query(LIST_OF_USER).bind(before).bind(limit).bind(user.bytes())).await?
            }
        };
        rows.iter().map(|row| Ok(entry_of(row)?)).collect()
    }
}

fn entry_of(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    let known: Option<Vec<u8>> = get(row, "user_id")?;
    let detail: Option<String> = get(row, "detail")?;
    Ok(AuditEntry {
        id: AuditId::read(row, "id")?,
        user_id: known.map(|_| UserId::read(row, "user_id")).transpose()?,
        user_name: get(row, "user_name")?,
        action: get(row, "action")?,
        outcome: get(row, "outcome")?,
        detail: detail.and_then(|detail| serde_json::from_str(&detail).ok()),
        wall_unix_ms: get(row, "wall_unix_ms")?,
        clock_synced: get(row, "clock_synced")?,
        cursor: get(row, "rid")?,
    })
}
