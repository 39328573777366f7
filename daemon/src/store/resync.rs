//! Tracks the database of the house that this device sends to, and sends everything again to a different one.
//!
//! A different database (a new server, a restored backup) may lack anything, so every row here is queued
//! again. A device may hold a million messages while somebody talks to it. So rows are queued in pieces, with
//! a mark of the progress.
//!
//! ```text
//!            another id       everything else, at once                 messages, while they are sent
//!  known ───────────────▶ clear ▶ deletions ▶ users ▶ … conversations ───▶ messages ▶ audit ───▶ known
//!    │                    nothing is sent or read yet                     a piece when the queue is short     ▲
//!    └────────────────────────────────────── the id is the same ──────────────────────────────┘
//! ```
//!
//! Invariants:
//!
//! 1. A piece and the mark behind it are one transaction. Rows up to the mark were queued, rows behind it
//!    will be, and new rows queue themselves.
//! 2. Until the last piece there is no [`HOUSE`]: an older program that meets such a file queues everything.
//! 3. The parent rows of the messages and all deletions are queued before anything is sent to that database
//!    or read from it. So a row of it is never taken for newer than one that waits here.
//! 4. Entries leave the queue only if they were sent to the present database of this device
//!    ([`super::queue::sent`]), and rows are taken only from that one.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use uuid::Uuid;

use super::tables::{self, MessageRow, Synced as _, Table};
use super::{Store, StoreError, Tx, queue, settings};

/// Settings key: the database that has every row of this device, in its tables or in the queue. Without it
/// every row counts as not sent yet.
const HOUSE: &str = "postgres_house";
/// Settings key: the progress of queueing everything again ([`UploadCursor`]).
const AGAIN: &str = "postgres_again";

/// Rows queued in one transaction: a turn waits for that long.
const PIECE: i64 = 4_000;
/// A pause without a transaction that a waiting process cannot miss: it tries at least every 100 ms
/// (`sqliteDefaultBusyCallback`).
pub(crate) const LONGEST_BREATH: Duration = Duration::from_millis(120);

/// Pauses for other processes before the next transaction, as long as the one that began at `begun` took.
pub(super) async fn breathe(begun: Instant) {
    tokio::time::sleep(begun.elapsed().min(LONGEST_BREATH)).await;
}

super::sql::statements! {
    FORGET = "DELETE FROM settings WHERE key = ?1";
    LAST_ENTRY = "SELECT coalesce(max(seq), 0) AS rid FROM queue";
    CLEAR = "DELETE FROM queue WHERE seq IN (SELECT seq FROM queue WHERE seq <= ?1 ORDER BY seq LIMIT ?2)";
    UP_TO_BURIED = "SELECT kind, id FROM (SELECT kind, id FROM tombstones WHERE (kind, id) > (?1, ?2)
        ORDER BY kind, id LIMIT ?3)
        ORDER BY kind DESC, id DESC LIMIT 1";
    AGAIN_DELETIONS = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
        SELECT 'delete_' || kind, id, user_id, deleted_unix_ms FROM tombstones
        WHERE (kind, id) > (?1, ?2) AND (kind, id) <= (?3, ?4) ORDER BY kind, id";
    ANYTHING = "SELECT 1 FROM users UNION ALL SELECT 1 FROM audit UNION ALL SELECT 1 FROM tombstones
        UNION ALL SELECT 1 FROM queue LIMIT 1";
    /// The marks and the queue at one moment.
    STATE = "SELECT EXISTS (SELECT 1 FROM queue) AS waits, (SELECT value FROM settings
        WHERE key = ?1) AS house,
        (SELECT value FROM settings WHERE key = ?2) AS again";
}

/// A stage of queueing again, in this order: the earlier entries go, then come the deletions and the tables.
/// The names are a format: they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
struct Stage(usize);

impl Stage {
    const CLEAR: Self = Self(0);
    const DELETIONS: Self = Self(1);

    fn names() -> Vec<&'static str> {
        ["clear", "deletions"].into_iter().chain(tables::all().iter().map(|table| table.name)).collect()
    }

    fn of(table: &Table) -> Option<Self> {
        Self::names().iter().position(|name| *name == table.name).map(Self)
    }

    fn next(self) -> Option<Self> {
        (self.0 + 1 < Self::names().len()).then_some(Self(self.0 + 1))
    }

    fn table(self) -> Option<&'static Table> {
        tables::all().get(self.0.checked_sub(2)?).copied()
    }

    /// Whether rows of this stage may be sent already.
    fn is_open(self) -> bool {
        Some(self) >= Self::of(MessageRow::table())
    }
}

impl From<Stage> for &'static str {
    fn from(stage: Stage) -> Self {
        Stage::names().get(stage.0).copied().unwrap_or_default()
    }
}

impl TryFrom<String> for Stage {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let place = Self::names().iter().position(|known| *known == name);
        place.map(Self).ok_or_else(|| format!("unknown stage {name:?}"))
    }
}

/// The mark: how far the rows were queued for `house`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UploadCursor {
    house: Uuid,
    stage: Stage,
    /// Row number of the last row of the stage that was queued; while the queue is cleared, the last entry to
    /// remove.
    row: i64,
    /// Kind and id of the last deletion that was queued.
    buried: Option<(String, Uuid)>,
}

impl UploadCursor {
    /// The mark at the beginning of the next stage; `None` after the last one.
    fn turned(self) -> Option<Self> {
        let stage = self.stage.next()?;
        Some(Self { stage, row: 0, buried: None, ..self })
    }
}

/// The state of this device towards the database.
#[derive(Debug)]
enum SyncState {
    /// The device was never with any database, or its file was repaired since.
    Alone,
    Queueing(UploadCursor),
    With(Uuid),
}

impl SyncState {
    /// An older program does not know the mark, and leaves it behind.
    fn of(house: Option<Uuid>, again: Option<UploadCursor>) -> Self {
        match (house, again) {
            (Some(house), _) => Self::With(house),
            (None, Some(again)) => Self::Queueing(again),
            (None, None) => Self::Alone,
        }
    }

    async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::of(settings::get(store, HOUSE).await?, settings::get(store, AGAIN).await?))
    }

    async fn read_in(tx: &mut Tx<'_>) -> Result<Self, StoreError> {
        Ok(Self::of(settings::get_in(tx, HOUSE).await?, settings::get_in(tx, AGAIN).await?))
    }

    fn is_with(&self, house: Uuid) -> bool {
        match self {
            Self::Alone => false,
            Self::Queueing(again) => again.house == house,
            Self::With(with) => *with == house,
        }
    }

    /// Whether rows may be sent to `house` and read from it.
    fn is_open_to(&self, house: Uuid) -> bool {
        self.is_with(house) && !matches!(self, Self::Queueing(again) if !again.stage.is_open())
    }
}

/// How much of the rows here one database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing waits and nothing is still to be queued.
    All,
    /// The queue is not empty.
    Waits,
    /// Rows are still to be queued.
    Queueing,
    /// The device is with another database, with none, or has not met this one yet.
    Elsewhere,
}

/// The progress of this device with `house`, read at one moment: an empty queue alone does not mean that
/// everything was sent.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn sent_to(store: &Store, house: Uuid) -> Result<Sent, StoreError> {
    let mut reader = store.reader().await?;
    let state = sqlx::query(STATE).bind(HOUSE).bind(AGAIN);
    let row = state.fetch_one(&mut *reader).await.map_err(|e| store.classify(e))?;
    let waits: bool = row.try_get("waits").map_err(StoreError::Sql)?;
    let state = SyncState::of(settings::value_in(&row, "house")?, settings::value_in(&row, "again")?);
    Ok(match state {
        state if !state.is_open_to(house) => Sent::Elsewhere,
        SyncState::Queueing(_) => Sent::Queueing,
        _ if waits => Sent::Waits,
        _ => Sent::All,
    })
}

/// The result of [`handshake`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// Whether the database is new, and this call was the first to notice.
    pub(crate) another: bool,
    /// Whether messages are still to be queued: [`queue_more`].
    pub(crate) more: bool,
}

/// Runs for each new connection, before anything is sent or read. If `house` is not the last database, every
/// row here is queued again. All of them except the messages are queued by the time this returns.
///
/// # Errors
/// [`StoreError`]; the next call goes on where this one ended.
pub(crate) async fn handshake(store: &Store, house: Uuid, now_unix_ms: i64) -> Result<Handshake, StoreError> {
    handshake_in_pieces(store, house, now_unix_ms, PIECE).await
}

/// As [`handshake`], with this many rows in one transaction.
pub(crate) async fn handshake_in_pieces(
    store: &Store,
    house: Uuid,
    now_unix_ms: i64,
    rows: i64,
) -> Result<Handshake, StoreError> {
    let mut another = false;
    loop {
        let state = SyncState::read(store).await?;
        if state.is_open_to(house) {
            return Ok(Handshake { another, more: matches!(state, SyncState::Queueing(_)) });
        }
        let started = Instant::now();
        let mut tx = store.begin().await?;
        match SyncState::read_in(&mut tx).await? {
            // Before the first contact the queue holds everything from its first entry on, or the file is
            // blank.
            SyncState::Alone if !queue::was_sent_from(&mut tx).await? || is_blank(&mut tx).await? => {
                settings::set(&mut tx, HOUSE, &house, now_unix_ms).await?;
            }
            // Another process has just done it.
            state if state.is_open_to(house) => {}
            SyncState::Queueing(again) if again.house == house => {
                piece(&mut tx, again, now_unix_ms, rows).await?;
            }
            before => {
                if !matches!(before, SyncState::Alone) {
                    log::warn!(
                        "Postgres is another database than before: everything on this device is sent to it \
                         again"
                    );
                    another = true;
                }
                begin(&mut tx, house, now_unix_ms).await?;
            }
        }
        tx.commit().await?;
        breathe(started).await;
    }
}

/// Queues the next piece for `house`; returns whether there may be more.
///
/// # Errors
/// [`StoreError`]; nothing was queued then.
pub(crate) async fn queue_more(store: &Store, house: Uuid, now_unix_ms: i64) -> Result<bool, StoreError> {
    queue_piece(store, house, now_unix_ms, PIECE).await
}

/// As [`queue_more`], with at most this many rows.
pub(crate) async fn queue_piece(
    store: &Store,
    house: Uuid,
    now_unix_ms: i64,
    rows: i64,
) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    match SyncState::read_in(&mut tx).await? {
        SyncState::Queueing(again) if again.house == house && again.stage.is_open() => {
            let more = piece(&mut tx, again, now_unix_ms, rows).await?;
            tx.commit().await?;
            Ok(more)
        }
        // Another process has done it, or another database was met.
        _ => tx.rollback().await.map(|()| false),
    }
}

/// Whether this device is with `house`, as seen in this transaction. After a repair it is with no database
/// until it meets one.
pub(crate) async fn is_with(tx: &mut Tx<'_>, house: Uuid) -> Result<bool, StoreError> {
    Ok(SyncState::read_in(tx).await?.is_with(house))
}

/// As [`is_with`], outside of a transaction.
pub(crate) async fn is_still_with(store: &Store, house: Uuid) -> Result<bool, StoreError> {
    Ok(SyncState::read(store).await?.is_with(house))
}

/// Whether rows are being queued again.
pub(super) async fn is_queueing(store: &Store) -> Result<bool, StoreError> {
    Ok(matches!(SyncState::read(store).await?, SyncState::Queueing(_)))
}

/// Upper bound of the rows still to be queued again; `None` if there are none. Deleted rows count, so that
/// the answer takes no time.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn still_to_queue(store: &Store) -> Result<Option<i64>, StoreError> {
    let SyncState::Queueing(again) = SyncState::read(store).await? else { return Ok(None) };
    let mut reader = store.reader().await?;
    let mut rest = 0_i64;
    let open = tables::all().into_iter().filter_map(|table| Some((Stage::of(table)?, table)));
    for (stage, table) in open.filter(|(stage, _)| stage.is_open()) {
        if again.stage > stage {
            continue;
        }
        let row =
            sqlx::query(table.here.last).fetch_one(&mut *reader).await.map_err(|e| store.classify(e))?;
        let last: i64 = row.try_get("rid").map_err(StoreError::Sql)?;
        let done = if again.stage == stage { again.row } else { 0 };
        rest = rest.saturating_add(last.saturating_sub(done).max(0));
    }
    Ok(Some(rest))
}

/// Whether this file holds nothing to send: every row belongs to a person, is an attempt, or is a deletion.
async fn is_blank(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    Ok(tx.optional(sqlx::query(ANYTHING)).await?.is_none())
}

/// Notes that every row is to be queued for `house`.
async fn begin(tx: &mut Tx<'_>, house: Uuid, now_unix_ms: i64) -> Result<(), StoreError> {
    let row = tx.optional(sqlx::query(LAST_ENTRY)).await?;
    let last_entry = row.map_or(Ok(0), |row| row.try_get("rid")).map_err(StoreError::Sql)?;
    tx.execute(sqlx::query(FORGET).bind(HOUSE)).await?;
    let again = UploadCursor { house, stage: Stage::CLEAR, row: last_entry, buried: None };
    settings::set(tx, AGAIN, &again, now_unix_ms).await
}

/// Queues a piece and moves the mark; returns whether rows are left.
async fn piece(
    tx: &mut Tx<'_>,
    again: UploadCursor,
    now_unix_ms: i64,
    most: i64,
) -> Result<bool, StoreError> {
    let house = again.house;
    let further = match again.stage {
        Stage::CLEAR => clear(tx, again, most).await?,
        Stage::DELETIONS => deletions(tx, again, most).await?,
        _ => rows(tx, again, now_unix_ms, most).await?,
    };
    match &further {
        Some(again) => settings::set(tx, AGAIN, again, now_unix_ms).await?,
        None => {
            settings::set(tx, HOUSE, &house, now_unix_ms).await?;
            tx.execute(sqlx::query(FORGET).bind(AGAIN)).await?;
        }
    }
    Ok(further.is_some())
}

async fn clear(tx: &mut Tx<'_>, again: UploadCursor, most: i64) -> Result<Option<UploadCursor>, StoreError> {
    let gone = tx.execute(sqlx::query(CLEAR).bind(again.row).bind(most)).await?;
    Ok(if gone == 0 { again.turned() } else { Some(again) })
}

async fn deletions(
    tx: &mut Tx<'_>,
    again: UploadCursor,
    most: i64,
) -> Result<Option<UploadCursor>, StoreError> {
    let (kind, id) = again.buried.clone().unwrap_or_default();
    let (after, id) = (kind.as_str(), id.as_bytes().as_slice());
    let Some(row) = tx.optional(sqlx::query(UP_TO_BURIED).bind(after).bind(id).bind(most)).await? else {
        return Ok(again.turned());
    };
    let last = || Ok((row.try_get::<String, _>("kind")?, row.try_get::<Uuid, _>("id")?));
    let (to, to_id) = last().map_err(StoreError::Sql)?;
    let queue = sqlx::query(AGAIN_DELETIONS).bind(after).bind(id).bind(&to);
    tx.execute(queue.bind(to_id.as_bytes().as_slice())).await?;
    Ok(Some(UploadCursor { buried: Some((to, to_id)), ..again }))
}

async fn rows(
    tx: &mut Tx<'_>,
    again: UploadCursor,
    now_unix_ms: i64,
    most: i64,
) -> Result<Option<UploadCursor>, StoreError> {
    let Some(table) = again.stage.table() else { return Ok(again.turned()) };
    let row = tx.optional(sqlx::query(table.here.up_to).bind(again.row).bind(most)).await?;
    let last: Option<i64> = match row {
        Some(row) => row.try_get("rid").map_err(StoreError::Sql)?,
        None => None,
    };
    let Some(last) = last else { return Ok(again.turned()) };
    tx.execute(sqlx::query(table.here.queue).bind(again.row).bind(last).bind(now_unix_ms)).await?;
    Ok(Some(UploadCursor { row: last, ..again }))
}
