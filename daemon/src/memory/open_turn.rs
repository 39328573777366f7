//! A turn with an answer that is given sentence by sentence.
//!
//! ```text
//!  open_turn      the words are safe, the answer is open     row in `open_turns`, mark beside the database
//!  add_sentence   one commit a sentence, which makes it `Durable`
//!  close_turn     both messages, effects, queue entries; the row and the mark go
//!  left open      the mark is not locked any more: closed as cut, with the sentences that it has
//! ```
//!
//! The mark, `jarvis.db.turn-ID`, is an empty file that the answering process holds locked. The kernel drops
//! the lock with the process, so another process distinguishes a running turn from one left by a crash.
//! Dropping an [`OpenTurn`] leaves the turn open in the same way. Invariants:
//!
//! 1. Before it is closed, the turn is nowhere else: neither in the messages and their index nor in the
//!    queue. It gets its place in the conversation when it is closed.
//! 2. Forgetting covers it: it is deleted with the person, the conversation, and every message that it
//!    repeats. A sentence or an end for a deleted turn is `NotFound`, and nothing is written.
//! 3. A mark is made and removed under the write lock of the database, so an unlocked mark without a row is
//!    left over.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::turns::{Acts, Checked, Ended, NewTurn, written};
use super::users::owner_rid;
use super::{
    Appended, ConversationId, Durable, Kind, MAX_MESSAGE_BYTES, Memory, MemoryError, MessageId, Result,
    SessionId, Target, TurnMeta, Undoable, UserId, beside, get,
};
use crate::clock::Stamp;
use crate::durable;
use crate::store::StoreError;

/// Between the name of the database and the id in the name of a mark.
const MARK: &str = ".turn-";

crate::store::sql::statements! {
    OPEN = "INSERT INTO open_turns (id, owner, conversation, turn)
        VALUES (?2, ?1, (SELECT rid FROM conversations WHERE id = ?3 AND owner = ?1), ?4)
        ON CONFLICT (id) DO NOTHING";
    KEEP = "UPDATE open_turns SET turn = ?3 WHERE id = ?2 AND owner = ?1";
    CLOSE = "DELETE FROM open_turns WHERE id = ?2 AND owner = ?1";
    ANY = "SELECT EXISTS (SELECT 1 FROM open_turns) AS n";
    ALL = "SELECT o.id, u.id AS user, c.id AS conversation, o.turn FROM open_turns o
        JOIN users u ON u.rid = o.owner LEFT JOIN conversations c ON c.rid = o.conversation ORDER BY o.rid";
}

/// The words to be answered.
#[derive(Debug, Clone)]
pub struct Said<'a> {
    pub text: &'a str,
    /// Name of the responder.
    pub responder: &'a str,
    /// Messages of this person that the answer may repeat.
    pub sources: &'a [MessageId],
    pub meta: &'a TurnMeta,
}

/// The effects of an answer, besides its text. They take place in the transaction that stores the turn. The
/// default is that of plain talk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effects {
    /// The kind of the person's words.
    pub kind: Kind,
    /// Messages that the answer repeats.
    pub sources: Vec<MessageId>,
    /// Messages to forget.
    pub forget: Vec<MessageId>,
    /// Conversations that lose the name given by a person.
    pub unname: Vec<ConversationId>,
    /// The turn begins a new conversation.
    pub new_conversation: bool,
    /// Text stored instead of the words, when the words themselves are to be forgotten.
    pub store_as: Option<String>,
    /// Text stored instead of the answer, when the answer names the forgotten topic.
    pub answer_as: Option<String>,
    /// Text added to the answer if the forgetting can be undone.
    pub if_undoable: Option<String>,
    /// Whether the words order the memory to change; the answer is then true only with a stored turn.
    pub order: bool,
    /// A forgetting to undo.
    pub bring_back: Option<Undoable>,
    /// The messages among which the answer asks to choose; the next turn may answer it.
    pub which: Vec<MessageId>,
}

impl Effects {
    /// Whether a message or a name is forgotten.
    pub fn forgets(&self) -> bool {
        !self.forget.is_empty() || !self.unname.is_empty()
    }

    /// Whether the stored text differs from the spoken one.
    fn rewrites(&self) -> bool {
        self.store_as.is_some() || self.answer_as.is_some()
    }

    /// The acts for the transaction that stores the turn; `reply` is the spoken answer.
    pub fn acts<'a>(&'a self, reply: &'a str) -> Acts<'a> {
        Acts {
            unname: &self.unname,
            undoable: self.forgets(),
            bring_back: self.bring_back.as_ref(),
            which: &self.which,
            spoken: Some(reply),
            if_undoable: self.if_undoable.as_deref(),
        }
    }
}

/// A turn that is being answered, for as long as the value lives.
#[derive(Debug)]
pub struct OpenTurn {
    user: UserId,
    /// The id of the future answer.
    id: MessageId,
    conversation: Option<ConversationId>,
    kept: Kept,
    mark: Option<Mark>,
}

impl OpenTurn {
    /// The sentences so far, as one answer.
    pub fn reply(&self) -> String {
        self.kept.sentences.join(" ")
    }
}

/// The turn as stored in its row.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The id of the future message with the words.
    words: MessageId,
    text: String,
    confidence: Option<f32>,
    engine: Option<String>,
    device: Option<String>,
    at: KeptStamp,
    /// The client's own name for the conversation.
    session: Option<String>,
    responder: String,
    sources: Vec<MessageId>,
    sentences: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptStamp {
    wall_unix_ms: i64,
    synced: bool,
    boot_id: String,
    monotonic_ns: i64,
}

impl From<&Stamp> for KeptStamp {
    fn from(stamp: &Stamp) -> Self {
        let Stamp { wall_unix_ms, synced, boot_id, monotonic_ns } = stamp;
        Self {
            wall_unix_ms: *wall_unix_ms,
            synced: *synced,
            boot_id: boot_id.to_string(),
            monotonic_ns: *monotonic_ns,
        }
    }
}

impl From<&KeptStamp> for Stamp {
    fn from(kept: &KeptStamp) -> Self {
        let KeptStamp { wall_unix_ms, synced, boot_id, monotonic_ns } = kept;
        Self {
            wall_unix_ms: *wall_unix_ms,
            synced: *synced,
            boot_id: boot_id.as_str().into(),
            monotonic_ns: *monotonic_ns,
        }
    }
}

impl Kept {
    /// # Errors
    /// `TooLong` for text that could not be stored as messages.
    fn json(&self) -> Result<String> {
        let sentences = self.sentences.iter().map(|sentence| sentence.len() + 1).sum();
        let bytes = self.text.len().max(sentences);
        if bytes > MAX_MESSAGE_BYTES {
            return Err(MemoryError::TooLong { bytes, max: MAX_MESSAGE_BYTES });
        }
        serde_json::to_string(self).map_err(|e| StoreError::Sql(sqlx::Error::Encode(e.into())).into())
    }
}

impl Memory {
    /// Stores the words of `user` in one commit, before any responder is called.
    ///
    /// # Errors
    /// `NotFound`, `OtherHome` (the conversation), `TooLong`, and storage errors.
    pub async fn open_turn(&self, user: UserId, target: Target<'_>, said: &Said<'_>) -> Result<OpenTurn> {
        let (conversation, session) = match target {
            Target::New => (None, None),
            Target::Existing(id) => (Some(self.home(user, id).await?), None),
            Target::Session(session) => {
                (self.session(user, session).await?, Some(session.as_str().to_owned()))
            }
        };
        let meta = said.meta;
        let kept = Kept {
            words: MessageId::new(),
            text: said.text.to_owned(),
            confidence: meta.confidence,
            engine: meta.engine.clone(),
            device: meta.device.clone(),
            at: (&meta.at.clone().unwrap_or_else(|| self.clock().stamp())).into(),
            session,
            responder: said.responder.to_owned(),
            sources: said.sources.to_vec(),
            sentences: Vec::new(),
        };
        let mut turn = OpenTurn { user, id: MessageId::new(), conversation, kept, mark: None };
        match self.try_open(&mut turn).await {
            Err(e) if e.is_worth_repeating() => self.try_open(&mut turn).await?,
            opened => opened?,
        }
        Ok(turn)
    }

    async fn try_open(&self, turn: &mut OpenTurn) -> Result<()> {
        let json = turn.kept.json()?;
        let (mut tx, _) = self.begin().await?;
        let owner = owner_rid(&mut tx, turn.user).await?;
        if turn.mark.is_none() {
            turn.mark = Some(Mark::make(self.store.path(), turn.id)?);
        }
        let conversation = turn.conversation.as_ref().map(|id| id.bytes().to_vec());
        let open = sqlx::query(OPEN).bind(owner).bind(turn.id.bytes()).bind(conversation).bind(json);
        tx.execute(open).await?;
        Ok(tx.commit().await?)
    }

    /// Adds the next sentence of the answer in one commit: it may then be spoken.
    ///
    /// # Errors
    /// `NotFound` if the turn was forgotten meanwhile, `TooLong`, and storage errors. The sentence is then no
    /// part of the answer.
    pub async fn add_sentence(&self, turn: &mut OpenTurn, sentence: &str) -> Result<Durable> {
        turn.kept.sentences.push(sentence.to_owned());
        let kept = match self.try_keep(turn).await {
            Err(e) if e.is_worth_repeating() => self.try_keep(turn).await,
            kept => kept,
        };
        if kept.is_err() {
            turn.kept.sentences.pop();
        }
        kept.map(|()| Durable::committed(sentence))
    }

    async fn try_keep(&self, turn: &OpenTurn) -> Result<()> {
        let json = turn.kept.json()?;
        let (mut tx, _) = self.begin().await?;
        let owner = owner_rid(&mut tx, turn.user).await?;
        let keep = sqlx::query(KEEP).bind(owner).bind(turn.id.bytes()).bind(json);
        if tx.execute(keep).await? == 0 {
            return Err(gone(turn.id));
        }
        Ok(tx.commit().await?)
    }

    /// Ends a turn: its two messages, their place in the conversation, the effects and the queue entries, in
    /// one commit. An answer that failed or was cut short has no effects except its kind and its sources.
    ///
    /// # Errors
    /// `NotFound` if the turn was forgotten meanwhile, else as [`Memory::append_turn_with`]. The turn then
    /// stays open, and is closed as cut later.
    pub async fn close_turn(&self, turn: OpenTurn, ended: Ended, effects: &Effects) -> Result<Appended> {
        match self.try_close(&turn, ended, effects).await {
            Err(e) if e.is_worth_repeating() => self.try_close(&turn, ended, effects).await,
            closed => closed,
        }
    }

    async fn try_close(&self, turn: &OpenTurn, ended: Ended, effects: &Effects) -> Result<Appended> {
        let OpenTurn { user, id, conversation, kept, .. } = turn;
        let sentences = match ended {
            Ended::Cut { heard } => kept.sentences.get(..heard).unwrap_or(&kept.sentences),
            Ended::Complete | Ended::Failed => &kept.sentences,
        };
        let said_at = Stamp::from(&kept.at);
        let meta = TurnMeta {
            confidence: kept.confidence,
            engine: kept.engine.clone(),
            at: Some(said_at.clone()),
            device: kept.device.clone(),
        };
        let reply = sentences.join(" ");
        let sources: Vec<MessageId> = kept.sources.iter().chain(&effects.sources).copied().collect();
        let new = NewTurn {
            text: effects.store_as.as_deref().unwrap_or(&kept.text),
            kind: effects.kind,
            reply: effects.answer_as.as_deref().unwrap_or(&reply),
            responder: &kept.responder,
            sources: &sources,
            forget: &effects.forget,
            meta: &meta,
        };
        let acts = effects.acts(&reply);
        // For a turn left open, the time of its last sentence is unknown.
        let answered_at = turn.mark.is_none().then_some(&said_at);
        let checked = Checked::new(&new, &acts, (kept.words, *id))?.ended(ended, answered_at);
        let session = kept.session.as_deref().map(SessionId::new).transpose()?;
        let target = match (conversation, &session) {
            (_, Some(session)) => Target::Session(session),
            (Some(id), None) if !effects.new_conversation => Target::Existing(*id),
            _ => Target::New,
        };
        let (mut tx, now) = self.begin().await?;
        let owner = owner_rid(&mut tx, *user).await?;
        if tx.execute(sqlx::query(CLOSE).bind(owner).bind(id.bytes())).await? == 0 {
            return written(&mut tx, *user, target, &checked).await?.ok_or_else(|| gone(*id));
        }
        let (appended, mut scrub) = self.write_in(&mut tx, &now, (*user, owner), target, &checked).await?;
        if effects.rewrites() {
            // The deleted row held the words themselves.
            self.want_scrub(&mut tx, &now).await?;
            scrub = true;
        }
        remove(&beside::path(self.store.path(), MARK, id.0));
        tx.commit().await?;
        if scrub {
            self.scrub().await;
        }
        Ok(appended)
    }

    /// Closes abandoned turns as cut, and removes marks without a turn. Returns the number of turns closed.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn close_left_open(&self) -> Result<usize> {
        let row = self.read_optional(sqlx::query(ANY)).await?;
        let any = row.map(|row| get::<bool>(&row, "n")).transpose()?.unwrap_or(false);
        if !any && beside::all(self.store.path(), MARK).is_empty() {
            return Ok(0);
        }
        let left = self.left_open().await?;
        let count = left.len();
        for mut turn in left {
            let ended = Ended::Cut { heard: turn.kept.sentences.len() };
            let mut closed = self.try_close(&turn, ended, &Effects::default()).await;
            if let Err(MemoryError::OtherHome { .. }) = closed {
                // The device has a new id by now, and uses a new conversation of its own.
                turn.conversation = None;
                closed = self.try_close(&turn, ended, &Effects::default()).await;
            }
            match closed {
                // Another process was faster, or the turn was forgotten.
                Ok(_) | Err(MemoryError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        if count > 0 {
            log::warn!("{count} answers that were cut short are stored as far as they went");
            // Some may be from before the clock was set.
            self.stamped.store(false, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(count)
    }

    /// The abandoned turns. Removes leftover marks.
    async fn left_open(&self) -> Result<Vec<OpenTurn>> {
        // Under the write lock, since a mark is locked as soon as it exists.
        let (mut tx, _) = self.begin().await?;
        let (mut left, mut known) = (Vec::new(), Vec::new());
        for row in tx.all(sqlx::query(ALL)).await? {
            let (user, id) = (UserId::read(&row, "user")?, MessageId::read(&row, "id")?);
            known.push(id.0);
            if is_locked(&beside::path(self.store.path(), MARK, id.0)) {
                continue;
            }
            let conversation = get::<Option<Vec<u8>>>(&row, "conversation")?;
            let conversation = conversation.and_then(|id| Uuid::from_slice(&id).ok()).map(ConversationId);
            match serde_json::from_str(&get::<String>(&row, "turn")?) {
                Ok(kept) => left.push(OpenTurn { user, id, conversation, kept, mark: None }),
                Err(_) => {
                    log::error!("an answer that was cut short cannot be read and is dropped");
                    let owner = owner_rid(&mut tx, user).await?;
                    tx.execute(sqlx::query(CLOSE).bind(owner).bind(id.bytes())).await?;
                }
            }
        }
        for (id, path) in beside::all(self.store.path(), MARK) {
            if !known.contains(&id) && !is_locked(&path) {
                remove(&path);
            }
        }
        tx.commit().await?;
        Ok(left)
    }
}

fn gone(id: MessageId) -> MemoryError {
    MemoryError::not_found("open turn", id)
}

/// The mark of a turn answered by this process.
#[derive(Debug)]
struct Mark {
    _locked: File,
}

impl Mark {
    fn make(database: &Path, id: MessageId) -> Result<Self> {
        let made = || -> io::Result<Self> {
            let file = durable::create_file(&beside::path(database, MARK, id.0))?;
            match durable::try_lock(&file)? {
                true => Ok(Self { _locked: file }),
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        };
        made().map_err(|e| StoreError::Open { path: database.into(), source: e.into() }.into())
    }
}

/// Whether a process holds the mark. A mark that cannot be checked counts as held: no turn is cut too early.
fn is_locked(mark: &Path) -> bool {
    match File::open(mark).map(|file| durable::try_lock(&file)) {
        Ok(Ok(free)) => !free,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        _ => true,
    }
}

fn remove(mark: &Path) {
    if let Err(e) = durable::remove_if_there(mark) {
        log::warn!("{} could not be removed, trying again later: {e}", mark.display());
    }
}
