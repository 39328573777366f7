//! Gives rows written before the clock was set their true time after it was set.
//!
//! A row keeps the monotonic time and the boot of its writing. If the wall clock is set in the same boot, the
//! row's time is the wall time now minus the time passed since. Rows of an earlier boot without a set clock
//! keep their guess and say so (`clock_synced = 0`). The same holds for the creation times of people and
//! voiceprints, which keep no monotonic time. These times order nothing.

use super::{ConversationId, Memory, MessageId, Result, get};
use crate::clock::Stamp;
use crate::store::queue::{Op, enqueue};

/// Messages re-stamped in one transaction: a turn waits for no more than that.
const AT_ONCE: u32 = 500;

crate::store::sql::statements! {
    MESSAGES = "SELECT m.rid, m.id, u.id AS user FROM messages m JOIN users u ON u.rid = m.owner
        WHERE m.boot = (SELECT rid FROM boots WHERE boot_id = ?1) AND m.clock_synced = 0 LIMIT ?2";
    CONVERSATIONS = "SELECT c.rid, c.id, u.id AS user FROM conversations c JOIN users u ON u.rid = c.owner
        WHERE c.boot = (SELECT rid FROM boots WHERE boot_id = ?1) AND c.updated_synced = 0";
    AUDIT = "SELECT a.rid, a.id, u.id AS user FROM audit a LEFT JOIN users u ON u.rid = a.owner
        WHERE a.boot = (SELECT rid FROM boots WHERE boot_id = ?1) AND a.clock_synced = 0";
    // A stamp from the future of this boot (damage) counts as now.
    STAMP_MESSAGE = "UPDATE messages SET wall_unix_ms = ?2 - max(?3 - monotonic_ns, 0) / 1000000,
        clock_synced = 1 WHERE rid = ?1 AND clock_synced = 0";
    STAMP_AUDIT = "UPDATE audit SET wall_unix_ms = ?2 - max(?3 - monotonic_ns, 0) / 1000000, clock_synced = 1
        WHERE rid = ?1 AND clock_synced = 0";
    // It began with its first message, or, without messages, at its last change. A beginning in an earlier
    // boot stays.
    STAMP_CONVERSATION = "UPDATE conversations SET
            updated_unix_ms = ?2 - max(?3 - updated_monotonic_ns, 0) / 1000000, updated_synced = 1,
            created_unix_ms = CASE WHEN created_synced = 1 THEN created_unix_ms
                ELSE coalesce((SELECT m.wall_unix_ms FROM messages m
                    WHERE m.conversation = conversations.rid ORDER BY m.seq
                    LIMIT 1), ?2 - max(?3 - updated_monotonic_ns, 0) / 1000000) END,
            created_synced = max(created_synced, coalesce((SELECT m.clock_synced FROM messages m
                WHERE m.conversation = conversations.rid ORDER BY m.seq LIMIT 1), 1))
        WHERE rid = ?1 AND updated_synced = 0";
}

impl Memory {
    /// Re-stamps the rows written in this boot before the clock was set, if it is set now, and queues them
    /// for Postgres again. Returns the number of messages, conversations and audit rows.
    ///
    /// [`Memory::maintain`] calls it every half minute; an index finds the rows.
    pub async fn restamp(&self) -> Result<usize> {
        let now = self.clock.stamp();
        if !now.synced {
            self.stamped.store(false, std::sync::atomic::Ordering::Relaxed);
            return Ok(0);
        }
        let mut done = 0;
        loop {
            let rows = self.read_all(sqlx::query(MESSAGES).bind(&*now.boot_id).bind(AT_ONCE)).await?;
            if rows.is_empty() {
                break;
            }
            let stamped = self.stamp_all(&rows, STAMP_MESSAGE, Op::InsertMessage).await?;
            done += stamped;
            if stamped == 0 {
                // The clock was lost again, or another process was faster: the same rows would be found for
                // ever.
                self.stamped.store(false, std::sync::atomic::Ordering::Relaxed);
                return Ok(done);
            }
        }
        // These have no index: run once, and again after the clock was lost or messages showed that there are
        // more.
        let first = !self.stamped.swap(true, std::sync::atomic::Ordering::Relaxed);
        if first || done > 0 {
            let rows = self.read_all(sqlx::query(CONVERSATIONS).bind(&*now.boot_id)).await?;
            done += self.stamp_all(&rows, STAMP_CONVERSATION, Op::UpsertConversation).await?;
            let rows = self.read_all(sqlx::query(AUDIT).bind(&*now.boot_id)).await?;
            done += self.stamp_all(&rows, STAMP_AUDIT, Op::AppendAudit).await?;
        }
        if done > 0 {
            log::info!("the clock is set: {done} rows that were written before got their true time");
        }
        Ok(done)
    }

    async fn stamp_all(&self, rows: &[sqlx::sqlite::SqliteRow], sql: &'static str, op: Op) -> Result<usize> {
        let mut done = 0;
        for rows in rows.chunks(AT_ONCE as usize) {
            let (mut tx, now) = self.begin().await?;
            let Stamp { wall_unix_ms, monotonic_ns, synced: true, .. } = now else { return Ok(done) };
            for row in rows {
                let rid: i64 = get(row, "rid")?;
                let stamp = sqlx::query(sql).bind(rid).bind(wall_unix_ms).bind(monotonic_ns);
                if tx.execute(stamp).await? == 0 {
                    continue;
                }
                done += 1;
                // Queued even if an entry for the row still waits: that entry may be on its way with the old
                // time.
                let user: Option<Vec<u8>> = get(row, "user")?;
                let user = user.map(|_| super::UserId::read(row, "user")).transpose()?;
                let id = match op {
                    Op::InsertMessage => MessageId::read(row, "id")?.0,
                    Op::UpsertConversation => ConversationId::read(row, "id")?.0,
                    _ => super::AuditId::read(row, "id")?.0,
                };
                enqueue(&mut tx, op, id, user.map(|user| user.0), wall_unix_ms).await?;
            }
            tx.commit().await?;
        }
        Ok(done)
    }
}
