//! After a repair of the database: messages that it lost come back out of the newest proven backups.
//!
//! ```text
//!  jarvis.db.corrupt.… ─alive─▶ ids that it had ─ what is here ─▶ lost ─proven backups─▶ memory, queue ─▶ noted
//!                          └─▶ uncertain: nothing comes back by itself, and a command is named
//! ```
//!
//! Messages that were deleted since the backup stay deleted. Four rules see to it:
//!
//! 1. Only messages come back that the damaged file still had when it broke, by an index and a list of
//!    deletions that are both whole ([`alive`]). A restore by hand with `--lost` needs no such proof.
//! 2. The deletions that are known here decide once more, in the transaction that stores.
//! 3. Forgetting deletes the damaged copy, and without that nothing is stored, in the same transaction: lost
//!    messages cannot be searched for those to forget.
//! 4. Of conversations and people that are lost as well only the row comes back, without titles, names of
//!    sessions and consents. Voiceprints do not come back.
//!
//! With Postgres this waits until all that is there was read.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cancel::Cancel;
use super::context::Context;
use super::create::{Run, blocking};
use super::keys::Keys;
use super::lock::{Lock, SPARE_BYTES, Scratch};
use super::manifest::{self, Manifest, Origin, Role};
use super::progress::Progress;
use super::restore::{not_newer, restore_file};
use super::verify::check_hashes;
use super::{Backup, BackupError, Level, list};
use crate::clock::Clock;
use crate::error::chain;
use crate::memory::{Memory, TakenBack};
use crate::store::salvage::alive::{self, Uncertain};
use crate::store::salvage::{SALVAGED, Salvaged};
use crate::store::tables::MessageRow;
use crate::store::{Store, StoreOptions, outgoing, pull_cursor, queue};

/// Key of [`Note`] among the settings of the memory.
const NOTED: &str = "after_repair";
/// Pause between searches for a new damaged copy; a search reads one folder.
const SEARCH_EVERY: Duration = Duration::from_secs(20);
/// Pause after a failure, which may have cost the reading of a backup.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Most backups that are opened: the newest may have been made after the damage.
const MOST_BACKUPS: usize = 3;
/// Time limit for opening the folder of backups; a sleeping disk wakes up in less.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const SILENT: &str =
    "the folder of the backups does not answer: look whether its disk or its server is there (backup.dir)";
const BACK_FROM_POSTGRES: &str =
    "the database was damaged and repaired, and the messages that were lost are back from Postgres";

/// The end of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Name of the damaged copy.
    copy: String,
    /// The outcome for a person; `None` where nothing was lost.
    pub sentence: Option<String>,
}

/// The end of the repair whose damaged copy is the newest one that is kept.
///
/// # Errors
/// [`BackupError`] if the memory cannot be read.
pub async fn noted(memory: &Memory) -> Result<Option<Note>, BackupError> {
    let Some(copy) = newest_copy(memory) else { return Ok(None) };
    let note: Option<Note> = memory.setting(NOTED).await?;
    Ok(note.filter(|note| note.copy == name_of(&copy)))
}

fn newest_copy(memory: &Memory) -> Option<PathBuf> {
    memory.store().damaged_copies().pop()
}

fn name_of(copy: &Path) -> String {
    copy.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Deals with each repair of the memory, until `stop`.
///
/// # Errors
/// Never: a failed step is tried again, and logged once.
pub async fn run(settings: Context, memory: Memory, stop: CancellationToken) -> Result<(), Infallible> {
    let mut said: Option<String> = None;
    let mut told: Option<Note> = None;
    loop {
        let cancel = Cancel::default();
        let dealt = tokio::select! {
            biased;
            () = stop.cancelled() => {
                cancel.cancel();
                return Ok(());
            }
            dealt = deal_with_newest(&settings, &memory, &cancel) => dealt,
        };
        let pause = if dealt.is_ok() { SEARCH_EVERY } else { AGAIN_AFTER };
        match dealt {
            Ok(note) if note != told => {
                if let Some(sentence) = note.as_ref().and_then(|note| note.sentence.as_deref()) {
                    log::warn!("{sentence}");
                    memory.report_repair(sentence);
                }
                told = note;
            }
            Ok(_) => {}
            Err(e) => {
                let e = chain(&e);
                if said.as_ref() != Some(&e) {
                    log::warn!("messages that a repair lost are not looked for in the backups yet: {e}");
                }
                said = Some(e);
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The end of the newest repair; deals with it if that is still to be done.
async fn deal_with_newest(
    settings: &Context,
    memory: &Memory,
    cancel: &Cancel,
) -> Result<Option<Note>, BackupError> {
    let Some(copy) = newest_copy(memory) else { return Ok(None) };
    if let Some(note) = noted(memory).await? {
        return Ok(Some(note));
    }
    if memory.apart().await?.is_some() {
        return Ok(None);
    }
    if let Some(postgres) = &settings.postgres
        && !pull_cursor::is_caught_up(memory.store(), postgres).await?
    {
        return Ok(None);
    }
    let lost = match alive_in(copy.clone()).await? {
        Ok(alive) => Ok(lacking(memory, &alive.into_iter().collect::<Vec<_>>()).await?),
        Err(why) => Err(why),
    };
    let sentence = if matches!(&lost, Ok(lost) if lost.is_empty()) {
        let salvaged: Option<Salvaged> = memory.setting(SALVAGED).await?;
        let was_lost = salvaged.is_some_and(|salvaged| salvaged.lost_messages > 0);
        (was_lost && settings.postgres.is_some()).then(|| BACK_FROM_POSTGRES.to_owned())
    } else {
        let (of, clock) = (settings.clone(), memory.clock().clone());
        let opened = tokio::time::timeout(ANSWERS_WITHIN, blocking(move || open(&of, &clock)));
        let (lock, backups) = opened.await.map_err(|_| BackupError::Refused(SILENT.to_owned()))??;
        let (clock, progress) = (memory.clock().clone(), Progress::hidden());
        let run = Run { settings, clock: &clock, lock: &lock, cancel, progress: &progress };
        match lost {
            Ok(lost) => match bring_back(&run, memory, &copy, lost, &backups).await? {
                Some(sentence) => Some(sentence),
                None => return Ok(None),
            },
            Err(why) => by_hand(&run, memory, &copy, why, &backups).await?,
        }
    };
    let note = Note { copy: name_of(&copy), sentence };
    memory.set_setting(NOTED, &note).await?;
    Ok(Some(note))
}

/// The messages that a damaged file had, read in a thread of its own.
async fn alive_in(damaged: PathBuf) -> Result<Result<BTreeSet<Uuid>, Uncertain>, BackupError> {
    blocking(move || Ok(alive::messages(&damaged)?)).await
}

/// A backup with its manifest.
type Proven = (Backup, Manifest);

/// The folder of backups, and the newest proven ones of this device, the newest first.
fn open(settings: &Context, clock: &Clock) -> Result<(Lock, Vec<Proven>), BackupError> {
    let elsewhere = vec![settings.paths.data.clone(), std::env::temp_dir()];
    let lock = Lock::shared(&settings.paths.backups, elsewhere)?;
    let newest_first = list(lock.dir(), clock)?.into_iter().rev();
    let proven = newest_first.filter(|backup| backup.is_proven_to(Level::Restore));
    let read = proven.filter_map(|backup| {
        let manifest = manifest::read(&backup.path).ok()?.manifest;
        (manifest.device == settings.device).then_some((backup, manifest))
    });
    let backups = read.take(MOST_BACKUPS).collect();
    Ok((lock, backups))
}

/// Brings `lost` back; returns the outcome in words, or `None` if something was forgotten.
async fn bring_back(
    run: &Run<'_>,
    memory: &Memory,
    copy: &Path,
    mut lost: BTreeSet<Uuid>,
    backups: &[Proven],
) -> Result<Option<String>, BackupError> {
    let count = lost.len();
    let mut from: Option<&str> = None;
    let mut backups = Backups::of(backups);
    while let Some((name, unpacked)) = backups.next(run).await? {
        let wanted: Vec<Uuid> = unpacked.messages.iter().copied().filter(|id| lost.contains(id)).collect();
        let taken = unpacked.take(run, memory, &wanted, copy, false).await;
        unpacked.close().await;
        let Some(taken) = taken? else { return Ok(None) };
        if taken.stored > 0 {
            from.get_or_insert(name);
        }
        lost = lacking(memory, &lost.into_iter().collect::<Vec<_>>()).await?;
        if lost.is_empty() {
            break;
        }
    }
    let (back, still) = (count - lost.len(), lost.len());
    let repaired = "the database was damaged and repaired";
    Ok(Some(match (backups.closed, from, still) {
        (Some(name), _, 1..) => format!(
            "{repaired}: {back} messages that the repair could not read are back, and {still} are lost; \
             {name} was not looked into: `jarvisd backup restore {name} --lost --identity FILE` brings back \
             those that it holds"
        ),
        (_, Some(from), 0) => {
            format!(
                "{repaired}, and all {count} messages that the repair could not read are back from {from}"
            )
        }
        (_, Some(from), _) => format!(
            "{repaired}: {back} messages that the repair could not read are back from {from}, and {still} \
             are in no proven backup"
        ),
        (_, None, _) => {
            format!("{repaired}: {still} messages are lost, and no proven backup of this device holds them")
        }
    }))
}

/// The sentence that names the command, where no proof tells lost messages from deleted ones.
async fn by_hand(
    run: &Run<'_>,
    memory: &Memory,
    copy: &Path,
    why: Uncertain,
    backups: &[Proven],
) -> Result<Option<String>, BackupError> {
    let mut backups = Backups::of(backups);
    while let Some((name, unpacked)) = backups.next(run).await? {
        let wanted: Vec<Uuid> = lacking(memory, &unpacked.messages).await?.into_iter().collect();
        let taken = unpacked.take(run, memory, &wanted, copy, true).await;
        unpacked.close().await;
        let n = taken?.unwrap_or_default().stored;
        if n > 0 {
            return Ok(Some(format!(
                "the database was damaged and repaired, and {why}: `jarvisd backup restore {name} --lost` \
                 brings back {n} messages that are missing here, also those that were deleted since that \
                 backup"
            )));
        }
    }
    Ok(backups.closed.map(|name| {
        format!(
            "the database was damaged and repaired, and {why}; {name} was not looked into: `jarvisd backup \
             restore {name} --lost --identity FILE` brings back what is missing here, also what was deleted \
             since that backup"
        )
    }))
}

/// Brings back every message of the backup that is not here and of which no deletion is known here. Where
/// the damaged copy does not prove which messages it had, words that were deleted since the backup come back
/// too, if their deletion was lost.
///
/// # Errors
/// [`BackupError`]; what was stored by then stays, and is left as it is when this is done again.
pub async fn bring_all_back(
    run: &Run<'_>,
    memory: &Memory,
    (folder, manifest, keys): (&Path, &Manifest, &Keys),
    only_count: bool,
) -> Result<u64, BackupError> {
    let Some(unpacked) = Unpacked::open(run, folder, manifest, keys).await? else { return Ok(0) };
    let taken = async {
        let mut wanted = lacking(memory, &unpacked.messages).await?;
        if let Some(damaged) = newest_copy(memory)
            && let Ok(alive) = alive_in(damaged).await?
        {
            wanted.retain(|id| alive.contains(id));
        }
        let wanted: Vec<Uuid> = wanted.into_iter().collect();
        // The owner has decided, whatever became of the damaged copy.
        unpacked.take(run, memory, &wanted, folder, only_count).await
    };
    let taken = taken.await;
    unpacked.close().await;
    let taken = taken?.ok_or_else(|| {
        BackupError::Refused("something is being forgotten at this moment: do it once more".to_owned())
    })?;
    if !only_count
        && taken.stored > 0
        && let Some(copy) = newest_copy(memory)
    {
        let sentence = format!(
            "the database was damaged and repaired, and {} messages that were missing are back from {}",
            taken.stored, manifest.name
        );
        memory.set_setting(NOTED, &Note { copy: name_of(&copy), sentence: Some(sentence) }).await?;
    }
    Ok(taken.stored as u64)
}

/// Of `ids` those that no message here has.
async fn lacking(memory: &Memory, ids: &[Uuid]) -> Result<BTreeSet<Uuid>, BackupError> {
    const AT_ONCE: usize = 1_000;
    let mut lacking = BTreeSet::new();
    for some in ids.chunks(AT_ONCE) {
        lacking.extend(memory.lacks::<MessageRow>(some).await?);
    }
    Ok(lacking)
}

/// The messages of a backup, in a scratch folder.
struct Unpacked {
    store: Store,
    messages: Vec<Uuid>,
    _scratch: Scratch,
}

/// Backups that are looked into one after the other.
struct Backups<'a> {
    rest: std::slice::Iter<'a, Proven>,
    /// The newest one that no key at hand opens, or that is not as it was when it was proven.
    closed: Option<&'a str>,
}

impl<'a> Backups<'a> {
    fn of(backups: &'a [Proven]) -> Self {
        Self { rest: backups.iter(), closed: None }
    }

    /// The next backup that holds messages, with its name.
    async fn next(&mut self, run: &Run<'_>) -> Result<Option<(&'a str, Unpacked)>, BackupError> {
        for (backup, manifest) in self.rest.by_ref() {
            match Unpacked::with_own_keys(run, &backup.path, manifest).await {
                Ok(Some(unpacked)) => return Ok(Some((&backup.name, unpacked))),
                Ok(None) => {}
                Err(e @ (BackupError::Key(_) | BackupError::Newer { .. } | BackupError::Damaged { .. })) => {
                    log::warn!("{} was not looked into: {}", backup.name, chain(&e));
                    self.closed.get_or_insert(&backup.name);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

impl Unpacked {
    /// As [`Self::open`], with the keys of the configuration.
    async fn with_own_keys(
        run: &Run<'_>,
        folder: &Path,
        manifest: &Manifest,
    ) -> Result<Option<Self>, BackupError> {
        let keys = match Keys::read(run.settings.backup.identity_file.as_ref()) {
            // A backup that is not encrypted needs none.
            Err(_) if !manifest.encrypted => Keys::default(),
            keys => keys?,
        };
        Self::open(run, folder, manifest, &keys).await
    }

    /// `None` if it holds no messages that only a device had.
    async fn open(
        run: &Run<'_>,
        folder: &Path,
        manifest: &Manifest,
        keys: &Keys,
    ) -> Result<Option<Self>, BackupError> {
        let role = match manifest.origin {
            Origin::Sqlite => Role::Database,
            Origin::Postgres => Role::Queue,
        };
        let Ok(entry) = manifest.file(role) else { return Ok(None) };
        not_newer(manifest)?;
        let scratch = run.lock.scratch_for(entry.plain_bytes.saturating_add(SPARE_BYTES))?;
        let path = scratch.path().join("jarvis.db");
        check_hashes(run, folder, manifest).await?;
        restore_file(run, folder, manifest, entry, keys, &path).await?;
        let options = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
        let store = Store::open(&path, &options).await?;
        match queue::messages_of_copy(&store).await {
            Ok(messages) => Ok(Some(Self { store, messages, _scratch: scratch })),
            Err(e) => {
                store.close().await;
                Err(e.into())
            }
        }
    }

    /// Takes back those of its messages that are `wanted`; `None` if something was forgotten.
    async fn take(
        &self,
        run: &Run<'_>,
        memory: &Memory,
        wanted: &[Uuid],
        copy: &Path,
        count: bool,
    ) -> Result<Option<TakenBack>, BackupError> {
        const ENTRIES: usize = 500;
        const BYTES: u64 = 1 << 20;
        let mut taken = TakenBack::default();
        if wanted.is_empty() {
            return Ok(Some(taken));
        }
        queue::wait_only_for(&self.store, wanted).await?;
        let mut after = 0;
        while let Some(mut batch) = outgoing::read(&self.store, after, ENTRIES, BYTES).await? {
            run.cancel.check()?;
            after = batch.last_seq;
            outgoing::add_parents(&self.store, &mut batch).await?;
            match memory.take_back_lost(batch, copy, count).await? {
                Some(more) => taken += more,
                None => return Ok(None),
            }
        }
        Ok(Some(taken))
    }

    async fn close(self) {
        self.store.close().await;
    }
}
