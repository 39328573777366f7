//! The oldest entries of the queue with the rows that they name, as one snapshot of the file.
//!
//! Entries name rows; a row is read as it is now. One read transaction covers the entries and the rows, so
//! whatever a row needs (its conversation, its person) is either in the same batch or was sent before:
//! parents are queued before the first row that needs them. That makes the order within a batch free, and the
//! sender groups it by kind. A batch that is read ahead, while the one before is on its way, has a later
//! snapshot, so the same holds for it once that one was committed.

use std::collections::{BTreeMap, HashSet};

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, FromRow, Row as _, SqliteConnection};
use uuid::Uuid;

use super::queue::Op;
use super::rows::{AuditRow, ConversationRow, MessageRow, UserRow, VoiceprintRow};
use super::{Store, StoreError};

/// Some of the oldest entries, and what to send for them. Rows that are gone are simply not here.
#[derive(Debug, Default)]
pub struct Batch {
    /// Which file they were read from ([`Store::generation`]).
    pub generation: u64,
    /// Entries from the oldest up to `last_seq`.
    pub entries: usize,
    pub last_seq: i64,
    /// There may be more.
    pub full: bool,
    /// Entries among them whose row is gone without a deletion: nothing is sent for them.
    pub without_row: usize,
    /// Rough size of the rows.
    pub bytes: u64,
    pub devices: Vec<String>,
    pub users: Vec<UserRow>,
    pub voiceprints: Vec<VoiceprintRow>,
    pub conversations: Vec<ConversationRow>,
    pub messages: Vec<MessageRow>,
    /// (answer, what it was made from)
    pub sources: Vec<(Uuid, Uuid)>,
    pub audit: Vec<AuditRow>,
    pub deletions: BTreeMap<Op, Vec<Deletion>>,
    /// People whose voice was deleted altogether.
    pub voiceless: Vec<Uuid>,
    /// Operations that this version does not know: written by a newer one.
    pub unknown: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Deletion {
    pub id: Uuid,
    pub owner: Uuid,
}

/// Columns of a person, and of a conversation: of those that entries name, and of those that a row turns
/// out to need.
macro_rules! of_user {
    ($of:literal) => {
        concat!(
            "SELECT id, coalesce(house_name, name) AS name, consent_unix_ms, created_unix_ms, created_synced AS synced, named
            FROM users WHERE id ",
            $of
        )
    };
}
macro_rules! of_conversation {
    ($of:literal) => {
        concat!(
            "SELECT c.id AS id, u.id AS owner, d.id AS device, c.session_id, c.title, c.title_by_user, c.named, c.next_seq,
                c.created_unix_ms, c.created_synced, c.updated_unix_ms, c.updated_synced, c.updated_monotonic_ns, b.boot_id
            FROM conversations c JOIN users u ON u.rid = c.owner JOIN boots b ON b.rid = c.boot
                LEFT JOIN devices d ON d.rid = c.device
            WHERE c.id ",
            $of
        )
    };
}

super::sql::statements! {
    /// The oldest entries, with the length of the text that each brings along.
    OLDEST = "SELECT q.seq, q.op, q.entity_id, q.user_id, coalesce(octet_length(m.text), 0) AS bytes,
            coalesce(json_extract(q.payload, '$.whole'), 0) AS whole
        FROM queue q LEFT JOIN messages m ON q.op = 'insert_message' AND m.id = q.entity_id
        WHERE q.seq > ?1 ORDER BY q.seq LIMIT ?2";
    USERS = of_user!("IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = 'upsert_user') ORDER BY rid");
    VOICEPRINTS = "SELECT v.id AS id, u.id AS owner, v.wrapped_key, v.blob, v.model_sha256, v.front_end_sha256, v.samples,
            v.net_speech_s, v.quality, v.created_unix_ms, v.created_synced AS synced
        FROM voiceprints v JOIN users u ON u.rid = v.owner
        WHERE v.id IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = 'upsert_voiceprint')";
    CONVERSATIONS =
        of_conversation!("IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = 'upsert_conversation') ORDER BY c.rid");
    MESSAGES = "SELECT m.id AS id, c.id AS conversation, u.id AS owner, m.seq, m.role, m.kind, m.text, m.meta, m.wall_unix_ms,
            m.clock_synced AS synced, m.monotonic_ns, b.boot_id, d.id AS device
        FROM messages m JOIN conversations c ON c.rid = m.conversation JOIN users u ON u.rid = m.owner
            JOIN boots b ON b.rid = m.boot JOIN devices d ON d.rid = m.device
        WHERE m.id IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = 'insert_message') ORDER BY m.rid";
    /// Of both ends: where everything is sent again, an answer may go before what it was made from.
    SOURCES = "SELECT answer.id AS message, source.id AS source
        FROM queue q CROSS JOIN messages answer ON answer.id = q.entity_id
            CROSS JOIN message_sources s ON s.message = answer.rid CROSS JOIN messages source ON source.rid = s.source
        WHERE q.seq > ?1 AND q.seq <= ?2 AND q.op = 'insert_message'
        UNION SELECT answer.id, source.id
        FROM queue q CROSS JOIN messages source ON source.id = q.entity_id
            CROSS JOIN message_sources s ON s.source = source.rid CROSS JOIN messages answer ON answer.rid = s.message
        WHERE q.seq > ?1 AND q.seq <= ?2 AND q.op = 'insert_message'";
    AUDIT = "SELECT a.id AS id, u.id AS owner, a.action, a.outcome, a.detail, a.wall_unix_ms, a.clock_synced AS synced,
            a.monotonic_ns,
            b.boot_id, d.id AS device
        FROM audit a JOIN boots b ON b.rid = a.boot JOIN devices d ON d.rid = a.device LEFT JOIN users u ON u.rid = a.owner
        WHERE a.id IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = 'append_audit') ORDER BY a.rid";
    /// What a message needs above it, where Postgres turns out to lack it.
    PARENTS_CONVERSATION = of_conversation!("= ?1");
    PARENTS_USER = of_user!("= ?1");
}

/// At most `entries` of the oldest entries after `after`, and no more than about `bytes` of text beyond the
/// first; `None` when there are none.
pub async fn read(
    store: &Store,
    after: i64,
    entries: usize,
    bytes: u64,
) -> Result<Option<Batch>, StoreError> {
    let generation = store.generation();
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.map_err(|e| store.classify(e))?;
    let read = read_within(&mut snapshot, after, entries, bytes).await;
    // Nothing was written; the end of the transaction lets checkpoints pass.
    let ended = snapshot.rollback().await;
    let batch = read.map_err(|e| store.classify(e))?;
    ended.map_err(|e| store.classify(e))?;
    Ok(batch.map(|batch| Batch { generation, ..batch }))
}

async fn read_within(
    conn: &mut SqliteConnection,
    after: i64,
    entries: usize,
    bytes: u64,
) -> Result<Option<Batch>, sqlx::Error> {
    let limit = i64::try_from(entries).unwrap_or(i64::MAX);
    let oldest = sqlx::query(OLDEST).bind(after).bind(limit).fetch_all(&mut *conn).await?;
    let mut batch = Batch { full: oldest.len() == entries, ..Batch::default() };
    let mut seen = Seen::default();
    let mut named_rows: Vec<Uuid> = Vec::new();
    for row in &oldest {
        let size = u64::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or(0) + 100;
        if batch.entries > 0 && batch.bytes + size > bytes {
            batch.full = true;
            break;
        }
        batch.bytes += size;
        batch.entries += 1;
        batch.last_seq = row.try_get("seq")?;
        let name: &str = row.try_get("op")?;
        let Some(op) = Op::parse(name) else {
            batch.unknown.push(name.to_owned());
            continue;
        };
        if op.is_deletion() {
            let id: Uuid = row.try_get("entity_id")?;
            let owner: Option<Uuid> = row.try_get("user_id")?;
            if op == Op::DeleteVoiceprint && row.try_get::<i64, _>("whole")? != 0 {
                batch.voiceless.extend(owner);
            }
            batch.deletions.entry(op).or_default().push(Deletion { id, owner: owner.unwrap_or(id) });
        } else {
            seen.note(op);
            named_rows.push(row.try_get("entity_id")?);
        }
    }
    if batch.entries == 0 {
        return Ok(None);
    }
    let named = (after, batch.last_seq);
    if seen.users {
        batch.users = all(conn, USERS, named).await?;
    }
    if seen.voiceprints {
        batch.voiceprints = all(conn, VOICEPRINTS, named).await?;
    }
    if seen.conversations {
        batch.conversations = all(conn, CONVERSATIONS, named).await?;
    }
    if seen.messages {
        batch.messages = all(conn, MESSAGES, named).await?;
        batch.sources = all(conn, SOURCES, named).await?;
    }
    if seen.audit {
        batch.audit = all(conn, AUDIT, named).await?;
    }
    let there = batch.rows();
    batch.without_row = named_rows.iter().filter(|id| !there.contains(*id)).count();
    batch.note_devices();
    Ok(Some(batch))
}

/// Adds to a batch the conversations and the people that its rows belong to.
pub async fn add_parents(store: &Store, batch: &mut Batch) -> Result<(), StoreError> {
    let mut reader = store.reader().await?;
    let here: HashSet<Uuid> = batch.conversations.iter().map(|c| c.id).collect();
    let conversations: HashSet<Uuid> = batch.messages.iter().map(|m| m.conversation).collect();
    let mut owners: Vec<Uuid> = batch.messages.iter().map(|m| m.owner).collect();
    owners.extend(batch.conversations.iter().map(|c| c.owner));
    owners.extend(batch.voiceprints.iter().map(|v| v.owner));
    let parents = async || -> Result<(), sqlx::Error> {
        for id in conversations.difference(&here) {
            batch
                .conversations
                .extend(sqlx::query_as(PARENTS_CONVERSATION).bind(id).fetch_optional(&mut *reader).await?);
        }
        for id in owners {
            if !batch.users.iter().any(|user| user.id == id) {
                batch.users.extend(sqlx::query_as(PARENTS_USER).bind(id).fetch_optional(&mut *reader).await?);
            }
        }
        Ok(())
    };
    parents().await.map_err(|e| store.classify(e))?;
    batch.note_devices();
    Ok(())
}

impl Batch {
    /// Ids of all rows that are sent.
    fn rows(&self) -> HashSet<Uuid> {
        let users = self.users.iter().map(|row| row.id);
        let voiceprints = self.voiceprints.iter().map(|row| row.id);
        let conversations = self.conversations.iter().map(|row| row.id);
        let messages = self.messages.iter().map(|row| row.id);
        let audit = self.audit.iter().map(|row| row.id);
        users.chain(voiceprints).chain(conversations).chain(messages).chain(audit).collect()
    }

    /// Every device that a row names.
    fn note_devices(&mut self) {
        let homes = self.conversations.iter().filter_map(|c| c.device.as_ref());
        let heard = self.messages.iter().map(|m| &m.device).chain(self.audit.iter().map(|a| &a.device));
        let all: std::collections::BTreeSet<String> = homes.chain(heard).cloned().collect();
        self.devices = all.into_iter().collect();
    }
}

/// Which kinds of rows the entries name.
#[derive(Debug, Default)]
struct Seen {
    users: bool,
    voiceprints: bool,
    conversations: bool,
    messages: bool,
    audit: bool,
}

impl Seen {
    fn note(&mut self, op: Op) {
        match op {
            Op::UpsertUser => self.users = true,
            Op::UpsertVoiceprint => self.voiceprints = true,
            Op::UpsertConversation => self.conversations = true,
            Op::InsertMessage => self.messages = true,
            Op::AppendAudit => self.audit = true,
            Op::DeleteUser | Op::DeleteVoiceprint | Op::DeleteConversation | Op::DeleteMessage => {}
        }
    }
}

async fn all<T: Send + Unpin + for<'r> FromRow<'r, SqliteRow>>(
    conn: &mut SqliteConnection,
    sql: &'static str,
    (after, last): (i64, i64),
) -> Result<Vec<T>, sqlx::Error> {
    sqlx::query_as(sql).bind(after).bind(last).fetch_all(conn).await
}
