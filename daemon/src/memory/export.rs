//! Everything that is a person's, as one value.

use serde::Serialize;

use super::{AuditEntry, Conversation, Memory, Message, Result, User, UserId, VoiceprintInfo};

/// A conversation with its messages, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct ExportedConversation {
    #[serde(flatten)]
    pub conversation: Conversation,
    pub messages: Vec<Message>,
}

/// What [`Memory::export_user`] returns; serialise it as it is.
#[derive(Debug, Clone, Serialize)]
pub struct Export {
    /// Version of this format.
    pub format: u32,
    pub user: User,
    /// Without the template, which is sealed and of no use elsewhere.
    pub voiceprint: Option<VoiceprintInfo>,
    /// Oldest first.
    pub conversations: Vec<ExportedConversation>,
    /// Oldest first.
    pub audit: Vec<AuditEntry>,
}

impl Memory {
    /// All of a person's data, read page by page: what is written meanwhile may or may not be in it.
    pub async fn export_user(&self, user: UserId) -> Result<Export> {
        const PAGE: u32 = 500;
        let mut conversations = Vec::new();
        let mut from = None;
        loop {
            let page = self.list_conversations(user, from, PAGE).await?;
            for conversation in page.items {
                let mut messages: Vec<Message> = Vec::new();
                loop {
                    let before = messages.first().map(|first| first.seq);
                    let mut earlier = self.history(user, conversation.id, before, PAGE).await?;
                    if earlier.is_empty() {
                        break;
                    }
                    earlier.append(&mut messages);
                    messages = earlier;
                }
                conversations.push(ExportedConversation { conversation, messages });
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        conversations.reverse();
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
