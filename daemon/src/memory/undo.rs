//! Keeps the messages that a person has just forgotten, until they can no longer be brought back.
//!
//! ```text
//!  "forget the key" ──▶ rows, index and queue entries are deleted, deletions are queued: all as without undo
//!                       copies of the rows ──sealed──▶ table `forgotten`, the key ──▶ jarvis.db.undo-ID
//!  "undo that"      ──▶ rows again, with new ids; the key and the sealed copy are deleted
//!  anything that ends it ──▶ the key and the sealed copy are deleted
//! ```
//!
//! The undo ends after [`UNDO_MINUTES`], when the person says something in another conversation, with a new
//! boot, or with the person or the conversation. [`Memory::open_with`] and [`Memory::maintain`] find undos
//! that have ended unnoticed. Invariants:
//!
//! 1. A crash forgets: the deletion is complete and queued for Postgres before there is an answer, and only
//!    "undo that" writes the words again. Restored messages have new ids, so no tombstone blocks them, here
//!    or elsewhere.
//! 2. No readable byte is kept: the log, free pages and copies of the database hold the sealed copy, which is
//!    worthless after the key, a separate file, is overwritten. A backup has no key.
//! 3. A key file is written and removed under the write lock of the database, so a key without a row is
//!    garbage.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::messages::{Doomed, retitle};
use super::summary::{covered_within, rebuild_within};
use super::turns::ADD_SOURCE;
use super::{ConversationId, Memory, MemoryError, MessageId, Result, Role, UserId, beside, get, named};
use crate::clock::Stamp;
use crate::durable;
use crate::store::queue::{Op, enqueue};
use crate::store::{StoreError, Tx};

/// Time in which a forgetting can be undone. Answers and documentation name it.
pub const UNDO_MINUTES: i64 = 10;
const UNDO_NS: i64 = UNDO_MINUTES * 60 * 1_000_000_000;
const KEY_BYTES: usize = 32;
/// Between the name of the database and the id in the name of a key file.
const KEY_MARK: &str = ".undo-";

crate::store::sql::statements! {
    ROWS = "SELECT m.rid, m.id, c.id AS conversation, m.seq, m.role, m.kind, m.text, m.meta, m.wall_unix_ms,
            m.clock_synced, m.monotonic_ns, m.boot, m.device
        FROM json_each(?2) wanted CROSS JOIN messages m ON m.rid = wanted.value
        JOIN conversations c ON c.rid = m.conversation
        WHERE m.owner = ?1 ORDER BY m.rid";
    LINKS = "SELECT source.id AS source, answer.id AS answer FROM message_sources s
        JOIN messages source ON source.rid = s.source JOIN messages answer ON answer.rid = s.message
        WHERE source.owner = ?1 AND (s.source IN (SELECT value FROM json_each(?2))
            OR s.message IN (SELECT value FROM json_each(?2)))";
    NAMES = "SELECT id, CASE title_by_user WHEN 1 THEN title END AS title, session_id FROM conversations
        WHERE owner = ?1 AND id = ?2";
    KEEP = "INSERT INTO forgotten (id, owner, conversation, monotonic_ns, boot, sealed) VALUES (?1, ?2, ?3,
        ?4, ?5, ?6)";
    LATEST = "SELECT f.id, f.sealed FROM forgotten f
        WHERE f.owner = (SELECT rid FROM users WHERE id = ?1)
            AND f.conversation = (SELECT rid FROM conversations WHERE id = ?2)
            AND f.boot = (SELECT rid FROM boots WHERE boot_id = ?3) AND f.monotonic_ns BETWEEN ?4 AND ?5
        ORDER BY f.rid DESC LIMIT 1";
    ANY = "SELECT EXISTS (SELECT 1 FROM forgotten) AS n";
    // A time after now comes from another clock.
    ENDED = "SELECT id FROM forgotten WHERE boot <> ?1 OR monotonic_ns NOT BETWEEN ?2 AND ?3
        OR (owner = ?4 AND conversation <> ?5)";
    END = "DELETE FROM forgotten WHERE id = ?1";
    ALL = "SELECT id FROM forgotten";
    CONVERSATION = "SELECT rid FROM conversations WHERE id = ?2 AND owner = ?1";
    // A message takes its old row number back, to keep its place among the newest. Another message may have
    // that number by now.
    INSERT = "INSERT INTO messages (rid, id, conversation, owner, seq, role, kind, text, meta, wall_unix_ms,
            clock_synced, monotonic_ns, boot, device)
        SELECT CASE WHEN EXISTS (SELECT 1 FROM messages WHERE rid = ?1) THEN NULL ELSE ?1 END,
            ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14";
    COUNT_UP = "UPDATE conversations SET messages = messages + ?3 WHERE rid = ?2 AND owner = ?1";
    NAME = "UPDATE conversations SET title = CASE title_by_user WHEN 1 THEN title ELSE coalesce(?3,
            title) END,
            title_by_user = max(title_by_user, ?3 IS NOT NULL), session_id = coalesce(session_id, ?4),
        named = ?5 WHERE rid = ?2 AND owner = ?1";
    TAKEN = "SELECT 1 FROM conversations c WHERE c.owner = ?1 AND c.session_id = ?3
        AND c.device IS (SELECT device FROM conversations WHERE rid = ?2)";
}

/// A forgetting that can still be undone.
#[derive(Debug, Clone, PartialEq)]
pub struct Undoable {
    id: Uuid,
    /// The ids of `messages` after they come back.
    ids: Vec<MessageId>,
    kept: Kept,
}

impl Undoable {
    /// The person's words among the messages, oldest first: their new ids, and the words.
    pub fn said(&self) -> Vec<(MessageId, &str)> {
        let mine =
            |row: &&(MessageId, &Row)| row.1.role == Role::User && row.1.kind != super::Kind::Ask.as_str();
        let rows = self.ids.iter().copied().zip(&self.kept.messages);
        rows.filter(|row| mine(&row)).map(|(id, row)| (id, row.text.as_str())).collect()
    }
}

/// The sealed content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    messages: Vec<Row>,
    /// Pairs (source, answer) with at least one in `messages`.
    links: Vec<(Uuid, Uuid)>,
    names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    rid: i64,
    id: Uuid,
    conversation: Uuid,
    seq: i64,
    role: Role,
    kind: String,
    text: String,
    meta: Option<String>,
    wall_unix_ms: i64,
    clock_synced: bool,
    monotonic_ns: i64,
    boot: i64,
    device: i64,
}

/// The names that a person gave a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Name {
    conversation: Uuid,
    title: Option<String>,
    session: Option<String>,
}

impl Memory {
    /// The latest forgetting in `conversation` that can still be undone.
    pub async fn undoable(
        &self,
        user: UserId,
        conversation: ConversationId,
        now: &Stamp,
    ) -> Result<Option<Undoable>> {
        let latest = sqlx::query(LATEST)
            .bind(user.bytes())
            .bind(conversation.bytes())
            .bind(&*now.boot_id)
            .bind(now.monotonic_ns.saturating_sub(UNDO_NS))
            .bind(now.monotonic_ns);
        let Some(row) = self.read_optional(latest).await? else { return Ok(None) };
        let id = uuid_of(&row, "id")?;
        let path = beside::path(self.store.path(), KEY_MARK, id);
        let key = read_key(&path).map_err(|e| StoreError::Disk { path, source: sqlx::Error::Io(e) })?;
        let sealed: &[u8] = get(&row, "sealed")?;
        let kept = key.and_then(|key| open(&key, sealed));
        Ok(kept.map(|kept| Undoable {
            id,
            ids: kept.messages.iter().map(|_| MessageId::new()).collect(),
            kept,
        }))
    }

    /// Ends every undo that is over and removes keys without a row; the next scrub removes the text from the
    /// file.
    pub(super) async fn end_undos(&self) -> Result<()> {
        let row = self.read_optional(sqlx::query(ANY)).await?;
        let any = row.map(|row| get::<bool>(&row, "n")).transpose()?.unwrap_or(false);
        if !any && beside::all(self.store.path(), KEY_MARK).is_empty() {
            return Ok(());
        }
        let (mut tx, now) = self.begin().await?;
        let ended = self.end_in(&mut tx, &now, None).await?;
        tx.commit().await?;
        if ended {
            self.scrub().await;
        } else {
            self.sweep_keys().await?;
        }
        Ok(())
    }

    /// Removes the keys of undos that are gone: with a person, with a conversation, by a crash.
    pub(super) async fn sweep_keys(&self) -> Result<()> {
        if beside::all(self.store.path(), KEY_MARK).is_empty() {
            return Ok(());
        }
        let (mut tx, _) = self.begin().await?;
        let alive = tx.all(sqlx::query(ALL)).await?;
        let alive = alive.iter().map(|row| uuid_of(row, "id")).collect::<Result<Vec<_>, _>>()?;
        for (id, path) in beside::all(self.store.path(), KEY_MARK) {
            if !alive.contains(&id) {
                shred(&path);
            }
        }
        Ok(tx.commit().await?)
    }

    /// Ends, in a transaction, the undos that are over and those of `owner` in other conversations than the
    /// one with the row number `here`. The keys are swept after the commit. Returns whether any ended, so
    /// that a scrub is wanted.
    pub(super) async fn end_in(
        &self,
        tx: &mut Tx<'_>,
        now: &Stamp,
        here: Option<(i64, i64)>,
    ) -> Result<bool> {
        let (owner, conversation) = here.unzip();
        let ended = sqlx::query(ENDED)
            .bind(self.here()?.boot)
            .bind(now.monotonic_ns.saturating_sub(UNDO_NS))
            .bind(now.monotonic_ns)
            .bind(owner)
            .bind(conversation);
        let ended = tx.all(ended).await?;
        for row in &ended {
            end_one(tx, uuid_of(row, "id")?).await?;
        }
        if !ended.is_empty() {
            self.want_scrub(tx, now).await?;
        }
        Ok(!ended.is_empty())
    }

    /// Collects the rows and names that will be gone, in the forgetting transaction before it deletes.
    pub(super) async fn keep_in(
        &self,
        tx: &mut Tx<'_>,
        owner: i64,
        doomed: &Doomed,
        unname: &[ConversationId],
    ) -> Result<Kept> {
        let rids = serde_json::json!(doomed.rids()).to_string();
        let rows = tx.all(sqlx::query(ROWS).bind(owner).bind(&rids)).await?;
        let messages = rows.iter().map(row_of).collect::<Result<_, StoreError>>()?;
        let links = tx.all(sqlx::query(LINKS).bind(owner).bind(&rids)).await?;
        let links = links.iter().map(|row| Ok((uuid_of(row, "source")?, uuid_of(row, "answer")?)));
        let mut kept = Kept { messages, links: links.collect::<Result<_, StoreError>>()?, names: Vec::new() };
        for id in unname {
            let Some(row) = tx.optional(sqlx::query(NAMES).bind(owner).bind(id.bytes())).await? else {
                continue;
            };
            let (title, session) = (get(&row, "title")?, get(&row, "session_id")?);
            kept.names.push(Name { conversation: id.0, title, session });
        }
        Ok(kept)
    }

    /// Seals the collected rows, in the forgetting transaction. A forgetting is valid without it, so an error
    /// while writing the key only prevents the undo. Returns whether it can be undone.
    pub(super) async fn seal_in(
        &self,
        tx: &mut Tx<'_>,
        owner: i64,
        conversation: i64,
        kept: &Kept,
        now: &Stamp,
    ) -> Result<bool> {
        let id = Uuid::now_v7();
        let sealed = match seal(&beside::path(self.store.path(), KEY_MARK, id), kept) {
            Ok(sealed) => sealed,
            Err(e) => {
                log::warn!("what was forgotten cannot be brought back: {e}");
                return Ok(false);
            }
        };
        let keep = sqlx::query(KEEP)
            .bind(id.as_bytes().to_vec())
            .bind(owner)
            .bind(conversation)
            .bind(now.monotonic_ns)
            .bind(self.here()?.boot)
            .bind(sealed);
        tx.execute(keep).await?;
        Ok(true)
    }

    /// Writes the forgotten messages again, with new ids, in a transaction. Returns their number.
    ///
    /// # Errors
    /// `NotFound` if they were brought back, or the undo ended, meanwhile.
    pub(super) async fn bring_back_in(
        &self,
        tx: &mut Tx<'_>,
        user: UserId,
        owner: i64,
        undo: &Undoable,
        now: &Stamp,
    ) -> Result<usize> {
        if end_one(tx, undo.id).await? == 0 {
            return Err(MemoryError::not_found("forgetting", "that can be undone"));
        }
        let mut back = 0;
        let mut touched = std::collections::BTreeMap::<i64, (i64, i64)>::new();
        for (id, row) in undo.ids.iter().zip(&undo.kept.messages) {
            let Some(conversation) = conversation_in(tx, owner, row.conversation).await? else { continue };
            let insert = sqlx::query(INSERT)
                .bind(row.rid)
                .bind(id.bytes())
                .bind(conversation)
                .bind(owner)
                .bind(row.seq)
                .bind(row.role.as_str())
                .bind(&row.kind)
                .bind(&row.text)
                .bind(&row.meta)
                .bind(row.wall_unix_ms)
                .bind(row.clock_synced)
                .bind(row.monotonic_ns)
                .bind(row.boot)
                .bind(row.device);
            tx.execute(insert).await?;
            enqueue(tx, Op::InsertMessage, id.0, Some(user.0), now.wall_unix_ms).await?;
            let (count, first) = touched.entry(conversation).or_insert((0, row.seq));
            (*count, *first) = (*count + 1, row.seq.min(*first));
            back += 1;
        }
        let new = |old: Uuid| {
            let known = undo.kept.messages.iter().position(|row| row.id == old);
            known.and_then(|at| undo.ids.get(at)).map_or(old, |id| id.0)
        };
        for (source, answer) in &undo.kept.links {
            let link = sqlx::query(ADD_SOURCE).bind(owner).bind(new(*source).as_bytes().to_vec());
            tx.execute(link.bind(new(*answer).as_bytes().to_vec())).await?;
        }
        for name in &undo.kept.names {
            name_again(tx, user, owner, name, now).await?;
        }
        for (conversation, (count, first)) in &touched {
            tx.execute(sqlx::query(COUNT_UP).bind(owner).bind(conversation).bind(count)).await?;
            let upto = covered_within(tx, owner, *conversation).await?;
            if *first <= upto {
                rebuild_within(tx, owner, *conversation, upto).await?;
            }
        }
        retitle(tx, user, owner, touched.into_keys().collect(), now).await?;
        // Some may be from before the clock was set.
        self.stamped.store(false, std::sync::atomic::Ordering::Relaxed);
        self.want_scrub(tx, now).await?;
        Ok(back)
    }
}

/// Ends one undo. The key stays until the commit: a turn that cannot be stored leaves the undo possible.
async fn end_one(tx: &mut Tx<'_>, id: Uuid) -> Result<u64> {
    Ok(tx.execute(sqlx::query(END).bind(id.as_bytes().as_slice())).await?)
}

async fn conversation_in(tx: &mut Tx<'_>, owner: i64, id: Uuid) -> Result<Option<i64>> {
    let row = tx.optional(sqlx::query(CONVERSATION).bind(owner).bind(id.as_bytes().to_vec())).await?;
    Ok(row.map(|row| get(&row, "rid")).transpose()?)
}

/// Gives a conversation its old names, unless it has others by now.
async fn name_again(tx: &mut Tx<'_>, user: UserId, owner: i64, name: &Name, now: &Stamp) -> Result<()> {
    let Some(rid) = conversation_in(tx, owner, name.conversation).await? else { return Ok(()) };
    let taken = sqlx::query(TAKEN).bind(owner).bind(rid).bind(&name.session);
    let session = if tx.optional(taken).await?.is_some() { None } else { name.session.as_deref() };
    let moment = named::now_after(&named::of_conversation(tx, rid, owner).await?, now);
    let again = sqlx::query(NAME).bind(owner).bind(rid).bind(&name.title).bind(session);
    tx.execute(again.bind(named::bytes(&moment))).await?;
    enqueue(tx, Op::UpsertConversation, name.conversation, Some(user.0), now.wall_unix_ms).await?;
    Ok(())
}

fn row_of(row: &sqlx::sqlite::SqliteRow) -> Result<Row, StoreError> {
    let role: String = get(row, "role")?;
    Ok(Row {
        rid: get(row, "rid")?,
        id: uuid_of(row, "id")?,
        conversation: uuid_of(row, "conversation")?,
        seq: get(row, "seq")?,
        role: if role == Role::User.as_str() { Role::User } else { Role::Assistant },
        kind: get(row, "kind")?,
        text: get(row, "text")?,
        meta: get(row, "meta")?,
        wall_unix_ms: get(row, "wall_unix_ms")?,
        clock_synced: get(row, "clock_synced")?,
        monotonic_ns: get(row, "monotonic_ns")?,
        boot: get(row, "boot")?,
        device: get(row, "device")?,
    })
}

fn uuid_of(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Uuid, StoreError> {
    row.try_get(column).map_err(StoreError::Sql)
}

/// Seals `kept` under a key that is written to `path` and used once.
fn seal(path: &Path, kept: &Kept) -> io::Result<Vec<u8>> {
    let plain = Zeroizing::new(serde_json::to_vec(kept).map_err(io::Error::other)?);
    let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
    getrandom::fill(key.as_mut_slice()).map_err(io::Error::other)?;
    let cipher = XChaCha20Poly1305::new((&*key).into());
    // A key seals one message, so any nonce will do.
    let sealed = cipher
        .encrypt(&XNonce::default(), plain.as_slice())
        .map_err(|_| io::Error::other("sealing failed"))?;
    let mut file = durable::create_file(path)?;
    file.write_all(key.as_slice()).inspect_err(|_| shred(path))?;
    Ok(sealed)
}

/// The key in a file; `None` if it is gone or was not written as a whole.
fn read_key(path: &Path) -> io::Result<Option<Zeroizing<[u8; KEY_BYTES]>>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => Zeroizing::new(read?),
    };
    Ok(bytes.as_slice().try_into().ok().map(Zeroizing::new))
}

fn open(key: &[u8; KEY_BYTES], sealed: &[u8]) -> Option<Kept> {
    let plain =
        XChaCha20Poly1305::new(key.into()).decrypt(&XNonce::default(), sealed).ok().map(Zeroizing::new)?;
    serde_json::from_slice(&plain).ok()
}

/// Overwrites and removes a key file. It adds no byte, for which a full disk would have no room.
fn shred(path: &Path) {
    let shredded = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        let bytes = file.metadata()?.len();
        io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
        file.sync_all()?;
        fs::remove_file(path)?;
        durable::sync_name(path)
    };
    match shredded() {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            log::warn!("{} could not be removed, trying again later: {e}", path.display());
        }
        _ => {}
    }
}
