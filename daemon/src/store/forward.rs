//! The forwarder: sends the oldest entries of the queue to Postgres until it is empty, for as long as the
//! daemon runs.
//!
//! ```text
//!             a batch is committed there ─▶ its entries are deleted here
//!            ┌──────────────┐   failure    ┌──────┐  pause is over  ┌───────────┐
//!  start ───▶│    closed    │ ───────────▶ │ open │ ──────────────▶ │ half open │ one attempt
//!            └──────────────┘              └──────┘ ◀────────────── └───────────┘
//!                    ▲                                 failure            │ success
//!                    └─────────────────────────────────────────────────── ┘
//! ```
//!
//! Invariants:
//!
//! 1. An entry leaves the queue only after Postgres has committed its effect, or into `dead_letter`.
//! 2. Sending a batch again changes nothing, so a lost answer to COMMIT is harmless: see
//!    [`super::postgres::write`].
//! 3. An entry that Postgres refuses for good is found by halving the batch and set aside; the rest goes on.
//! 4. Memory stays flat: there are two batches, one on its way and one read ahead, of at most
//!    [`MOST_ENTRIES`] entries and about [`MOST_BYTES`] of text each.
//! 5. No answer to a person waits for the forwarder.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::postgres::{Pg, PgError, PgSettings, RetryClass};
use super::resync::Sent;
use super::{Store, StoreError, holder, outgoing, put_back, queue, renumber, resync};
use crate::clock::{Clock, DAY_MS};
use crate::health::{Condition, Health};

/// Name of this component in the health of the device.
pub const COMPONENT: &str = "postgres";

/// Most entries of a batch; batches grow up to this while they are quick.
pub const MOST_ENTRIES: usize = 4_000;
/// Most text of a batch, roughly.
pub const MOST_BYTES: u64 = 4 << 20;
const FIRST_ENTRIES: usize = 500;
/// A batch that takes longer is followed by a smaller one, since others wait for the lock meanwhile.
const SLOW: Duration = Duration::from_secs(2);
const QUICK: Duration = Duration::from_millis(500);

/// First and longest pause after failures; it doubles in between. The actual pause is drawn from zero up to
/// that ("full jitter"), so that devices that lost the server together do not come back together.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Interval at which the queue is polled for entries of other processes (`jarvisd ask`). Entries of this
/// process wake the forwarder.
const LOOK: Duration = Duration::from_secs(5);
/// Interval at which an idle connection is probed and the house is told that this device is there.
const BEAT: Duration = Duration::from_secs(60);
/// Time limit at shutdown for sending the rest of the queue.
const LAST_WORDS: Duration = Duration::from_millis(1_500);

/// The outcome of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The present database has everything: the queue is empty and nothing is still to be queued.
    Empty,
    /// This many entries left the queue.
    Sent(usize),
    /// Nothing was sent yet: the next round sends a smaller batch, or sends to another database.
    NotYet,
    /// One entry was refused for good and set aside.
    Buried,
}

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("Postgres did not take what was sent")]
    Postgres(#[source] PgError),
    #[error("the queue on this device cannot be worked on")]
    Store(#[source] StoreError),
}

impl From<StoreError> for ForwardError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether the daemon reaches Postgres. Shown to people, and checked by callers that would wait for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "circuit", rename_all = "snake_case")]
pub enum Circuit {
    /// Not tried yet.
    #[default]
    Unknown,
    Closed,
    /// Resting after a failure.
    Open {
        since_unix_ms: i64,
        error: String,
    },
    /// One attempt is under way.
    HalfOpen {
        since_unix_ms: i64,
        error: String,
    },
}

impl Circuit {
    pub fn is_closed(&self) -> bool {
        *self == Self::Closed
    }
}

/// Sends the queue of one file to one database.
#[derive(Debug)]
pub struct Forwarder {
    store: Store,
    clock: Clock,
    settings: PgSettings,
    pg: Option<Pg>,
    /// When the connection was last used; an older one may be dead without notice.
    used: Option<Instant>,
    entries: usize,
    most: usize,
    /// The batch after the last committed one, read ahead.
    ahead: Option<outgoing::Batch>,
    /// Entries that left the queue unsent because their row is gone.
    without_row: usize,
    /// Whether rows are still to be queued for this database, which gets everything.
    more: bool,
    circuit: watch::Sender<Circuit>,
    /// Notified when another part finds Postgres gone.
    doubt: std::sync::Arc<tokio::sync::Notify>,
    before_migration: Option<BeforeMigration>,
    /// Days that audit rows are kept in Postgres, and the time of the next pruning.
    audit: Option<(u32, Instant)>,
}

/// The step run before the schema of a database in use is migrated.
pub struct BeforeMigration(Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>);

impl BeforeMigration {
    pub fn new(work: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl fmt::Debug for BeforeMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeMigration").finish_non_exhaustive()
    }
}

impl Forwarder {
    pub fn new(store: Store, clock: Clock, settings: PgSettings) -> Self {
        Self {
            store,
            clock,
            settings,
            pg: None,
            used: None,
            entries: FIRST_ENTRIES,
            most: MOST_ENTRIES,
            ahead: None,
            without_row: 0,
            more: false,
            circuit: watch::Sender::new(Circuit::Unknown),
            doubt: std::sync::Arc::default(),
            before_migration: None,
            audit: None,
        }
    }

    /// Deletes rows of the audit log that this device wrote more than `days` ago.
    #[must_use]
    pub fn keep_audit(self, days: u32) -> Self {
        Self { audit: Some((days, Instant::now())), ..self }
    }

    #[must_use]
    pub fn before_migration(self, work: BeforeMigration) -> Self {
        Self { before_migration: Some(work), ..self }
    }

    /// Sends at most `entries` entries at once instead of [`MOST_ENTRIES`].
    #[must_use]
    pub fn at_most(self, entries: usize) -> Self {
        let most = entries.clamp(1, MOST_ENTRIES);
        Self { entries: self.entries.min(most), most, ..self }
    }

    /// The database of the present connection.
    pub fn house(&self) -> Option<Uuid> {
        self.pg.as_ref().map(|pg| pg.house)
    }

    /// Asks the server before the next [`Progress::Empty`] whether its database is still the same.
    pub fn recheck(&mut self) {
        self.used = None;
    }

    /// Entries so far with nothing to send.
    pub fn without_row(&self) -> usize {
        self.without_row
    }

    pub fn circuit(&self) -> watch::Receiver<Circuit> {
        self.circuit.subscribe()
    }

    /// A handle to notify when Postgres seems to be gone: the connection is then checked at once.
    pub fn doubt(&self) -> std::sync::Arc<tokio::sync::Notify> {
        self.doubt.clone()
    }

    /// Sends until told to stop, then briefly sends the rest of the queue.
    ///
    /// # Errors
    /// Never: a failed step is tried again.
    pub async fn run(
        mut self,
        health: Health,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let mut commits = self.store.commits();
        let mut failures = 0_u32;
        loop {
            commits.mark_unchanged();
            self.half_open();
            let attempt = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                attempt = self.attempt() => attempt,
            };
            match attempt {
                Ok(Progress::Empty) => {
                    failures = 0;
                    self.closed(&health).await;
                    let pruned = tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        pruned = self.prune_audit() => pruned,
                    };
                    if let Err(error) = pruned {
                        log::warn!(
                            "old rows of the audit log stay in Postgres: {}",
                            crate::error::chain(&error)
                        );
                    }
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        changed = commits.changed() => if changed.is_err() { break },
                        () = self.doubt.notified() => self.used = None,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                // A long backlog is on its way: the fault is over, even before the last entry is sent.
                Ok(_) => {
                    failures = 0;
                    self.closed(&health).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.opened(&health, &error).await;
                    let pause = pause(failures, blocked(&error));
                    log::debug!("{}; next attempt in {} ms", crate::error::chain(&error), pause.as_millis());
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
        self.last_words().await;
        Ok(())
    }

    /// Deletes, now and then, audit rows of this device that Postgres has kept for too long; not while the
    /// clock is not set.
    async fn prune_audit(&mut self) -> Result<(), PgError> {
        const EVERY: Duration = Duration::from_secs(6 * 3_600);
        let Some((days, _)) = self.audit.filter(|(_, from)| Instant::now() >= *from) else { return Ok(()) };
        let now = self.clock.stamp();
        if !now.synced {
            return Ok(());
        }
        // Taken out as in `send`. A failure is tried again after the pause, too.
        let Some(mut pg) = self.pg.take() else { return Ok(()) };
        self.audit = Some((days, Instant::now() + EVERY));
        // A day later than here, so that Postgres has every row that is still here.
        let before = now.wall_unix_ms.saturating_sub((i64::from(days) + 1) * DAY_MS);
        pg.prune_audit(&self.settings.device, before).await?;
        self.pg = Some(pg);
        Ok(())
    }

    /// Runs a round. If it fails on a connection that had rested, which the server may long have closed, it
    /// runs once more on a new one.
    async fn attempt(&mut self) -> Result<Progress, ForwardError> {
        let rested = self.pg.is_some() && self.used.is_none_or(|used| used.elapsed() > LOOK);
        match self.run_once().await {
            Err(ForwardError::Postgres(_)) if rested && self.pg.is_none() => self.run_once().await,
            other => other,
        }
    }

    /// Sends one batch, the oldest entries, and deletes them here. Connects if needed.
    ///
    /// # Errors
    /// [`ForwardError`]; nothing has left the queue then, and another call tries again.
    pub async fn run_once(&mut self) -> Result<Progress, ForwardError> {
        let house = self.connected().await?;
        let Some(mut batch) = self.next(house).await? else {
            if self.used.is_none_or(|used| used.elapsed() > BEAT) {
                self.check_database().await?;
            }
            return Ok(match resync::sent_to(&self.store, house).await? {
                Sent::All => Progress::Empty,
                // Entries were written, or a resync was begun by another process, since the queue was found
                // empty.
                Sent::Waits => Progress::NotYet,
                Sent::Queueing => {
                    self.more = true;
                    Progress::NotYet
                }
                Sent::Elsewhere => self.leave().await,
            });
        };
        let route = queue::Route { generation: batch.generation, house };
        if let Some(op) = batch.unknown.first().cloned() {
            if batch.entries > 1 {
                self.entries = batch.entries / 2;
                return Ok(Progress::NotYet);
            }
            let why = format!("this version does not know the operation {op:?}");
            return self.set_aside(route, &batch, None, &why).await;
        }
        if let Some(mut pg) = self.pg.take_if(|pg| pg.token.is_none()) {
            // This memory was held back while it had nothing to send; now it has.
            if let Err(error) = self.claim(&mut pg).await {
                pg.close().await;
                return Err(error);
            }
            self.pg = Some(pg);
        }
        let started = Instant::now();
        let (mut sent, ahead) = self.send_and_read_ahead(&batch).await;
        if sent.as_ref().is_err_and(PgError::is_held_back) {
            // Another memory or a restore: the next connection finds out which.
            return Ok(self.leave().await);
        }
        if batch.entries == 1
            && let Err(error) = &sent
            && error.sqlstate() == Some("23503")
        {
            // A parent row is missing there, for example because the database was restored from an older
            // backup.
            outgoing::add_parents(&self.store, &mut batch).await?;
            sent = self.send(&batch).await;
        }
        if let (Err(error), [message], 1) = (&sent, batch.rows.messages.as_slice(), batch.entries)
            && error.is_place_taken()
            && let Some(pg) = &mut self.pg
            && renumber::behind(&self.store, pg, message).await?
        {
            return Ok(Progress::NotYet);
        }
        match sent {
            Ok(()) => {
                let drawn = self.pg.as_ref().map_or(0, |pg| pg.drawn);
                let now_unix_ms = self.clock.now_unix_ms();
                if !self.delete_leftovers(route, &batch).await?
                    || !queue::sent(&self.store, route, batch.last_seq, drawn, now_unix_ms).await?
                {
                    return Ok(self.leave().await);
                }
                if batch.without_row > 0 {
                    self.without_row += batch.without_row;
                    log::warn!(
                        "{} entries of the queue named rows that are not on this device any more: nothing \
                         was sent for them",
                        batch.without_row
                    );
                }
                self.ahead = ahead;
                self.adapt(&batch, started.elapsed());
                Ok(Progress::Sent(batch.entries))
            }
            Err(error)
                if error.retry_class() == RetryClass::Rejected
                    || error.retry_class() == RetryClass::TooMuch =>
            {
                if batch.entries > 1 {
                    self.entries = batch.entries / 2;
                    // A timeout may mean a lost network rather than too much work: it also opens the circuit.
                    return if error.connection_lives() {
                        Ok(Progress::NotYet)
                    } else {
                        Err(ForwardError::Postgres(error))
                    };
                }
                // A single row that is too much for a server in trouble may pass tomorrow; a row that breaks
                // a rule will not.
                if error.retry_class() == RetryClass::Rejected
                    || error.sqlstate().is_some_and(|code| code.starts_with("54"))
                {
                    return self.set_aside(route, &batch, error.sqlstate(), &error.cause()).await;
                }
                Err(ForwardError::Postgres(error))
            }
            Err(error) => Err(ForwardError::Postgres(error)),
        }
    }

    /// Returns the oldest entries: those read ahead, unless they are of another file or another batch size.
    /// If they are few while not everything is queued, more is queued first.
    async fn next(&mut self, house: Uuid) -> Result<Option<outgoing::Batch>, StoreError> {
        let usable = |batch: &outgoing::Batch| {
            batch.generation == self.store.generation() && batch.entries <= self.entries
        };
        let mut batch = self.ahead.take().filter(usable);
        loop {
            if batch.is_none() {
                batch = outgoing::read(&self.store, 0, self.entries, MOST_BYTES).await?;
            }
            if !self.more || batch.as_ref().is_some_and(|batch| batch.full) {
                return Ok(batch);
            }
            self.more = resync::queue_more(&self.store, house, self.clock.now_unix_ms()).await?;
            batch = None;
        }
    }

    /// Leaves the connection after another file or database has taken the place of the old one; the next
    /// connection meets it.
    async fn leave(&mut self) -> Progress {
        self.ahead = None;
        self.close().await;
        Progress::NotYet
    }

    /// Sends a batch while the next one is read, so that server and card work at the same time. A read error
    /// shows again, and is reported, in the next round.
    async fn send_and_read_ahead(
        &mut self,
        batch: &outgoing::Batch,
    ) -> (Result<(), PgError>, Option<outgoing::Batch>) {
        let (store, entries) = (self.store.clone(), self.entries);
        let read = async {
            if !batch.full {
                return None;
            }
            outgoing::read(&store, batch.last_seq, entries, MOST_BYTES).await.ok().flatten()
        };
        tokio::join!(self.send(batch), read)
    }

    async fn send(&mut self, batch: &outgoing::Batch) -> Result<(), PgError> {
        // Taken out, so that a cancelled call leaves no connection in an unknown state.
        let Some(mut pg) = self.pg.take() else { return Err(PgError::lost("sending to Postgres")) };
        let device = &self.settings.device;
        let mut sent = pg.send(batch, device).await;
        if sent.as_ref().is_err_and(PgError::is_held_back)
            && holder::adopt(&self.store, &mut pg, device).await.unwrap_or(false)
        {
            sent = pg.send(batch, device).await;
        }
        match &sent {
            Ok(()) => self.pg = Some(pg),
            Err(error) if error.is_held_back() => pg.close().await,
            Err(error) if error.connection_lives() && !error.schema_gone() => self.pg = Some(pg),
            Err(_) => {}
        }
        self.used = Some(Instant::now());
        sent
    }

    /// Checks the connection after a part of the program doubted it.
    async fn check_database(&mut self) -> Result<(), ForwardError> {
        let Some(mut pg) = self.pg.take() else { return Ok(()) };
        let device = &self.settings.device;
        let same = pg.is_same().await.map_err(ForwardError::Postgres)?;
        let held = match pg.hold(device).await {
            Err(error) if error.is_held_back() => holder::adopt(&self.store, &mut pg, device).await?,
            held => held.map(|()| true).map_err(ForwardError::Postgres)?,
        };
        if same && held {
            self.pg = Some(pg);
            self.used = Some(Instant::now());
            return Ok(());
        }
        // The next connection meets the other database.
        pg.close().await;
        self.connected().await.map(drop)
    }

    /// Claims the device's id; see [`holder::claim`].
    async fn claim(&self, pg: &mut Pg) -> Result<(), ForwardError> {
        holder::claim(&self.store, pg, &self.settings.device, self.clock.now_unix_ms()).await
    }

    /// Connects without sending.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn meet(&mut self) -> Result<(), ForwardError> {
        self.connected().await.map(drop)
    }

    /// Returns the database of the connection, which is made if there is none. A database other than the last
    /// one gets everything again.
    async fn connected(&mut self) -> Result<Uuid, ForwardError> {
        if let Some(pg) = &self.pg {
            return Ok(pg.house);
        }
        let before = async {
            if let Some(BeforeMigration(work)) = &self.before_migration {
                work().await;
            }
        };
        let mut pg = Pg::connect_after(&self.settings, before).await.map_err(ForwardError::Postgres)?;
        if let Err(error) = self.claim(&mut pg).await {
            let held_back = matches!(&error, ForwardError::Postgres(error) if error.is_held_back());
            // A memory with nothing to send may read on.
            if !held_back || queue::waits(&self.store).await? {
                pg.close().await;
                return Err(error);
            }
        }
        let house = pg.house;
        self.more = resync::handshake(&self.store, house, self.clock.now_unix_ms()).await?.more;
        self.pg = Some(pg);
        self.used = Some(Instant::now());
        // A new database gets everything under new numbers.
        self.ahead = None;
        Ok(house)
    }

    /// Queues the deletion of leftover voiceprints of people whose voice was deleted. This device once sent
    /// these voiceprints and lost them with its file or its key. The deletion is queued before the
    /// entry leaves the queue, so that a crash in between repeats it. Returns whether the entry may leave.
    async fn delete_leftovers(
        &mut self,
        route: queue::Route,
        batch: &outgoing::Batch,
    ) -> Result<bool, ForwardError> {
        if batch.voiceless.is_empty() {
            return Ok(true);
        }
        // The connection is there: it has just sent the batch.
        let Some(mut pg) = self.pg.take() else { return Ok(false) };
        let found = pg.voiceprints_of(&batch.voiceless, &self.settings.device).await;
        let leftovers = found.map_err(ForwardError::Postgres)?;
        self.pg = Some(pg);
        if leftovers.is_empty() {
            return Ok(true);
        }
        Ok(queue::delete_leftovers(&self.store, route, &leftovers, self.clock.now_unix_ms()).await?)
    }

    /// Sets aside the only entry of `batch`.
    async fn set_aside(
        &mut self,
        route: queue::Route,
        batch: &outgoing::Batch,
        sqlstate: Option<&str>,
        why: &str,
    ) -> Result<Progress, ForwardError> {
        let seq = batch.last_seq;
        if !queue::set_aside(&self.store, route, seq, self.clock.now_unix_ms(), sqlstate, why).await? {
            return Ok(self.leave().await);
        }
        log::error!(
            "Postgres refused entry {seq} of the queue for good ({why}); it is set aside: `jarvisd queue \
             dead-letter list`"
        );
        Ok(Progress::Buried)
    }

    fn adapt(&mut self, batch: &outgoing::Batch, took: Duration) {
        if took > SLOW {
            self.entries = (batch.entries / 2).max(1);
        } else if took < QUICK {
            self.entries = (self.entries * 2).min(self.most);
        }
    }

    fn half_open(&self) {
        self.circuit.send_if_modified(|now| match now {
            Circuit::Open { since_unix_ms, error } => {
                *now = Circuit::HalfOpen { since_unix_ms: *since_unix_ms, error: std::mem::take(error) };
                true
            }
            _ => false,
        });
    }

    async fn closed(&self, health: &Health) {
        self.circuit.send_if_modified(|now| !std::mem::replace(now, Circuit::Closed).is_closed());
        let refused = queue::refused(&self.store).await.unwrap_or_default();
        let put_back = put_back::found(&self.store).await.ok().flatten();
        let put_back = put_back.filter(|found| found.is_recent(self.clock.now_unix_ms()));
        let sentence = refused.sentence().or_else(|| put_back.map(|_| put_back::SENTENCE.to_owned()));
        let condition = sentence.map_or(Condition::Ok, Condition::degraded);
        health.set(COMPONENT, condition);
    }

    async fn opened(&self, health: &Health, error: &ForwardError) {
        let why = match error {
            ForwardError::Postgres(error) => error.sentence(&self.settings.shown),
            ForwardError::Store(_) => crate::error::chain(error),
        };
        let now = self.clock.now_unix_ms();
        self.circuit.send_modify(|circuit| {
            let since_unix_ms = match circuit {
                Circuit::Open { since_unix_ms, .. } | Circuit::HalfOpen { since_unix_ms, .. } => {
                    *since_unix_ms
                }
                Circuit::Unknown | Circuit::Closed => now,
            };
            *circuit = Circuit::Open { since_unix_ms, error: why.clone() };
        });
        let waiting = match queue::depth(&self.store).await {
            Ok(depth) => format!("; {} entries wait on this device, where memory goes on", depth.entries),
            Err(_) => String::new(),
        };
        health.set(COMPONENT, Condition::away(format!("{why}{waiting}")));
    }

    /// Sends the rest of the queue at shutdown, if Postgres takes it at once.
    async fn last_words(&mut self) {
        if self.circuit.borrow().is_closed() {
            let drain =
                async { while matches!(self.run_once().await, Ok(Progress::Sent(_) | Progress::NotYet)) {} };
            if tokio::time::timeout(LAST_WORDS, drain).await.is_err() {
                log::info!("the rest of the queue is sent after the next start");
            }
        }
        self.close().await;
    }

    /// Closes the connection with a goodbye.
    pub async fn close(&mut self) {
        if let Some(pg) = self.pg.take() {
            pg.close().await;
        }
    }
}

fn blocked(error: &ForwardError) -> bool {
    matches!(error, ForwardError::Postgres(error) if error.retry_class() == RetryClass::Blocked)
}

/// The pause after `failures` in a row. A fault that only a person can mend is retried rarely.
fn pause(failures: u32, blocked: bool) -> Duration {
    let longest = (FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LONGEST_PAUSE);
    let mut bytes = [0; 4];
    // Without random numbers devices may connect at the same time: a nuisance, no fault.
    let _ = getrandom::fill(&mut bytes);
    let drawn = longest.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX));
    if blocked { (longest / 2 + drawn / 2).max(FIRST_PAUSE) } else { drawn.max(Duration::from_millis(50)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_capped_and_are_not_all_alike() {
        let longest = |n: u32, blocked| (0..200).map(|_| pause(n, blocked)).max().unwrap();
        assert!(longest(1, false) <= FIRST_PAUSE);
        assert!(longest(4, false) > FIRST_PAUSE * 3);
        for failures in [7, 100, u32::MAX] {
            assert!(longest(failures, false) <= LONGEST_PAUSE);
            assert!((0..50).all(|_| pause(failures, true) >= LONGEST_PAUSE / 2));
        }
        assert_ne!(pause(9, false), pause(9, false));
    }
}
