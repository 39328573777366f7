//! Merges one person or one conversation of a backup into the present memory.
//!
//! Rows that still exist stay unchanged. Rows deleted since come back under new ids, because the old ones are
//! buried on every device. A voiceprint does not come back: its key was destroyed with it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::BackupError;
use super::create::Run;
use super::keys::Keys;
use super::lock::{SPARE_BYTES, Scratch};
use super::manifest::{Manifest, Origin};
use super::restore::to_file;
use super::sqlite::{self, Access};
use crate::durable;
use crate::memory::{ConversationId, ExportedConversation, Imported, Memory, MemoryError, User, UserId};

/// The selection to restore.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All conversations of the person with this name.
    Person(String),
    Conversation(ConversationId),
}

/// The conversations found, with their owner. They lie on the disk, one as JSON in each line, the newest
/// first, until the value is dropped.
#[derive(Debug)]
pub struct FoundConversations {
    pub owner: String,
    /// The id of that person at that time.
    pub owner_id: UserId,
    pub conversations: usize,
    path: PathBuf,
    _scratch: Scratch,
}

/// Collects the conversations found, one after the other.
pub(super) struct Finding {
    found: FoundConversations,
    file: BufWriter<File>,
}

impl Finding {
    pub(super) fn of(run: &Run<'_>, owner: String, owner_id: UserId) -> Result<Self, BackupError> {
        let scratch = run.lock.scratch()?;
        let path = scratch.path().join("conversations");
        let file = durable::create_file(&path).map_err(kept(&path))?;
        Ok(Self {
            found: FoundConversations { owner, owner_id, conversations: 0, path, _scratch: scratch },
            file: BufWriter::new(file),
        })
    }

    /// `conversation`: JSON. Postgres puts some newlines between values; newlines in texts are escaped.
    pub(super) fn add(&mut self, conversation: &str) -> Result<(), BackupError> {
        self.found.conversations += 1;
        let mut parts = conversation.split('\n');
        let written = parts.try_for_each(|part| self.file.write_all(part.as_bytes()));
        written.and_then(|()| self.file.write_all(b"\n")).map_err(kept(&self.found.path))
    }

    pub(super) fn end(mut self) -> Result<FoundConversations, BackupError> {
        self.file.flush().map_err(kept(&self.found.path))?;
        Ok(self.found)
    }
}

fn kept(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    BackupError::disk("what was found in the backup could not be kept", path)
}

/// The outcome of a merge.
#[derive(Debug, Clone, Serialize)]
pub struct Merged {
    pub backup: String,
    pub user: String,
    /// Whether the person was no longer known, and was added.
    pub added: bool,
    #[serde(flatten)]
    pub imported: Imported,
}

/// Finds the selection in the backup.
///
/// # Errors
/// [`BackupError`].
pub async fn find(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    wanted: &Selection,
) -> Result<FoundConversations, BackupError> {
    if manifest.origin == Origin::Postgres {
        return super::restore_pg::find(run, folder, manifest, keys, wanted).await;
    }
    let plain = manifest.file(super::manifest::Role::Database)?.plain_bytes;
    let scratch = run.lock.scratch_for(plain.saturating_add(SPARE_BYTES))?;
    let path = scratch.path().join("jarvis.db");
    to_file(run, folder, manifest, keys, &path).await?;
    let memory = Memory::open(&path, &run.settings.writer(), run.clock.clone()).await?;
    let found = find_in(run, &memory, wanted).await;
    memory.close().await;
    found
}

/// Adds the turns in `db`, which is held apart, to the database `fresh`, which no other process has open.
///
/// # Errors
/// [`BackupError`]; `db` is unchanged.
pub(super) async fn held_apart(run: &Run<'_>, db: &Path, fresh: &Path) -> Result<Imported, BackupError> {
    let scratch = run.lock.scratch()?;
    let copy = scratch.path().join("jarvis.db");
    let mut live = sqlite::connect(db, Access::Read).await?;
    let copied = sqlite::copy(&mut live, db, &copy).await;
    sqlite::close(live).await;
    copied?;
    let device = run.settings.writer();
    let apart = Memory::open(&copy, &device, run.clock.clone()).await?;
    let memory = Memory::open(fresh, &device, run.clock.clone()).await?;
    let added = async {
        let mut added = Imported::default();
        for user in apart.list_users().await? {
            let found = find_in(run, &apart, &Selection::Person(user.name)).await?;
            if found.conversations > 0 {
                added += import(run, &memory, "", &found).await?.imported;
            }
        }
        memory.store().checkpoint_truncate().await?;
        Ok(added)
    };
    let added: Result<Imported, BackupError> = added.await;
    apart.close().await;
    memory.close().await;
    let added = added?;
    let disk = BackupError::disk("what was held apart could not be written", fresh);
    File::open(fresh).and_then(|file| file.sync_all()).map_err(disk)?;
    Ok(added)
}

async fn find_in(
    run: &Run<'_>,
    memory: &Memory,
    wanted: &Selection,
) -> Result<FoundConversations, BackupError> {
    let json = |conversation: &ExportedConversation| {
        serde_json::to_string(conversation)
            .map_err(|e| BackupError::Refused(format!("what was found cannot be passed on: {e}")))
    };
    match wanted {
        Selection::Person(name) => {
            let user = memory.user_by_name(name).await?;
            let mut finding = Finding::of(run, user.name, user.id)?;
            memory
                .each_conversation(user.id, |conversation| {
                    run.cancel.check()?;
                    finding.add(&json(&conversation)?)
                })
                .await?;
            finding.end()
        }
        Selection::Conversation(id) => {
            let (user, conversation) = owner_of(memory, *id).await?;
            let mut finding = Finding::of(run, user.name, user.id)?;
            finding.add(&json(&conversation)?)?;
            finding.end()
        }
    }
}

/// The owner of the conversation. The backup is searched person by person, since every read names its owner.
pub(super) async fn owner_of(
    memory: &Memory,
    id: ConversationId,
) -> Result<(User, ExportedConversation), BackupError> {
    for user in memory.list_users().await? {
        match memory.export_conversation(user.id, id).await {
            Ok(found) => return Ok((user, found)),
            Err(MemoryError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(MemoryError::NotFound { what: "conversation in this backup with the id", which: id.to_string() }
        .into())
}

/// Stores the conversations found as that person's, one after the other.
///
/// # Errors
/// [`BackupError`]; conversations stored by then stay, and a repetition leaves them as they are.
pub async fn import(
    run: &Run<'_>,
    memory: &Memory,
    backup: &str,
    found: &FoundConversations,
) -> Result<Merged, BackupError> {
    let (user, added) = match memory.user_by_name(&found.owner).await {
        Ok(user) => (user, false),
        Err(MemoryError::NotFound { .. }) => {
            (memory.bring_back_user(found.owner_id, &found.owner).await?, true)
        }
        Err(e) => return Err(e.into()),
    };
    let file = File::open(&found.path).map_err(kept(&found.path))?;
    let (mut imported, mut links) = (Imported::default(), Vec::new());
    for line in BufReader::new(file).lines() {
        run.cancel.check()?;
        let line = line.map_err(kept(&found.path))?;
        let (one, elsewhere) = memory.import_conversation(user.id, &line).await?;
        imported += one;
        links.extend(elsewhere);
    }
    memory.link_sources(user.id, &links).await?;
    Ok(Merged { backup: backup.to_owned(), user: user.name, added, imported })
}
