//! Brings undelivered messages from a backup into the memory of this device: messages that a device had not
//! delivered to Postgres, or that Postgres had refused.
//!
//! If the memory is missing, the queue file becomes the memory. If a memory exists, or belongs to another
//! device than the one that made the backup, the rows are taken back one by one.

use std::path::Path;

use super::BackupError;
use super::create::Run;
use super::keys::Keys;
use super::manifest::{FileEntry, Manifest, Role};
use super::restore::restore_file;
use super::sqlite::{self, Access};
use super::undelivered;
use crate::memory::Memory;
use crate::store::{Store, StoreOptions, heal, outgoing, queue};

/// Messages that Postgres did not have.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct BroughtBack {
    pub(super) messages: u64,
    /// Messages that are only in the backup, though nobody deleted them here.
    pub(super) left_out: u64,
}

/// Brings the missing messages into the memory of this device.
///
/// # Errors
/// [`BackupError`]; messages stored by then stay, and a repetition leaves them as they are.
pub(super) async fn bring_back(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
) -> Result<BroughtBack, BackupError> {
    let db = &run.settings.paths.db;
    let Ok(entry) = manifest.file(Role::Queue) else { return Ok(BroughtBack::default()) };
    let own = manifest.device == run.settings.device;
    if db.exists() || !own {
        return take_back(run, folder, manifest, entry, keys).await;
    }
    let fresh = heal::beside(db, ".restore");
    let disk = BackupError::disk("what is restored could not be written", &fresh);
    heal::remove_database(&fresh).map_err(&disk)?;
    restore_file(run, folder, manifest, entry, keys, &fresh).await?;
    sqlite::take_over(&fresh).await?;
    heal::put_in_place(&fresh, db).map_err(disk)?;
    Ok(BroughtBack { messages: manifest.undelivered.unwrap_or_default().messages, left_out: 0 })
}

/// Counts the undelivered messages that the memory of this device lacks. A memory that is missing or cannot
/// be read lacks all of them.
///
/// # Errors
/// [`BackupError`] if the backup cannot be read.
pub(super) async fn lacking(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
) -> Result<u64, BackupError> {
    let wanted = manifest.undelivered.unwrap_or_default();
    let Ok(entry) = manifest.file(Role::Queue) else { return Ok(0) };
    let db = &run.settings.paths.db;
    if wanted.messages == 0 || !db.exists() {
        return Ok(wanted.messages);
    }
    let (_scratch, path) = undelivered::unpack(run, folder, manifest, entry, keys).await?;
    let mut copy = sqlite::connect(&path, Access::Scratch).await?;
    let ids = sqlite::undelivered_ids(&mut copy, wanted.everything, &path).await;
    sqlite::close(copy).await;
    let ids = ids?;
    let here = async {
        let mut conn = sqlite::connect(db, Access::Read).await?;
        let here = sqlite::messages_among(&mut conn, &ids, db).await;
        sqlite::close(conn).await;
        here
    };
    let here = here.await.unwrap_or_else(|e| {
        log::warn!("{}", crate::error::chain(&e));
        0
    });
    Ok(wanted.messages.saturating_sub(here))
}

async fn take_back(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<BroughtBack, BackupError> {
    const ENTRIES: usize = 500;
    const BYTES: u64 = 1 << 20;
    let wanted = manifest.undelivered.unwrap_or_default().messages;
    let (_scratch, path) = undelivered::unpack(run, folder, manifest, entry, keys).await?;
    let options = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
    let copy = Store::open(&path, &options).await?;
    let memory = Memory::open(&run.settings.paths.db, &run.settings.writer(), run.clock.clone()).await?;
    let taken = async {
        queue::revive(&copy).await?;
        let (mut after, mut back) = (0, BroughtBack::default());
        while let Some(mut batch) = outgoing::read(&copy, after, ENTRIES, BYTES).await? {
            run.cancel.check()?;
            after = batch.last_seq;
            if manifest.device != run.settings.device && !batch.rows.voiceprints.is_empty() {
                log::warn!(
                    "voices that {} had not delivered stay in the backup: enrol them here",
                    manifest.device
                );
                batch.rows.voiceprints.clear();
            }
            outgoing::add_parents(&copy, &mut batch).await?;
            let taken = memory.take_back(&batch).await?;
            back.messages += taken.stored as u64;
            back.left_out += taken.left_out as u64;
        }
        if back.left_out == 0
            && memory.only_in_backup().await?.is_some_and(|only| only.backup == manifest.name)
        {
            memory.accept().await?;
        }
        // The count includes the sources of answers, which Postgres may have.
        Ok(BroughtBack { messages: back.messages.min(wanted), left_out: back.left_out.min(wanted) })
    };
    let taken = taken.await;
    memory.close().await;
    copy.close().await;
    taken
}
