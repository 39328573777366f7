//! A turn of talk: context in, answer out; the answer is stored before anyone hears it.
//!
//! ```text
//!  words ─▶ which conversation? ─▶ what was said before ─▶ responder ─▶ append turn + effects ─▶ outcome
//!           (continue, new, id)    (this person's only)    (builtin)    (one commit)            (after the commit)
//!
//!  one that takes a while (`stream.rs`):  open turn ─▶ responder ─▶ sentence ─▶ … ─▶ close turn ─▶ outcome
//!                                                                   └▶ aloud        (a commit each)
//! ```
//!
//! A responder proposes; it never writes. It answers in pieces: sentences, then the effects (a new
//! conversation, something forgotten). The effects happen in the transaction that stores the turn, so every
//! answer given is true.

pub mod builtin;
mod context;
mod responder;
pub mod section;
pub mod speech;
mod stream;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use tokio::sync::mpsc;

pub use builtin::Builtin;
pub use context::{OwnMemory, Reply, TurnContext};
pub use responder::{Piece, Pieces, RespondError, Responder};

use crate::clock::Stamp;
use crate::config::Live;
use crate::memory::{
    Appended, ConversationId, Durable, Kind, Memory, MemoryError, MessageId, NewTurn, SessionId, Target,
    TurnMeta, User, WINDOW_TOKENS, Window,
};

/// First sentence of every answer while the memory is missing ([`Memory::apart`]).
pub const MISSING: &str =
    "My memory is missing. I keep apart what you say until it is restored or I am told to begin anew.";

/// Answer to an unverified speaker while the memory is missing, as no voice is known.
pub const NOBODY_IS_KNOWN: &str =
    "My memory is missing, and with it every voice that I knew. I can answer nobody before it is restored.";

/// Which conversation a turn belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Select {
    /// The person's latest on this device, if it is recent enough (`dialogue.continue_conversation_min`);
    /// else a new one.
    #[default]
    Continue,
    New,
    Id(ConversationId),
    /// The conversation that a client's session id names, begun with this turn if there is none.
    Session(SessionId),
}

/// A turn that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TurnOutcome {
    pub conversation_id: ConversationId,
    pub user_message_id: MessageId,
    pub assistant_message_id: MessageId,
    /// `seq` of the person's words in the conversation.
    pub seq: i64,
    pub reply: String,
    pub effects: Vec<Effect>,
    /// The part still to be spoken: all of an answer that came as a whole.
    #[serde(skip)]
    pub unspoken: Option<Durable>,
}

/// The effect of a turn besides being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// The turn is the first of a new conversation.
    NewConversation,
    /// Messages were deleted; within minutes and in the same conversation that can be undone.
    Forgot { messages: usize },
    /// Messages that had been forgotten are back.
    BroughtBack { messages: usize },
}

/// Why there is no stored turn.
#[derive(thiserror::Error)]
pub enum DialogueError {
    /// The earlier messages could not be read, or the conversation is not this person's.
    #[error("the memory could not be read")]
    Memory(#[source] MemoryError),
    /// The answer exists but the turn is not stored: give the answer as degraded, and say so.
    #[error("the answer was found but the turn could not be stored")]
    NotStored {
        reply: String,
        /// The answer says that something was done (remembered, forgotten, begun), and it was not.
        acts: bool,
        #[source]
        source: MemoryError,
    },
    /// The answer has no end; the part received is stored.
    #[error("the answer broke off")]
    BrokeOff(#[source] RespondError),
}

impl From<RespondError> for DialogueError {
    fn from(error: RespondError) -> Self {
        match error {
            RespondError::Memory(source) => Self::Memory(source),
            RespondError::BrokeOff => Self::BrokeOff(error),
        }
    }
}

impl fmt::Debug for DialogueError {
    // The reply is somebody's memory: it does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(source) => f.debug_tuple("Memory").field(source).finish(),
            Self::NotStored { source, .. } => {
                f.debug_struct("NotStored").field("source", source).finish_non_exhaustive()
            }
            Self::BrokeOff(source) => f.debug_tuple("BrokeOff").field(source).finish(),
        }
    }
}

impl DialogueError {
    /// The answer in place of the one that is not stored: it claims no act that was not done.
    pub fn answer(&self) -> String {
        match self {
            Self::BrokeOff(_) => "I could not finish that. Please ask me again.".to_owned(),
            Self::NotStored { reply, acts: false, source: MemoryError::Store(_) } => {
                format!("I cannot store anything at the moment, so this will be forgotten. {reply}")
            }
            Self::NotStored { reply, acts: false, source } => {
                format!("This will be forgotten, because {source}. {reply}")
            }
            Self::Memory(source) | Self::NotStored { source, .. } => match source {
                source if source.is_disk_full() => {
                    "I could not do that: the disk is full, so nothing can be stored at the moment."
                        .to_owned()
                }
                MemoryError::Store(_) => {
                    "I could not do that: nothing can be stored at the moment.".to_owned()
                }
                other => format!("I could not do that: {other}."),
            },
        }
    }

    /// How a command that fails with this ends.
    pub fn exit(&self) -> crate::error::Exit {
        match self {
            Self::Memory(source) | Self::NotStored { source, .. } => source.exit(),
            Self::BrokeOff(_) => crate::error::Exit::Failed,
        }
    }
}

/// The place of a turn, and the messages before it.
struct Place {
    now: Stamp,
    /// `None`: a new one.
    conversation: Option<ConversationId>,
    window: Window,
    /// The memory of this device is missing.
    missing: bool,
}

impl Place {
    fn target<'a>(&self, select: &'a Select, anew: bool) -> Target<'a> {
        match (select, self.conversation) {
            (Select::Session(session), _) => Target::Session(session),
            (_, Some(id)) if !anew => Target::Existing(id),
            _ => Target::New,
        }
    }
}

/// An answer that is not stored yet.
struct Answer {
    reply: Reply,
    place: Place,
}

impl Answer {
    /// Whether it says that something was done, or that there was nothing to do.
    fn acts(&self) -> bool {
        let effects = &self.reply.effects;
        effects.order
            || effects.kind == Kind::Note
            || effects.forgets()
            || effects.bring_back.is_some()
            || effects.new_conversation
    }
}

/// Turns words into stored turns. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Dialogue {
    memory: Memory,
    responder: Responder,
    settings: Live<section::Dialogue>,
}

impl Dialogue {
    pub fn new(memory: Memory, responder: Responder, settings: Live<section::Dialogue>) -> Self {
        Self { memory, responder, settings }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Answers `text` of `user` and returns once the turn is on the disk. A database that turns out to be
    /// damaged meanwhile is repaired first. The answer found by then is stored, and the responder is not
    /// asked again.
    ///
    /// # Errors
    /// See [`DialogueError`].
    pub async fn turn(
        &self,
        user: &User,
        select: Select,
        text: &str,
        meta: TurnMeta,
    ) -> Result<TurnOutcome, DialogueError> {
        self.turn_aloud(user, select, text, meta, None).await
    }

    /// [`Dialogue::turn`]; an answer that comes in sentences is passed on to `aloud` one by one, each as soon
    /// as it is on the disk. An answer that is whole at once is in [`TurnOutcome::unspoken`] instead.
    ///
    /// # Errors
    /// See [`DialogueError`].
    pub async fn turn_aloud(
        &self,
        user: &User,
        select: Select,
        text: &str,
        meta: TurnMeta,
        aloud: Option<&mpsc::Sender<Durable>>,
    ) -> Result<TurnOutcome, DialogueError> {
        if self.responder.streams() {
            return self.stream(user, &select, text, &meta, aloud).await;
        }
        let answered = match self.answer(user, &select, text, &meta).await {
            Err(RespondError::Memory(e)) if self.is_mended(&e).await => {
                self.answer(user, &select, text, &meta).await
            }
            answered => answered,
        };
        let answer = answered?;
        let stored = match self.store(user, &select, text, &meta, &answer).await {
            Err(e) if self.is_mended(&e).await => self.store(user, &select, text, &meta, &answer).await,
            stored => stored,
        };
        match stored {
            Ok(appended) => Ok(TurnOutcome { unspoken: Some(appended.reply.clone()), ..outcome(appended) }),
            Err(source) => {
                let acts = answer.acts();
                Err(DialogueError::NotStored { reply: answer.reply.text, acts, source })
            }
        }
    }

    /// Mends the file if `error` is worth repeating; `true` once it is mended.
    async fn is_mended(&self, error: &MemoryError) -> bool {
        error.is_worth_repeating() && self.memory.mend().await.is_ok()
    }

    /// Finds the conversation and reads its earlier messages.
    async fn place(&self, user: &User, select: &Select, meta: &TurnMeta) -> Result<Place, MemoryError> {
        // A turn that was cut short comes before this one.
        if let Err(error) = self.memory.close_left_open().await {
            log::warn!("an answer that was cut short is still open: {}", crate::error::chain(&error));
        }
        let now = meta.at.clone().unwrap_or_else(|| self.memory.clock().stamp());
        let conversation = match select {
            Select::New => None,
            // Checked before the responder is asked: a turn for this id could not be stored here.
            Select::Id(id) => Some(self.memory.home(user.id, *id).await?),
            Select::Session(session) => self.memory.session(user.id, session).await?,
            Select::Continue => {
                let within_ms = i64::from(self.settings.load().continue_conversation_min) * 60_000;
                self.memory.current_conversation(user.id, within_ms, &now).await?
            }
        };
        let window = match conversation {
            None => Window::default(),
            Some(id) => self.memory.window(user.id, id, WINDOW_TOKENS).await?,
        };
        let missing = self.memory.apart().await?.is_some();
        Ok(Place { now, conversation, window, missing })
    }

    fn context<'a>(&'a self, user: &'a User, text: &'a str, place: &'a Place) -> TurnContext<'a> {
        TurnContext {
            user,
            text,
            now: &place.now,
            conversation: place.conversation,
            summary: &place.window.summary,
            recent: &place.window.messages,
            memory: OwnMemory::new(&self.memory, user.id),
        }
    }

    /// Reads the earlier messages and asks the responder.
    async fn answer(
        &self,
        user: &User,
        select: &Select,
        text: &str,
        meta: &TurnMeta,
    ) -> Result<Answer, RespondError> {
        let place = self.place(user, select, meta).await.map_err(RespondError::Memory)?;
        let mut reply = self.responder.whole(&self.context(user, text, &place)).await?;
        if matches!(select, Select::Session(_)) && reply.effects.new_conversation {
            // A session id means one conversation and keeps doing so.
            reply.effects.new_conversation = false;
            reply.text = "This session stays one conversation. Begin another session for a new one.".into();
        }
        if place.missing {
            reply.text = format!("{MISSING} {}", reply.text);
        }
        Ok(Answer { reply, place })
    }

    /// Writes the turn down.
    async fn store(
        &self,
        user: &User,
        select: &Select,
        text: &str,
        meta: &TurnMeta,
        Answer { reply, place }: &Answer,
    ) -> Result<Appended, MemoryError> {
        let Reply { text: spoken, effects } = reply;
        let target = place.target(select, effects.new_conversation);
        let turn = NewTurn {
            text: effects.store_as.as_deref().unwrap_or(text),
            kind: effects.kind,
            reply: effects.answer_as.as_deref().unwrap_or(spoken),
            responder: self.responder.name(),
            sources: &effects.sources,
            forget: &effects.forget,
            meta,
        };
        let acts = effects.acts(spoken);
        let appended = self.memory.append_turn_with(user.id, target, &turn, &acts).await;
        // Another process deleted the conversation in the meantime. Nobody asked for it by name, so a new one
        // is begun.
        if *select == Select::Continue
            && matches!(appended, Err(MemoryError::NotFound { what: "conversation", .. }))
        {
            return self.memory.append_turn_with(user.id, Target::New, &turn, &acts).await;
        }
        appended
    }
}

fn outcome(appended: Appended) -> TurnOutcome {
    let mut effects = Vec::new();
    if appended.created {
        effects.push(Effect::NewConversation);
    }
    if appended.forgotten > 0 {
        effects.push(Effect::Forgot { messages: appended.forgotten });
    }
    if appended.brought_back > 0 {
        effects.push(Effect::BroughtBack { messages: appended.brought_back });
    }
    TurnOutcome {
        conversation_id: appended.conversation_id,
        user_message_id: appended.user_message_id,
        assistant_message_id: appended.assistant_message_id,
        seq: appended.seq,
        reply: appended.reply.as_str().to_owned(),
        effects,
        unspoken: None,
    }
}
