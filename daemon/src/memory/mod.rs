//! The memory of the device, separated by person: the only interface through which other modules read and
//! write it.
//!
//! Invariants, each with a test:
//!
//! 1. Every call that touches a person's rows takes that person's id, and no statement reads or changes a row
//!    of another; an id of another person's row is `NotFound`.
//! 2. A turn (the person's words and the answer) is one transaction with its queue entries; when
//!    [`Memory::append_turn`] returns, it is on the disk. An answer in sentences is stored one by one before
//!    that, in a table of its own ([`Memory::open_turn`]).
//! 3. `seq` of a conversation grows without gaps while nothing is forgotten and is never used twice.
//! 4. Forgetting removes the message, the answer to it, every answer made from it, their words in the index
//!    and their queue entries. Then the unused parts of the file are scrubbed, so that no byte stays. A
//!    forgetting that can be undone is kept sealed, for minutes (see `undo.rs`).

mod audit;
mod beside;
mod conversations;
mod error;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod ids;
mod import;
mod lost;
mod messages;
mod named;
mod names;
mod open_turn;
pub mod pull;
mod replica;
mod restamp;
mod search;
mod sessions;
mod settings;
mod signs;
mod summary;
mod terms;
mod turns;
mod undo;
mod users;
mod voiceprints;
mod words;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sqlx::Row as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Stamp};
use crate::health::{Condition, Health};
use crate::store::vanished::{Missing, OnlyInBackup};
use crate::store::{Store, StoreError, StoreOptions, Tx};

pub use audit::{AuditEntry, NewAudit};
pub use conversations::{Conversation, Cursor, MAX_TITLE_CHARS, Page};
pub use error::MemoryError;
pub use export::{Export, ExportedConversation, ExportedMessage};
pub use ids::{AuditId, ConversationId, MessageId, UserId, VoiceprintId};
pub use import::{Imported, Link};
pub use messages::{Kind, MAX_MESSAGE_BYTES, Message, Role};
pub use open_turn::{Effects, OpenTurn, Said};
pub use replica::{Applied, Pulled, RoundStart, TakenBack};
pub use search::{Hit, SearchCursor, Words};
pub use sessions::{MAX_SESSION_CHARS, SessionId};
pub(crate) use signs::{Wanted, point_before, signs_behind};
pub use summary::{MAX_SUMMARY_BYTES, Summary, WINDOW_TOKENS, Window, tokens_of};
pub(crate) use terms::is_run_letter;
pub use turns::{Acts, Appended, Durable, Ended, NewTurn, Target, TurnMeta};
pub use undo::{UNDO_MINUTES, Undoable};
pub use users::{ANONYMOUS, MAX_NAME_CHARS, User, UserCursor};
pub use voiceprints::{NewVoiceprint, Voiceprint, VoiceprintInfo};

/// Name in [`Health`] for whether the memory is the right one: a memory that vanished has failed.
pub const COMPONENT: &str = "memory";
/// Name in [`Health`] for the store: whether turns can be stored, and the events of the file.
const STORE: &str = "store";
const DATABASE: &str = "database";

type Result<T, E = MemoryError> = std::result::Result<T, E>;

/// The writing device: `[device] id` of the configuration.
#[derive(Debug, Clone)]
pub struct Device {
    pub id: String,
}

/// The memory of this device. Clones share the open database.
#[derive(Debug, Clone)]
pub struct Memory {
    store: Store,
    clock: Clock,
    /// `[device] id` of the configuration.
    device: Arc<str>,
    here: Arc<ArcSwapOption<WriterRids>>,
    /// Whether every row from before the clock was set was restamped, as far as only a full read would find
    /// it.
    stamped: Arc<AtomicBool>,
    scrubber: Arc<Scrubber>,
    health: Arc<OnceLock<Health>>,
}

/// Scrubs deleted text from the file: [`Memory::maintain`] does it while it runs, otherwise the deleting
/// call.
#[derive(Debug, Default)]
struct Scrubber {
    maintained: AtomicBool,
    wanted: Notify,
}

/// Row numbers referenced by every written row: this device, this boot.
#[derive(Debug, Clone, Copy)]
struct WriterRids {
    /// Generation of the store when they were looked up.
    generation: u64,
    device: i64,
    boot: i64,
}

crate::store::sql::statements! {
    FIND_HERE = "SELECT d.rid AS device, b.rid AS boot FROM devices d JOIN boots b ON b.boot_id = ?2
        WHERE d.id = ?1";
    FIND_BOOT = "SELECT rid FROM boots WHERE boot_id = ?1";
    ADD_BOOT = "INSERT INTO boots (boot_id) VALUES (?1) ON CONFLICT DO NOTHING";
    FIND_DEVICE = "SELECT rid FROM devices WHERE id = ?1";
    CLAIM_LOST_DEVICE = "UPDATE devices SET id = ?1 WHERE id LIKE 'lost-%'
        AND (SELECT count(*) FROM devices WHERE id LIKE 'lost-%') = 1 AND NOT EXISTS (SELECT 1 FROM devices
        WHERE id = ?1)";
    ADD_DEVICE = "INSERT INTO devices (id, created_unix_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    // Set in the deleting transaction, cleared after no byte is left: a crash in between loses nothing. Each
    // wish has its own value, so that granting one does not clear another that came meanwhile.
    WANT_SCRUB = "INSERT INTO settings (key, value, updated_unix_ms) VALUES ('scrub', ?1, ?2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_unix_ms = excluded.updated_unix_ms";
    SCRUB_WANTED = "SELECT value FROM settings WHERE key = 'scrub'";
    SCRUBBED = "DELETE FROM settings WHERE key = 'scrub' AND value = ?1";
}

impl Memory {
    /// Opens the database at `path` (created if missing) for the writing device.
    ///
    /// # Errors
    /// [`StoreError`] in [`MemoryError::Store`]: a damaged, newer or foreign file, a full disk, missing
    /// permissions.
    pub async fn open(path: &Path, device: &Device, clock: Clock) -> Result<Self> {
        Self::open_with(path, device, clock, &StoreOptions::default()).await
    }

    /// [`Memory::open`] with limits that tests set.
    pub async fn open_with(
        path: &Path,
        device: &Device,
        clock: Clock,
        options: &StoreOptions,
    ) -> Result<Self> {
        let store = Store::open(path, options).await?;
        let memory = Self {
            store,
            clock,
            device: device.id.as_str().into(),
            here: Arc::default(),
            stamped: Arc::default(),
            scrubber: Arc::default(),
            health: Arc::default(),
        };
        // If the disk cannot be written now, each transaction tries again.
        let mut settled = memory.settle().await;
        if settled.as_ref().is_err_and(MemoryError::is_damaged) {
            // The first statement met damage that a quick check of the structure does not see.
            memory.mend().await?;
            settled = memory.settle().await;
        }
        match settled {
            Err(e) if memory.store.read_only().is_none() && !e.is_disk_full() => Err(e),
            Err(e) => {
                log::warn!("nothing can be stored at present: {}", crate::error::chain(&e));
                Ok(memory)
            }
            Ok(()) => {
                memory.store.leave_mark().await;
                Ok(memory)
            }
        }
    }

    /// The missing memory, while new turns are held apart from a memory that vanished.
    ///
    /// # Errors
    /// [`MemoryError`] if the file cannot be read.
    pub async fn apart(&self) -> Result<Option<Missing>> {
        let missing = self.store.apart().await?;
        if let Some(health) = self.health.get() {
            let condition = match &missing {
                Some(missing) => Condition::failed(missing.to_string()),
                None => {
                    let only = self.only_in_backup().await?;
                    only.map_or(Condition::Ok, |only| Condition::failed(only.to_string()))
                }
            };
            health.set(COMPONENT, condition);
        }
        Ok(missing)
    }

    /// The part of a vanished memory that only a backup holds, while Postgres gave back the rest.
    ///
    /// # Errors
    /// [`MemoryError`] if the file cannot be read.
    pub async fn only_in_backup(&self) -> Result<Option<OnlyInBackup>> {
        Ok(self.store.only_in_backup().await?)
    }

    /// Accepts the file held apart as the memory: the owner gives up the earlier one. Returns whether a
    /// memory was missing.
    ///
    /// # Errors
    /// [`MemoryError`]; the file then stays held apart.
    pub async fn accept(&self) -> Result<bool> {
        if self.apart().await?.is_none() && self.only_in_backup().await?.is_none() {
            return Ok(false);
        }
        self.store.accept().await?;
        self.apart().await?;
        Ok(true)
    }

    /// Runs the steps that a file needs once before rows are written.
    async fn settle(&self) -> Result<()> {
        self.settle_here().await?;
        self.mend_name_keys().await?;
        // Another process may be writing; the next process to open the file, or the daemon, repeats these
        // steps.
        for done in [self.close_left_open().await.map(drop), self.end_undos().await] {
            match done {
                Err(e) if !e.is_damaged() => {
                    log::debug!("the memory was not tidied up: {}", crate::error::chain(&e));
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Finds or adds the rows of this device and this boot.
    async fn settle_here(&self) -> Result<()> {
        let stamp = self.clock.stamp();
        let find = || sqlx::query(FIND_HERE).bind(&*self.device).bind(&*stamp.boot_id);
        let mut generation = self.store.generation();
        let row = match self.read_optional(find()).await? {
            Some(row) if generation == self.store.generation() => row,
            _ => {
                let mut tx = self.store.begin().await?;
                generation = self.store.generation();
                tx.execute(sqlx::query(ADD_BOOT).bind(&*stamp.boot_id)).await?;
                // A repair may have lost the name of the only device, which was this one.
                tx.execute(sqlx::query(CLAIM_LOST_DEVICE).bind(&*self.device)).await?;
                tx.execute(sqlx::query(ADD_DEVICE).bind(&*self.device).bind(stamp.wall_unix_ms)).await?;
                let row = tx.optional(find()).await?;
                tx.commit().await?;
                row.ok_or(StoreError::Sql(sqlx::Error::RowNotFound))?
            }
        };
        let here = WriterRids { generation, device: get(&row, "device")?, boot: get(&row, "boot")? };
        self.here.store(Some(Arc::new(here)));
        Ok(())
    }

    /// The rows of this device and this boot; present since [`Memory::begin`].
    fn here(&self) -> Result<WriterRids, StoreError> {
        self.here.load().as_deref().copied().ok_or(StoreError::Sql(sqlx::Error::RowNotFound))
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Maintains the file between turns. It shortens the WAL, scrubs deleted text, gives rows from before the
    /// clock was set their true time, and deletes audit rows older than `audit_days`. It ends as soon as
    /// `stop` is cancelled; unfinished work is left to the next start. Errors are logged and retried, the
    /// scrub ever more rarely (`scrub_pause`).
    pub async fn maintain(&self, stop: CancellationToken, audit_days: u32) {
        const EVERY: Duration = Duration::from_secs(30);
        const AFTER_BUSY: Duration = Duration::from_secs(2);
        const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3_600);
        self.scrubber.maintained.store(true, Ordering::Release);
        let mut failures = 0;
        let (mut scrub_from, mut prune_from) = (Instant::now(), Instant::now());
        let mut again = false;
        // A large file was not read as a whole when it was opened. Damage that this check finds is repaired
        // in the next round.
        let mut unchecked = self.store.bytes() > crate::store::CHECK_AT_OPEN_BYTES;
        loop {
            let round = async {
                tidied(self.mend().await);
                tidied(self.apart().await.map(drop));
                tidied(self.close_left_open().await.map(drop));
                tidied(self.end_undos().await);
                if std::mem::take(&mut unchecked) {
                    tidied(self.check().await);
                }
                if Instant::now() >= scrub_from {
                    let scrubbed = self.scrub_if_wanted().await;
                    // A reader in the way is gone within seconds; a full disk is not.
                    let busy = matches!(&scrubbed, Err(MemoryError::Store(StoreError::Busy { .. })));
                    failures = if scrubbed.is_ok() || busy { 0 } else { failures + 1 };
                    again = busy;
                    scrub_from = Instant::now() + scrub_pause(failures);
                    tidied(scrubbed);
                }
                tidied(self.restamp().await.map(drop));
                if Instant::now() >= prune_from {
                    let pruned = self.prune_audit(audit_days).await;
                    if matches!(pruned, Ok(Some(_))) {
                        prune_from = Instant::now() + PRUNE_EVERY;
                    }
                    tidied(pruned.map(drop));
                }
                tidied(self.store.checkpoint().await.map_err(MemoryError::from));
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = round => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.scrubber.wanted.notified() => {}
                () = tokio::time::sleep(if again { AFTER_BUSY } else { EVERY }) => {}
            }
        }
        self.scrubber.maintained.store(false, Ordering::Release);
    }

    async fn scrub_if_wanted(&self) -> Result<()> {
        match self.scrub_wish().await? {
            Some(wish) => self.grant_scrub(&wish).await,
            None => Ok(()),
        }
    }

    /// Reads the whole database file and checks its structure.
    pub async fn check(&self) -> Result<()> {
        Ok(self.store.check().await?)
    }

    /// Closes the file; the last process to do so moves the WAL into it.
    pub async fn close(&self) {
        self.store.leave_mark().await;
        self.store.close().await;
    }

    async fn begin(&self) -> Result<(Tx<'_>, Stamp)> {
        for _ in 0..2 {
            let tx = self.store.begin().await?;
            self.tell();
            let generation = self.store.generation();
            if self.here.load().as_ref().is_some_and(|here| here.generation == generation) {
                return Ok((tx, self.clock.stamp()));
            }
            // Another file took the place of the opened one, or nothing could be written until now.
            tx.rollback().await?;
            self.settle_here().await?;
        }
        Err(StoreError::Replaced { path: self.store.path().into() }.into())
    }

    /// Checks the file itself: the right one, sound as far as known, writable; repairs it if not.
    pub async fn mend(&self) -> Result<()> {
        let limited = self.store.read_only().is_some();
        let mended = self.store.mend().await;
        self.tell();
        if let Some(health) = self.health.get() {
            match &mended {
                Ok(()) if limited => health.set(STORE, Condition::Ok),
                Ok(()) => {}
                Err(e) => health.set(STORE, cannot_store(e)),
            }
        }
        Ok(mended?)
    }

    /// Reports the state of the store, now and after each repair. "store" says that turns cannot be stored;
    /// "database" says until the next start that data was repaired or lost.
    pub fn report_to(&self, health: &Health) {
        let health = self.health.get_or_init(|| health.clone());
        health.set(
            STORE,
            self.store.read_only().map_or(Condition::Ok, |why| {
                Condition::degraded(format!("what is said cannot be stored, only read ({why})"))
            }),
        );
        let copies = self.store.damaged_copies();
        if let Some(newest) = copies.last() {
            let sentence = format!(
                "the database was damaged and repaired; {} damaged copies are kept, the newest is {}: delete \
                 them when nothing is missed",
                copies.len(),
                newest.display()
            );
            health.set(DATABASE, Condition::degraded(sentence));
        }
        self.tell();
    }

    /// Says what became of the messages that a repair lost.
    pub fn report_repair(&self, sentence: &str) {
        if let Some(health) = self.health.get() {
            health.set(DATABASE, Condition::degraded(sentence));
        }
    }

    /// Reports the last repair or loss.
    fn tell(&self) {
        if let Some(health) = self.health.get()
            && let Some(problem) = self.store.take_problem()
        {
            health.set(DATABASE, Condition::degraded(problem));
        }
    }

    /// Notes, in a transaction that deletes text, that no byte of it may stay.
    async fn want_scrub(&self, tx: &mut Tx<'_>, now: &Stamp) -> Result<()> {
        // JSON, like every value of this table.
        let wish = format!("\"{}\"", uuid::Uuid::now_v7());
        tx.execute(sqlx::query(WANT_SCRUB).bind(wish).bind(now.wall_unix_ms)).await?;
        Ok(())
    }

    /// Commits a deletion of text, and removes every byte of it from the file.
    async fn commit_deletion(&self, mut tx: Tx<'_>, now: &Stamp) -> Result<()> {
        self.want_scrub(&mut tx, now).await?;
        tx.commit().await?;
        self.scrub().await;
        Ok(())
    }

    /// Runs after a commit that deleted text. The deletion itself is done, so a failure here is no error of
    /// the caller: the wish is in the file and the next [`Memory::maintain`] grants it.
    async fn scrub(&self) {
        if let Err(e) = self.sweep_keys().await {
            log::warn!("the key of something that was forgotten is still there: {}", crate::error::chain(&e));
        }
        if self.scrubber.maintained.load(Ordering::Acquire) {
            self.scrubber.wanted.notify_one();
        } else if let Err(e) = self.scrub_if_wanted().await {
            log::warn!("deleted text is still in unused parts of the database: {}", crate::error::chain(&e));
        }
    }

    /// The open wish, read before the work that grants it: text deleted later has a wish with another value.
    async fn scrub_wish(&self) -> Result<Option<String>> {
        let row = self.read_optional(sqlx::query(SCRUB_WANTED)).await?;
        Ok(row.map(|row| get(&row, "value")).transpose()?)
    }

    async fn grant_scrub(&self, wish: &str) -> Result<()> {
        self.store.remove_damaged_copies()?;
        self.store.scrub().await?;
        self.clear_scrub(wish).await
    }

    async fn clear_scrub(&self, wish: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        tx.execute(sqlx::query(SCRUBBED).bind(wish)).await?;
        Ok(tx.commit().await?)
    }

    async fn read_all(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>> {
        let mut reader = self.store.reader().await?;
        Ok(query.fetch_all(&mut *reader).await.map_err(|e| self.store.classify(e))?)
    }

    async fn read_optional(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Option<sqlx::sqlite::SqliteRow>> {
        let mut reader = self.store.reader().await?;
        Ok(query.fetch_optional(&mut *reader).await.map_err(|e| self.store.classify(e))?)
    }
}

/// The local row number of a boot, added if it is new.
async fn boot_rid(tx: &mut Tx<'_>, boot_id: &str) -> Result<i64> {
    if let Some(row) = tx.optional(sqlx::query(FIND_BOOT).bind(boot_id)).await? {
        return Ok(get(&row, "rid")?);
    }
    tx.execute(sqlx::query(ADD_BOOT).bind(boot_id)).await?;
    let row = tx.optional(sqlx::query(FIND_BOOT).bind(boot_id)).await?;
    Ok(get(&row.ok_or_else(kept_out)?, "rid")?)
}

/// The local row number of a device, added if it is new.
async fn device_rid(tx: &mut Tx<'_>, device: &str, now: &Stamp) -> Result<i64> {
    if let Some(row) = tx.optional(sqlx::query(FIND_DEVICE).bind(device)).await? {
        return Ok(get(&row, "rid")?);
    }
    tx.execute(sqlx::query(ADD_DEVICE).bind(device).bind(now.wall_unix_ms)).await?;
    let row = tx.optional(sqlx::query(FIND_DEVICE).bind(device)).await?;
    Ok(get(&row.ok_or_else(kept_out)?, "rid")?)
}

/// The error for a row that was added but is missing: a rule of the database dropped it.
fn kept_out() -> StoreError {
    StoreError::Constraint { unique: false, source: sqlx::Error::RowNotFound }
}

/// The pause before the next scrub after `failures` in a row. A scrub reads the whole file, so on a full disk
/// it is not tried every half minute: 1 min, 2 min, … up to an hour.
fn scrub_pause(failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3_600);
    match failures {
        0 => Duration::ZERO,
        n => (Duration::from_secs(30) * 2_u32.saturating_pow(n.min(10))).min(LONGEST),
    }
}

fn cannot_store(error: &StoreError) -> Condition {
    Condition::degraded(format!("what is said cannot be stored ({})", crate::error::chain(error)))
}

fn tidied(result: Result<()>) {
    if let Err(e) = result {
        log::warn!("the database was not tidied up, trying again: {}", crate::error::chain(&e));
    }
}

/// Every statement of this module, for the test that prepares them.
#[cfg(test)]
pub(crate) fn statements() -> Vec<&'static [(&'static str, &'static str)]> {
    vec![
        STATEMENTS,
        audit::STATEMENTS,
        conversations::STATEMENTS,
        import::STATEMENTS,
        lost::STATEMENTS,
        messages::STATEMENTS,
        named::STATEMENTS,
        names::STATEMENTS,
        open_turn::STATEMENTS,
        replica::STATEMENTS,
        replica::BELOW[0],
        replica::BELOW[1],
        replica::BELOW[2],
        restamp::STATEMENTS,
        search::STATEMENTS,
        sessions::STATEMENTS,
        summary::STATEMENTS,
        turns::STATEMENTS,
        undo::STATEMENTS,
        users::STATEMENTS,
        voiceprints::STATEMENTS,
        words::STATEMENTS,
    ]
}

/// Reads a column of a row; a mismatch is a bug in a statement.
fn get<'r, T>(row: &'r sqlx::sqlite::SqliteRow, column: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(StoreError::Sql)
}
