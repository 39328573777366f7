//! One person or one conversation out of a backup, into the memory as it is.
//!
//! What is there already stays as it is; what was deleted since comes back under new ids, because the old ones are buried on
//! every device. A voiceprint does not come back: its key was destroyed with it.

use std::path::Path;

use serde::Serialize;

use super::BackupError;
use super::create::Run;
use super::keys::Keys;
use super::manifest::{Manifest, Origin};
use super::restore::to_file;
use crate::memory::{ConversationId, Device, Imported, Memory, MemoryError, User};

/// What is wanted.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// All conversations of the person of this name.
    Person(String),
    Conversation(ConversationId),
}

/// Whose conversations were found, as the document that an import takes.
#[derive(Debug)]
pub struct Found {
    pub owner: String,
    pub json: String,
    pub conversations: usize,
}

/// What a merge did.
#[derive(Debug, Clone, Serialize)]
pub struct Merged {
    pub backup: String,
    pub user: String,
    /// The person was not known any more, and was added.
    pub added: bool,
    #[serde(flatten)]
    pub imported: Imported,
}

/// Finds what is wanted in the backup.
///
/// # Errors
/// [`BackupError`].
pub async fn find(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    wanted: &Wanted,
) -> Result<Found, BackupError> {
    if manifest.origin == Origin::Postgres {
        return super::restore_pg::find(run, folder, manifest, keys, wanted).await;
    }
    let scratch = run.lock.scratch()?;
    let path = scratch.path().join("jarvis.db");
    to_file(run, folder, manifest, keys, &path).await?;
    let device = Device { id: run.settings.device.id.clone() };
    let memory = Memory::open(&path, &device, run.clock.clone()).await?;
    let found = find_in(&memory, wanted).await;
    memory.close().await;
    found
}

async fn find_in(memory: &Memory, wanted: &Wanted) -> Result<Found, BackupError> {
    let (owner, conversations) = match wanted {
        Wanted::Person(name) => {
            let user = memory.user_by_name(name).await?;
            let conversations = memory.export_conversations(user.id).await?;
            (user, conversations)
        }
        Wanted::Conversation(id) => {
            let (user, conversation) = owner_of(memory, *id).await?;
            (user, vec![conversation])
        }
    };
    let json = serde_json::to_string(&conversations)
        .map_err(|e| BackupError::Refused(format!("what was found cannot be passed on: {e}")))?;
    Ok(Found { owner: owner.name, json, conversations: conversations.len() })
}

/// Whose conversation it is: the backup is asked for each person, as every read names its owner.
async fn owner_of(
    memory: &Memory,
    id: ConversationId,
) -> Result<(User, crate::memory::ExportedConversation), BackupError> {
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

/// Stores what was found as that person's.
///
/// # Errors
/// [`BackupError::Memory`]; then nothing was stored.
pub async fn import(memory: &Memory, backup: &str, found: &Found) -> Result<Merged, BackupError> {
    let (user, added) = match memory.user_by_name(&found.owner).await {
        Ok(user) => (user, false),
        Err(MemoryError::NotFound { .. }) => (memory.add_user(&found.owner).await?, true),
        Err(e) => return Err(e.into()),
    };
    let imported = memory.import_conversations(user.id, &found.json).await?;
    Ok(Merged { backup: backup.to_owned(), user: user.name, added, imported })
}
