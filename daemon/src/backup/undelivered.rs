//! Messages in a backup of Postgres that are not in its dump: the device had not delivered them, or Postgres
//! had refused them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use super::BackupError;
use super::create::Run;
use super::keys::Keys;
use super::lock::Scratch;
use super::manifest::{FileEntry, Manifest, Role};
use super::merge::{Finding, Selection, owner_of};
use super::restore::restore_file;
use crate::memory::{ConversationId, ExportedConversation, Memory, MemoryError, User, UserId};

/// Unpacks the queue file `entry` into a scratch folder; returns the folder and the file.
///
/// # Errors
/// [`BackupError`] if it cannot be read, or there is no room.
pub(super) async fn unpack(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<(Scratch, PathBuf), BackupError> {
    let scratch = run.lock.scratch()?;
    let path = scratch.path().join("queue.db");
    restore_file(run, folder, manifest, entry, keys, &path).await?;
    Ok((scratch, path))
}

/// The queue file, opened as a memory.
pub(super) struct Undelivered {
    pub(super) memory: Memory,
    _scratch: Scratch,
}

impl Undelivered {
    /// `None` if Postgres had everything.
    pub(super) async fn open(
        run: &Run<'_>,
        folder: &Path,
        manifest: &Manifest,
        keys: &Keys,
    ) -> Result<Option<Self>, BackupError> {
        let Ok(entry) = manifest.file(Role::Queue) else { return Ok(None) };
        if manifest.undelivered.is_none_or(|undelivered| undelivered.messages == 0) {
            return Ok(None);
        }
        let (scratch, path) = unpack(run, folder, manifest, entry, keys).await?;
        let memory = Memory::open(&path, &run.settings.writer(), run.clock.clone()).await?;
        Ok(Some(Self { memory, _scratch: scratch }))
    }

    /// The person of `wanted`, if the queue file holds something of them.
    pub(super) async fn whose(&self, wanted: &Selection) -> Result<Option<User>, BackupError> {
        let found = match wanted {
            Selection::Person(name) => self.memory.user_by_name(name).await.map_err(BackupError::from),
            Selection::Conversation(id) => owner_of(&self.memory, *id).await.map(|(user, _)| user),
        };
        match found {
            Ok(user) => Ok(Some(user)),
            Err(BackupError::Memory(MemoryError::NotFound { .. })) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds the missing messages to a conversation of the dump, in the order of their numbers.
    pub(super) async fn completed(
        &self,
        user: Uuid,
        doc: &str,
        seen: &mut BTreeSet<Uuid>,
    ) -> Result<String, BackupError> {
        let mut whole: Value = serde_json::from_str(doc).map_err(unreadable)?;
        let id = whole["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default();
        seen.insert(id);
        let more = match self.memory.export_conversation(UserId(user), ConversationId(id)).await {
            Ok(more) => json(&more)?,
            Err(MemoryError::NotFound { .. }) => return Ok(doc.to_owned()),
            Err(e) => return Err(e.into()),
        };
        let listed = |whole: &Value| whole["messages"].as_array().cloned().unwrap_or_default();
        let mut messages = listed(&whole);
        let known: BTreeSet<String> = messages.iter().map(|message| message["id"].to_string()).collect();
        messages.extend(listed(&more).into_iter().filter(|more| !known.contains(&more["id"].to_string())));
        messages.sort_by_key(|message| message["seq"].as_i64());
        // Two messages may have one number: one of them was refused for that.
        let mut last = 0;
        for message in &mut messages {
            last = message["seq"].as_i64().unwrap_or(0).max(last + 1);
            message["seq"] = last.into();
        }
        whole["messages"] = messages.into();
        Ok(whole.to_string())
    }

    /// Conversations that are not in the dump at all.
    pub(super) async fn rest(
        &self,
        user: Uuid,
        one: Option<Uuid>,
        seen: &BTreeSet<Uuid>,
        finding: &mut Finding,
    ) -> Result<(), BackupError> {
        let wanted = |id: Uuid| !seen.contains(&id) && one.is_none_or(|one| one == id);
        let each = self.memory.each_conversation(UserId(user), |conversation| {
            let empty = conversation.messages.is_empty();
            if wanted(conversation.id.0) && !empty {
                finding.add(&json(&conversation)?.to_string())?;
            }
            Ok::<_, BackupError>(())
        });
        each.await
    }
}

fn json(conversation: &ExportedConversation) -> Result<Value, BackupError> {
    serde_json::to_value(conversation).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> BackupError {
    BackupError::Refused(format!("what was found cannot be passed on: {error}"))
}
