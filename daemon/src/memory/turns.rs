//! Writes a turn: the words and the answer, in one transaction with everything that belongs to them.
//!
//! ```text
//!  whole answer     append_turn ───────────────────────────────────────────▶ Appended, with Durable
//!  in sentences     open_turn ─▶ add_sentence ─▶ … ─▶ close_turn ──────────▶ Appended
//!                                    └▶ Durable          └ as cut, by the process that finds it left open
//! ```
//!
//! Each arrow is one commit. Both ways end in the same transaction ([`Memory::write_in`]). The steps of the
//! second way are in `open_turn.rs`.

use std::fmt;

use serde_json::json;

use super::conversations::title_from;
use super::messages::{checked_text, delete_in, doomed};
use super::names::unname_within;
use super::summary::fold_within;
use super::users::owner_rid;
use super::{
    ConversationId, Kind, Memory, MemoryError, MessageId, Result, Role, SessionId, Undoable, UserId,
    boot_rid, device_rid, get, named,
};
use crate::clock::Stamp;
use crate::store::Tx;
use crate::store::queue::{Op, enqueue};

/// Words of an answer that is on the disk, so that they may be spoken and shown. Only the memory makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Durable(String);

impl Durable {
    /// Made by the call that has just committed the words.
    pub(super) fn committed(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For tests of functions that take one.
    #[cfg(test)]
    pub(crate) fn of_test(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Durable {
    // The words are a person's memory: they do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").finish_non_exhaustive()
    }
}

/// Known facts about the input of the words.
#[derive(Debug, Clone, Default)]
pub struct TurnMeta {
    /// Confidence of the speaker check, 0…1.
    pub confidence: Option<f32>,
    /// Recogniser that produced the words; `None` for typed text.
    pub engine: Option<String>,
    /// When the words were spoken; `None` means now.
    pub at: Option<Stamp>,
    /// Device that heard them; `None` means this one.
    pub device: Option<String>,
}

/// The conversation of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A conversation that is created in the same transaction.
    New,
    /// A conversation that began on this device.
    Existing(ConversationId),
    /// The conversation named by a client's session id, created in the same transaction if missing.
    Session(&'a SessionId),
}

/// A turn to write.
#[derive(Debug, Clone)]
pub struct NewTurn<'a> {
    /// The person's words in the form to store.
    pub text: &'a str,
    pub kind: Kind,
    pub reply: &'a str,
    /// The responder: `builtin`, or the name of a language model.
    pub responder: &'a str,
    /// Messages of this person that the answer repeats.
    pub sources: &'a [MessageId],
    /// Messages to forget in the same transaction.
    pub forget: &'a [MessageId],
    pub meta: &'a TurnMeta,
}

/// The acts of a turn besides storing it and forgetting messages.
#[derive(Debug, Clone, Default)]
pub struct Acts<'a> {
    /// Conversations that lose their names (see [`Memory::named_after`]).
    pub unname: &'a [ConversationId],
    /// Whether the forgetting of the turn can be undone in its conversation for a while.
    pub undoable: bool,
    /// A forgetting to undo.
    pub bring_back: Option<&'a Undoable>,
    /// The messages among which the answer asks to choose (see `asks_which` of a message).
    pub which: &'a [MessageId],
    /// The spoken answer, if other words are stored.
    pub spoken: Option<&'a str>,
    /// Text added to the spoken answer if the forgetting of the turn can be undone.
    pub if_undoable: Option<&'a str>,
}

/// The end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// It was cut short after so many sentences were heard; only these are stored.
    Cut {
        heard: usize,
    },
    /// The responder failed in the middle.
    Failed,
}

impl Ended {
    /// The mark in `meta` of the answer.
    fn mark(self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::Cut { .. } => Some("cut"),
            Self::Failed => Some("failed"),
        }
    }
}

/// A turn that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub conversation_id: ConversationId,
    /// Whether the conversation is new.
    pub created: bool,
    pub user_message_id: MessageId,
    pub assistant_message_id: MessageId,
    /// `seq` of the person's words; the answer has the next one.
    pub seq: i64,
    /// Number of messages forgotten.
    pub forgotten: usize,
    /// Whether the forgetting can be undone for a while.
    pub undoable: bool,
    /// Number of messages brought back.
    pub brought_back: usize,
    /// The answer to speak.
    pub reply: Durable,
}

/// A turn with storable text and fixed ids, which stay the same in every attempt.
pub(super) struct Checked<'a> {
    text: String,
    reply: String,
    turn: &'a NewTurn<'a>,
    acts: &'a Acts<'a>,
    ids: (MessageId, MessageId),
    ended: Ended,
    /// When the answer was given; `None` means now.
    answered_at: Option<&'a Stamp>,
}

impl<'a> Checked<'a> {
    /// # Errors
    /// `TooLong`.
    pub(super) fn new(
        turn: &'a NewTurn<'a>,
        acts: &'a Acts<'a>,
        ids: (MessageId, MessageId),
    ) -> Result<Self> {
        let (text, reply) = (checked_text(turn.text)?, checked_text(turn.reply)?);
        Ok(Self { text, reply, turn, acts, ids, ended: Ended::Complete, answered_at: None })
    }

    pub(super) fn ended(self, ended: Ended, answered_at: Option<&'a Stamp>) -> Self {
        Self { ended, answered_at, ..self }
    }

    /// The spoken answer.
    fn spoken(&self, undoable: bool) -> Durable {
        let answer = self.acts.spoken.unwrap_or(self.turn.reply);
        Durable::committed(match self.acts.if_undoable {
            Some(promise) if undoable => format!("{answer} {promise}"),
            Some(_) => format!("{answer} It cannot be brought back."),
            None => answer.to_owned(),
        })
    }
}

crate::store::sql::statements! {
    OPEN = "SELECT c.rid, c.next_seq, c.title = '' AND c.title_by_user = 0 AS untitled,
            c.device IS ?3 AS here, d.id AS home
        FROM conversations c LEFT JOIN devices d ON d.rid = c.device WHERE c.id = ?2 AND c.owner = ?1";
    pub(super) INSERT = "INSERT INTO messages (id, conversation, owner, seq, role, kind, text, meta,
            wall_unix_ms, clock_synced, monotonic_ns, boot, device)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    THERE = "SELECT c.id, m.seq - 1 AS seq FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE m.id = ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1)";
    TITLE = "UPDATE conversations SET title = ?3, named = ?4 WHERE rid = ?2 AND owner = ?1";
    ADVANCE = "UPDATE conversations SET next_seq = next_seq + 2, messages = messages + 2,
            activity = (SELECT max(activity) + 1 FROM conversations WHERE owner = ?1),
            updated_unix_ms = ?3, updated_synced = ?4, updated_monotonic_ns = ?5, boot = ?6
        WHERE rid = ?2 AND owner = ?1";
    /// A source and the answer, both of this person.
    pub(super) ADD_SOURCE = "INSERT INTO message_sources (source, message)
        SELECT source.rid, answer.rid FROM messages source, messages answer
        WHERE source.id = ?2 AND source.owner = ?1 AND answer.id = ?3 AND answer.owner = ?1
        ON CONFLICT DO NOTHING";
}

impl Memory {
    /// Writes a turn of `user`: both messages, their place in the conversation, the forgetting, and the queue
    /// entries. When this returns `Ok`, all of it is on the disk; otherwise none of it is.
    ///
    /// # Errors
    /// `NotFound` (no such conversation of this person), `OtherHome` (it began on another device), `TooLong`,
    /// and storage errors.
    pub async fn append_turn(
        &self,
        user: UserId,
        target: Target<'_>,
        turn: &NewTurn<'_>,
    ) -> Result<Appended> {
        self.append_turn_with(user, target, turn, &Acts::default()).await
    }

    /// As [`Memory::append_turn`], with `acts` in the same transaction.
    ///
    /// # Errors
    /// As [`Memory::append_turn`], and `NotFound` if the messages to bring back are back already, or gone.
    pub async fn append_turn_with(
        &self,
        user: UserId,
        target: Target<'_>,
        turn: &NewTurn<'_>,
        acts: &Acts<'_>,
    ) -> Result<Appended> {
        let turn = Checked::new(turn, acts, (MessageId::new(), MessageId::new()))?;
        match self.try_append(user, target, &turn).await {
            // The file was exchanged or repaired during the call. The ids stay, so the turn cannot be stored
            // twice.
            Err(e) if e.is_worth_repeating() => self.try_append(user, target, &turn).await,
            done => done,
        }
    }

    async fn try_append(&self, user: UserId, target: Target<'_>, turn: &Checked<'_>) -> Result<Appended> {
        let (mut tx, now) = self.begin().await?;
        if let Some(appended) = written(&mut tx, user, target, turn).await? {
            return Ok(appended);
        }
        let owner = owner_rid(&mut tx, user).await?;
        let (appended, scrub) = self.write_in(&mut tx, &now, (user, owner), target, turn).await?;
        tx.commit().await?;
        if scrub {
            self.scrub().await;
        }
        Ok(appended)
    }

    /// Writes a turn of the person in a transaction. Returns whether deleted text must be scrubbed from the
    /// file after the commit.
    ///
    /// # Errors
    /// See [`Memory::append_turn_with`].
    pub(super) async fn write_in(
        &self,
        tx: &mut Tx<'_>,
        now: &Stamp,
        (user, owner): (UserId, i64),
        target: Target<'_>,
        checked: &Checked<'_>,
    ) -> Result<(Appended, bool)> {
        let Checked { text, reply, turn, acts, ids: (user_message_id, assistant_message_id), .. } = checked;
        let answered_at = checked.answered_at.unwrap_or(now);
        let brought_back = match acts.bring_back {
            Some(undo) => self.bring_back_in(tx, user, owner, undo, now).await?,
            None => 0,
        };
        let doomed = doomed(tx, owner, turn.forget).await?;
        let kept = match acts.undoable {
            true => Some(self.keep_in(tx, owner, &doomed, acts.unname).await?),
            false => None,
        };
        let forgotten = delete_in(tx, user, owner, doomed, now).await?;
        let here = self.here()?;
        let (conversation_id, created) = match target {
            Target::New => (self.create_conversation(tx, user, owner, None, None, now).await?, true),
            Target::Existing(id) => (id, false),
            Target::Session(session) => self.session_within(tx, user, owner, session, None, now).await?,
        };
        let unnamed = unname_within(tx, user, owner, acts.unname, now).await?;
        let open = sqlx::query(OPEN).bind(owner).bind(conversation_id.bytes()).bind(here.device);
        let row = tx.optional(open).await?;
        let row = row.ok_or_else(|| MemoryError::not_found("conversation", conversation_id))?;
        if !get::<bool>(&row, "here")? {
            return Err(MemoryError::OtherHome { conversation: conversation_id, device: get(&row, "home")? });
        }
        let (conversation, seq): (i64, i64) = (get(&row, "rid")?, get(&row, "next_seq")?);
        let ended = self.end_in(tx, now, Some((owner, conversation))).await?;
        let forgets = forgotten > 0 || unnamed > 0;
        let mut undoable = false;
        if forgets {
            if let Some(kept) = kept {
                undoable = self.seal_in(tx, owner, conversation, &kept, now).await?;
            }
            self.want_scrub(tx, now).await?;
        }
        let scrub = forgets || ended || brought_back > 0;
        if get::<bool>(&row, "untitled")? && turn.kind != Kind::Ask {
            let named = named::just_after(&named::of_conversation(tx, conversation, owner).await?);
            let title = sqlx::query(TITLE).bind(owner).bind(conversation).bind(title_from(text));
            tx.execute(title.bind(named::bytes(&named))).await?;
            if !created {
                enqueue(tx, Op::UpsertConversation, conversation_id.0, Some(user.0), now.wall_unix_ms)
                    .await?;
            }
        }
        let device = match turn.meta.device.as_deref() {
            Some(device) if *device != *self.device => device_rid(tx, device, now).await?,
            _ => here.device,
        };
        let heard = json!({ "confidence": turn.meta.confidence, "engine": turn.meta.engine });
        let (user_message_id, assistant_message_id) = (*user_message_id, *assistant_message_id);
        let said_at = turn.meta.at.as_ref().unwrap_or(now);
        let mut boots = [here.boot; 2];
        for (boot, stamp) in boots.iter_mut().zip([said_at, answered_at]) {
            if stamp.boot_id != now.boot_id {
                *boot = boot_rid(tx, &stamp.boot_id).await?;
            }
        }
        let answered = json!({
            "engine": turn.responder,
            "which": (!acts.which.is_empty()).then_some(acts.which),
            "ended": checked.ended.mark(),
        });
        let halves = [
            (user_message_id, seq, Role::User, turn.kind, text, heard, said_at),
            (assistant_message_id, seq + 1, Role::Assistant, Kind::Say, reply, answered, answered_at),
        ];
        for ((id, seq, role, kind, text, meta, stamp), boot) in halves.into_iter().zip(boots) {
            let insert = sqlx::query(INSERT)
                .bind(id.bytes())
                .bind(conversation)
                .bind(owner)
                .bind(seq)
                .bind(role.as_str())
                .bind(kind.as_str())
                .bind(text)
                .bind(without_nulls(meta))
                .bind(stamp.wall_unix_ms)
                .bind(stamp.synced)
                .bind(stamp.monotonic_ns)
                .bind(boot)
                .bind(device);
            tx.execute(insert).await?;
            enqueue(tx, Op::InsertMessage, id.0, Some(user.0), now.wall_unix_ms).await?;
        }
        for source in turn.sources {
            let add =
                sqlx::query(ADD_SOURCE).bind(owner).bind(source.bytes()).bind(assistant_message_id.bytes());
            tx.execute(add).await?;
        }
        let advance = sqlx::query(ADVANCE)
            .bind(owner)
            .bind(conversation)
            .bind(answered_at.wall_unix_ms)
            .bind(answered_at.synced)
            .bind(answered_at.monotonic_ns)
            .bind(boots[1]);
        tx.execute(advance).await?;
        fold_within(tx, owner, conversation).await?;
        let appended = Appended {
            conversation_id,
            created,
            user_message_id,
            assistant_message_id,
            seq,
            forgotten,
            undoable,
            brought_back,
            reply: checked.spoken(undoable),
        };
        Ok((appended, scrub))
    }
}

/// The turn, if an earlier attempt has written it.
pub(super) async fn written(
    tx: &mut Tx<'_>,
    user: UserId,
    target: Target<'_>,
    checked: &Checked<'_>,
) -> Result<Option<Appended>> {
    let Checked { turn, acts, ids: (user_message_id, assistant_message_id), .. } = checked;
    let there = sqlx::query(THERE).bind(user.bytes()).bind(assistant_message_id.bytes());
    let Some(row) = tx.optional(there).await? else { return Ok(None) };
    Ok(Some(Appended {
        conversation_id: ConversationId::read(&row, "id")?,
        created: !matches!(target, Target::Existing(_)),
        user_message_id: *user_message_id,
        assistant_message_id: *assistant_message_id,
        seq: get(&row, "seq")?,
        forgotten: turn.forget.len(),
        undoable: acts.undoable,
        brought_back: acts.bring_back.map_or(0, |undo| undo.said().len()),
        reply: checked.spoken(acts.undoable),
    }))
}

/// JSON without keys of null values; `None` if none is left.
fn without_nulls(meta: serde_json::Value) -> Option<String> {
    let serde_json::Value::Object(mut map) = meta else { return None };
    map.retain(|_, value| !value.is_null());
    (!map.is_empty()).then(|| serde_json::Value::Object(map).to_string())
}
