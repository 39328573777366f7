//! One batch, one transaction, one statement a kind. Repeating any of it changes nothing.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::schema::WRITE_LOCK;
use super::{Pg, PgError, STATEMENT_DEADLINE, within};
use crate::store::outgoing::{Batch, Deletion};
use crate::store::queue::Op;
use crate::store::rows::MessageRow;

/// Channel on which writers say that there is something new; the payload is the device that wrote.
pub const CHANNEL: &str = "jarvis";

const STEP: &str = "sending to Postgres";

crate::store::sql::statements! {
    BEGIN = "BEGIN";
    LOCK = "SELECT pg_advisory_xact_lock($1)";
    COMMIT = "COMMIT";
    ROLLBACK = "ROLLBACK";
    NOTIFY = "SELECT pg_notify('jarvis', $1), last_value AS drawn FROM jarvis.changes";
    /// Nothing if another memory sends under this id now; until the transaction ends none can take it over.
    /// Nothing either if the database was put back under this connection.
    HOLD = "UPDATE jarvis.devices SET last_seen = now() WHERE id = $1 AND token = $2
        AND (SELECT last_value FROM jarvis.changes) >= $3";
    DEVICES = "INSERT INTO jarvis.devices (id) SELECT unnest($1::text[]) ON CONFLICT (id) DO NOTHING";
    /// Of two names the one that was given later, of two consents the later one. A device that sends an older
    /// name does not know the newer one: the row then has no origin, and everybody reads it.
    USERS = "INSERT INTO jarvis.users AS t (id, name, consent_at, created_at, clock_synced, named, origin, change)
        SELECT x.id, x.name, timestamptz 'epoch' + x.consent * interval '1 ms', timestamptz 'epoch' + x.created * interval '1 ms',
            x.synced, x.named, $7, nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[], $6::uuid[])
            AS x (id, name, consent, created, synced, named)
        WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user' AND d.id = x.id)
        ON CONFLICT (id) DO UPDATE SET
            name = CASE WHEN excluded.named > t.named THEN excluded.name ELSE t.name END,
            named = greatest(t.named, excluded.named),
            consent_at = greatest(t.consent_at, excluded.consent_at),
            created_at = excluded.created_at, clock_synced = excluded.clock_synced,
            origin = CASE WHEN t.origin = $7 OR (excluded.named >= t.named
                    AND greatest(t.consent_at, excluded.consent_at) IS NOT DISTINCT FROM excluded.consent_at)
                THEN $7 END,
            change = excluded.change
        WHERE excluded.named > t.named OR (t.created_at, t.clock_synced) IS DISTINCT FROM (excluded.created_at, excluded.clock_synced)
            OR greatest(t.consent_at, excluded.consent_at) IS DISTINCT FROM t.consent_at";
    VOICEPRINTS = "INSERT INTO jarvis.voiceprints AS t (id, owner, wrapped_key, blob, model_sha256, front_end_sha256, samples,
            net_speech_s, quality, created_at, clock_synced, origin, change)
        SELECT x.id, x.owner, x.wrapped_key, x.blob, x.model, x.front_end, x.samples, x.net_speech_s, x.quality::jsonb,
            timestamptz 'epoch' + x.created * interval '1 ms', x.synced, $12, nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::integer[],
                $8::double precision[], $9::text[], $10::bigint[], $11::boolean[])
            AS x (id, owner, wrapped_key, blob, model, front_end, samples, net_speech_s, quality, created, synced)
        WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'voiceprint' AND d.id = x.id)
            AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user' AND d.id = x.owner)
        ON CONFLICT (id) DO UPDATE SET wrapped_key = excluded.wrapped_key, blob = excluded.blob,
            origin = excluded.origin, change = excluded.change
        WHERE (t.wrapped_key, t.blob) IS DISTINCT FROM (excluded.wrapped_key, excluded.blob)";
    /// `next_seq` is the row's logical clock: the stamp of the last turn comes from whoever knows the later
    /// one, or from the home itself, which may have dated it again. Title and client's name come from whoever
    /// changed them last, by the moment of the change; forgetting empties them. Whoever sends a part that is
    /// older does not know the newer one: the row then has no origin, and everybody reads it.
    CONVERSATIONS = "INSERT INTO jarvis.conversations AS t (id, owner, device, session_id, title, title_by_user, next_seq,
            created_at, created_synced, updated_at, updated_synced, updated_monotonic_ns, boot_id, named, origin, change)
        SELECT x.id, x.owner, coalesce(x.device, $14), x.session_id, x.title, x.title_by_user, x.next_seq,
            timestamptz 'epoch' + x.created * interval '1 ms', x.created_synced,
            timestamptz 'epoch' + x.updated * interval '1 ms', x.updated_synced, x.monotonic, x.boot, x.named, $14,
            nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::bigint[], $8::bigint[],
                $9::boolean[], $10::bigint[], $11::boolean[], $12::bigint[], $13::text[], $15::uuid[])
            AS x (id, owner, device, session_id, title, title_by_user, next_seq, created, created_synced, updated,
                updated_synced, monotonic, boot, named)
        WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'conversation' AND d.id = x.id)
            AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user' AND d.id = x.owner)
        ON CONFLICT (id) DO UPDATE SET
            session_id = CASE WHEN excluded.named > t.named THEN excluded.session_id ELSE t.session_id END,
            title = CASE WHEN excluded.named > t.named THEN excluded.title ELSE t.title END,
            title_by_user = CASE WHEN excluded.named > t.named THEN excluded.title_by_user ELSE t.title_by_user END,
            named = greatest(t.named, excluded.named),
            next_seq = greatest(t.next_seq, excluded.next_seq),
            created_at = CASE WHEN t.created_synced THEN t.created_at ELSE excluded.created_at END,
            created_synced = t.created_synced OR excluded.created_synced,
            updated_at = CASE WHEN excluded.next_seq > t.next_seq OR (excluded.next_seq = t.next_seq AND t.device = $14)
                THEN excluded.updated_at ELSE t.updated_at END,
            updated_synced = CASE WHEN excluded.next_seq > t.next_seq OR (excluded.next_seq = t.next_seq AND t.device = $14)
                THEN excluded.updated_synced ELSE t.updated_synced END,
            updated_monotonic_ns = CASE WHEN excluded.next_seq > t.next_seq
                OR (excluded.next_seq = t.next_seq AND t.device = $14)
                THEN excluded.updated_monotonic_ns ELSE t.updated_monotonic_ns END,
            boot_id = CASE WHEN excluded.next_seq > t.next_seq OR (excluded.next_seq = t.next_seq AND t.device = $14)
                THEN excluded.boot_id ELSE t.boot_id END,
            origin = CASE WHEN t.origin = $14 OR (excluded.named >= t.named AND excluded.next_seq >= t.next_seq
                    AND excluded.created_synced >= t.created_synced) THEN $14 END,
            change = excluded.change
        WHERE excluded.named > t.named
            OR excluded.next_seq > t.next_seq
            OR (excluded.created_synced AND NOT t.created_synced)
            OR (excluded.next_seq = t.next_seq AND t.device = $14 AND (t.updated_at, t.updated_synced, t.boot_id)
                IS DISTINCT FROM (excluded.updated_at, excluded.updated_synced, excluded.boot_id))";
    /// A row that is there already is only dated again, once the clock of its device was set.
    MESSAGES = "INSERT INTO jarvis.messages AS t (id, conversation, owner, seq, role, kind, text, meta, wall_time, clock_synced,
            monotonic_ns, boot_id, device, origin, change)
        SELECT x.id, x.conversation, x.owner, x.seq, x.role, x.kind, x.text, x.meta::jsonb,
            timestamptz 'epoch' + x.wall * interval '1 ms', x.synced, x.monotonic, x.boot, x.device, $14,
            nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::bigint[], $10::boolean[], $11::bigint[], $12::text[], $13::text[])
            AS x (id, conversation, owner, seq, role, kind, text, meta, wall, synced, monotonic, boot, device)
        WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'message' AND d.id = x.id)
            AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'conversation' AND d.id = x.conversation)
            AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user' AND d.id = x.owner)
        ON CONFLICT (id) DO UPDATE SET wall_time = excluded.wall_time, clock_synced = true, origin = excluded.origin,
            change = excluded.change
        WHERE NOT t.clock_synced AND excluded.clock_synced";
    /// What a message says about its conversation: at least this far. Of its names it says nothing.
    ADVANCE = "UPDATE jarvis.conversations t SET next_seq = x.next_seq,
            updated_at = timestamptz 'epoch' + x.wall * interval '1 ms', updated_synced = x.synced,
            updated_monotonic_ns = x.monotonic, boot_id = x.boot, origin = CASE WHEN t.origin = $7 THEN $7 END,
            change = nextval('jarvis.changes')
        FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::bigint[], $6::text[])
            AS x (id, next_seq, wall, synced, monotonic, boot)
        WHERE t.id = x.id AND t.next_seq < x.next_seq";
    SOURCES = "INSERT INTO jarvis.message_sources (message, source, owner)
        SELECT m.id, s.id, m.owner FROM unnest($1::uuid[], $2::uuid[]) AS x (message, source)
            JOIN jarvis.messages m ON m.id = x.message JOIN jarvis.messages s ON s.id = x.source AND s.owner = m.owner
        ON CONFLICT DO NOTHING";
    PRUNE_AUDIT = "DELETE FROM jarvis.audit WHERE id IN (SELECT id FROM jarvis.audit WHERE device = $1 AND clock_synced
        AND wall_time < timestamptz 'epoch' + $2::bigint * interval '1 ms' LIMIT $3)";
    AUDIT = "INSERT INTO jarvis.audit AS t (id, owner, action, outcome, detail, wall_time, clock_synced, monotonic_ns, boot_id, device)
        SELECT x.id, u.id, x.action, x.outcome, x.detail::jsonb, timestamptz 'epoch' + x.wall * interval '1 ms', x.synced,
            x.monotonic, x.boot, x.device
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::boolean[], $8::bigint[],
                $9::text[], $10::text[])
            AS x (id, owner, action, outcome, detail, wall, synced, monotonic, boot, device)
            LEFT JOIN jarvis.users u ON u.id = x.owner
        ON CONFLICT (id) DO UPDATE SET wall_time = excluded.wall_time, clock_synced = true
        WHERE NOT t.clock_synced AND excluded.clock_synced";
    /// Of a person who is buried nothing else needs to be.
    BURY = "INSERT INTO jarvis.tombstones (kind, id, owner, origin, change)
        SELECT $1, x.id, x.owner, $4, nextval('jarvis.changes') FROM unnest($2::uuid[], $3::uuid[]) AS x (id, owner)
        WHERE $1 = 'user' OR NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = 'user' AND d.id = x.owner)
        ON CONFLICT (kind, id) DO NOTHING";
    DELETE_MESSAGES = "DELETE FROM jarvis.messages t USING unnest($1::uuid[], $2::uuid[]) AS x (id, owner)
        WHERE t.id = x.id AND t.owner = x.owner";
    DELETE_CONVERSATIONS = "DELETE FROM jarvis.conversations t USING unnest($1::uuid[], $2::uuid[]) AS x (id, owner)
        WHERE t.id = x.id AND t.owner = x.owner";
    DELETE_VOICEPRINTS = "DELETE FROM jarvis.voiceprints t USING unnest($1::uuid[], $2::uuid[]) AS x (id, owner)
        WHERE t.id = x.id AND t.owner = x.owner";
    DELETE_USERS = "DELETE FROM jarvis.users t USING unnest($1::uuid[], $2::uuid[]) AS x (id, owner)
        WHERE t.id = x.id AND x.owner = x.id";
    /// Of these people, what this device has written.
    VOICEPRINTS_OF = "SELECT id, owner FROM jarvis.voiceprints WHERE owner = ANY($1) AND origin = $2 ORDER BY change";
    DELETE_TOMBSTONES = "DELETE FROM jarvis.tombstones t USING unnest($1::uuid[]) AS x (id)
        WHERE t.owner = x.id AND t.kind <> 'user'";
}

impl Pg {
    /// Notes that this device is there, if it still holds its id.
    ///
    /// # Errors
    /// [`PgError::is_held_back`] if it does not.
    pub(in crate::store) async fn hold(&mut self, device: &str) -> Result<(), PgError> {
        // It only reads, or was held back when it came and had nothing to send.
        let Some(token) = self.token else { return Ok(()) };
        match self.run(sqlx::query(HOLD).bind(device).bind(token).bind(self.drawn)).await? {
            0 => Err(PgError::held_back(device, 0.0)),
            _ => Ok(()),
        }
    }

    /// Sends a batch as one transaction. When this returns `Ok`, Postgres has committed it. An error leaves
    /// it open whether it has (its answer may have been lost on the way): send it again.
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

    /// Returns where the change numbers stand after it.
    async fn send_all(&mut self, batch: &Batch, device: &str) -> Result<i64, PgError> {
        self.run(sqlx::query(BEGIN)).await?;
        self.run(sqlx::query(LOCK).bind(WRITE_LOCK)).await?;
        if self.token.is_none() {
            return Err(PgError::held_back(device, 0.0));
        }
        self.hold(device).await?;
        // Deletions first: whatever is sent below exists, so it is none of them, and what they free may be
        // needed.
        for (op, rows) in &batch.deletions {
            self.delete(*op, rows, device).await?;
        }
        if !batch.devices.is_empty() {
            self.run(sqlx::query(DEVICES).bind(&batch.devices)).await?;
        }
        self.upsert_users(batch, device).await?;
        self.upsert_conversations(batch, device).await?;
        self.insert_messages(&batch.messages, device).await?;
        if !batch.sources.is_empty() {
            let (messages, sources): (Vec<Uuid>, Vec<Uuid>) = batch.sources.iter().copied().unzip();
            let written = self.run(sqlx::query(SOURCES).bind(messages).bind(sources)).await?;
            self.sources_are_there(written, batch).await?;
        }
        self.upsert_voiceprints(batch, device).await?;
        self.append_audit(batch).await?;
        let drawn = self.value(STEP, sqlx::query(NOTIFY).bind(device), |row| row.try_get("drawn")).await?;
        Ok(drawn.first().copied().unwrap_or(self.drawn))
    }

    pub(in crate::store) async fn run(
        &mut self,
        query: Query<'_, sqlx::Postgres, PgArguments>,
    ) -> Result<u64, PgError> {
        within(STATEMENT_DEADLINE, STEP, query.execute(&mut self.conn)).await.map(|done| done.rows_affected())
    }

    async fn upsert_users(&mut self, batch: &Batch, device: &str) -> Result<(), PgError> {
        let rows = &batch.users;
        if rows.is_empty() {
            return Ok(());
        }
        let upsert = sqlx::query(USERS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.name.as_str()))
            .bind(column(rows, |r| r.consent_unix_ms))
            .bind(column(rows, |r| r.created_unix_ms))
            .bind(column(rows, |r| r.synced))
            .bind(column(rows, |r| r.named))
            .bind(device);
        let written = self.run(upsert).await?;
        self.users_are_there(written, batch).await
    }

    async fn upsert_voiceprints(&mut self, batch: &Batch, device: &str) -> Result<(), PgError> {
        let rows = &batch.voiceprints;
        if rows.is_empty() {
            return Ok(());
        }
        let upsert = sqlx::query(VOICEPRINTS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.wrapped_key.as_slice()))
            .bind(column(rows, |r| r.blob.as_slice()))
            .bind(column(rows, |r| r.model_sha256.as_str()))
            .bind(column(rows, |r| r.front_end_sha256.as_str()))
            .bind(column(rows, |r| r.samples))
            .bind(column(rows, |r| r.net_speech_s))
            .bind(column(rows, |r| r.quality.as_str()))
            .bind(column(rows, |r| r.created_unix_ms))
            .bind(column(rows, |r| r.synced))
            .bind(device);
        let written = self.run(upsert).await?;
        self.voiceprints_are_there(written, batch).await
    }

    async fn upsert_conversations(&mut self, batch: &Batch, device: &str) -> Result<(), PgError> {
        let rows = &batch.conversations;
        if rows.is_empty() {
            return Ok(());
        }
        let upsert = sqlx::query(CONVERSATIONS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.device.as_deref()))
            .bind(column(rows, |r| r.session_id.as_deref()))
            .bind(column(rows, |r| r.title.as_str()))
            .bind(column(rows, |r| r.title_by_user))
            .bind(column(rows, |r| r.next_seq))
            .bind(column(rows, |r| r.created_unix_ms))
            .bind(column(rows, |r| r.created_synced))
            .bind(column(rows, |r| r.updated_unix_ms))
            .bind(column(rows, |r| r.updated_synced))
            .bind(column(rows, |r| r.updated_monotonic_ns))
            .bind(column(rows, |r| r.boot_id.as_str()))
            .bind(device)
            .bind(column(rows, |r| r.named));
        let written = self.run(upsert).await?;
        self.conversations_are_there(written, batch).await
    }

    async fn insert_messages(&mut self, rows: &[MessageRow], device: &str) -> Result<(), PgError> {
        if rows.is_empty() {
            return Ok(());
        }
        let insert = sqlx::query(MESSAGES)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.conversation))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.seq))
            .bind(column(rows, |r| r.role.as_str()))
            .bind(column(rows, |r| r.kind.as_str()))
            .bind(column(rows, |r| r.text.as_str()))
            .bind(column(rows, |r| r.meta.as_deref()))
            .bind(column(rows, |r| r.wall_unix_ms))
            .bind(column(rows, |r| r.synced))
            .bind(column(rows, |r| r.monotonic_ns))
            .bind(column(rows, |r| r.boot_id.as_str()))
            .bind(column(rows, |r| r.device.as_str()))
            .bind(device);
        let written = self.run(insert).await?;
        self.messages_are_there(written, rows).await?;
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

    async fn append_audit(&mut self, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.audit;
        if rows.is_empty() {
            return Ok(());
        }
        let append = sqlx::query(AUDIT)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.action.as_str()))
            .bind(column(rows, |r| r.outcome.as_str()))
            .bind(column(rows, |r| r.detail.as_deref()))
            .bind(column(rows, |r| r.wall_unix_ms))
            .bind(column(rows, |r| r.synced))
            .bind(column(rows, |r| r.monotonic_ns))
            .bind(column(rows, |r| r.boot_id.as_str()))
            .bind(column(rows, |r| r.device.as_str()));
        let written = self.run(append).await?;
        self.audit_is_there(written, batch).await
    }

    async fn delete(&mut self, op: Op, rows: &[Deletion], device: &str) -> Result<(), PgError> {
        let Some(kind) = op.tombstone_kind() else { return Ok(()) };
        let delete = match op {
            Op::DeleteMessage => DELETE_MESSAGES,
            Op::DeleteConversation => DELETE_CONVERSATIONS,
            Op::DeleteVoiceprint => DELETE_VOICEPRINTS,
            _ => DELETE_USERS,
        };
        let (ids, owners) = (column(rows, |r| r.id), column(rows, |r| r.owner));
        self.run(sqlx::query(DEVICES).bind(vec![device])).await?;
        let buried = self.run(sqlx::query(BURY).bind(kind).bind(&ids).bind(&owners).bind(device)).await?;
        let deleted = self.run(sqlx::query(delete).bind(&ids).bind(&owners)).await?;
        self.deletions_are_done((buried, deleted), op, rows).await?;
        if op == Op::DeleteUser {
            self.run(sqlx::query(DELETE_TOMBSTONES).bind(&ids)).await?;
        }
        Ok(())
    }

    /// Deletes the rows of the audit log that `device` wrote before this time.
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

    /// Voiceprints of these people that `device` has written, with their owners.
    pub(crate) async fn voiceprints_of(
        &mut self,
        people: &[Uuid],
        device: &str,
    ) -> Result<Vec<(Uuid, Uuid)>, PgError> {
        let find = sqlx::query(VOICEPRINTS_OF).bind(people).bind(device);
        self.value(STEP, find, |row| Ok((row.try_get("id")?, row.try_get("owner")?))).await
    }

    /// Rows that a query finds, for whoever compares.
    pub(crate) async fn value<T>(
        &mut self,
        step: &'static str,
        query: Query<'_, sqlx::Postgres, PgArguments>,
        of: impl Fn(&sqlx::postgres::PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, PgError> {
        let rows = within(STATEMENT_DEADLINE, step, query.fetch_all(&mut self.conn)).await?;
        rows.iter().map(|row| of(row).map_err(|e| PgError::of(step, &e))).collect()
    }
}

pub(super) fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}
