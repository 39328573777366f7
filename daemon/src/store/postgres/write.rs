//! Writes one batch in one transaction with one statement per kind. Repeating it changes nothing.

use std::collections::HashMap;

use sqlx::Row as _;
use uuid::Uuid;

use super::schema::WRITE_LOCK;
use super::{Pg, PgError, STATEMENT_DEADLINE, within};
use crate::store::outgoing::{Batch, Deletion};
use crate::store::queue::Op;
use crate::store::tables::{self, MessageRow, PgQuery, Synced};

/// Channel on which writers announce new rows; the payload is the device that wrote.
pub const CHANNEL: &str = "jarvis";

const STEP: &str = "sending to Postgres";

crate::store::sql::statements! {
    BEGIN = "BEGIN";
    LOCK = "SELECT pg_advisory_xact_lock($1)";
    COMMIT = "COMMIT";
    ROLLBACK = "ROLLBACK";
    NOTIFY = "SELECT pg_notify('jarvis', $1), last_value AS drawn FROM jarvis.changes";
    /// Updates no row if another memory sends under this id now, or if the database was put back under this
    /// connection. Until the transaction ends no memory can take the id over.
    HOLD = "UPDATE jarvis.devices SET last_seen = now() WHERE id = $1 AND token = $2
        AND (SELECT last_value FROM jarvis.changes) >= $3";
    DEVICES = "INSERT INTO jarvis.devices (id) SELECT unnest($1::text[]) ON CONFLICT (id) DO NOTHING";
    /// Brings a conversation at least as far as the message; leaves its names alone.
    ADVANCE = "UPDATE jarvis.conversations t SET next_seq = x.next_seq,
            updated_at = timestamptz 'epoch' + x.wall * interval '1 ms', updated_synced = x.synced,
            updated_monotonic_ns = x.monotonic, boot_id = x.boot,
            origin = CASE WHEN t.origin = $7 THEN $7 END,
            change = nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::bigint[], $6::text[])
            AS x (id, next_seq, wall, synced, monotonic, boot)
        WHERE t.id = x.id AND t.next_seq < x.next_seq";
    SOURCES = "INSERT INTO jarvis.message_sources (message, source, owner)
        SELECT m.id, s.id, m.owner FROM unnest($1::uuid[], $2::uuid[]) AS x (message, source)
            JOIN jarvis.messages m ON m.id = x.message JOIN jarvis.messages s ON s.id = x.source
            AND s.owner = m.owner
        ON CONFLICT DO NOTHING";
    PRUNE_AUDIT = "DELETE FROM jarvis.audit WHERE id IN (SELECT id FROM jarvis.audit WHERE device = $1
        AND clock_synced
        AND wall_time < timestamptz 'epoch' + $2::bigint * interval '1 ms' LIMIT $3)";
    /// A buried person needs no other tombstones.
    BURY = "INSERT INTO jarvis.tombstones (kind, id, owner, origin, change)
        SELECT $1, x.id, x.owner, $4, nextval('jarvis.changes')
        FROM unnest($2::uuid[], $3::uuid[]) AS x (id, owner)
        WHERE $1 = 'user' OR NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user'
        AND d.id = x.owner)
        ON CONFLICT (kind, id) DO NOTHING";
    /// The voiceprints of these people that this device wrote.
    VOICEPRINTS_OF = "SELECT id, owner FROM jarvis.voiceprints WHERE owner = ANY($1) AND origin = $2
        ORDER BY change";
    DELETE_TOMBSTONES = "DELETE FROM jarvis.tombstones t USING unnest($1::uuid[]) AS x (id)
        WHERE t.owner = x.id AND t.kind <> 'user'";
}

impl Pg {
    /// Notes that this device is there, if it still holds its id.
    ///
    /// # Errors
    /// [`PgError::is_held_back`] if it does not.
    pub(in crate::store) async fn hold(&mut self, device: &str) -> Result<(), PgError> {
        // This connection only reads, or was held back at first and had nothing to send.
        let Some(token) = self.token else { return Ok(()) };
        match self.run(sqlx::query(HOLD).bind(device).bind(token).bind(self.drawn)).await? {
            0 => Err(PgError::held_back(device, 0.0)),
            _ => Ok(()),
        }
    }

    /// Sends a batch as one transaction. When this returns `Ok`, Postgres has committed it. After an error it
    /// may have been committed, since the answer may be lost: send it again.
    ///
    /// # Errors
    /// [`PgError`]; if [`PgError::connection_lives`] the transaction was rolled back and the connection can
    /// be used on.
    pub async fn send(&mut self, batch: &Batch, device: &str) -> Result<(), PgError> {
        let mut sent = self.send_all(batch, device).await;
        if sent.is_ok()
            && let Err(error) = self.run(sqlx::query(COMMIT)).await
        {
            sent = Err(error);
        }
        let error = match sent {
            Ok(drawn) => {
                self.drawn = drawn;
                return Ok(());
            }
            Err(error) => error,
        };
        if error.connection_lives() {
            self.run(sqlx::query(ROLLBACK)).await?;
        }
        Err(error)
    }

    /// Returns the last change number after it.
    async fn send_all(&mut self, batch: &Batch, device: &str) -> Result<i64, PgError> {
        self.run(sqlx::query(BEGIN)).await?;
        self.run(sqlx::query(LOCK).bind(WRITE_LOCK)).await?;
        if self.token.is_none() {
            return Err(PgError::held_back(device, 0.0));
        }
        self.hold(device).await?;
        // Deletions come first. The rows sent below exist, so none of them is deleted, and they may need a
        // place that a deletion frees.
        for (op, rows) in &batch.deletions {
            self.delete(*op, rows, device).await?;
        }
        if !batch.devices.is_empty() {
            self.run(sqlx::query(DEVICES).bind(&batch.devices)).await?;
        }
        batch.rows.send(self, device).await?;
        self.advance(&batch.rows.messages, device).await?;
        if !batch.sources.is_empty() {
            let (messages, sources): (Vec<Uuid>, Vec<Uuid>) = batch.sources.iter().copied().unzip();
            let written = self.run(sqlx::query(SOURCES).bind(messages).bind(sources)).await?;
            self.sources_are_there(written, batch).await?;
        }
        let drawn = self.value(STEP, sqlx::query(NOTIFY).bind(device), |row| row.try_get("drawn")).await?;
        Ok(drawn.first().copied().unwrap_or(self.drawn))
    }

    pub(in crate::store) async fn run(&mut self, query: PgQuery<'_>) -> Result<u64, PgError> {
        within(STATEMENT_DEADLINE, STEP, query.execute(&mut self.conn)).await.map(|done| done.rows_affected())
    }

    /// Writes rows of one table.
    pub(in crate::store) async fn put<T: Synced>(&mut self, rows: &[T], device: &str) -> Result<(), PgError> {
        if rows.is_empty() {
            return Ok(());
        }
        let send = T::bind(rows, sqlx::query(T::table().there.send), false).bind(device);
        let written = self.run(send).await?;
        self.rows_are_there(written, rows).await
    }

    /// Brings conversations at least as far as their messages.
    async fn advance(&mut self, rows: &[MessageRow], device: &str) -> Result<(), PgError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut latest = HashMap::<Uuid, &MessageRow>::new();
        for row in rows {
            let known = latest.entry(row.conversation).or_insert(row);
            if row.seq > known.seq {
                *known = row;
            }
        }
        let latest: Vec<&MessageRow> = latest.into_values().collect();
        let advance = sqlx::query(ADVANCE)
            .bind(column(&latest, |r| r.conversation))
            .bind(column(&latest, |r| r.seq.saturating_add(1)))
            .bind(column(&latest, |r| r.wall_unix_ms))
            .bind(column(&latest, |r| r.synced))
            .bind(column(&latest, |r| r.monotonic_ns))
            .bind(column(&latest, |r| r.boot_id.as_str()))
            .bind(device);
        self.run(advance).await.map(|_| ())
    }

    async fn delete(&mut self, op: Op, rows: &[Deletion], device: &str) -> Result<(), PgError> {
        let table = tables::all().into_iter().find(|table| table.kind == op.tombstone_kind());
        let Some((kind, table)) = op.tombstone_kind().zip(table) else { return Ok(()) };
        let (ids, owners) = (column(rows, |r| r.id), column(rows, |r| r.owner));
        self.run(sqlx::query(DEVICES).bind(vec![device])).await?;
        let buried = self.run(sqlx::query(BURY).bind(kind).bind(&ids).bind(&owners).bind(device)).await?;
        let deleted = self.run(sqlx::query(table.there.delete).bind(&ids).bind(&owners)).await?;
        self.deletions_are_done((buried, deleted), table, rows).await?;
        if op == Op::DeleteUser {
            self.run(sqlx::query(DELETE_TOMBSTONES).bind(&ids)).await?;
        }
        Ok(())
    }

    /// Deletes the audit rows that `device` wrote before this time.
    pub(crate) async fn prune_audit(&mut self, device: &str, before_unix_ms: i64) -> Result<(), PgError> {
        const AT_ONCE: i64 = 5_000;
        loop {
            let prune = sqlx::query(PRUNE_AUDIT).bind(device).bind(before_unix_ms).bind(AT_ONCE);
            let pruned = within(
                STATEMENT_DEADLINE,
                "deleting old rows of the audit log",
                prune.execute(&mut self.conn),
            );
            if pruned.await?.rows_affected() == 0 {
                return Ok(());
            }
        }
    }

    /// Voiceprints of these people that `device` wrote, with their owners.
    pub(crate) async fn voiceprints_of(
        &mut self,
        people: &[Uuid],
        device: &str,
    ) -> Result<Vec<(Uuid, Uuid)>, PgError> {
        let find = sqlx::query(VOICEPRINTS_OF).bind(people).bind(device);
        self.value(STEP, find, |row| Ok((row.try_get("id")?, row.try_get("owner")?))).await
    }

    /// Rows of a query, for the comparison.
    pub(crate) async fn value<T>(
        &mut self,
        step: &'static str,
        query: PgQuery<'_>,
        of: impl Fn(&sqlx::postgres::PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, PgError> {
        let rows = within(STATEMENT_DEADLINE, step, query.fetch_all(&mut self.conn)).await?;
        rows.iter().map(|row| of(row).map_err(|e| PgError::of(step, &e))).collect()
    }
}

pub(super) fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}
