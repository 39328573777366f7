//! Messages: reading them, and forgetting them for good.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;

use super::conversations::title_from;
use super::summary::{covered_within, rebuild_within};
use super::users::owner_rid;
use super::{ConversationId, Memory, MemoryError, MessageId, Result, UserId, get, named};
use crate::clock::Stamp;
use crate::store::queue::{Op, enqueue};
use crate::store::{StoreError, Tx};

/// Longest message, in bytes of UTF-8: hours of speech.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// The kind of a message for recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Plain talk: it can be recalled.
    #[default]
    Say,
    /// The person asked to remember it: recalled first.
    Note,
    /// A question or an order to the memory: never recalled itself.
    Ask,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Say => "say",
            Self::Note => "note",
            Self::Ask => "ask",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub id: MessageId,
    /// Not read by an import: a message belongs to the conversation that it stands in.
    #[serde(skip_deserializing)]
    pub conversation_id: ConversationId,
    /// Order within the conversation, from 1.
    pub seq: i64,
    pub role: Role,
    pub kind: Kind,
    pub text: String,
    pub wall_unix_ms: i64,
    pub clock_synced: bool,
    /// Confidence of the speaker check and recogniser (user), or the responder (assistant).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<serde_json::Value>,
}

impl Message {
    /// The candidates named by an answer that asks which message is meant, in its order.
    pub fn asks_which(&self) -> Vec<MessageId> {
        let which = self.meta.as_ref().and_then(|meta| meta.get("which"));
        which.and_then(|which| serde_json::from_value(which.clone()).ok()).unwrap_or_default()
    }
}

crate::store::sql::statements! {
    HISTORY = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
        m.clock_synced, m.meta FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE c.id = ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1) AND m.seq < ?3
        ORDER BY m.seq DESC LIMIT ?4";
    NOTES = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
        m.clock_synced, m.meta FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE m.owner = (SELECT rid FROM users WHERE id = ?1) AND m.kind = 'note'
        ORDER BY m.rid DESC LIMIT ?2";
    THESE = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
        m.clock_synced, m.meta FROM json_each(?2) wanted CROSS JOIN messages m ON m.id = unhex(wanted.value)
        JOIN conversations c ON c.rid = m.conversation
        WHERE m.owner = (SELECT rid FROM users WHERE id = ?1) ORDER BY wanted.key";
    SOURCES = "SELECT source.id AS id FROM messages answer
        JOIN message_sources s ON s.message = answer.rid JOIN messages source ON source.rid = s.source
        WHERE answer.id = ?2 AND answer.owner = (SELECT rid FROM users WHERE id = ?1)";
    PLACE = "SELECT rid, id, conversation, seq, role FROM messages WHERE id = ?2 AND owner = ?1";
    ANSWER_OF = "SELECT rid, id, conversation, seq, role FROM messages
        WHERE conversation = ?2 AND seq = ?3 + 1 AND role = 'assistant' AND owner = ?1";
    QUESTION_OF = "SELECT rid, id, conversation, seq, role FROM messages
        WHERE conversation = ?2 AND seq = ?3 - 1 AND role = 'user' AND owner = ?1";
    MADE_FROM = "SELECT m.rid, m.id, m.conversation, m.seq, m.role FROM message_sources s
        JOIN messages m ON m.rid = s.message WHERE s.source = ?2 AND m.owner = ?1";
    DELETE = "DELETE FROM messages WHERE rid = ?2 AND owner = ?1";
    COUNT_DOWN = "UPDATE conversations SET messages = messages - ?3 WHERE rid = ?2 AND owner = ?1";
    AUTOMATIC_TITLE = "SELECT id, title FROM conversations WHERE rid = ?2 AND owner = ?1
        AND title_by_user = 0";
    FIRST_WORDS = "SELECT text FROM messages
        WHERE conversation = ?2 AND owner = ?1 AND role = 'user' AND kind <> 'ask' ORDER BY seq LIMIT 1";
    UNSENT = "SELECT c.id AS id FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE m.rid = ?2 AND m.owner = ?1 AND EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = m.id)";
    SET_TITLE = "UPDATE conversations SET title = ?3, named = ?4 WHERE rid = ?2 AND owner = ?1";
}

impl Memory {
    /// The last `limit` messages of a conversation before `before_seq` (or its end), oldest first.
    ///
    /// # Errors
    /// `NotFound` if `user` has no such conversation.
    pub async fn history(
        &self,
        user: UserId,
        conversation: ConversationId,
        before_seq: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Message>> {
        let query = sqlx::query(HISTORY)
            .bind(user.bytes())
            .bind(conversation.bytes())
            .bind(before_seq.unwrap_or(i64::MAX))
            .bind(limit);
        let rows = self.read_all(query).await?;
        if rows.is_empty() {
            self.conversation(user, conversation).await?;
        }
        Ok(rows.iter().rev().map(message_of).collect::<Result<_, _>>()?)
    }

    /// The messages that `user` asked to remember, newest first.
    pub async fn notes(&self, user: UserId, limit: u32) -> Result<Vec<Message>> {
        let rows = self.read_all(sqlx::query(NOTES).bind(user.bytes()).bind(limit)).await?;
        Ok(rows.iter().map(message_of).collect::<Result<_, _>>()?)
    }

    /// The messages of `messages` that `user` has, in this order.
    pub async fn messages(&self, user: UserId, messages: &[MessageId]) -> Result<Vec<Message>> {
        let wanted: Vec<String> = messages.iter().map(|id| id.0.simple().to_string()).collect();
        let these = sqlx::query(THESE).bind(user.bytes()).bind(serde_json::json!(wanted).to_string());
        Ok(self.read_all(these).await?.iter().map(message_of).collect::<Result<_, _>>()?)
    }

    /// The sources of an answer.
    pub async fn sources(&self, user: UserId, answer: MessageId) -> Result<Vec<MessageId>> {
        let rows = self.read_all(sqlx::query(SOURCES).bind(user.bytes()).bind(answer.bytes())).await?;
        Ok(rows.iter().map(|row| MessageId::read(row, "id")).collect::<Result<_, _>>()?)
    }

    /// Forgets messages of `user` for good: see [invariant 4](super). Ids of other people's messages are
    /// ignored. Returns the number of messages forgotten.
    pub async fn forget(&self, user: UserId, messages: &[MessageId]) -> Result<usize> {
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let gone = forget_in(&mut tx, user, owner, messages, &stamp).await?;
        if gone > 0 {
            self.want_scrub(&mut tx, &stamp).await?;
        }
        tx.commit().await?;
        if gone > 0 {
            self.scrub().await;
        }
        Ok(gone)
    }
}

/// Messages to delete, by row number.
#[derive(Debug)]
pub(super) struct Doomed(BTreeMap<i64, Place>);

impl Doomed {
    pub(super) fn rids(&self) -> Vec<i64> {
        self.0.keys().copied().collect()
    }
}

/// The place of a message.
#[derive(Debug)]
struct Place {
    id: MessageId,
    conversation: i64,
    seq: i64,
    is_answer: bool,
}

/// Deletes `messages` of `owner`, the other half of their turns, and every turn with an answer made from any
/// of them.
pub(super) async fn forget_in(
    tx: &mut Tx<'_>,
    user: UserId,
    owner: i64,
    messages: &[MessageId],
    stamp: &Stamp,
) -> Result<usize> {
    let gone = doomed(tx, owner, messages).await?;
    delete_in(tx, user, owner, gone, stamp).await
}

/// The messages deleted together with `messages` of `owner`: the other half of their turns, and every turn
/// with an answer made from any of them.
pub(super) async fn doomed(tx: &mut Tx<'_>, owner: i64, messages: &[MessageId]) -> Result<Doomed> {
    let mut gone = BTreeMap::new();
    let mut found = Vec::new();
    for message in messages {
        found.extend(tx.all(sqlx::query(PLACE).bind(owner).bind(message.bytes())).await?);
    }
    while let Some(row) = found.pop() {
        let (rid, place) = place_of(&row)?;
        let mate = if place.is_answer { QUESTION_OF } else { ANSWER_OF };
        let mate = sqlx::query(mate).bind(owner).bind(place.conversation).bind(place.seq);
        if gone.insert(rid, place).is_some() {
            continue;
        }
        found.extend(tx.all(mate).await?);
        found.extend(tx.all(sqlx::query(MADE_FROM).bind(owner).bind(rid)).await?);
    }
    Ok(Doomed(gone))
}

/// Deletes the messages found by [`doomed`], and returns their number.
pub(super) async fn delete_in(
    tx: &mut Tx<'_>,
    user: UserId,
    owner: i64,
    Doomed(gone): Doomed,
    stamp: &Stamp,
) -> Result<usize> {
    // A message that is never sent cannot raise `next_seq` of its conversation in Postgres, so the
    // conversation itself is queued for that.
    let mut raised = BTreeSet::new();
    for rid in gone.keys() {
        let row = tx.optional(sqlx::query(UNSENT).bind(owner).bind(rid)).await?;
        raised.extend(row.map(|row| ConversationId::read(&row, "id")).transpose()?);
    }
    for conversation in raised {
        enqueue(tx, Op::UpsertConversation, conversation.0, Some(user.0), stamp.wall_unix_ms).await?;
    }
    let mut touched = BTreeMap::<i64, i64>::new();
    let mut covered = BTreeMap::<i64, i64>::new();
    for place in gone.values() {
        if let Entry::Vacant(entry) = covered.entry(place.conversation) {
            entry.insert(covered_within(tx, owner, place.conversation).await?);
        }
    }
    for (rid, place) in &gone {
        tx.execute(sqlx::query(DELETE).bind(owner).bind(rid)).await?;
        enqueue(tx, Op::DeleteMessage, place.id.0, Some(user.0), stamp.wall_unix_ms).await?;
        *touched.entry(place.conversation).or_default() += 1;
    }
    for (conversation, count) in &touched {
        tx.execute(sqlx::query(COUNT_DOWN).bind(owner).bind(conversation).bind(count)).await?;
    }
    // The trigger has emptied the summaries that covered any of them.
    for (conversation, upto) in covered {
        if upto > 0 && covered_within(tx, owner, conversation).await? == 0 {
            rebuild_within(tx, owner, conversation, upto).await?;
        }
    }
    retitle(tx, user, owner, touched.into_keys().collect(), stamp).await?;
    Ok(gone.len())
}

/// Makes an automatic title anew from the remaining messages, since its words may just have been forgotten.
pub(super) async fn retitle(
    tx: &mut Tx<'_>,
    user: UserId,
    owner: i64,
    conversations: BTreeSet<i64>,
    stamp: &Stamp,
) -> Result<()> {
    for conversation in conversations {
        let row = tx.optional(sqlx::query(AUTOMATIC_TITLE).bind(owner).bind(conversation)).await?;
        let Some(row) = row else { continue };
        let (id, title) = (ConversationId::read(&row, "id")?, get::<String>(&row, "title")?);
        let first = tx.optional(sqlx::query(FIRST_WORDS).bind(owner).bind(conversation)).await?;
        let first = first.map(|row| get::<String>(&row, "text")).transpose()?;
        let new = first.as_deref().map(title_from).unwrap_or_default();
        if new != title {
            let named = named::just_after(&named::of_conversation(tx, conversation, owner).await?);
            let set = sqlx::query(SET_TITLE).bind(owner).bind(conversation).bind(new);
            tx.execute(set.bind(named::bytes(&named))).await?;
            enqueue(tx, Op::UpsertConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        }
    }
    Ok(())
}

/// Converts text to its stored form.
///
/// # Errors
/// `TooLong` above [`MAX_MESSAGE_BYTES`].
pub(super) fn checked_text(text: &str) -> Result<String> {
    if text.len() > MAX_MESSAGE_BYTES {
        return Err(MemoryError::TooLong { bytes: text.len(), max: MAX_MESSAGE_BYTES });
    }
    // Postgres cannot hold NUL in text; replacing it here keeps both stores equal.
    Ok(text.replace('\0', "\u{fffd}"))
}

fn place_of(row: &SqliteRow) -> Result<(i64, Place), StoreError> {
    let place = Place {
        id: MessageId::read(row, "id")?,
        conversation: get(row, "conversation")?,
        seq: get(row, "seq")?,
        is_answer: get::<String>(row, "role")? == Role::Assistant.as_str(),
    };
    Ok((get(row, "rid")?, place))
}

pub(super) fn message_of(row: &SqliteRow) -> Result<Message, StoreError> {
    let (role, kind): (String, String) = (get(row, "role")?, get(row, "kind")?);
    let meta: Option<String> = get(row, "meta")?;
    Ok(Message {
        id: MessageId::read(row, "id")?,
        conversation_id: ConversationId::read(row, "conversation_id")?,
        seq: get(row, "seq")?,
        role: if role == Role::Assistant.as_str() { Role::Assistant } else { Role::User },
        kind: match kind.as_str() {
            "note" => Kind::Note,
            "ask" => Kind::Ask,
            _ => Kind::Say,
        },
        text: get(row, "text")?,
        wall_unix_ms: get(row, "wall_unix_ms")?,
        clock_synced: get(row, "clock_synced")?,
        meta: meta.and_then(|meta| serde_json::from_str(&meta).ok()),
    })
}
