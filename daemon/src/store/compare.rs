//! Compares this device with Postgres, conversation by conversation and table by table, and repairs
//! differences.
//!
//! Both sides make the same checksum of a conversation: SHA-256 over the SHA-256 of each message (id, place,
//! role, kind, text) in its order. The other tables are compared row by row ([`tables`]). A row is on its way
//! if it waits in the queue, is newer there than the last read, or was deleted on one side only so far. It
//! counts as no difference, but the comparison is then incomplete and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::opener::Opener;
use super::postgres::{Pg, PgError, PgSettings};
use super::queue::{self, Depth, Op};
use super::resync::Sent;
use super::{Store, StoreError, pull_cursor, resync};

pub mod tables;

use tables::{Sides, TableComparison};

/// Conversations compared at once.
const PAGE: i64 = 200;

const STEP: &str = "comparing with Postgres";

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("Postgres could not be compared with")]
    Postgres(#[source] PgError),
    #[error("the database on this device could not be compared")]
    Store(#[source] StoreError),
}

impl From<StoreError> for CompareError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<PgError> for CompareError {
    fn from(error: PgError) -> Self {
        Self::Postgres(error)
    }
}

/// How one conversation differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Postgres does not have it, or not all of its messages.
    MissingThere,
    /// This device does not have it, or not all of its messages.
    MissingHere,
    /// Both have the same messages with other contents.
    Differs,
}

/// A conversation that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub conversation_id: Uuid,
    pub difference: Difference,
    pub messages_here: i64,
    pub messages_there: i64,
}

/// Numbers of both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub users: i64,
    pub conversations: i64,
    pub messages: i64,
}

/// Rows on their way between both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Entries that wait to be sent.
    pub entries: i64,
    /// Upper bound of the rows still to be queued, since Postgres is another database than before.
    pub still_to_queue: i64,
    /// Whether rows are still to be queued.
    pub queueing: bool,
    /// Whether this device sends to another database, so that everything is still to be sent to this one.
    pub another_database: bool,
    /// Rows missing here that this device has not read yet: other devices wrote them, or it lost them itself.
    pub unread: usize,
}

impl Left {
    fn of(depth: &Depth, sent: Sent, unread: usize) -> Self {
        Self {
            entries: depth.entries,
            still_to_queue: depth.still_to_queue,
            queueing: depth.queueing,
            another_database: sent == Sent::Elsewhere,
            unread,
        }
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Whether everything was compared: before a repair nothing waited, was still to be queued, or still to
    /// be read.
    pub everything_compared: bool,
    /// Entries and rows that were on their way, without those that the repair queued.
    pub left: Left,
    pub here: Counts,
    pub there: Counts,
    /// Every table except the messages.
    pub tables: Vec<TableComparison>,
    /// Conversations with messages on their way in either direction: not compared.
    pub waiting: usize,
    /// People missing in Postgres with no entry that waits for them.
    pub users_missing_there: usize,
    /// Conversations here with a gap in their sequence: a message was forgotten or lost.
    pub with_gaps: usize,
    pub findings: Vec<Finding>,
    /// Entries that the repair queued.
    pub queued: usize,
    /// Whether the repair reads everything of other devices again.
    pub reads_again: bool,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.differences() == 0
    }

    /// Whether neither side can be judged: rows are still to be queued, or everything is still to be sent.
    pub fn is_unfounded(&self) -> bool {
        self.left.queueing || self.left.another_database
    }

    /// Conversations that differ, plus rows of the other tables.
    pub fn differences(&self) -> usize {
        let of_tables = self.tables.iter().map(|table| match table.table {
            // A missing conversation is already among the findings.
            tables::CONVERSATIONS_NAME => table.differ,
            _ => table.differences(),
        });
        self.findings.len() + of_tables.sum::<usize>()
    }
}

super::sql::statements! {
    COUNTS = "SELECT (SELECT count(*) FROM users) AS users,
        (SELECT count(*) FROM conversations) AS conversations,
        (SELECT count(*) FROM messages) AS messages";
    CONVERSATIONS = "SELECT c.rid, c.id AS id, c.next_seq, c.messages,
            EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = c.id) AS waits
        FROM conversations c WHERE c.id > ?1 ORDER BY c.id LIMIT ?2";
    MESSAGES = "SELECT id, seq, role, kind, text FROM messages WHERE conversation = ?1 ORDER BY seq";
    WAITING_MESSAGES = "SELECT 1 FROM messages m JOIN queue q ON q.entity_id = m.id WHERE m.conversation = ?1
        LIMIT 1";
    KNOWN = "SELECT 1 FROM tombstones WHERE id = ?1 UNION ALL SELECT 1 FROM messages WHERE id = ?1 LIMIT 1";
    OWNER = "SELECT u.id AS id FROM conversations c JOIN users u ON u.rid = c.owner WHERE c.id = ?1";
    CONVERSATION = "SELECT m.id, m.seq, m.role, m.kind, m.text,
        EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = m.id) AS waits
        FROM messages m JOIN conversations c ON c.rid = m.conversation WHERE c.id = ?1 ORDER BY m.seq";
}

/// Statements for Postgres.
mod there {
    crate::store::sql::statements! {
        pub(super) COUNTS = "SELECT (SELECT count(*) FROM jarvis.users) AS users,
            (SELECT count(*) FROM jarvis.conversations) AS conversations,
            (SELECT count(*) FROM jarvis.messages) AS messages";
        pub(super) BURIED = "SELECT id FROM jarvis.tombstones WHERE id = ANY($1)";
        pub(super) CONVERSATIONS = "SELECT c.id, count(m.id) AS messages,
                encode(sha256(coalesce(string_agg(sha256(convert_to(m.id::text || ' ' || m.seq || ' ' ||
                m.role || ' ' || m.kind || ' ' || m.text,
                    'UTF8')), ''::bytea ORDER BY m.seq), ''::bytea)), 'hex') AS sum
            FROM (SELECT id FROM jarvis.conversations WHERE id > $1 AND ($2::uuid IS NULL OR id <= $2)
                ORDER BY id LIMIT $3) c
                LEFT JOIN jarvis.messages m ON m.conversation = c.id
            GROUP BY c.id ORDER BY c.id";
        /// A row newer than $2 that $3 did not write is not read yet.
        pub(super) MESSAGE_IDS = "SELECT id, change > $2 AND (origin <> $3 OR $4) AS unread
            FROM jarvis.messages WHERE conversation = $1";
    }
}

/// All statements, for the test that prepares them.
#[cfg(test)]
pub(crate) const STATEMENTS_THERE: [&[(&str, &str)]; 2] = [there::STATEMENTS, tables::there::STATEMENTS];

struct LocalConversation {
    sum: String,
    messages: i64,
    waits: bool,
}

/// Compares everything. With `repair` it queues the rows missing in Postgres, and reads everything of other
/// devices again where this device lacks something. Without an opener no voiceprint counts as one of this
/// device. `progress` gets the number of conversations compared.
///
/// # Errors
/// [`CompareError`]; a comparison that stopped early has changed nothing.
pub async fn compare(
    store: &Store,
    settings: &PgSettings,
    opener: Option<&Opener>,
    repair: Option<i64>,
    progress: impl FnMut(usize),
) -> Result<Comparison, CompareError> {
    let mut pg = Pg::connect(settings).await?;
    let read = pull_cursor::read_of(store, pg.house).await?;
    let mut comparison = Comparison { here: counts_here(store).await?, ..Comparison::default() };
    let rows = pg
        .value(STEP, sqlx::query(there::COUNTS), |row| {
            Ok(Counts {
                users: row.try_get("users")?,
                conversations: row.try_get("conversations")?,
                messages: row.try_get("messages")?,
            })
        })
        .await?;
    comparison.there = rows.into_iter().next().unwrap_or_default();

    let mut lacking = Lacking::default();
    // The gaps of a new database are unknown until everything was queued for it.
    let queueing = matches!(resync::sent_to(store, pg.house).await?, Sent::Queueing | Sent::Elsewhere);
    let device = settings.device.as_str();
    let mut sides = Sides {
        store,
        pg: &mut pg,
        device,
        read: read.as_ref(),
        queueing,
        opener,
        missing_there: BTreeSet::new(),
        missing_here: BTreeSet::new(),
    };
    comparison.tables = sides.compare(&mut lacking).await?;
    comparison.users_missing_there = comparison
        .tables
        .iter()
        .filter(|table| table.table == "users")
        .map(|table| table.missing_there)
        .sum();
    messages(&mut sides, &mut comparison, &mut lacking, progress).await?;
    // New messages arrive on their way, so this follows the comparison. The repair's own entries are not on
    // their route, so it comes before the repair.
    let unread = comparison.left.unread + comparison.tables.iter().map(|table| table.unread).sum::<usize>();
    let sent = resync::sent_to(store, pg.house).await?;
    comparison.left = Left::of(&queue::depth(store).await?, sent, unread);
    comparison.everything_compared = sent == Sent::All
        && comparison.left.is_nothing()
        && comparison.waiting == 0
        && comparison.tables.iter().all(|table| table.waiting == 0 && table.unread == 0);
    if let Some(now_unix_ms) = repair {
        comparison.reads_again = lacking.read_again;
        comparison.queued = lacking.queue(store, now_unix_ms).await?;
        if comparison.reads_again {
            pull_cursor::read_again(store).await?;
        }
    }
    pg.close().await;
    Ok(comparison)
}

async fn messages(
    sides: &mut Sides<'_>,
    comparison: &mut Comparison,
    lacking: &mut Lacking,
    mut progress: impl FnMut(usize),
) -> Result<(), CompareError> {
    let (mut after, mut compared) = (Uuid::nil(), 0);
    loop {
        let (here, last) = page_here(sides.store, after, sides.queueing, comparison).await?;
        let there = page_there(sides.pg, after, last).await?;
        compared += here.len();
        judge(sides, here, there, comparison, lacking).await?;
        progress(compared);
        match last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// Entries queued in one transaction: a turn waits for that long.
const PIECE: usize = 1_000;

/// The rows to queue.
#[derive(Default)]
struct Lacking {
    /// Rows by operation; deletions and parent rows come first.
    rows: BTreeMap<Op, BTreeMap<Uuid, Option<Uuid>>>,
    /// Conversations missing there, to be queued with their messages and their people.
    conversations: Vec<Uuid>,
    messages: Vec<(Uuid, Uuid)>,
    /// Whether this device lacks something.
    read_again: bool,
}

impl Lacking {
    /// Notes a row to send. Without an operation it notes the deletion of a row of this `kind`.
    fn note(&mut self, op: Option<Op>, id: Uuid, owner: Option<Uuid>, kind: &str) {
        let op = op.or_else(|| Op::deletion_of(kind));
        if let Some(op) = op {
            self.rows.entry(op).or_default().insert(id, owner);
        }
    }

    async fn queue(mut self, store: &Store, now_unix_ms: i64) -> Result<usize, StoreError> {
        let mut owners = BTreeMap::new();
        for id in &self.conversations {
            let owner: Vec<Uuid> = all(store, sqlx::query(OWNER).bind(*id), |row| row.try_get("id")).await?;
            if let Some(owner) = owner.first() {
                owners.insert(*id, *owner);
            }
        }
        for (id, owner) in &owners {
            self.note(Some(Op::UpsertUser), *owner, Some(*owner), "");
            self.note(Some(Op::UpsertConversation), *id, Some(*owner), "");
        }
        for (id, of) in std::mem::take(&mut self.messages) {
            self.note(Some(Op::InsertMessage), id, owners.get(&of).copied(), "");
        }
        let mut entries: Vec<_> = self
            .rows
            .into_iter()
            .flat_map(|(op, rows)| rows.into_iter().map(move |(id, owner)| (op, id, owner)))
            .collect();
        // Operations are in the order of their tables, parents first.
        entries.sort_by_key(|(op, ..)| (!op.is_deletion(), *op));
        // Pieces, since a part is useful too and somebody may be talking.
        for piece in entries.chunks(PIECE) {
            let started = Instant::now();
            let mut tx = store.begin().await?;
            for (op, row, owner) in piece {
                queue::enqueue(&mut tx, *op, *row, *owner, now_unix_ms).await?;
            }
            tx.commit().await?;
            resync::breathe(started).await;
        }
        Ok(entries.len())
    }
}

async fn judge(
    sides: &mut Sides<'_>,
    here: BTreeMap<Uuid, LocalConversation>,
    there: BTreeMap<Uuid, (i64, String)>,
    comparison: &mut Comparison,
    lacking: &mut Lacking,
) -> Result<(), CompareError> {
    for (id, mine) in &here {
        let theirs = there.get(id);
        if mine.waits {
            comparison.waiting += 1;
            continue;
        }
        if theirs.is_some_and(|(_, sum)| *sum == mine.sum) {
            continue;
        }
        // The row is missing there but not listed as missing: it was deleted, or came there since.
        if theirs.is_none() && !sides.missing_there.contains(id) {
            continue;
        }
        let (difference, missing) = match look_closer(sides, *id).await? {
            Closer::Same => continue,
            Closer::OnItsWay { unread } => {
                comparison.waiting += 1;
                comparison.left.unread += unread;
                continue;
            }
            Closer::Found(difference, missing) => (difference, missing),
        };
        if difference == Difference::MissingThere {
            lacking.conversations.push(*id);
        } else {
            lacking.read_again = true;
        }
        lacking.messages.extend(missing.into_iter().map(|message| (message, *id)));
        let (messages_here, messages_there) = (mine.messages, theirs.map_or(0, |(n, _)| *n));
        comparison.findings.push(Finding { conversation_id: *id, difference, messages_here, messages_there });
    }
    for (id, (messages_there, _)) in there.iter().filter(|(id, _)| sides.missing_here.contains(*id)) {
        comparison.findings.push(Finding {
            conversation_id: *id,
            difference: Difference::MissingHere,
            messages_here: 0,
            messages_there: *messages_there,
        });
    }
    Ok(())
}

/// The result of a second look at a conversation, with the messages that Postgres lacks.
enum Closer {
    Same,
    /// A message was added or forgotten on one side, and the other side has not received or read that yet.
    OnItsWay {
        unread: usize,
    },
    Found(Difference, Vec<Uuid>),
}

/// Compares one conversation message by message. This device is read first, so a message that did not wait
/// then must be there.
async fn look_closer(sides: &mut Sides<'_>, id: Uuid) -> Result<Closer, CompareError> {
    let (store, pg) = (sides.store, &mut *sides.pg);
    let (read_to, everything) = sides.read.map_or((0, true), |read| (read.at.messages, !read.caught_up));
    let (ours, mine) = conversation_here(store, id).await?;
    let query = sqlx::query(there::MESSAGE_IDS).bind(id).bind(read_to).bind(sides.device).bind(everything);
    let found: Vec<(Uuid, bool)> =
        pg.value(STEP, query, |row| Ok((row.try_get("id")?, row.try_get("unread")?))).await?;
    let theirs: BTreeSet<Uuid> = found.iter().map(|(id, _)| *id).collect();
    let missing: Vec<Uuid> =
        ours.iter().filter(|(id, waits)| !**waits && !theirs.contains(*id)).map(|(id, _)| *id).collect();
    let deleted = buried_there(pg, &missing).await?;
    let missing: Vec<Uuid> = missing.into_iter().filter(|id| !deleted.contains(id)).collect();
    if !missing.is_empty() || (theirs.is_empty() && ours.is_empty() && sides.missing_there.contains(&id)) {
        return Ok(Closer::Found(Difference::MissingThere, missing));
    }
    let mut unread = 0;
    for (message, newer) in found.iter().filter(|(id, _)| !ours.contains_key(id)) {
        // The message was said or forgotten here after this device was read.
        let known = all(store, sqlx::query(KNOWN).bind(*message), |_| Ok(())).await?;
        if known.is_empty() && !newer {
            return Ok(Closer::Found(Difference::MissingHere, Vec::new()));
        }
        unread += usize::from(known.is_empty());
    }
    if theirs.len() != ours.len() || ours.iter().any(|(id, waits)| *waits || !theirs.contains(id)) {
        return Ok(Closer::OnItsWay { unread });
    }
    // The ids are the same; now the contents.
    let before = Uuid::from_u128(id.as_u128().saturating_sub(1));
    let there = page_there(pg, before, Some(id)).await?;
    Ok(match there.get(&id) {
        Some((_, sum)) if *sum == mine => Closer::Same,
        Some((n, _)) if usize::try_from(*n) != Ok(ours.len()) => Closer::OnItsWay { unread },
        _ => Closer::Found(Difference::Differs, Vec::new()),
    })
}

/// The messages of a conversation here, whether each waits, and their checksum.
async fn conversation_here(store: &Store, id: Uuid) -> Result<(BTreeMap<Uuid, bool>, String), StoreError> {
    let mut reader = store.reader().await?;
    let rows = sqlx::query(CONVERSATION).bind(id).fetch_all(&mut *reader).await;
    let rows = rows.map_err(|e| store.classify(e))?;
    let messages = rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("waits")?)));
    let messages = messages.collect::<Result<_, sqlx::Error>>().map_err(StoreError::Sql)?;
    Ok((messages, sum(&rows).map_err(StoreError::Sql)?))
}

/// A page of conversations here, and the last id of the page (`None`: no more).
async fn page_here(
    store: &Store,
    after: Uuid,
    queueing: bool,
    comparison: &mut Comparison,
) -> Result<(BTreeMap<Uuid, LocalConversation>, Option<Uuid>), StoreError> {
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.map_err(|e| store.classify(e))?;
    let read = async {
        let mut page = BTreeMap::new();
        let rows = sqlx::query(CONVERSATIONS).bind(after).bind(PAGE).fetch_all(&mut *snapshot).await?;
        for row in &rows {
            let (rid, id): (i64, Uuid) = (row.try_get("rid")?, row.try_get("id")?);
            let mut waits: bool = queueing || row.try_get("waits")?;
            if !waits {
                waits =
                    sqlx::query(WAITING_MESSAGES).bind(rid).fetch_optional(&mut *snapshot).await?.is_some();
            }
            let messages = sqlx::query(MESSAGES).bind(rid).fetch_all(&mut *snapshot).await?;
            let count = i64::try_from(messages.len()).unwrap_or(i64::MAX);
            if row.try_get::<i64, _>("next_seq")? != count + 1 {
                comparison.with_gaps += 1;
            }
            page.insert(id, LocalConversation { sum: sum(&messages)?, messages: count, waits });
        }
        let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) == PAGE;
        let last = page.last_key_value().filter(|_| full).map(|(id, _)| *id);
        Ok::<_, sqlx::Error>((page, last))
    };
    let page = read.await;
    let ended = snapshot.rollback().await;
    let page = page.map_err(|e| store.classify(e))?;
    ended.map_err(|e| store.classify(e))?;
    Ok(page)
}

/// The conversations of the same range there.
async fn page_there(
    pg: &mut Pg,
    after: Uuid,
    last: Option<Uuid>,
) -> Result<BTreeMap<Uuid, (i64, String)>, PgError> {
    let mut all = BTreeMap::new();
    let mut from = after;
    loop {
        let query = sqlx::query(there::CONVERSATIONS).bind(from).bind(last).bind(PAGE);
        let rows = pg
            .value(STEP, query, |row| {
                Ok((row.try_get::<Uuid, _>("id")?, (row.try_get("messages")?, row.try_get("sum")?)))
            })
            .await?;
        let Some((end, _)) = rows.last() else { return Ok(all) };
        from = *end;
        all.extend(rows);
    }
}

async fn buried_there(pg: &mut Pg, ids: &[Uuid]) -> Result<BTreeSet<Uuid>, PgError> {
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = pg.value(STEP, sqlx::query(there::BURIED).bind(ids), |row| row.try_get("id")).await?;
    Ok(rows.into_iter().collect())
}

/// The checksum of these rows, as Postgres makes it.
fn sum(messages: &[SqliteRow]) -> Result<String, sqlx::Error> {
    let mut whole = Sha256::new();
    for row in messages {
        let (id, seq): (Uuid, i64) = (row.try_get("id")?, row.try_get("seq")?);
        let (role, kind): (&str, &str) = (row.try_get("role")?, row.try_get("kind")?);
        let text: &str = row.try_get("text")?;
        whole.update(Sha256::digest(format!("{id} {seq} {role} {kind} {text}").as_bytes()));
    }
    Ok(crate::text::hex(&whole.finalize()))
}

async fn counts_here(store: &Store) -> Result<Counts, StoreError> {
    let rows = all(store, sqlx::query(COUNTS), |row| {
        Ok(Counts {
            users: row.try_get("users")?,
            conversations: row.try_get("conversations")?,
            messages: row.try_get("messages")?,
        })
    })
    .await?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

async fn all<T>(
    store: &Store,
    query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    of: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, StoreError> {
    let mut reader = store.reader().await?;
    let rows = query.fetch_all(&mut *reader).await.map_err(|e| store.classify(e))?;
    rows.iter().map(|row| of(row).map_err(StoreError::Sql)).collect()
}
