//! Exports all data of a person as one value.

use serde::{Deserialize, Serialize};

use super::{
    AuditEntry, Conversation, ConversationId, Memory, MemoryError, Message, MessageId, Result, User, UserId,
    VoiceprintInfo,
};

/// Rows read at a time.
const PAGE: u32 = 500;

/// An exported message, which an import reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportedMessage {
    #[serde(flatten)]
    pub message: Message,
    /// The sources of this answer: forgetting one of them forgets the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<MessageId>,
}

/// A conversation with its messages, oldest first. [`Memory::import_conversations`] reads this format.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportedConversation {
    pub id: ConversationId,
    pub title: String,
    pub created_unix_ms: i64,
    pub updated_unix_ms: i64,
    /// Not read by an import: a conversation goes on where it is imported.
    #[serde(skip_deserializing)]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    pub messages: Vec<ExportedMessage>,
}

/// The result of [`Memory::export_user`]; serialise it unchanged.
#[derive(Debug, Clone, Serialize)]
pub struct Export {
    /// Version of this format.
    pub format: u32,
    pub user: User,
    /// Without the template, which is sealed and useless elsewhere.
    pub voiceprint: Option<VoiceprintInfo>,
    /// Oldest first.
    pub conversations: Vec<ExportedConversation>,
    /// Oldest first.
    pub audit: Vec<AuditEntry>,
}

impl Memory {
    /// One conversation of `user` with all its messages.
    pub async fn export_conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<ExportedConversation> {
        let conversation = self.conversation(user, id).await?;
        self.with_messages(user, conversation).await
    }

    /// All conversations of `user`, oldest first.
    pub async fn export_conversations(&self, user: UserId) -> Result<Vec<ExportedConversation>> {
        let mut conversations = Vec::new();
        self.each_conversation(user, |conversation| {
            conversations.push(conversation);
            Ok::<_, MemoryError>(())
        })
        .await?;
        conversations.reverse();
        Ok(conversations)
    }

    /// Passes all conversations of `user` to `take`, one at a time, the newest first.
    ///
    /// # Errors
    /// Storage errors, or an error of `take`.
    pub async fn each_conversation<E: From<MemoryError>>(
        &self,
        user: UserId,
        mut take: impl FnMut(ExportedConversation) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut from = None;
        loop {
            let page = self.list_conversations(user, from, PAGE).await?;
            for conversation in page.items {
                match self.export_conversation(user, conversation.id).await {
                    // It was deleted since the page was read.
                    Err(MemoryError::NotFound { .. }) => {}
                    found => take(found?)?,
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    async fn with_messages(&self, user: UserId, conversation: Conversation) -> Result<ExportedConversation> {
        let mut messages: Vec<ExportedMessage> = Vec::new();
        loop {
            let before = messages.last().map(|last| last.message.seq);
            let page = self.history(user, conversation.id, before, PAGE).await?;
            if page.is_empty() {
                messages.reverse();
                let Conversation { id, title, created_unix_ms, updated_unix_ms, device, session_id, .. } =
                    conversation;
                return Ok(ExportedConversation {
                    id,
                    title,
                    created_unix_ms,
                    updated_unix_ms,
                    device,
                    session_id,
                    messages,
                });
            }
            for message in page.into_iter().rev() {
                let sources = match message.role {
                    super::Role::Assistant => self.sources(user, message.id).await?,
                    super::Role::User => Vec::new(),
                };
                messages.push(ExportedMessage { message, sources });
            }
        }
    }

    /// All data of a person, read page by page: concurrent writes may or may not be in it.
    pub async fn export_user(&self, user: UserId) -> Result<Export> {
        let conversations = self.export_conversations(user).await?;
        let mut audit: Vec<AuditEntry> = Vec::new();
        loop {
            let page = self.list_audit(Some(user), audit.last().map(|last| last.cursor), PAGE).await?;
            if page.is_empty() {
                break;
            }
            audit.extend(page);
        }
        audit.reverse();
        let voiceprint = self.voiceprint(user).await?.map(|voiceprint| voiceprint.info);
        Ok(Export { format: 1, user: self.user(user).await?, voiceprint, conversations, audit })
    }
}
