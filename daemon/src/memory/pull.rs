//! The puller: fetches the rows of other devices, so that this device has them even while Postgres is away.
//!
//! Every row there has a change number, and writers take turns, so numbers become visible in order: reading
//! on from the highest number seen misses nothing. The cursor of each kind of row is stored in the
//! transaction that stores the rows. A child can come before its parent (a renamed person has a higher number
//! than their conversations): the parent is then fetched by its id.
//!
//! It wakes on the notification of a writer, at the start of speech, and once a minute in case a notification
//! was lost. It tries only while the forwarder finds Postgres well, and tells the forwarder of a failure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;
use sqlx::{Acquire as _, PgConnection};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::replica::tables::Kept as _;
use super::{Applied, Memory, MemoryError, Pulled, RoundStart};
use crate::store::forward::Circuit;
use crate::store::opener::Opener;
use crate::store::postgres::read::{self, Numbered, Since};
use crate::store::postgres::write::CHANNEL;
use crate::store::postgres::{CONNECT_DEADLINE, Pg, PgError, PgSettings, listening_pool, within};
use crate::store::pull_cursor::{self, PullCursor};
use crate::store::tables::{self, Changes, Rows, UserRow, VoiceprintRow};
use crate::store::{StoreError, resync};

/// Longest delay after a lost notification.
const LOOK: Duration = Duration::from_secs(60);
/// Longest work before a pause for other processes: they wait for that long.
const SPELL: Duration = Duration::from_millis(300);
/// Pages without news after which the cursor is stored anyway.
const UNSAVED: u32 = 50;
/// Pause after a failure; the forwarder's pauses come on top.
const REST: Duration = Duration::from_secs(1);
const LISTENING: &str = "listening at Postgres";

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("what other devices wrote could not be read")]
    Postgres(#[source] PgError),
    #[error("what other devices wrote could not be stored")]
    Memory(#[source] MemoryError),
    #[error("this device has met another database meanwhile, or is to read everything again: try again")]
    Outdated,
}

impl From<PgError> for PullError {
    fn from(error: PgError) -> Self {
        Self::Postgres(error)
    }
}

impl From<MemoryError> for PullError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Memory(error.into())
    }
}

/// The outcome of a round.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PullRound {
    /// Rows that are new or changed here.
    pub changed: usize,
    /// Rows that broke a rule.
    pub refused: usize,
    /// Voiceprints left for later, because this device could not open any.
    pub voiceprints_left: i64,
    /// Whether the database is another one than before.
    pub another_house: bool,
}

/// Reads on from the stored cursor.
pub struct Puller {
    pub(super) memory: Memory,
    settings: PgSettings,
    opener: Option<Opener>,
    /// A cursor beyond the stored one, with the generation of the file: all rows up to it are already in that
    /// file.
    ahead: Option<(u64, PullCursor)>,
    /// The state at the start of the round.
    start: RoundStart,
    /// Pages since the cursor was stored.
    unsaved: u32,
    /// Time in transactions since the last pause for other processes.
    busy: Duration,
    /// Whether rows were read since the cursor was stored.
    unstored: bool,
    progress: Progress,
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default)]
struct Progress {
    want: Arc<Notify>,
    asked: Arc<AtomicU64>,
    done: Arc<watch::Sender<Done>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Done {
    connected: bool,
    /// The last request covered by a finished round.
    request: u64,
}

/// Lets a turn see the latest rows of other devices, and limits the wait.
#[derive(Debug, Clone)]
pub struct Freshness {
    progress: Progress,
    patience: Duration,
}

impl Freshness {
    /// Requests a round now; called at the start of speech, so that it is long over when the answer is made.
    pub fn start(&self) {
        self.progress.asked.fetch_add(1, Ordering::AcqRel);
        self.progress.want.notify_one();
    }

    /// Waits for the requested round if Postgres answers at all, and at most for `store.fresh_ms`.
    pub async fn settle(&self) {
        let asked = self.progress.asked.load(Ordering::Acquire);
        let mut done = self.progress.done.subscribe();
        let settled = done.wait_for(|done| !done.connected || done.request >= asked);
        let _ = tokio::time::timeout(self.patience, settled).await;
    }
}

impl Puller {
    /// Without an opener voiceprints are left for later.
    pub fn new(memory: Memory, settings: PgSettings, opener: Option<Opener>) -> Self {
        Self {
            memory,
            settings,
            opener,
            ahead: None,
            start: RoundStart { generation: 0, stored: false },
            unsaved: 0,
            busy: Duration::ZERO,
            unstored: false,
            progress: Progress::default(),
        }
    }

    pub fn freshness(&self, patience: Duration) -> Freshness {
        Freshness { progress: self.progress.clone(), patience }
    }

    /// Pulls until told to stop. `circuit` says whether Postgres is well; `doubt` is notified of a suspected
    /// failure.
    ///
    /// # Errors
    /// Never: a failed step is tried again.
    pub async fn run(
        mut self,
        mut circuit: watch::Receiver<Circuit>,
        doubt: Arc<Notify>,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        loop {
            let work = async {
                if circuit.wait_for(Circuit::is_closed).await.is_err() {
                    // The forwarder is gone, so shutdown is near.
                    return std::future::pending::<PullError>().await;
                }
                self.follow(&doubt).await
            };
            let error = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                error = work => error,
            };
            self.progress.done.send_modify(|done| done.connected = false);
            log::debug!("{}", crate::error::chain(&error));
            if matches!(error, PullError::Postgres(_) | PullError::Outdated) {
                doubt.notify_one();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(REST) => {}
            }
        }
    }

    /// One connection's life: listen, pull, wait, pull.
    async fn follow(&mut self, doubt: &Notify) -> PullError {
        let mut fresh = true;
        match self.listen().await {
            Ok(mut listener) => loop {
                let round = self.round_on(&mut listener, fresh).await;
                fresh = false;
                match round {
                    // The forwarder still sends on an older connection, and must send everything.
                    Ok(brought) if brought.another_house => doubt.notify_one(),
                    Ok(_) => {}
                    Err(error) => return error,
                }
                if let Err(error) = self.wait(&mut listener).await {
                    return error.into();
                }
            },
            Err(error) => error.into(),
        }
    }

    async fn listen(&self) -> Result<PgListener, PgError> {
        let pool = listening_pool(&self.settings).await?;
        let mut listener = within(CONNECT_DEADLINE, LISTENING, PgListener::connect_with(&pool)).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        within(CONNECT_DEADLINE, LISTENING, listener.listen(CHANNEL)).await?;
        Ok(listener)
    }

    async fn round_on(&mut self, listener: &mut PgListener, fresh: bool) -> Result<PullRound, PullError> {
        let request = self.progress.asked.load(Ordering::Acquire);
        let conn = within(CONNECT_DEADLINE, LISTENING, listener.acquire()).await?;
        let brought = self.round(conn, fresh).await?;
        self.progress.done.send_modify(|done| *done = Done { connected: true, request });
        Ok(brought)
    }

    /// Waits until there may be news.
    async fn wait(&self, listener: &mut PgListener) -> Result<(), PgError> {
        let look = tokio::time::sleep(LOOK);
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = &mut look => return Ok(()),
                () = self.progress.want.notified() => return Ok(()),
                heard = listener.try_recv() => match heard.map_err(|e| PgError::of(LISTENING, &e))? {
                    Some(note) if note.payload() == self.settings.device => {}
                    Some(_) => return Ok(()),
                    None => return Err(PgError::lost(LISTENING)),
                },
            }
        }
    }

    /// Connects, reads all news, and closes.
    ///
    /// # Errors
    /// [`PullError`]; the rows read before are stored.
    pub async fn run_once(&mut self) -> Result<PullRound, PullError> {
        let mut pg = Pg::connect(&self.settings).await?;
        let brought = self.round(&mut pg.conn, true).await;
        pg.close().await;
        brought
    }

    /// Reads all news, page by page. A page is one transaction here. Another database is met only on a
    /// `fresh` connection: an older connection may be all that is left of the previous database.
    async fn round(&mut self, conn: &mut PgConnection, fresh: bool) -> Result<PullRound, PullError> {
        let heads = read::heads(conn).await?;
        if !fresh && !resync::is_still_with(self.memory.store(), heads.house).await? {
            return Err(PullError::Outdated);
        }
        // Runs before any reading, so that newer rows here wait in the queue.
        let met =
            resync::handshake(self.memory.store(), heads.house, self.memory.clock().now_unix_ms()).await?;
        let generation = self.memory.store().generation();
        let ahead = self.ahead.take().filter(|(of, _)| *of == generation).map(|(_, ahead)| ahead);
        // `None`: the cursor was reset, or this is another database.
        let stored = pull_cursor::read_of(self.memory.store(), heads.house).await?;
        self.start = RoundStart { generation, stored: stored.is_some() };
        self.busy = Duration::ZERO;
        let mut at = match (stored, ahead) {
            (None, _) => PullCursor { house: heads.house, reading: Uuid::now_v7(), ..PullCursor::default() },
            (Some(stored), Some(ahead)) if ahead.reading == stored.reading && ahead.house == stored.house => {
                stored.or_further(&ahead)
            }
            (Some(stored), _) => stored,
        };
        let address = Some(self.settings.shown.clone());
        self.unstored = at.address != address;
        at.address = address;
        let mut brought = PullRound { another_house: met.another, ..PullRound::default() };
        self.tables(conn, &heads.at, &mut at, &mut brought).await?;
        while at.at.tombstones < heads.at.tombstones {
            let rows = read::tombstones(conn, self.since(at.at.tombstones, &at)).await?;
            let (tombstones, refused) = self.pass(rows, &mut at.at.tombstones, heads.at.tombstones);
            self.store(&mut brought, Pulled { tombstones, ..Pulled::default() }, refused, &at).await?;
        }
        if !at.caught_up || self.unstored {
            at.caught_up = true;
            self.apply(&Pulled::default(), &at).await?;
        }
        self.ahead = Some((generation, at));
        if brought.changed + brought.refused > 0 {
            log::debug!(
                "{} rows of other devices are here, {} were refused",
                brought.changed,
                brought.refused
            );
        }
        Ok(brought)
    }

    /// Reads voiceprints: all of them if they were not tried yet with this key and model, else the new ones.
    /// Of several that open, a person keeps the last.
    async fn voices(
        &mut self,
        conn: &mut PgConnection,
        head: i64,
        at: &mut PullCursor,
        brought: &mut PullRound,
    ) -> Result<(), PullError> {
        let Some(opener) = self.opener.clone() else {
            // Without a key they are left for later.
            if head > 0 {
                brought.voiceprints_left = read::count_voiceprints(conn).await?;
            }
            return Ok(());
        };
        let name = (opener.name)();
        let all = at.voices_of.as_deref() != Some(name.as_str());
        if all {
            at.at.voiceprints = 0;
            at.voices_of = None;
        }
        let mut people = BTreeSet::new();
        let mut refused = 0;
        while at.at.voiceprints < head {
            let since = Since { change: at.at.voiceprints, device: &self.settings.device, all };
            let rows = read::rows::<VoiceprintRow>(conn, since).await?;
            let (rows, left_out) = self.pass(rows, &mut at.at.voiceprints, head);
            people.extend(rows.iter().filter(|row| (opener.opens)(row)).map(|row| row.owner));
            refused += left_out;
        }
        let mut unsettled = false;
        if !people.is_empty() || refused > 0 {
            let people = unique(people);
            let (voiceprints, superseded) = opener.choose(usable(read::voiceprints_of(conn, &people).await?));
            let users = self.missing_users(conn, people).await?;
            let rows = Rows { users, voiceprints, ..Rows::default() };
            let page = Pulled { rows, superseded, ..Pulled::default() };
            // Stored with the mark that voiceprints must be tried again, which is removed after they are
            // stored.
            let before = PullCursor { voices_of: None, ..at.clone() };
            unsettled = self.store(brought, page, refused, &before).await?.unsettled;
            self.unstored = true;
        }
        self.unstored |= all;
        at.voices_of = (!unsettled).then_some(name);
        Ok(())
    }

    fn since(&self, change: i64, at: &PullCursor) -> Since<'_> {
        // Until the first full read, this device's own rows are read as well: it may have lost them.
        Since { change, device: &self.settings.device, all: !at.caught_up }
    }

    /// Moves `at` past a page, and returns its usable rows and the number of the others. An empty page means
    /// that there is no row of interest up to `head`.
    fn pass<T>(&mut self, rows: Vec<Numbered<T>>, at: &mut i64, head: i64) -> (Vec<T>, usize) {
        *at = rows.last().map_or(head, |(change, _)| *change);
        self.unstored |= !rows.is_empty();
        let all = rows.len();
        let rows = usable(rows);
        let refused = all - rows.len();
        (rows, refused)
    }

    /// The missing rows of the people among `owners`.
    pub(super) async fn missing_users(
        &self,
        conn: &mut PgConnection,
        owners: Vec<Uuid>,
    ) -> Result<Vec<UserRow>, PullError> {
        let lacking = self.memory.lacks::<UserRow>(&unique(owners)).await?;
        if lacking.is_empty() {
            return Ok(Vec::new());
        }
        Ok(usable(read::by_id(conn, &lacking).await?))
    }

    async fn apply(&mut self, page: &Pulled, at: &PullCursor) -> Result<Applied, PullError> {
        let started = Instant::now();
        let applied = self.memory.apply_pulled(page, at, self.start).await?.ok_or(PullError::Outdated)?;
        self.start.stored = true;
        self.unsaved = 0;
        self.unstored = false;
        // Page after page without a pause would starve other processes, which only poll for the lock.
        self.busy += started.elapsed();
        if self.busy > SPELL {
            tokio::time::sleep(resync::LONGEST_BREATH).await;
            self.busy = Duration::ZERO;
        }
        Ok(applied)
    }

    async fn store(
        &mut self,
        brought: &mut PullRound,
        page: Pulled,
        refused: usize,
        at: &PullCursor,
    ) -> Result<Applied, PullError> {
        brought.refused += refused;
        if refused > 0 {
            log::warn!("{refused} rows of other devices cannot be read and are left out");
        }
        // All rows are here already: the cursor is written only now and then, so that a restart need not
        // begin again.
        self.unsaved += 1;
        if page.is_empty() && self.unsaved < UNSAVED {
            return Ok(Applied::default());
        }
        let applied = self.apply(&page, at).await?;
        brought.changed += applied.changed;
        brought.refused += applied.refused;
        Ok(applied)
    }
}

macro_rules! read_all {
    ($({ $(#[$on:meta])* $rows:ident $row:ident $($op:tt)* })+ sent $($sent:tt)*) => {
        impl Puller {
            /// Reads on in every table, in the order of the list.
            async fn tables(
                &mut self,
                conn: &mut PgConnection,
                heads: &Changes,
                at: &mut PullCursor,
                brought: &mut PullRound,
            ) -> Result<(), PullError> {
                $($(#[$on])* if tables::$row::APART {
                    // Before the messages: a new device knows the voices long before it has read everything.
                    self.voices(conn, heads.voiceprints, at, brought).await?;
                }
                $(#[$on])* while !tables::$row::APART && at.at.$rows < heads.$rows {
                    let rows = read::rows::<tables::$row>(conn, self.since(at.at.$rows, at)).await?;
                    let (mut rows, refused) = self.pass(rows, &mut at.at.$rows, heads.$rows);
                    let mut page = tables::$row::page(self, conn, &mut rows).await?;
                    page.rows.$rows.append(&mut rows);
                    self.store(brought, page, refused, at).await?;
                    // Pages without news store nothing; after a lost connection they are not read again.
                    self.ahead = Some((self.start.generation, at.clone()));
                })+
                Ok(())
            }
        }
    };
}
tables::for_tables!(read_all);

pub(super) fn usable<T>(rows: Vec<Numbered<T>>) -> Vec<T> {
    rows.into_iter().filter_map(|(_, row)| row).collect()
}

pub(super) fn unique(ids: impl IntoIterator<Item = Uuid>) -> Vec<Uuid> {
    let set: BTreeSet<Uuid> = ids.into_iter().collect();
    set.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any step takes, on any machine.
    const LONG: Duration = Duration::from_secs(600);

    fn handle(connected: bool, patience: Duration) -> Freshness {
        let progress = Progress::default();
        progress.done.send_modify(|done| done.connected = connected);
        Freshness { progress, patience }
    }

    #[tokio::test]
    async fn a_turn_waits_for_the_round_that_was_asked_for() {
        let start = Instant::now();
        let fresh = handle(true, LONG);
        fresh.settle().await;
        fresh.start();
        let (settled, done) = (std::sync::atomic::AtomicBool::new(false), fresh.progress.done.clone());
        let wait = async {
            fresh.settle().await;
            settled.store(true, Ordering::Release);
        };
        let round = async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            assert!(!settled.load(Ordering::Acquire), "nothing was done yet");
            done.send_modify(|done| done.request = 1);
        };
        tokio::join!(wait, round);
        assert!(start.elapsed() < LONG);
    }

    #[tokio::test]
    async fn a_turn_never_waits_for_longer_than_it_may() {
        let fresh = handle(true, Duration::from_millis(30));
        fresh.start();
        fresh.settle().await;
    }

    #[tokio::test]
    async fn a_turn_does_not_wait_while_postgres_is_away() {
        let fresh = handle(false, LONG);
        fresh.start();
        let start = Instant::now();
        fresh.settle().await;
        assert!(start.elapsed() < LONG / 2);
    }
}
