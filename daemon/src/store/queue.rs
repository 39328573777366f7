//! The queue: typed operations that Postgres does not have yet, written with the row that they are about.
//!
//! An entry names a row and never copies it. The forwarder reads the row when it sends, so an upsert always sends the
//! latest state, and a row that is gone by then sends nothing (its deletion is a later entry). What each operation means
//! to the receiver:
//!
//! | operation | row | effect there (repeating it changes nothing) |
//! |---|---|---|
//! | `upsert_user`, `upsert_voiceprint`, `upsert_conversation` | the row | insert, or update to it |
//! | `insert_message` | the row | insert or nothing; raises `next_seq` and `updated` of its conversation to at least this message's |
//! | `delete_message`, `delete_conversation`, `delete_voiceprint`, `delete_user` | gone | delete and leave a tombstone |
//! | `append_audit` | the row | insert or nothing |
//!
//! Upserts of a parent are queued before the first row that needs it.

use std::fmt;

use uuid::Uuid;

use super::{StoreError, Tx};

/// One kind of queue entry. The names are a format: they are stored, and other versions read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    UpsertUser,
    DeleteUser,
    UpsertVoiceprint,
    DeleteVoiceprint,
    UpsertConversation,
    DeleteConversation,
    InsertMessage,
    DeleteMessage,
    AppendAudit,
}

impl Op {
    pub const ALL: [Self; 9] = [
        Self::UpsertUser,
        Self::DeleteUser,
        Self::UpsertVoiceprint,
        Self::DeleteVoiceprint,
        Self::UpsertConversation,
        Self::DeleteConversation,
        Self::InsertMessage,
        Self::DeleteMessage,
        Self::AppendAudit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpsertUser => "upsert_user",
            Self::DeleteUser => "delete_user",
            Self::UpsertVoiceprint => "upsert_voiceprint",
            Self::DeleteVoiceprint => "delete_voiceprint",
            Self::UpsertConversation => "upsert_conversation",
            Self::DeleteConversation => "delete_conversation",
            Self::InsertMessage => "insert_message",
            Self::DeleteMessage => "delete_message",
            Self::AppendAudit => "append_audit",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == name)
    }

    /// What a deletion leaves behind.
    fn tombstone_kind(self) -> Option<&'static str> {
        match self {
            Self::DeleteUser => Some("user"),
            Self::DeleteVoiceprint => Some("voiceprint"),
            Self::DeleteConversation => Some("conversation"),
            Self::DeleteMessage => Some("message"),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

super::sql::statements! {
    ENQUEUE = "INSERT INTO queue (op, entity_id, user_id, created_unix_ms) VALUES (?1, ?2, ?3, ?4)";
    FORGET_PENDING = "DELETE FROM queue WHERE entity_id = ?1";
    FORGET_DEAD = "DELETE FROM dead_letter WHERE entity_id = ?1";
    BURY = "INSERT INTO tombstones (kind, id, user_id, deleted_unix_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO NOTHING";
}

/// Queues `op` about the row `entity` of `user` in the transaction that changes the row.
///
/// A deletion also drops what was still pending for the row and leaves a tombstone.
pub(crate) async fn enqueue(
    tx: &mut Tx<'_>,
    op: Op,
    entity: Uuid,
    user: Option<Uuid>,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let id = entity.as_bytes().as_slice();
    let user_id = user.as_ref().map(|user| user.as_bytes().as_slice());
    if let Some(kind) = op.tombstone_kind() {
        tx.execute(sqlx::query(FORGET_PENDING).bind(id)).await?;
        tx.execute(sqlx::query(FORGET_DEAD).bind(id)).await?;
        tx.execute(sqlx::query(BURY).bind(kind).bind(id).bind(user_id).bind(now_unix_ms)).await?;
    }
    tx.execute(sqlx::query(ENQUEUE).bind(op.as_str()).bind(id).bind(user_id).bind(now_unix_ms)).await?;
    Ok(())
}
