//! A turn of talk: context in, answer out, written down before anyone hears it.
//!
//! ```text
//!  words ─▶ which conversation? ─▶ what was said before ─▶ responder ─▶ append turn + effects ─▶ outcome
//!           (continue, new, id)    (this person's only)    (builtin)    (one commit)            (after the commit)
//! ```
//!
//! A responder proposes; it never writes. What it wants done (a new conversation, something forgotten) is in
//! its [`Reply`] and happens in the transaction that stores the turn, so an answer that was given is an
//! answer that is true.

pub mod builtin;
mod context;
pub mod section;
pub mod speech;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use builtin::Builtin;
pub use context::{OwnMemory, Reply, TurnContext};

use crate::memory::{
    Acts, Appended, ConversationId, Memory, MemoryError, MessageId, NewTurn, SessionId, Target, TurnMeta,
    User, WINDOW_TOKENS, Window,
};

/// What every answer begins with while the memory is missing ([`Memory::apart`]).
pub const MISSING: &str =
    "My memory is missing. I keep apart what you say until it is restored or I am told to begin anew.";

/// What is said then to whoever is not verified, as no voice is known.
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
    /// The one that a client's session id names, begun with this turn if there is none.
    Session(SessionId),
}

/// Who answers. An enum, not a trait: the set is closed, and a language model falls back on the built-in one.
#[derive(Debug, Clone)]
pub enum Responder {
    Builtin(Builtin),
}

impl Responder {
    async fn respond(&self, context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
        match self {
            Self::Builtin(builtin) => builtin.respond(context).await,
        }
    }
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
}

/// What a turn did besides being stored.
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
    /// What was said before could not be read, or the conversation is not this person's.
    #[error("the memory could not be read")]
    Memory(#[source] MemoryError),
    /// The answer exists but the turn is not stored: give it as degraded, and say so.
    #[error("the answer was found but the turn could not be stored")]
    NotStored {
        reply: String,
        /// The answer says that something was done (remembered, forgotten, begun), which it was not.
        acts: bool,
        #[source]
        source: MemoryError,
    },
}

impl fmt::Debug for DialogueError {
    // The reply is somebody's memory: it does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(source) => f.debug_tuple("Memory").field(source).finish(),
            Self::NotStored { source, .. } => {
                f.debug_struct("NotStored").field("source", source).finish_non_exhaustive()
            }
        }
    }
}

impl DialogueError {
    /// The answer in place of the one that is not stored: it claims nothing that was not done.
    pub fn answer(&self) -> String {
        match self {
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
        }
    }
}

/// An answer that is not stored yet, to what was said in `conversation`.
struct Answer {
    reply: Reply,
    conversation: Option<ConversationId>,
}

impl Answer {
    /// It says that something was done, or that there was nothing to do.
    fn acts(&self) -> bool {
        self.reply.order
            || self.reply.kind == crate::memory::Kind::Note
            || self.reply.forgets()
            || self.reply.bring_back.is_some()
            || self.reply.new_conversation
    }
}

/// Turns words into stored turns. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Dialogue {
    memory: Memory,
    responder: Responder,
    settings: section::Dialogue,
}

impl Dialogue {
    pub fn new(memory: Memory, responder: Responder, settings: section::Dialogue) -> Self {
        Self { memory, responder, settings }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Answers `text` of `user` and returns once the turn is on the disk. A database that turns out to be
    /// damaged meanwhile is repaired first; the answer that was found by then is stored, and nobody is asked
    /// for another.
    pub async fn turn(
        &self,
        user: &User,
        select: Select,
        text: &str,
        meta: TurnMeta,
    ) -> Result<TurnOutcome, DialogueError> {
        let answered = match self.answer(user, &select, text, &meta).await {
            Err(e) if self.is_mended(&e).await => self.answer(user, &select, text, &meta).await,
            answered => answered,
        };
        let answer = answered.map_err(DialogueError::Memory)?;
        let stored = match self.store(user, &select, text, &meta, &answer).await {
            Err(e) if self.is_mended(&e).await => self.store(user, &select, text, &meta, &answer).await,
            stored => stored,
        };
        match stored {
            Ok(appended) => Ok(outcome(appended)),
            Err(source) => {
                let acts = answer.acts();
                Err(DialogueError::NotStored { reply: answer.reply.text, acts, source })
            }
        }
    }

    /// Whether it failed on a file that is sound by now.
    async fn is_mended(&self, error: &MemoryError) -> bool {
        error.is_worth_repeating() && self.memory.mend().await.is_ok()
    }

    /// Reads what was said before and asks the responder.
    async fn answer(
        &self,
        user: &User,
        select: &Select,
        text: &str,
        meta: &TurnMeta,
    ) -> Result<Answer, MemoryError> {
        let now = meta.at.clone().unwrap_or_else(|| self.memory.clock().stamp());
        let conversation = match select {
            Select::New => None,
            // Before anything is thought about: here it could not be stored.
            Select::Id(id) => Some(self.memory.home(user.id, *id).await?),
            Select::Session(session) => self.memory.session(user.id, session).await?,
            Select::Continue => {
                let within_ms = i64::from(self.settings.continue_conversation_min) * 60_000;
                self.memory.current_conversation(user.id, within_ms, &now).await?
            }
        };
        let window = match conversation {
            None => Window::default(),
            Some(id) => self.memory.window(user.id, id, WINDOW_TOKENS).await?,
        };
        let context = TurnContext {
            user,
            text,
            now: &now,
            conversation,
            summary: &window.summary,
            recent: &window.messages,
            memory: OwnMemory::new(&self.memory, user.id),
        };
        let missing = self.memory.apart().await?.is_some();
        let mut reply = self.responder.respond(&context).await?;
        if matches!(select, Select::Session(_)) && reply.new_conversation {
            // A session id means one conversation and keeps doing so.
            reply.new_conversation = false;
            reply.text = "This session stays one conversation. Begin another session for a new one.".into();
        }
        if missing {
            reply.text = format!("{MISSING} {}", reply.text);
        }
        Ok(Answer { reply, conversation })
    }

    /// Writes the turn down.
    async fn store(
        &self,
        user: &User,
        select: &Select,
        text: &str,
        meta: &TurnMeta,
        Answer { reply, conversation }: &Answer,
    ) -> Result<Appended, MemoryError> {
        let target = match (select, conversation) {
            (Select::Session(session), _) => Target::Session(session),
            (_, Some(id)) if !reply.new_conversation => Target::Existing(*id),
            _ => Target::New,
        };
        let turn = NewTurn {
            text: reply.store_as.as_deref().unwrap_or(text),
            kind: reply.kind,
            reply: reply.answer_as.as_deref().unwrap_or(&reply.text),
            responder: reply.responder,
            sources: &reply.sources,
            forget: &reply.forget,
            meta,
        };
        let acts = Acts {
            unname: &reply.unname,
            undoable: reply.forgets(),
            bring_back: reply.bring_back.as_ref(),
            which: &reply.which,
            spoken: Some(&reply.text),
            if_undoable: reply.if_undoable.as_deref(),
        };
        let appended = self.memory.append_turn_with(user.id, target, &turn, &acts).await;
        // Another process deleted the conversation in the meantime: nobody asked for that one by name, so
        // start anew.
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
    }
}
