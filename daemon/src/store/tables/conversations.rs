//! Conversations, each with one writer: its home.

use uuid::Uuid;

use super::file::Added::{Empty, NeverNamed, Null, Zero};
use super::{FileTable, Spec};
use crate::store::queue::Op;

synced! {
    /// A conversation without its messages.
    #[derive(Debug)]
    ConversationRow {
        id: Uuid = UUID.looked_for(),
        owner: Uuid = UUID.here("u.id").looked_for(),
        /// `None`: written before homes were known.
        device: Option<String> = TEXT.here("d.id").written("coalesce(x.device, s.sender)"),
        session_id: Option<String> = TEXT,
        title: String = TEXT.at_most(4096).compared(),
        title_by_user: bool = BOOLEAN.compared(),
        /// When title and session were given: the greater of two wins.
        named: Uuid = UUID.looked_for().compared(),
        next_seq: i64 = BIGINT.looked_for(),
        created_unix_ms: i64 = TIME.there("created_at"),
        created_synced: bool = BOOLEAN,
        updated_unix_ms: i64 = TIME.there("updated_at"),
        updated_synced: bool = BOOLEAN,
        updated_monotonic_ns: i64 = BIGINT,
        boot_id: String = TEXT.here("b.boot_id"),
    }
    table: Spec {
        joins: "JOIN boots b ON b.rid = r.boot LEFT JOIN devices d ON d.rid = r.device",
        // `next_seq` is the logical clock of the row. The stamp of the last turn comes from the sender with
        // the greater number, or from the home itself, which may have dated it again. Title and client name
        // come from the last device that changed them, by the moment of the change; forgetting empties them.
        // A device that sends an older part does not know the newer one: the row then has no origin, and
        // every device reads it.
        on_conflict: "DO UPDATE SET
            session_id = CASE WHEN excluded.named > t.named THEN excluded.session_id ELSE t.session_id END,
            title = CASE WHEN excluded.named > t.named THEN excluded.title ELSE t.title END,
            title_by_user = CASE WHEN excluded.named > t.named
                THEN excluded.title_by_user ELSE t.title_by_user END,
            named = greatest(t.named, excluded.named),
            next_seq = greatest(t.next_seq, excluded.next_seq),
            created_at = CASE WHEN t.created_synced THEN t.created_at ELSE excluded.created_at END,
            created_synced = t.created_synced OR excluded.created_synced,
            updated_at = CASE WHEN excluded.next_seq > t.next_seq
                OR (excluded.next_seq = t.next_seq AND t.device = excluded.origin)
                THEN excluded.updated_at ELSE t.updated_at END,
            updated_synced = CASE WHEN excluded.next_seq > t.next_seq
                OR (excluded.next_seq = t.next_seq AND t.device = excluded.origin)
                THEN excluded.updated_synced ELSE t.updated_synced END,
            updated_monotonic_ns = CASE WHEN excluded.next_seq > t.next_seq
                OR (excluded.next_seq = t.next_seq AND t.device = excluded.origin)
                THEN excluded.updated_monotonic_ns ELSE t.updated_monotonic_ns END,
            boot_id = CASE WHEN excluded.next_seq > t.next_seq
                OR (excluded.next_seq = t.next_seq AND t.device = excluded.origin)
                THEN excluded.boot_id ELSE t.boot_id END,
            origin = CASE WHEN t.origin = excluded.origin OR (excluded.named >= t.named
                    AND excluded.next_seq >= t.next_seq AND excluded.created_synced >= t.created_synced)
                THEN excluded.origin END,
            change = excluded.change
        WHERE excluded.named > t.named
            OR excluded.next_seq > t.next_seq
            OR (excluded.created_synced AND NOT t.created_synced)
            OR (excluded.next_seq = t.next_seq AND t.device = excluded.origin
                AND (t.updated_at, t.updated_synced, t.boot_id)
                    IS DISTINCT FROM (excluded.updated_at, excluded.updated_synced, excluded.boot_id))",
        as_sent: "t.named >= x.named AND t.next_seq >= x.next_seq",
        ..Spec::of("conversations", Some("conversation"), Op::UpsertConversation)
    };
    file: FileTable {
        columns: "rid id owner title title_by_user next_seq messages activity created_unix_ms created_synced
            updated_unix_ms updated_synced updated_monotonic_ns boot device session_id summary
            summary_seq named",
        shape: "ruitfssiififiiITtsu",
        // The migration that added the device wrote it if it was known.
        older: &[14, 15, 18],
        added: &[Null, Null, Empty, Zero, NeverNamed],
        ..FileTable::of("conversations")
    };
    fn owner(&self) -> Option<Uuid> {
        Some(self.owner)
    }
    fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }
}
