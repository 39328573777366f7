//! Reads the oldest entries of the queue with the rows they name, as one snapshot of the file.
//!
//! Entries name rows; a row is read in its present state. One read transaction covers the entries and the
//! rows. Parents are queued before the first row that needs them. So the parents of a row (its conversation,
//! its person) are in the same batch or were sent before. The order within a batch is therefore free, and the
//! sender groups rows by kind. A batch read ahead, while the previous one is on its way, has a later
//! snapshot: the same holds for it once the previous one was committed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sqlx::{Connection as _, Row as _, SqliteConnection};
use uuid::Uuid;

use super::queue::Op;
use super::tables::{ConversationRow, Rows, Synced as _, UserRow};
use super::{Store, StoreError};

/// Some of the oldest entries and the rows to send for them. Rows that are gone are left out.
#[derive(Debug, Default)]
pub struct Batch {
    /// The file they were read from ([`Store::generation`]).
    pub generation: u64,
    /// Entries from the oldest up to `last_seq`.
    pub entries: usize,
    pub last_seq: i64,
    /// Whether more entries may wait.
    pub full: bool,
    /// Entries whose row is gone without a deletion: nothing is sent for them.
    pub without_row: usize,
    /// Approximate size of the rows.
    pub bytes: u64,
    pub devices: Vec<String>,
    pub rows: Rows,
    /// Pairs (answer, source message).
    pub sources: Vec<(Uuid, Uuid)>,
    pub deletions: BTreeMap<Op, Vec<Deletion>>,
    /// People whose voice was deleted altogether.
    pub voiceless: Vec<Uuid>,
    /// Operations unknown to this version: a newer one wrote them.
    pub unknown: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Deletion {
    pub id: Uuid,
    pub owner: Uuid,
}

super::sql::statements! {
    /// The oldest entries, with the length of the text of each.
    OLDEST = "SELECT q.seq, q.op, q.entity_id, q.user_id, coalesce(octet_length(m.text), 0) AS bytes,
            coalesce(json_extract(q.payload, '$.whole'), 0) AS whole
        FROM queue q LEFT JOIN messages m ON q.op = 'insert_message' AND m.id = q.entity_id
        WHERE q.seq > ?1 ORDER BY q.seq LIMIT ?2";
    /// Links are read from both ends: in a resync an answer may be sent before its source.
    SOURCES = "SELECT answer.id AS message, source.id AS source
        FROM queue q CROSS JOIN messages answer ON answer.id = q.entity_id
            CROSS JOIN message_sources s ON s.message = answer.rid CROSS JOIN messages source
            ON source.rid = s.source
        WHERE q.seq > ?1 AND q.seq <= ?2 AND q.op = 'insert_message'
        UNION SELECT answer.id, source.id
        FROM queue q CROSS JOIN messages source ON source.id = q.entity_id
            CROSS JOIN message_sources s ON s.source = source.rid CROSS JOIN messages answer
            ON answer.rid = s.message
        WHERE q.seq > ?1 AND q.seq <= ?2 AND q.op = 'insert_message'";
}

/// Reads at most `entries` of the oldest entries after `after`, and at most about `bytes` of text beyond the
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
    // Nothing was written; ending the transaction lets checkpoints pass.
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
    let mut ops = BTreeSet::new();
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
            ops.insert(op);
            named_rows.push(row.try_get("entity_id")?);
        }
    }
    if batch.entries == 0 {
        return Ok(None);
    }
    let named = (after, batch.last_seq);
    batch.rows = Rows::read(conn, &ops, named).await?;
    if ops.contains(&Op::InsertMessage) {
        batch.sources = sqlx::query_as(SOURCES).bind(named.0).bind(named.1).fetch_all(conn).await?;
    }
    let there = batch.rows.ids();
    batch.without_row = named_rows.iter().filter(|id| !there.contains(*id)).count();
    batch.devices = batch.rows.devices().into_iter().map(str::to_owned).collect();
    Ok(Some(batch))
}

/// Adds to a batch the conversations and the people that its rows belong to.
pub async fn add_parents(store: &Store, batch: &mut Batch) -> Result<(), StoreError> {
    let mut reader = store.reader().await?;
    let rows = &mut batch.rows;
    let here: HashSet<Uuid> = rows.conversations.iter().map(|c| c.id).collect();
    let conversations: HashSet<Uuid> = rows.messages.iter().map(|m| m.conversation).collect();
    let owners = rows.owners();
    let parents = async || -> Result<(), sqlx::Error> {
        let (conversation, user) = (ConversationRow::table().here.by_id, UserRow::table().here.by_id);
        for id in conversations.difference(&here) {
            let found = sqlx::query_as(conversation).bind(id).fetch_optional(&mut *reader).await?;
            rows.conversations.extend(found);
        }
        for id in owners {
            if !rows.users.iter().any(|user| user.id == id) {
                rows.users.extend(sqlx::query_as(user).bind(id).fetch_optional(&mut *reader).await?);
            }
        }
        Ok(())
    };
    parents().await.map_err(|e| store.classify(e))?;
    batch.devices = batch.rows.devices().into_iter().map(str::to_owned).collect();
    Ok(())
}
