//! Conversations: several a person, each with one writing device; the latest of this device continues.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::users::owner_rid;
use super::{ConversationId, Memory, MemoryError, Result, UserId, get, named, words};
use crate::clock::Stamp;
use crate::store::queue::{Op, enqueue};
use crate::store::{StoreError, Tx};
use crate::text::{tidy, tidy_within, unseen};

/// Longest title, in characters. An automatic title is cut there, a title chosen by a person is refused.
pub const MAX_TITLE_CHARS: usize = 80;
/// Words of the first message in an automatic title.
const TITLE_WORDS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conversation {
    pub id: ConversationId,
    /// First words of the first message, or the name given by the person; may be empty.
    pub title: String,
    /// Present number of messages (two a turn).
    pub messages: i64,
    pub created_unix_ms: i64,
    pub updated_unix_ms: i64,
    /// The device where it began, the only one that continues it. `None` if no longer known.
    pub device: Option<String>,
    /// A client's own name for it (see [`super::SessionId`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(skip)]
    pub(super) cursor: i64,
}

/// The start of the next page of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Cursor(pub i64);

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T, C = Cursor> {
    pub items: Vec<T>,
    /// Pass it on for the next page; `None` at the end.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// A page of at most `limit` of `items`; one item more than that shows that there is another page.
    pub(super) fn of(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

crate::store::sql::statements! {
    CREATE = "INSERT INTO conversations (id, owner, title, title_by_user, activity, created_unix_ms,
            created_synced, updated_unix_ms, updated_synced, updated_monotonic_ns, boot, device, session_id,
            named)
        VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(activity), 0) + 1 FROM conversations WHERE owner = ?2),
            ?5, ?6, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    LIST = "SELECT c.id AS id, c.title, c.messages, c.created_unix_ms, c.updated_unix_ms, c.activity,
            d.id AS device, c.session_id
        FROM conversations c LEFT JOIN devices d ON d.rid = c.device
        WHERE c.owner = (SELECT rid FROM users WHERE id = ?1) AND c.activity < ?2
        ORDER BY c.activity DESC LIMIT ?3";
    FIND = "SELECT c.id AS id, c.title, c.messages, c.created_unix_ms, c.updated_unix_ms, c.activity,
            d.id AS device, c.session_id
        FROM conversations c LEFT JOIN devices d ON d.rid = c.device
        WHERE c.id = ?2 AND c.owner = (SELECT rid FROM users WHERE id = ?1)";
    LATEST = "SELECT c.id, c.updated_unix_ms, c.updated_synced, c.updated_monotonic_ns, b.boot_id
        FROM conversations c JOIN boots b ON b.rid = c.boot
        WHERE c.owner = (SELECT rid FROM users WHERE id = ?1) AND c.device = (SELECT rid FROM devices
        WHERE id = ?2) ORDER BY c.activity DESC LIMIT 1";
    COUNT = "SELECT count(*) AS n FROM conversations WHERE owner = (SELECT rid FROM users WHERE id = ?1)";
    RENAME = "UPDATE conversations SET title = ?3, title_by_user = 1, named = ?4 WHERE rid = ?2
        AND owner = ?1";
    RID = "SELECT rid FROM conversations WHERE id = ?2 AND owner = ?1";
    COUNT_MESSAGES = "SELECT messages AS n FROM conversations WHERE rid = ?1";
    DELETE_MESSAGES = "DELETE FROM messages WHERE conversation = ?1 AND owner = ?2";
    DELETE = "DELETE FROM conversations WHERE rid = ?1 AND owner = ?2";
    // Both delete pending entries of messages, before the messages are deleted.
    FORGET_PENDING = "DELETE FROM queue WHERE entity_id IN (SELECT id FROM messages WHERE conversation = ?1
        AND owner = ?2)";
    FORGET_DEAD = "DELETE FROM dead_letter
        WHERE entity_id IN (SELECT id FROM messages WHERE conversation = ?1 AND owner = ?2)";
}

impl Memory {
    /// Starts an empty conversation on this device, which then continues. `title` is optional.
    ///
    /// # Errors
    /// `InvalidTitle`, and storage errors.
    pub async fn new_conversation(&self, user: UserId, title: Option<&str>) -> Result<ConversationId> {
        let title = title.map(checked_title).transpose()?;
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let id = self.create_conversation(&mut tx, user, owner, title.as_deref(), None, &stamp).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// One page of the conversations of `user`, including those of other devices, latest first.
    pub async fn list_conversations(
        &self,
        user: UserId,
        from: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<Conversation>> {
        let before = from.map_or(i64::MAX, |cursor| cursor.0);
        // One row more than requested shows whether there is another page.
        let query = sqlx::query(LIST).bind(user.bytes()).bind(before).bind(i64::from(limit) + 1);
        let rows = self.read_all(query).await?;
        let items = rows.iter().map(conversation_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(items, limit, |last| Cursor(last.cursor)))
    }

    /// The number of conversations of `user`.
    pub async fn count_conversations(&self, user: UserId) -> Result<i64> {
        let row = self.read_optional(sqlx::query(COUNT).bind(user.bytes())).await?;
        Ok(row.map(|row| get(&row, "n")).transpose()?.unwrap_or(0))
    }

    pub async fn conversation(&self, user: UserId, id: ConversationId) -> Result<Conversation> {
        let row = self.read_optional(sqlx::query(FIND).bind(user.bytes()).bind(id.bytes())).await?;
        Ok(conversation_of(&row.ok_or_else(|| MemoryError::not_found("conversation", id))?)?)
    }

    /// Returns `id` if it is a conversation of `user` that this device may continue.
    ///
    /// # Errors
    /// `NotFound`, `OtherHome`.
    pub async fn home(&self, user: UserId, id: ConversationId) -> Result<ConversationId> {
        let Conversation { device, .. } = self.conversation(user, id).await?;
        if device.as_deref() == Some(&*self.device) {
            return Ok(id);
        }
        Err(MemoryError::OtherHome { conversation: id, device })
    }

    /// The latest conversation of `user` on this device, if its last turn is at most `within_ms` before
    /// `now`.
    ///
    /// Within one boot the monotonic clock decides; across boots the wall clock, if it was synced both times.
    /// If the time that passed is unknown, the conversation continues: a restart must not cut it.
    pub async fn current_conversation(
        &self,
        user: UserId,
        within_ms: i64,
        now: &Stamp,
    ) -> Result<Option<ConversationId>> {
        let latest = sqlx::query(LATEST).bind(user.bytes()).bind(&*self.device);
        let Some(row) = self.read_optional(latest).await? else {
            return Ok(None);
        };
        let (wall, synced): (i64, bool) = (get(&row, "updated_unix_ms")?, get(&row, "updated_synced")?);
        let (monotonic, boot): (i64, String) = (get(&row, "updated_monotonic_ns")?, get(&row, "boot_id")?);
        // A fixed clock moves only the wall time.
        let fixed = matches!(self.clock, crate::clock::Clock::Fixed(_));
        let since_ms = if boot == *now.boot_id && !fixed {
            now.monotonic_ns.saturating_sub(monotonic) / 1_000_000
        } else if synced && now.synced {
            now.wall_unix_ms.saturating_sub(wall)
        } else {
            0
        };
        Ok(if since_ms <= within_ms { Some(ConversationId::read(&row, "id")?) } else { None })
    }

    /// Gives a conversation a title that an automatic one does not replace.
    ///
    /// # Errors
    /// `InvalidTitle`, `NotFound`.
    pub async fn rename_conversation(&self, user: UserId, id: ConversationId, title: &str) -> Result<()> {
        let title = checked_title(title)?;
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let row = tx.optional(sqlx::query(RID).bind(owner).bind(id.bytes())).await?;
        let rid: i64 = get(&row.ok_or_else(|| MemoryError::not_found("conversation", id))?, "rid")?;
        let named = named::now_after(&named::of_conversation(&mut tx, rid, owner).await?, &stamp);
        tx.execute(sqlx::query(RENAME).bind(owner).bind(rid).bind(title).bind(named::bytes(&named))).await?;
        enqueue(&mut tx, Op::UpsertConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        // The old title is text of a person.
        self.commit_deletion(tx, &stamp).await
    }

    /// Deletes the conversation with its messages, their index entries and their queue entries.
    pub async fn delete_conversation(&self, user: UserId, id: ConversationId) -> Result<()> {
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let row = tx.optional(sqlx::query(RID).bind(owner).bind(id.bytes())).await?;
        let row = row.ok_or_else(|| MemoryError::not_found("conversation", id))?;
        let rid: i64 = get(&row, "rid")?;
        erase_conversation(&mut tx, rid, owner).await?;
        enqueue(&mut tx, Op::DeleteConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        self.commit_deletion(tx, &stamp).await
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of a row, all of them needed")]
    pub(super) async fn create_conversation(
        &self,
        tx: &mut Tx<'_>,
        user: UserId,
        owner: i64,
        title: Option<&str>,
        session: Option<&str>,
        stamp: &Stamp,
    ) -> Result<ConversationId> {
        let id = ConversationId::new();
        let here = self.here()?;
        let named = named::now_after(&Uuid::nil(), stamp);
        let create = sqlx::query(CREATE)
            .bind(id.bytes())
            .bind(owner)
            .bind(title.unwrap_or_default())
            .bind(title.is_some())
            .bind(stamp.wall_unix_ms)
            .bind(stamp.synced)
            .bind(stamp.monotonic_ns)
            .bind(here.boot)
            .bind(here.device)
            .bind(session)
            .bind(named::bytes(&named));
        tx.execute(create).await?;
        enqueue(tx, Op::UpsertConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        Ok(id)
    }
}

/// Deletes the conversation `rid` of `owner` with its messages and their pending entries. It leaves no
/// tombstone.
pub(super) async fn erase_conversation(tx: &mut Tx<'_>, rid: i64, owner: i64) -> Result<()> {
    let anew = words::will_delete(tx, sqlx::query(COUNT_MESSAGES).bind(rid)).await?;
    for sql in [FORGET_PENDING, FORGET_DEAD, DELETE_MESSAGES, DELETE] {
        tx.execute(sqlx::query(sql).bind(rid).bind(owner)).await?;
    }
    words::deleted(tx, anew).await
}

/// The first words of a message as a title.
pub(super) fn title_from(text: &str) -> String {
    // A title is a few words: the rest of the message, however long, is not scanned.
    let start: String = text.chars().take(16 * MAX_TITLE_CHARS).collect();
    let words = tidy(&start).split(' ').take(TITLE_WORDS).collect::<Vec<_>>().join(" ");
    tidy_within(&words, MAX_TITLE_CHARS)
}

/// A title chosen by a person, with single spaces.
///
/// # Errors
/// `InvalidTitle` if it is empty, too long, or holds invisible characters.
pub(super) fn checked_title(title: &str) -> Result<String> {
    let refuse = |reason| Err(MemoryError::InvalidTitle { reason });
    // White space of any kind is a space; other control characters are refused.
    let spaced = title.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(reason) = unseen(&spaced) {
        return refuse(reason);
    }
    let tidy = tidy(&spaced);
    match tidy.chars().count() {
        0 => refuse("it is empty"),
        1..=MAX_TITLE_CHARS => Ok(tidy),
        _ => refuse("it has more than 80 characters"),
    }
}

fn conversation_of(row: &SqliteRow) -> Result<Conversation, StoreError> {
    Ok(Conversation {
        id: ConversationId::read(row, "id")?,
        title: get(row, "title")?,
        messages: get(row, "messages")?,
        created_unix_ms: get(row, "created_unix_ms")?,
        updated_unix_ms: get(row, "updated_unix_ms")?,
        device: get(row, "device")?,
        session_id: get(row, "session_id")?,
        cursor: get(row, "activity")?,
    })
}
