//! Rows that the server reports neither as written nor as refused.
//!
//! A `BEFORE` trigger that returns NULL and a rule `DO INSTEAD NOTHING` drop a row without an error. A
//! statement also writes fewer rows than it was given where the server has them already, or newer ones, or
//! has buried them. So where it wrote fewer, the rows are looked for, in the same transaction.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::write::column;
use super::{Pg, PgError};
use crate::store::outgoing::{Batch, Deletion};
use crate::store::queue::Op;
use crate::store::rows::MessageRow;

const STEP: &str = "looking for what was sent to Postgres";

/// The rows of a person or of a conversation that is buried, or that are buried themselves, are no loss.
macro_rules! unless_buried {
    ($query:literal $(, $kind:literal $id:literal)+) => {
        concat!(
            $query,
            $(" AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = '", $kind, "' AND d.id = x.", $id, ")",)+
            " LIMIT 1"
        )
    };
}
/// Rows that are not buried, or are still there.
macro_rules! deleted {
    ($table:literal, $owner:literal) => {
        concat!(
            "SELECT 1 FROM unnest($2::uuid[], $3::uuid[]) AS x (id, owner)
            WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d
                    WHERE (d.kind = $1 AND d.id = x.id) OR (d.kind = 'user' AND d.id = x.owner))
                OR EXISTS (SELECT FROM jarvis.",
            $table,
            " t WHERE t.id = x.id AND t.",
            $owner,
            " = x.owner) LIMIT 1"
        )
    };
}

crate::store::sql::statements! {
    USERS = unless_buried!("SELECT 1 FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS x (id, named, consent)
        WHERE NOT EXISTS (SELECT FROM jarvis.users t WHERE t.id = x.id AND t.named >= x.named
            AND (x.consent IS NULL OR t.consent_at >= timestamptz 'epoch' + x.consent * interval '1 ms'))",
        "user" "id");
    VOICEPRINTS = unless_buried!("SELECT 1 FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[])
            AS x (id, owner, wrapped_key, blob)
        WHERE NOT EXISTS (SELECT FROM jarvis.voiceprints t
            WHERE t.id = x.id AND (t.wrapped_key, t.blob) = (x.wrapped_key, x.blob))",
        "voiceprint" "id", "user" "owner");
    CONVERSATIONS = unless_buried!("SELECT 1 FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
            AS x (id, owner, named, next_seq)
        WHERE NOT EXISTS (SELECT FROM jarvis.conversations t
            WHERE t.id = x.id AND t.named >= x.named AND t.next_seq >= x.next_seq)",
        "conversation" "id", "user" "owner");
    MESSAGES = unless_buried!("SELECT 1 FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS x (id, conversation, owner)
        WHERE NOT EXISTS (SELECT FROM jarvis.messages t WHERE t.id = x.id)",
        "message" "id", "conversation" "conversation", "user" "owner");
    SOURCES = "SELECT 1 FROM unnest($1::uuid[], $2::uuid[]) AS x (message, source)
            JOIN jarvis.messages m ON m.id = x.message JOIN jarvis.messages s ON s.id = x.source AND s.owner = m.owner
        WHERE NOT EXISTS (SELECT FROM jarvis.message_sources t WHERE t.message = x.message AND t.source = x.source)
        LIMIT 1";
    AUDIT = "SELECT 1 FROM unnest($1::uuid[]) AS x (id)
        WHERE NOT EXISTS (SELECT FROM jarvis.audit t WHERE t.id = x.id) LIMIT 1";
    DELETED_MESSAGES = deleted!("messages", "owner");
    DELETED_CONVERSATIONS = deleted!("conversations", "owner");
    DELETED_VOICEPRINTS = deleted!("voiceprints", "owner");
    DELETED_USERS = deleted!("users", "id");
}

impl Pg {
    /// Fails if one of the rows that `query` looks for is not as it was sent; `written` of `sent` were
    /// written.
    async fn all_there(
        &mut self,
        (written, sent): (u64, usize),
        table: &str,
        query: Query<'_, sqlx::Postgres, PgArguments>,
    ) -> Result<(), PgError> {
        if written >= sent as u64 || self.value(STEP, query, |_| Ok(())).await?.is_empty() {
            return Ok(());
        }
        Err(PgError::swallowed(table))
    }

    pub(super) async fn users_are_there(&mut self, written: u64, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.users;
        let query = sqlx::query(USERS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.named))
            .bind(column(rows, |r| r.consent_unix_ms));
        self.all_there((written, rows.len()), "users", query).await
    }

    pub(super) async fn voiceprints_are_there(&mut self, written: u64, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.voiceprints;
        let query = sqlx::query(VOICEPRINTS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.wrapped_key.as_slice()))
            .bind(column(rows, |r| r.blob.as_slice()));
        self.all_there((written, rows.len()), "voiceprints", query).await
    }

    pub(super) async fn conversations_are_there(
        &mut self,
        written: u64,
        batch: &Batch,
    ) -> Result<(), PgError> {
        let rows = &batch.conversations;
        let query = sqlx::query(CONVERSATIONS)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner))
            .bind(column(rows, |r| r.named))
            .bind(column(rows, |r| r.next_seq));
        self.all_there((written, rows.len()), "conversations", query).await
    }

    pub(super) async fn messages_are_there(
        &mut self,
        written: u64,
        rows: &[MessageRow],
    ) -> Result<(), PgError> {
        let query = sqlx::query(MESSAGES)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.conversation))
            .bind(column(rows, |r| r.owner));
        self.all_there((written, rows.len()), "messages", query).await
    }

    pub(super) async fn sources_are_there(&mut self, written: u64, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.sources;
        let query =
            sqlx::query(SOURCES).bind(column(rows, |(message, _)| *message)).bind(column(rows, |r| r.1));
        self.all_there((written, rows.len()), "message_sources", query).await
    }

    pub(super) async fn audit_is_there(&mut self, written: u64, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.audit;
        let query = sqlx::query(AUDIT).bind(column(rows, |r| r.id));
        self.all_there((written, rows.len()), "audit", query).await
    }

    /// `buried` and `deleted` are what the statements of a deletion wrote and deleted.
    pub(super) async fn deletions_are_done(
        &mut self,
        (buried, deleted): (u64, u64),
        op: Op,
        rows: &[Deletion],
    ) -> Result<(), PgError> {
        let (sql, table) = match op {
            Op::DeleteMessage => (DELETED_MESSAGES, "messages"),
            Op::DeleteConversation => (DELETED_CONVERSATIONS, "conversations"),
            Op::DeleteVoiceprint => (DELETED_VOICEPRINTS, "voiceprints"),
            _ => (DELETED_USERS, "users"),
        };
        let query = sqlx::query(sql)
            .bind(op.tombstone_kind())
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner));
        let table = if buried < rows.len() as u64 {
            "tombstones or jarvis.".to_owned() + table
        } else {
            table.to_owned()
        };
        self.all_there((buried.min(deleted), rows.len()), &table, query).await
    }
}
