//! Imports conversations from an export. The text is untrusted: everything in it is checked, and either all
//! of it is stored or nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::AddAssign;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid, Variant, Version};

use super::conversations::{MAX_TITLE_CHARS, title_from};
use super::messages::checked_text;
use super::turns::{ADD_SOURCE, INSERT};
use super::users::owner_rid;
use super::{
    ConversationId, ExportedConversation, ExportedMessage, Kind, Memory, MemoryError, MessageId, Result,
    Role, SessionId, UserId, boot_rid, get, named,
};
use crate::store::Tx;
use crate::store::queue::{Op, enqueue};
use crate::text::tidy_within;

/// The boot of rows with times from a file: monotonic times never compare with it.
const NO_BOOT: &str = "imported";
/// Latest time: the end of the year 9999.
const LAST_UNIX_MS: i64 = 253_402_300_799_999;
/// Longest `meta` of a message, in bytes of JSON.
const MAX_META_BYTES: usize = 4096;

/// Parsed conversations before the checks: a list of conversations (`conversation export`), one (with an id),
/// or those of a person (`user export`).
///
/// Parsed in one pass: serde buffers an untagged enum as values first, which take ten times the bytes of a
/// hostile file.
#[derive(Debug)]
struct Document(Vec<ExportedConversation>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an export")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> std::result::Result<Document, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Document)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Document, A::Error> {
                let Single {
                    conversations,
                    id,
                    title,
                    created_unix_ms,
                    updated_unix_ms,
                    session_id,
                    messages,
                } = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                if let Some(conversations) = conversations {
                    return Ok(Document(conversations));
                }
                let missing = A::Error::missing_field;
                Ok(Document(vec![ExportedConversation {
                    id: id.ok_or_else(|| missing("id"))?,
                    title: title.ok_or_else(|| missing("title"))?,
                    created_unix_ms: created_unix_ms.ok_or_else(|| missing("created_unix_ms"))?,
                    updated_unix_ms: updated_unix_ms.ok_or_else(|| missing("updated_unix_ms"))?,
                    device: None,
                    session_id,
                    messages: messages.ok_or_else(|| missing("messages"))?,
                }]))
            }
        }

        from.deserialize_any(Any)
    }
}

/// A conversation or a person.
#[derive(Debug, Deserialize)]
struct Single {
    conversations: Option<Vec<ExportedConversation>>,
    id: Option<ConversationId>,
    title: Option<String>,
    created_unix_ms: Option<i64>,
    updated_unix_ms: Option<i64>,
    session_id: Option<String>,
    messages: Option<Vec<ExportedMessage>>,
}

/// The outcome of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    pub conversations: usize,
    pub messages: usize,
    /// Conversations that already existed and were left unchanged.
    pub skipped: usize,
}

impl AddAssign for Imported {
    fn add_assign(&mut self, more: Self) {
        self.conversations += more.conversations;
        self.messages += more.messages;
        self.skipped += more.skipped;
    }
}

crate::store::sql::statements! {
    MINE = "SELECT 1 FROM conversations WHERE id = ?2 AND owner = ?1";
    CONVERSATION_TAKEN = "SELECT 1 FROM conversations WHERE id = ?1
        UNION ALL SELECT 1 FROM tombstones WHERE kind = 'conversation' AND id = ?1";
    MY_MESSAGE = "SELECT 1 FROM messages WHERE id = ?2 AND owner = ?1";
    MESSAGE_TAKEN = "SELECT 1 FROM messages WHERE id = ?1
        UNION ALL SELECT 1 FROM tombstones WHERE kind = 'message' AND id = ?1";
    SESSION_TAKEN = "SELECT 1 FROM conversations WHERE owner = ?1 AND device = ?2 AND session_id = ?3";
    // Older than every existing conversation: an import does not change which one continues.
    ADD = "INSERT INTO conversations (id, owner, title, title_by_user, next_seq, messages, activity,
            created_unix_ms, created_synced, updated_unix_ms, updated_synced, updated_monotonic_ns, boot,
            device, session_id, named)
        VALUES (?1, ?2, ?3, ?11, ?4, ?5, (SELECT coalesce(min(activity), 1) - 1 FROM conversations
            WHERE owner = ?2), ?6, 1, ?7, 1, 0, ?8, ?9, ?10, ?12)";
    RID = "SELECT rid FROM conversations WHERE id = ?1";
}

/// A source and its answer.
pub type Link = (MessageId, MessageId);

impl Memory {
    /// Stores the conversations of an export (one, a list of them, or those of a person) as `user`'s. They
    /// keep their ids if these are free; ids that were deleted here or belong to another person are replaced
    /// by new ones. Conversations that `user` already has stay unchanged. The imported ones can be continued
    /// on this device.
    ///
    /// # Errors
    /// `Unreadable`, `InvalidSession`, `TooLong` for invalid input; then nothing is stored.
    pub async fn import_conversations(&self, user: UserId, json: &str) -> Result<Imported> {
        let Document(conversations) = serde_json::from_str(json).map_err(|e| unreadable(0, reason_of(&e)))?;
        self.import_all(user, conversations).await.map(|(done, _)| done)
    }

    /// As [`Memory::import_conversations`], for one conversation. It also returns the links of its answers to
    /// sources in other conversations, for [`Memory::link_sources`] after these were imported.
    ///
    /// # Errors
    /// As [`Memory::import_conversations`].
    pub async fn import_conversation(&self, user: UserId, json: &str) -> Result<(Imported, Vec<Link>)> {
        let one: ExportedConversation =
            serde_json::from_str(json).map_err(|e| unreadable(0, reason_of(&e)))?;
        self.import_all(user, vec![one]).await
    }

    /// Stores the links from answers of `user` to their sources. Links to messages that are missing, or
    /// belong to another person, are left out.
    ///
    /// # Errors
    /// [`MemoryError`]; then no link is stored.
    pub async fn link_sources(&self, user: UserId, links: &[Link]) -> Result<()> {
        let (mut tx, _) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        link(&mut tx, owner, links).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn import_all(
        &self,
        user: UserId,
        mut conversations: Vec<ExportedConversation>,
    ) -> Result<(Imported, Vec<Link>)> {
        let mut homes = HashMap::new();
        for (n, conversation) in conversations.iter_mut().enumerate() {
            check(n + 1, conversation)?;
            for ExportedMessage { message, .. } in &conversation.messages {
                // Each of a thousand duplicates would get an id behind all earlier ones.
                let home = homes.insert(message.id, conversation.id);
                if home.is_some_and(|home| home != conversation.id) {
                    return Err(unreadable(
                        n + 1,
                        "a message of it is in another conversation as well".to_owned(),
                    ));
                }
            }
        }
        let (mut tx, stamp) = self.begin().await?;
        let here = self.here()?;
        let owner = owner_rid(&mut tx, user).await?;
        let boot = boot_rid(&mut tx, NO_BOOT).await?;
        let mut done = Imported::default();
        let (mut made_from, mut elsewhere): (Vec<Link>, Vec<Link>) = (Vec::new(), Vec::new());
        // The newest first, each older than the previous one.
        for conversation in conversations.iter().rev() {
            let Some(id) = free_conversation(&mut tx, owner, conversation.id).await? else {
                done.skipped += 1;
                elsewhere.extend(links_of(conversation));
                continue;
            };
            let session = free_session(&mut tx, owner, here.device, conversation).await?;
            let named = named::now_after(&uuid::Uuid::nil(), &stamp);
            let last = conversation.messages.last().map_or(0, |last| last.message.seq);
            let add = sqlx::query(ADD)
                .bind(id.bytes())
                .bind(owner)
                .bind(&conversation.title)
                .bind(last + 1)
                .bind(i64::try_from(conversation.messages.len()).unwrap_or(i64::MAX))
                .bind(conversation.created_unix_ms)
                .bind(conversation.updated_unix_ms)
                .bind(boot)
                .bind(here.device)
                .bind(session)
                .bind(named_by_a_person(conversation))
                .bind(named::bytes(&named));
            tx.execute(add).await?;
            enqueue(&mut tx, Op::UpsertConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
            let row = tx.optional(sqlx::query(RID).bind(id.bytes())).await?;
            let rid: i64 = row.map(|row| get(&row, "rid")).transpose()?.unwrap_or_default();
            for ExportedMessage { message, sources } in &conversation.messages {
                let mut id = message.id;
                while tx.optional(sqlx::query(MESSAGE_TAKEN).bind(id.bytes())).await?.is_some() {
                    id = MessageId(next_id(id.0));
                }
                let add = sqlx::query(INSERT)
                    .bind(id.bytes())
                    .bind(rid)
                    .bind(owner)
                    .bind(message.seq)
                    .bind(message.role.as_str())
                    .bind(message.kind.as_str())
                    .bind(&message.text)
                    .bind(message.meta.as_ref().map(serde_json::Value::to_string))
                    .bind(message.wall_unix_ms)
                    .bind(message.clock_synced)
                    .bind(0)
                    .bind(boot)
                    .bind(here.device);
                tx.execute(add).await?;
                enqueue(&mut tx, Op::InsertMessage, id.0, Some(user.0), stamp.wall_unix_ms).await?;
                made_from.extend(sources.iter().map(|source| (*source, id)));
            }
            done.conversations += 1;
            done.messages += conversation.messages.len();
        }
        link(&mut tx, owner, &made_from).await?;
        tx.commit().await?;
        elsewhere.extend(made_from);
        let here: BTreeSet<MessageId> =
            conversations.iter().flat_map(|c| c.messages.iter().map(|m| m.message.id)).collect();
        elsewhere.retain(|(source, _)| !here.contains(source));
        Ok((done, elsewhere))
    }
}

/// The id under which the conversation `id` comes back; `None` if it exists already. A deleted one comes back
/// under the id that follows from the buried one. So a repeated restore, here or on another device, finds
/// that it exists.
async fn free_conversation(
    tx: &mut Tx<'_>,
    owner: i64,
    mut id: ConversationId,
) -> Result<Option<ConversationId>> {
    loop {
        if tx.optional(sqlx::query(MINE).bind(owner).bind(id.bytes())).await?.is_some() {
            return Ok(None);
        }
        if tx.optional(sqlx::query(CONVERSATION_TAKEN).bind(id.bytes())).await?.is_none() {
            return Ok(Some(id));
        }
        id = ConversationId(next_id(id.0));
    }
}

/// The replacement for an unusable id: a UUIDv7 of the same moment, with a hash of the old id as its random
/// part. The longest chain is as long as the number of times the same thing was deleted and restored.
fn next_id(id: Uuid) -> Uuid {
    let hash = Sha256::digest(id.as_bytes());
    let mut bytes = *id.as_bytes();
    for (byte, hashed) in bytes.iter_mut().zip(hash.iter()).skip(6) {
        *byte = *hashed;
    }
    Builder::from_bytes(bytes).with_version(Version::SortRand).with_variant(Variant::RFC4122).into_uuid()
}

/// The links of the answers in `conversation`.
fn links_of(conversation: &ExportedConversation) -> impl Iterator<Item = Link> {
    let messages = conversation.messages.iter();
    messages.flat_map(|one| one.sources.iter().map(|source| (*source, one.message.id)))
}

async fn link(tx: &mut Tx<'_>, owner: i64, links: &[Link]) -> Result<()> {
    for (source, message) in links {
        let (source, message) = (here_as(tx, owner, *source).await?, here_as(tx, owner, *message).await?);
        if let (Some(source), Some(message)) = (source, message) {
            tx.execute(sqlx::query(ADD_SOURCE).bind(owner).bind(source.bytes()).bind(message.bytes()))
                .await?;
        }
    }
    Ok(())
}

/// The id under which a message of the export exists here as `owner`'s.
async fn here_as(tx: &mut Tx<'_>, owner: i64, mut id: MessageId) -> Result<Option<MessageId>> {
    loop {
        if tx.optional(sqlx::query(MY_MESSAGE).bind(owner).bind(id.bytes())).await?.is_some() {
            return Ok(Some(id));
        }
        if tx.optional(sqlx::query(MESSAGE_TAKEN).bind(id.bytes())).await?.is_none() {
            return Ok(None);
        }
        id = MessageId(next_id(id.0));
    }
}

/// The session id of `conversation`, if no other conversation here has it.
async fn free_session<'a>(
    tx: &mut Tx<'_>,
    owner: i64,
    device: i64,
    conversation: &'a ExportedConversation,
) -> Result<Option<&'a str>> {
    let Some(session) = conversation.session_id.as_deref() else { return Ok(None) };
    let taken = tx.optional(sqlx::query(SESSION_TAKEN).bind(owner).bind(device).bind(session)).await?;
    Ok(taken.is_none().then_some(session))
}

/// Whether the title is more than the first words of the conversation.
fn named_by_a_person(conversation: &ExportedConversation) -> bool {
    let mut messages = conversation.messages.iter().map(|one| &one.message);
    let said = messages.find(|m| m.role == Role::User && m.kind != Kind::Ask);
    !conversation.title.is_empty() && said.is_none_or(|said| title_from(&said.text) != conversation.title)
}

/// Checks the `n`th conversation and converts its text to the stored form.
fn check(n: usize, conversation: &mut ExportedConversation) -> Result<()> {
    let refuse = |reason: &str| Err(unreadable(n, reason.to_owned()));
    conversation.title = tidy_within(&conversation.title, MAX_TITLE_CHARS);
    if let Some(session) = &conversation.session_id {
        SessionId::new(session)?;
    }
    let time = |unix_ms: i64| (0..=LAST_UNIX_MS).contains(&unix_ms);
    if !time(conversation.created_unix_ms) || !time(conversation.updated_unix_ms) {
        return refuse("it has a time outside the years 1970 to 9999");
    }
    let (mut last, mut ids) = (0, BTreeSet::new());
    for ExportedMessage { message, .. } in &mut conversation.messages {
        if message.seq <= last || message.seq > i64::from(u32::MAX) {
            return refuse("its messages are not numbered upwards from 1");
        }
        last = message.seq;
        if !ids.insert(message.id) {
            return refuse("two of its messages have the same id");
        }
        if !time(message.wall_unix_ms) {
            return refuse("a message has a time outside the years 1970 to 9999");
        }
        if message
            .meta
            .as_ref()
            .is_some_and(|meta| !meta.is_object() || meta.to_string().len() > MAX_META_BYTES)
        {
            return refuse("the meta of a message is no object, or too long");
        }
        message.text = checked_text(&message.text)?;
    }
    Ok(())
}

fn unreadable(conversation: usize, reason: String) -> MemoryError {
    MemoryError::Unreadable { conversation, reason }
}

/// The fault of the document, without its text, which is private.
fn reason_of(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            "it is not what `conversation export` or `user export` writes".to_owned()
        }
        _ => format!("it is not JSON (line {}, column {})", error.line(), error.column()),
    }
}
