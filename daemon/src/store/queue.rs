//! The queue: typed operations that Postgres does not have yet, each written together with its row.
//!
//! An entry names a row and never copies it. The forwarder reads the row when it sends. So an upsert always
//! sends the latest state, and a row that is gone by then sends nothing (its deletion is a later entry). The
//! operations mean for the receiver:
//!
//! | operation | row | effect there (repeating it changes nothing) |
//! |---|---|---|
//! | `upsert_user`, `upsert_voiceprint`, `upsert_conversation` | the row | insert, or update to it |
//! | `insert_message` | the row | insert or nothing; raises `next_seq`, `updated` of its parent to its own |
//! | `delete_message`, `delete_conversation` | gone | delete and leave a tombstone |
//! | `delete_voiceprint`, `delete_user` | gone | delete and leave a tombstone |
//! | `append_audit` | the row | insert or nothing |
//!
//! Upserts of a parent are queued before the first row that needs it.

use std::fmt;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::tables::{self, for_tables};
use super::{Store, StoreError, Tx, put_back, resync};

macro_rules! ops {
    (
        $({ $(#[$on:meta])* $rows:ident $row:ident
            $put:ident $put_name:literal $delete:ident $delete_name:literal })+
        sent $({ $sent:ident $sent_row:ident $append:ident $append_name:literal })+
    ) => {
        /// One kind of queue entry. The names are a format: they are stored, and other versions read them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op {
            $($(#[$on])* $put, $(#[$on])* $delete,)+
            $($append,)+
        }

        impl Op {
            pub const ALL: &[Self] = &[
                $($(#[$on])* Self::$put, $(#[$on])* Self::$delete,)+
                $(Self::$append,)+
            ];

            pub fn as_str(self) -> &'static str {
                match self {
                    $($(#[$on])* Self::$put => $put_name, $(#[$on])* Self::$delete => $delete_name,)+
                    $(Self::$append => $append_name,)+
                }
            }
        }
    };
}
for_tables!(ops);

impl Op {
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.as_str() == name)
    }

    pub fn is_deletion(self) -> bool {
        self.tombstone_kind().is_some()
    }

    /// The kind of the tombstone that a deletion leaves.
    pub(crate) fn tombstone_kind(self) -> Option<&'static str> {
        self.as_str().strip_prefix("delete_")
    }

    /// The operation that deletes rows of this kind.
    pub(crate) fn deletion_of(kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.tombstone_kind() == Some(kind))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SQL that is true of an entry `of` whose row is gone: nothing can be sent for it.
fn without_row(of: &str) -> String {
    let each: Vec<String> = tables::all().iter().map(|table| table.has_no_row(of)).collect();
    format!("({})", each.join(" OR "))
}

/// Condition for dead letters that nobody has given up.
macro_rules! refused {
    () => {
        "json_extract(payload, '$.given_up') IS NULL"
    };
}

super::sql::statements! {
    ENQUEUE = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms) VALUES (?1, ?2, ?3, ?4)";
    /// The deletion covers every row of this kind that the person has.
    ENQUEUE_WHOLE = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms, payload)
        VALUES (?1, ?2, ?3, ?4, '{\"whole\": true}')";
    IS_HERE = "SELECT 1 FROM voiceprints WHERE id = ?1";
    BURIED = "SELECT 1 FROM tombstones WHERE (kind = 'voiceprint' AND id = ?1) OR (kind = 'user' AND id = ?2)
        LIMIT 1";
    FORGET_PENDING = "DELETE FROM queue WHERE entity_id = ?1";
    FORGET_DEAD = "DELETE FROM dead_letter WHERE entity_id = ?1";
    BURY = "INSERT INTO tombstones (kind, id, user_id, deleted_unix_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO NOTHING";
    DEPTH = concat!("SELECT count(*) AS entries, min(created_unix_ms) AS oldest,
            (SELECT count(*) FROM dead_letter WHERE ", refused!(), ") AS dead FROM queue");
    WAITS = "SELECT EXISTS (SELECT 1 FROM queue)";
    REFUSED = concat!("SELECT (SELECT count(*) FROM dead_letter WHERE ", refused!(), ") AS entries,
        (SELECT count(*) FROM messages
            WHERE id IN (SELECT entity_id FROM dead_letter WHERE ", refused!(), ")) AS messages,
        (SELECT count(*) FROM messages
            WHERE id IN (SELECT entity_id FROM dead_letter WHERE NOT (", refused!(), "))) AS given_up");
    LIST = "SELECT seq, op, entity_id, user_id, created_unix_ms FROM queue WHERE seq > ?1 ORDER BY seq
        LIMIT ?2";
    LIST_DEAD = concat!("SELECT seq, op, entity_id, user_id, created_unix_ms, failed_unix_ms, attempts,
        sqlstate, error
        FROM dead_letter WHERE seq > ?1 AND ", refused!(), " ORDER BY seq LIMIT ?2");
    /// Deletes dead letters that Postgres has taken now: another database refused them, or they were given
    /// up.
    TAKEN = "DELETE FROM dead_letter WHERE EXISTS (SELECT 1 FROM queue q
        WHERE q.entity_id = dead_letter.entity_id AND q.op = dead_letter.op AND q.seq <= ?1)";
    SENT = "DELETE FROM queue WHERE seq <= ?1";
    /// Another database may have refused the same entry before.
    DROP_DEAD_LETTER = "DELETE FROM dead_letter WHERE (op, entity_id) IN (SELECT op, entity_id FROM queue
        WHERE seq = ?1)";
    /// A retried entry has in its payload the number of earlier refusals.
    DEAD_LETTER = "INSERT INTO dead_letter (seq, op, entity_id, user_id, payload, created_unix_ms,
            failed_unix_ms, attempts, sqlstate, error)
        SELECT seq, op, entity_id, user_id, payload, created_unix_ms,
            ?2, coalesce(json_extract(payload, '$.attempts'), 0) + 1, ?3, ?4
        FROM queue WHERE seq = ?1";
    DROP_ENTRY = "DELETE FROM queue WHERE seq = ?1";
    /// The dead letter stays, marked: its row is on this device only, and every backup must hold it.
    DROP_DEAD = concat!("UPDATE dead_letter SET payload = json_set(payload, '$.given_up', json('true'))
        WHERE (?1 IS NULL OR seq = ?1) AND ", refused!());
    NOTHING_WAITS = "DELETE FROM queue";
    NOTHING_REFUSED = "DELETE FROM dead_letter";
    /// A list is a JSON array of hexadecimal digits.
    QUEUE_MESSAGES = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
        SELECT 'insert_message', m.id, u.id, 0
        FROM json_each(?1) wanted CROSS JOIN messages m ON m.id = unhex(wanted.value) JOIN users u
        ON u.rid = m.owner
        ORDER BY m.rid";
    MESSAGE_IDS = "SELECT id FROM messages ORDER BY rid";
    REVIVE_DEAD = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
        SELECT op, entity_id, user_id, created_unix_ms FROM dead_letter ORDER BY seq";
    OPS = "SELECT op, count(*) AS n FROM queue GROUP BY op";
    /// Deletions without a tombstone.
    UNBURIED = "SELECT count(*) FROM queue q WHERE q.op LIKE 'delete!_%' ESCAPE '!'
        AND NOT EXISTS (SELECT 1 FROM tombstones t WHERE t.kind = substr(q.op, 8) AND t.id = q.entity_id)";
    FIRST = "SELECT min(seq) FROM queue";
}

super::sql::built! {
    RETRY_DEAD = format!("INSERT INTO queue (op, entity_id, user_id, payload, created_unix_ms)
        SELECT d.op, d.entity_id, d.user_id, json_set(d.payload, '$.attempts', d.attempts), d.created_unix_ms
        FROM dead_letter d WHERE (?1 IS NULL OR d.seq = ?1) AND {} AND NOT {} ORDER BY d.seq",
        refused!(), without_row("d"));
    RETRIED = format!("DELETE FROM dead_letter AS d WHERE (?1 IS NULL OR d.seq = ?1) AND {} AND NOT {}",
        refused!(), without_row("d"));
    ROWLESS_DEAD = format!("SELECT count(*) AS n FROM dead_letter d
        WHERE (?1 IS NULL OR d.seq = ?1) AND {} AND {}",
        refused!(), without_row("d"));
    /// Without a row no backup can keep anything, so the dead letter goes.
    DROP_ROWLESS = format!("DELETE FROM dead_letter AS d WHERE (?1 IS NULL OR d.seq = ?1) AND {}",
        without_row("d"));
    /// Entries whose row is gone: nothing is sent for them.
    EMPTY_ENTRIES = format!("SELECT count(*) FROM queue q WHERE {}", without_row("q"));
}

/// Queues `op` about the row `entity` of `user` in the transaction that changes the row.
///
/// A deletion also drops what was still pending for the row and leaves a tombstone.
pub(crate) async fn enqueue(
    tx: &mut Tx<'_>,
    op: Op,
    entity: Uuid,
    user: Option<Uuid>,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    enqueue_as(tx, ENQUEUE, op, entity, user, now_unix_ms).await
}

/// Queues the deletion of the voiceprint `entity` of `user`, and of all other voiceprints of theirs that this
/// device wrote there. A voiceprint that it lost with its file must not outlive the deletion.
pub(crate) async fn enqueue_voice_deletion(
    tx: &mut Tx<'_>,
    entity: Uuid,
    user: Uuid,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    enqueue_as(tx, ENQUEUE_WHOLE, Op::DeleteVoiceprint, entity, Some(user), now_unix_ms).await
}

async fn enqueue_as(
    tx: &mut Tx<'_>,
    enqueue: &'static str,
    op: Op,
    entity: Uuid,
    user: Option<Uuid>,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let id = entity.as_bytes().as_slice();
    let user_id = user.as_ref().map(|user| user.as_bytes().as_slice());
    if let Some(kind) = op.tombstone_kind() {
        add_tombstone(tx, kind, entity, user, now_unix_ms).await?;
    }
    tx.execute(sqlx::query(enqueue).bind(op.as_str()).bind(id).bind(user_id).bind(now_unix_ms)).await?;
    Ok(())
}

/// Leaves a tombstone of the row `entity` of `user`, and drops its pending entries and dead letters.
pub(crate) async fn add_tombstone(
    tx: &mut Tx<'_>,
    kind: &str,
    entity: Uuid,
    user: Option<Uuid>,
    deleted_unix_ms: i64,
) -> Result<(), StoreError> {
    let id = entity.as_bytes().as_slice();
    let user_id = user.as_ref().map(|user| user.as_bytes().as_slice());
    tx.execute(sqlx::query(FORGET_PENDING).bind(id)).await?;
    tx.execute(sqlx::query(FORGET_DEAD).bind(id)).await?;
    tx.execute(sqlx::query(BURY).bind(kind).bind(id).bind(user_id).bind(deleted_unix_ms)).await?;
    Ok(())
}

/// The number of entries that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Entries that Postgres does not have yet.
    pub entries: i64,
    /// When the oldest entry was written.
    pub oldest_unix_ms: Option<i64>,
    /// Entries that Postgres refused for good.
    pub dead_letters: i64,
    /// Upper bound of the rows still to be queued while earlier ones are sent: Postgres is another database
    /// than before.
    pub still_to_queue: i64,
    /// Whether rows are still to be queued: an empty queue is then not the end.
    pub queueing: bool,
}

impl Depth {
    /// Whether nothing waits here and nothing is still to be queued.
    pub fn is_nothing(&self) -> bool {
        self.entries == 0 && !self.queueing
    }

    /// Whether in addition Postgres has refused nothing for good.
    pub fn has_sent_everything(&self) -> bool {
        self.is_nothing() && self.dead_letters == 0
    }
}

/// An entry as it is listed: the names of its row, never the row itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub seq: i64,
    pub op: String,
    pub entity_id: Uuid,
    pub user_id: Option<Uuid>,
    pub created_unix_ms: i64,
    #[serde(flatten)]
    pub refusal: Option<Refusal>,
}

/// Why an entry is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub failed_unix_ms: i64,
    pub attempts: i64,
    pub sqlstate: Option<String>,
    pub error: String,
}

/// The result of [`check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Soundness {
    /// Operations of a newer version: they become dead letters.
    pub unknown_operations: i64,
    /// Deletions whose tombstone is missing.
    pub unburied_deletions: i64,
    /// Entries whose row is gone without a deletion: harmless, nothing is sent for them.
    pub without_row: i64,
}

pub async fn depth(store: &Store) -> Result<Depth, StoreError> {
    // Counted before the entries: a row queued in between is counted twice rather than never.
    let still_to_queue = resync::still_to_queue(store).await?;
    let mut reader = store.reader().await?;
    let row = sqlx::query(DEPTH).fetch_one(&mut *reader).await.map_err(|e| store.classify(e))?;
    let read = || -> Result<Depth, sqlx::Error> {
        Ok(Depth {
            entries: row.try_get("entries")?,
            oldest_unix_ms: row.try_get("oldest")?,
            dead_letters: row.try_get("dead")?,
            still_to_queue: still_to_queue.unwrap_or(0),
            queueing: still_to_queue.is_some(),
        })
    };
    read().map_err(StoreError::Sql)
}

/// Whether anything waits, or is still to be queued, without counting it.
pub async fn waits(store: &Store) -> Result<bool, StoreError> {
    Ok(number(store, WAITS).await? != 0 || resync::is_queueing(store).await?)
}

/// Entries that Postgres refused for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// Entries that nobody has given up.
    pub entries: i64,
    /// Messages among them: text that is on this device and not in Postgres.
    pub messages: i64,
    /// Messages that somebody has given up: Postgres never gets them.
    pub given_up: i64,
}

impl Refused {
    /// A sentence about the dead letters that can be retried; `None` if there are none.
    pub fn sentence(self) -> Option<String> {
        const SHOWN: &str = "`jarvisd queue dead-letter list` says why";
        match self {
            Self { entries: 0, .. } => None,
            Self { messages: 0, entries, .. } => {
                Some(format!("Postgres refused {entries} entries for good; they are kept: {SHOWN}"))
            }
            Self { messages: 1, .. } => Some(format!(
                "1 message is not in Postgres, which refused it for good; this device keeps it: {SHOWN}"
            )),
            Self { messages, .. } => Some(format!(
                "{messages} messages are not in Postgres, which refused them for good; this device keeps \
                 them: {SHOWN}"
            )),
        }
    }

    /// A sentence about the messages given up; `None` if there are none.
    pub fn given_up_sentence(self) -> Option<String> {
        match self.given_up {
            0 => None,
            1 => Some(
                "1 message that was given up is not in Postgres; this device and its backups keep it"
                    .to_owned(),
            ),
            n => Some(format!(
                "{n} messages that were given up are not in Postgres; this device and its backups keep them"
            )),
        }
    }
}

pub async fn refused(store: &Store) -> Result<Refused, StoreError> {
    let mut reader = store.reader().await?;
    refused_in(&mut reader).await.map_err(|e| store.classify(e))
}

/// As [`refused`], for any file with the tables of a memory.
pub(crate) async fn refused_in(conn: &mut SqliteConnection) -> Result<Refused, sqlx::Error> {
    let row = sqlx::query(REFUSED).fetch_one(conn).await?;
    Ok(Refused {
        entries: row.try_get("entries")?,
        messages: row.try_get("messages")?,
        given_up: row.try_get("given_up")?,
    })
}

/// Entries after `after`, oldest first.
pub async fn list(store: &Store, after: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
    entries(store, LIST, after, limit, |_| Ok(None)).await
}

/// Dead letters after `after`, oldest first.
pub async fn list_dead(store: &Store, after: i64, limit: u32) -> Result<Vec<Entry>, StoreError> {
    entries(store, LIST_DEAD, after, limit, |row| {
        Ok(Some(Refusal {
            failed_unix_ms: row.try_get("failed_unix_ms")?,
            attempts: row.try_get("attempts")?,
            sqlstate: row.try_get("sqlstate")?,
            error: row.try_get("error")?,
        }))
    })
    .await
}

/// The outcome of retrying dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Dead letters back in the queue.
    pub dead_letters: u64,
    /// Dead letters whose row is no longer on this device: nothing can be sent, so they stay.
    pub without_row: i64,
}

/// Puts dead letters back at the end of the queue, one (`seq`) or all of them.
pub async fn retry_dead(store: &Store, seq: Option<i64>) -> Result<Retried, StoreError> {
    let mut tx = store.begin().await?;
    let dead_letters = tx.execute(sqlx::query(*RETRY_DEAD).bind(seq)).await?;
    tx.execute(sqlx::query(*RETRIED).bind(seq)).await?;
    let rowless = tx.optional(sqlx::query(*ROWLESS_DEAD).bind(seq)).await?;
    let without_row = rowless.map_or(Ok(0), |row| row.try_get("n")).map_err(StoreError::Sql)?;
    tx.commit().await?;
    Ok(Retried { dead_letters, without_row })
}

/// Queues every row and every dead letter, including those given up. It is meant for a copy that holds only
/// the rows a memory is to take back, and the rows they need.
pub(crate) async fn revive(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    for table in tables::all().into_iter().filter(|table| table.taken_back) {
        tx.execute(sqlx::query(table.here.queue).bind(0).bind(i64::MAX).bind(0)).await?;
    }
    tx.execute(sqlx::query(REVIVE_DEAD)).await?;
    tx.commit().await
}

/// The ids of all messages of a copy.
pub(crate) async fn messages_of_copy(copy: &Store) -> Result<Vec<Uuid>, StoreError> {
    let mut reader = copy.reader().await?;
    let ids = sqlx::query_scalar(MESSAGE_IDS).fetch_all(&mut *reader).await;
    ids.map_err(|e| copy.classify(e))
}

/// Has only these messages wait in a copy that a memory takes them back from.
pub(crate) async fn wait_only_for(copy: &Store, messages: &[Uuid]) -> Result<(), StoreError> {
    const AT_ONCE: usize = 1_000;
    let mut tx = copy.begin().await?;
    for sql in [NOTHING_WAITS, NOTHING_REFUSED] {
        tx.execute(sqlx::query(sql)).await?;
    }
    for some in messages.chunks(AT_ONCE) {
        let ids: Vec<String> = some.iter().map(|id| id.simple().to_string()).collect();
        let ids = serde_json::json!(ids).to_string();
        tx.execute(sqlx::query(QUEUE_MESSAGES).bind(ids)).await?;
    }
    tx.commit().await
}

/// Gives dead letters up, one (`seq`) or all of them; returns their number. The rows stay on this device and
/// in its backups.
pub async fn drop_dead(store: &Store, seq: Option<i64>) -> Result<u64, StoreError> {
    let mut tx = store.begin().await?;
    let gone = tx.execute(sqlx::query(DROP_DEAD).bind(seq)).await?;
    tx.execute(sqlx::query(*DROP_ROWLESS).bind(seq)).await?;
    tx.commit().await?;
    Ok(gone)
}

pub async fn check(store: &Store) -> Result<Soundness, StoreError> {
    Ok(Soundness {
        unknown_operations: unknown(store).await?,
        unburied_deletions: number(store, UNBURIED).await?,
        without_row: number(store, *EMPTY_ENTRIES).await?,
    })
}

/// The file that entries were read from and the database they were sent to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// Generation of the store when they were read.
    pub(crate) generation: u64,
    /// The database that they were sent to.
    pub(crate) house: Uuid,
}

/// Begins a transaction on the file that was read, for the database that was sent to. Returns `None` if
/// another file or database has taken its place: in another file the same numbers mean other entries, and
/// another database has nothing yet.
async fn begin_on(store: &Store, route: Route) -> Result<Option<Tx<'_>>, StoreError> {
    let mut tx = store.begin().await?;
    let same = store.generation() == route.generation && resync::is_with(&mut tx, route.house).await?;
    Ok(same.then_some(tx))
}

/// Removes the entries up to `last`, which Postgres committed when its change numbers stood at `drawn`.
/// Returns `false` if file or database changed. Entries are never added below one that was read.
pub(crate) async fn sent(
    store: &Store,
    route: Route,
    last: i64,
    drawn: i64,
    now_unix_ms: i64,
) -> Result<bool, StoreError> {
    let Some(mut tx) = begin_on(store, route).await? else { return Ok(false) };
    put_back::note_drawn(&mut tx, route.house, drawn, now_unix_ms).await?;
    tx.execute(sqlx::query(TAKEN).bind(last)).await?;
    tx.execute(sqlx::query(SENT).bind(last)).await?;
    tx.commit().await.map(|()| true)
}

/// Sets aside an entry that Postgres will never take; returns `false` if file or database changed.
pub(super) async fn set_aside(
    store: &Store,
    route: Route,
    seq: i64,
    now_unix_ms: i64,
    sqlstate: Option<&str>,
    error: &str,
) -> Result<bool, StoreError> {
    let Some(mut tx) = begin_on(store, route).await? else { return Ok(false) };
    tx.execute(sqlx::query(DROP_DEAD_LETTER).bind(seq)).await?;
    tx.execute(sqlx::query(DEAD_LETTER).bind(seq).bind(now_unix_ms).bind(sqlstate).bind(error)).await?;
    tx.execute(sqlx::query(DROP_ENTRY).bind(seq)).await?;
    tx.commit().await.map(|()| true)
}

/// Queues the deletion of voiceprints (id, person) that this device wrote there earlier and does not have;
/// returns `false` if file or database changed.
pub(super) async fn delete_leftovers(
    store: &Store,
    route: Route,
    leftovers: &[(Uuid, Uuid)],
    now_unix_ms: i64,
) -> Result<bool, StoreError> {
    let Some(mut tx) = begin_on(store, route).await? else { return Ok(false) };
    for (id, user) in leftovers {
        let (of_id, of_user) = (id.as_bytes().as_slice(), user.as_bytes().as_slice());
        if tx.optional(sqlx::query(IS_HERE).bind(of_id)).await?.is_some()
            || tx.optional(sqlx::query(BURIED).bind(of_id).bind(of_user)).await?.is_some()
        {
            continue;
        }
        enqueue(&mut tx, Op::DeleteVoiceprint, *id, Some(*user), now_unix_ms).await?;
    }
    tx.commit().await.map(|()| true)
}

/// Whether the queue may lack rows that Postgres lacks too: the first entries have left it.
pub(super) async fn was_sent_from(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let row = tx.optional(sqlx::query(FIRST)).await?;
    let first: Option<i64> = match row {
        Some(row) => row.try_get(0).map_err(StoreError::Sql)?,
        None => None,
    };
    Ok(first != Some(1))
}

/// Counts entries with an operation unknown to this version.
async fn unknown(store: &Store) -> Result<i64, StoreError> {
    let mut reader = store.reader().await?;
    let rows = sqlx::query(OPS).fetch_all(&mut *reader).await.map_err(|e| store.classify(e))?;
    let mut entries = 0;
    for row in &rows {
        let op: &str = row.try_get("op").map_err(StoreError::Sql)?;
        let n: i64 = row.try_get("n").map_err(StoreError::Sql)?;
        entries += if Op::parse(op).is_none() { n } else { 0 };
    }
    Ok(entries)
}

async fn number(store: &Store, sql: &'static str) -> Result<i64, StoreError> {
    let mut reader = store.reader().await?;
    let row = sqlx::query(sql).fetch_one(&mut *reader).await.map_err(|e| store.classify(e))?;
    row.try_get(0).map_err(StoreError::Sql)
}

async fn entries(
    store: &Store,
    sql: &'static str,
    after: i64,
    limit: u32,
    refusal: impl Fn(&SqliteRow) -> Result<Option<Refusal>, sqlx::Error>,
) -> Result<Vec<Entry>, StoreError> {
    let mut reader = store.reader().await?;
    let rows = sqlx::query(sql).bind(after).bind(limit).fetch_all(&mut *reader).await;
    let rows = rows.map_err(|e| store.classify(e))?;
    let entry = |row: &SqliteRow| {
        Ok(Entry {
            seq: row.try_get("seq")?,
            op: row.try_get("op")?,
            entity_id: row.try_get("entity_id")?,
            user_id: row.try_get("user_id")?,
            created_unix_ms: row.try_get("created_unix_ms")?,
            refusal: refusal(row)?,
        })
    };
    rows.iter().map(|row| entry(row).map_err(StoreError::Sql)).collect()
}
