//! The context that a responder gets, and the reply that it gives back.

use crate::clock::Stamp;
use crate::memory::{
    ConversationId, Effects, Memory, MemoryError, Message, MessageId, Undoable, User, UserId, Words,
};

/// One turn as a responder sees it.
#[derive(Debug)]
pub struct TurnContext<'a> {
    pub user: &'a User,
    /// The words as they were recognised or typed.
    pub text: &'a str,
    pub now: &'a Stamp,
    /// The conversation that continues; `None` for a new one.
    pub conversation: Option<ConversationId>,
    /// Summary of its earlier messages (see [`crate::memory::Summary`]); may be empty.
    pub summary: &'a str,
    /// Its last messages, oldest first, as many as fit into the budget.
    pub recent: &'a [Message],
    pub memory: OwnMemory<'a>,
}

/// The memory of one person. A responder gets nothing else, so no prompt or phrase can reach another's rows.
#[derive(Debug, Clone, Copy)]
pub struct OwnMemory<'a> {
    memory: &'a Memory,
    user: UserId,
}

impl<'a> OwnMemory<'a> {
    pub(super) fn new(memory: &'a Memory, user: UserId) -> Self {
        Self { memory, user }
    }

    /// See [`Memory::recall`].
    pub async fn recall(&self, text: &str, words: Words, limit: u32) -> Result<Vec<Message>, MemoryError> {
        self.memory.recall(self.user, text, words, limit).await
    }

    /// See [`Memory::notes`].
    pub async fn notes(&self, limit: u32) -> Result<Vec<Message>, MemoryError> {
        self.memory.notes(self.user, limit).await
    }

    /// See [`Memory::matching_messages`].
    pub async fn matching(&self, text: &str) -> Result<Vec<Message>, MemoryError> {
        self.memory.matching_messages(self.user, text).await
    }

    /// See [`Memory::messages`].
    pub async fn messages(&self, messages: &[MessageId]) -> Result<Vec<Message>, MemoryError> {
        self.memory.messages(self.user, messages).await
    }

    /// See [`Memory::undoable`].
    pub async fn undoable(
        &self,
        conversation: ConversationId,
        now: &Stamp,
    ) -> Result<Option<Undoable>, MemoryError> {
        self.memory.undoable(self.user, conversation, now).await
    }

    /// See [`Memory::sources`].
    pub async fn sources(&self, answer: MessageId) -> Result<Vec<MessageId>, MemoryError> {
        self.memory.sources(self.user, answer).await
    }

    /// See [`Memory::named_after`].
    pub async fn named_after(&self, text: &str) -> Result<Vec<ConversationId>, MemoryError> {
        self.memory.named_after(self.user, text).await
    }

    /// See [`Memory::gist`].
    pub async fn gist(&self, conversation: ConversationId) -> Result<Vec<Message>, MemoryError> {
        self.memory.gist(self.user, conversation).await
    }

    /// The last messages of the conversations before this one, latest conversation first.
    pub async fn earlier(&self, conversations: u32, messages: u32) -> Result<Vec<Vec<Message>>, MemoryError> {
        let page = self.memory.list_conversations(self.user, None, conversations).await?;
        let mut earlier = Vec::with_capacity(page.items.len());
        for conversation in page.items {
            earlier.push(self.memory.history(self.user, conversation.id, None, messages).await?);
        }
        Ok(earlier)
    }
}

/// An answer that is whole, and its effects.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// To be spoken: no markup.
    pub text: String,
    pub effects: Effects,
}

impl Reply {
    /// The reply with other effects.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Effects)) -> Self {
        change(&mut self.effects);
        self
    }
}
