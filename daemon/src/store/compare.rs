//! Compares this device with Postgres, conversation by conversation, and mends what can be mended.
//!
//! Both sides make the same checksum of a conversation: SHA-256 over the SHA-256 of each message (id, place, role, text) in its
//! order. What still waits in the queue, or was deleted on one side and has not reached the other, is no difference but on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::postgres::{Pg, PgError, PgSettings};
use super::queue::{self, Op};
use super::{Store, StoreError, house, replica};

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

#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    pub here: Counts,
    pub there: Counts,
    /// Conversations with something in the queue: not compared.
    pub waiting: usize,
    /// People and messages that Postgres lacks and that nothing waits for.
    pub users_missing_there: usize,
    /// Conversations here in which a number of the sequence is used by no message: something of it was forgotten, or lost.
    pub with_gaps: usize,
    pub findings: Vec<Finding>,
    /// Entries that the repair has queued.
    pub queued: usize,
    /// The repair reads everything of other devices again.
    pub reads_again: bool,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.findings.is_empty() && self.users_missing_there == 0
    }
}

super::sql::statements! {
    COUNTS = "SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM conversations) AS conversations,
        (SELECT count(*) FROM messages) AS messages";
    USERS = "SELECT u.id AS id FROM users u WHERE NOT EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = u.id)";
    CONVERSATIONS = "SELECT c.rid, c.id AS id, c.next_seq, c.messages,
            EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = c.id) AS waits
        FROM conversations c WHERE c.id > ?1 ORDER BY c.id LIMIT ?2";
    MESSAGES = "SELECT id, seq, role, text FROM messages WHERE conversation = ?1 ORDER BY seq";
    WAITING_MESSAGES = "SELECT 1 FROM messages m JOIN queue q ON q.entity_id = m.id WHERE m.conversation = ?1 LIMIT 1";
    BURIED = "SELECT 1 FROM tombstones WHERE id = ?1 LIMIT 1";
    OWNER = "SELECT u.id AS id FROM conversations c JOIN users u ON u.rid = c.owner WHERE c.id = ?1";
    MESSAGE_IDS = "SELECT m.id AS id FROM messages m JOIN conversations c ON c.rid = m.conversation WHERE c.id = ?1 ORDER BY m.seq";
}

/// Statements for Postgres.
mod there {
    crate::store::sql::statements! {
        pub(super) COUNTS = "SELECT (SELECT count(*) FROM jarvis.users) AS users, (SELECT count(*) FROM jarvis.conversations) AS conversations,
            (SELECT count(*) FROM jarvis.messages) AS messages";
        pub(super) USERS = "SELECT id FROM jarvis.users WHERE id = ANY($1)";
        pub(super) BURIED = "SELECT id FROM jarvis.tombstones WHERE id = ANY($1)";
        pub(super) CONVERSATIONS = "SELECT c.id, count(m.id) AS messages,
                encode(sha256(coalesce(string_agg(sha256(convert_to(m.id::text || ' ' || m.seq || ' ' || m.role || ' ' || m.text,
                    'UTF8')), ''::bytea ORDER BY m.seq), ''::bytea)), 'hex') AS sum
            FROM (SELECT id FROM jarvis.conversations WHERE id > $1 AND ($2::uuid IS NULL OR id <= $2) ORDER BY id LIMIT $3) c
                LEFT JOIN jarvis.messages m ON m.conversation = c.id
            GROUP BY c.id ORDER BY c.id";
        pub(super) MESSAGE_IDS = "SELECT id FROM jarvis.messages WHERE conversation = $1";
    }
}

/// For the test that prepares them.
#[cfg(test)]
pub(crate) const STATEMENTS_THERE: &[(&str, &str)] = there::STATEMENTS;

struct Here {
    sum: String,
    messages: i64,
    waits: bool,
}

/// Compares everything; `repair` queues what Postgres lacks and has everything of other devices read again where this device
/// lacks something. `progress` gets the number of conversations that were compared.
///
/// # Errors
/// [`CompareError`]; a comparison that broke off has changed nothing.
pub async fn compare(
    store: &Store,
    settings: &PgSettings,
    repair: bool,
    now_unix_ms: i64,
    mut progress: impl FnMut(usize),
) -> Result<Comparison, CompareError> {
    let mut pg = Pg::connect(settings).await?;
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

    let known: Vec<Uuid> = all(store, sqlx::query(USERS), |row| row.try_get("id")).await?;
    let found: BTreeSet<Uuid> = pg
        .value(STEP, sqlx::query(there::USERS).bind(&known), |row| row.try_get("id"))
        .await?
        .into_iter()
        .collect();
    let absent: Vec<Uuid> = known.into_iter().filter(|id| !found.contains(id)).collect();
    let buried = buried_there(&mut pg, &absent).await?;
    let absent: Vec<Uuid> = absent.into_iter().filter(|id| !buried.contains(id)).collect();
    comparison.users_missing_there = absent.len();

    let mut lacking = Lacking { users: absent, ..Lacking::default() };
    let mut after = Uuid::nil();
    let mut compared = 0;
    loop {
        // Of another database than before nobody knows yet what it lacks.
        let queueing = house::is_queueing(store).await?;
        let (here, last) = page_here(store, after, queueing, &mut comparison).await?;
        let there = page_there(&mut pg, after, last).await?;
        compared += here.len();
        judge(store, &mut pg, here, there, &mut comparison, &mut lacking).await?;
        progress(compared);
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    if repair {
        comparison.queued = lacking.queue(store, now_unix_ms).await?;
        if comparison.findings.iter().any(|f| f.difference != Difference::MissingThere) {
            replica::read_again(store).await?;
            comparison.reads_again = true;
        }
    }
    pg.close().await;
    Ok(comparison)
}

/// Entries that are queued in one transaction: what a turn waits for.
const PIECE: usize = 1_000;

/// What is to be queued.
#[derive(Default)]
struct Lacking {
    users: Vec<Uuid>,
    conversations: Vec<Uuid>,
    messages: Vec<(Uuid, Uuid)>,
}

impl Lacking {
    async fn queue(&self, store: &Store, now_unix_ms: i64) -> Result<usize, StoreError> {
        let mut owners = BTreeMap::new();
        for id in &self.conversations {
            let owner: Vec<Uuid> = all(store, sqlx::query(OWNER).bind(*id), |row| row.try_get("id")).await?;
            if let Some(owner) = owner.first() {
                owners.insert(*id, *owner);
            }
        }
        let mut people: BTreeSet<Uuid> = self.users.iter().copied().collect();
        people.extend(owners.values());
        let people = people.iter().map(|user| (Op::UpsertUser, *user, Some(*user)));
        let conversations = owners.iter().map(|(id, owner)| (Op::UpsertConversation, *id, Some(*owner)));
        let messages = self.messages.iter();
        let messages = messages.map(|(id, of)| (Op::InsertMessage, *id, owners.get(of).copied()));
        // What a message needs above it first. A part of it is of use as well, and somebody may be talking.
        let entries: Vec<_> = people.chain(conversations).chain(messages).collect();
        for piece in entries.chunks(PIECE) {
            let started = Instant::now();
            let mut tx = store.begin().await?;
            for (op, row, owner) in piece {
                queue::enqueue(&mut tx, *op, *row, *owner, now_unix_ms).await?;
            }
            tx.commit().await?;
            house::breathe(started).await;
        }
        Ok(entries.len())
    }
}

async fn judge(
    store: &Store,
    pg: &mut Pg,
    here: BTreeMap<Uuid, Here>,
    there: BTreeMap<Uuid, (i64, String)>,
    comparison: &mut Comparison,
    lacking: &mut Lacking,
) -> Result<(), CompareError> {
    let only_here: Vec<Uuid> = here.keys().filter(|id| !there.contains_key(id)).copied().collect();
    let buried = buried_there(pg, &only_here).await?;
    for (id, mine) in &here {
        if mine.waits {
            comparison.waiting += 1;
            continue;
        }
        let theirs = there.get(id);
        if buried.contains(id) || theirs.is_some_and(|(_, sum)| *sum == mine.sum) {
            continue;
        }
        let ours: Vec<Uuid> = all(store, sqlx::query(MESSAGE_IDS).bind(*id), |row| row.try_get("id")).await?;
        let theirs_ids: BTreeSet<Uuid> = pg
            .value(STEP, sqlx::query(there::MESSAGE_IDS).bind(*id), |row| row.try_get("id"))
            .await?
            .into_iter()
            .collect();
        let missing: Vec<Uuid> = ours.iter().filter(|m| !theirs_ids.contains(m)).copied().collect();
        let deleted = buried_there(pg, &missing).await?;
        let missing: Vec<Uuid> = missing.into_iter().filter(|m| !deleted.contains(m)).collect();
        let mine_ids: BTreeSet<Uuid> = ours.into_iter().collect();
        let mut absent = false;
        for message in theirs_ids.difference(&mine_ids) {
            absent |= all(store, sqlx::query(BURIED).bind(*message), |_| Ok(())).await?.is_empty();
        }
        let difference = match (theirs.is_none() || !missing.is_empty(), absent) {
            (true, _) => Difference::MissingThere,
            (false, true) => Difference::MissingHere,
            // Deleted on one side, and on its way to the other.
            (false, false) if theirs_ids != mine_ids => continue,
            (false, false) => Difference::Differs,
        };
        lacking.messages.extend(missing.into_iter().map(|message| (message, *id)));
        if difference == Difference::MissingThere {
            lacking.conversations.push(*id);
        }
        let messages_there = theirs.map_or(0, |(n, _)| *n);
        let messages_here = mine.messages;
        comparison.findings.push(Finding { conversation_id: *id, difference, messages_here, messages_there });
    }
    for (id, (messages_there, _)) in there.iter().filter(|(id, _)| !here.contains_key(id)) {
        if all(store, sqlx::query(BURIED).bind(*id), |_| Ok(())).await?.is_empty() {
            comparison.findings.push(Finding {
                conversation_id: *id,
                difference: Difference::MissingHere,
                messages_here: 0,
                messages_there: *messages_there,
            });
        }
    }
    Ok(())
}

/// A page of conversations here, and where it ends (`None`: there are no more).
async fn page_here(
    store: &Store,
    after: Uuid,
    queueing: bool,
    comparison: &mut Comparison,
) -> Result<(BTreeMap<Uuid, Here>, Option<Uuid>), StoreError> {
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
            page.insert(id, Here { sum: sum(&messages)?, messages: count, waits });
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

/// The conversations of the same stretch there.
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

/// The checksum that Postgres makes of the same rows.
fn sum(messages: &[SqliteRow]) -> Result<String, sqlx::Error> {
    use std::fmt::Write as _;
    let mut whole = Sha256::new();
    for row in messages {
        let (id, seq): (Uuid, i64) = (row.try_get("id")?, row.try_get("seq")?);
        let (role, text): (&str, &str) = (row.try_get("role")?, row.try_get("text")?);
        whole.update(Sha256::digest(format!("{id} {seq} {role} {text}").as_bytes()));
    }
    let mut hex = String::with_capacity(64);
    for byte in whole.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
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
