//! A turn of talk: context in, answer out, written down before anyone hears it.
//!
//! ```text
//!  words ─▶ which conversation? ─▶ what was said before ─▶ responder ─▶ append turn + effects ─▶ outcome
//!           (continue, new, id)    (this person's only)    (builtin)    (one commit)            (after the commit)
//! ```
//!
//! A responder proposes; it never writes. What it wants done (a new conversation, something forgotten) is in its
//! [`Reply`] and happens in the transaction that stores the turn, so an answer that was given is an answer that is true.

pub mod builtin;
mod context;
pub mod speech;
mod wav;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use builtin::Builtin;
pub use context::{OwnMemory, Reply, TurnContext};

use crate::memory::{
    Appended, ConversationId, Memory, MemoryError, MessageId, NewTurn, SessionId, Target, TurnMeta, User,
    WINDOW_TOKENS, Window,
};

/// Which conversation a turn belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Select {
    /// The person's latest on this device, if it is recent enough ([`DialogueSettings::continue_within_ms`]); else a new
    /// one.
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

#[derive(Debug, Clone)]
pub struct DialogueSettings {
    /// A conversation continues if its last turn was at most this long ago.
    pub continue_within_ms: i64,
    /// What the responder sees of what was said before this turn, in tokens (see [`crate::memory::tokens_of`]).
    pub context_tokens: u32,
}

impl Default for DialogueSettings {
    fn default() -> Self {
        Self { continue_within_ms: 4 * 3600 * 1000, context_tokens: WINDOW_TOKENS }
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
    /// Messages were deleted for good.
    Forgot { messages: usize },
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
    /// How a command that fails with this ends.
    pub fn exit(&self) -> crate::error::Exit {
        match self {
            Self::Memory(source) | Self::NotStored { source, .. } => source.exit(),
        }
    }
}

/// Turns words into stored turns. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Dialogue {
    memory: Memory,
    responder: Responder,
    settings: DialogueSettings,
}

impl Dialogue {
    pub fn new(memory: Memory, responder: Responder, settings: DialogueSettings) -> Self {
        Self { memory, responder, settings }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Answers `text` of `user` and returns once the turn is on the disk.
    pub async fn turn(
        &self,
        user: &User,
        select: Select,
        text: &str,
        meta: TurnMeta,
    ) -> Result<TurnOutcome, DialogueError> {
        let now = meta.at.clone().unwrap_or_else(|| self.memory.clock().stamp());
        let conversation = match select {
            Select::New => None,
            // Before anything is thought about: here it could not be stored.
            Select::Id(id) => Some(self.memory.home(user.id, id).await.map_err(DialogueError::Memory)?),
            Select::Session(ref session) => {
                self.memory.session(user.id, session).await.map_err(DialogueError::Memory)?
            }
            Select::Continue => self
                .memory
                .current_conversation(user.id, self.settings.continue_within_ms, &now)
                .await
                .map_err(DialogueError::Memory)?,
        };
        let window = match conversation {
            None => Window::default(),
            Some(id) => self
                .memory
                .window(user.id, id, self.settings.context_tokens)
                .await
                .map_err(DialogueError::Memory)?,
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
        let mut reply = self.responder.respond(&context).await.map_err(DialogueError::Memory)?;
        let target = match (&select, conversation) {
            (Select::Session(session), _) => {
                if reply.new_conversation {
                    // A session id means one conversation and keeps doing so.
                    reply.new_conversation = false;
                    reply.text =
                        "This session stays one conversation. Begin another session for a new one.".into();
                }
                Target::Session(session)
            }
            (_, Some(id)) if !reply.new_conversation => Target::Existing(id),
            _ => Target::New,
        };
        let turn = NewTurn {
            text: reply.store_as.as_deref().unwrap_or(text),
            kind: reply.kind,
            reply: &reply.text,
            responder: reply.responder,
            sources: &reply.sources,
            forget: &reply.forget,
            meta: &meta,
        };
        let acts = reply.kind == crate::memory::Kind::Note || reply.forgets() || reply.new_conversation;
        let mut appended = self.memory.append_turn_unnaming(user.id, target, &turn, &reply.unname).await;
        // Another process deleted the conversation in the meantime: nobody asked for that one by name, so start anew.
        if select == Select::Continue
            && matches!(appended, Err(MemoryError::NotFound { what: "conversation", .. }))
        {
            appended = self.memory.append_turn_unnaming(user.id, Target::New, &turn, &reply.unname).await;
        }
        match appended {
            Ok(appended) => Ok(outcome(appended, reply.text)),
            Err(source) => Err(DialogueError::NotStored { reply: reply.text, acts, source }),
        }
    }
}

fn outcome(appended: Appended, reply: String) -> TurnOutcome {
    let mut effects = Vec::new();
    if appended.created {
        effects.push(Effect::NewConversation);
    }
    if appended.forgotten > 0 {
        effects.push(Effect::Forgot { messages: appended.forgotten });
    }
    TurnOutcome {
        conversation_id: appended.conversation_id,
        user_message_id: appended.user_message_id,
        assistant_message_id: appended.assistant_message_id,
        seq: appended.seq,
        reply,
        effects,
    }
}
