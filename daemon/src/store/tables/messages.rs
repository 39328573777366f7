//! Messages, and the sources of answers.

use uuid::Uuid;

use super::{FileTable, Spec};
use crate::store::queue::Op;

synced! {
    /// A message.
    #[derive(Debug, Clone)]
    MessageRow {
        id: Uuid = UUID.looked_for(),
        conversation: Uuid = UUID.here("c.id").looked_for(),
        owner: Uuid = UUID.here("u.id").looked_for(),
        seq: i64 = BIGINT,
        role: String = TEXT,
        kind: String = TEXT,
        text: String = TEXT.at_most(786_432),
        meta: Option<String> = JSON.at_most(65_536),
        wall_unix_ms: i64 = TIME.there("wall_time"),
        synced: bool = BOOLEAN.here("r.clock_synced").there("clock_synced"),
        monotonic_ns: i64 = BIGINT,
        boot_id: String = TEXT.here("b.boot_id"),
        device: String = TEXT.here("d.id"),
    }
    table: Spec {
        joins: "JOIN conversations c ON c.rid = r.conversation JOIN boots b ON b.rid = r.boot
            JOIN devices d ON d.rid = r.device",
        buried_with: &[("conversation", "conversation"), ("user", "owner")],
        // An existing row is only dated again, after the clock of its device was set.
        on_conflict: "DO UPDATE SET wall_time = excluded.wall_time, clock_synced = true,
            origin = excluded.origin, change = excluded.change
        WHERE NOT t.clock_synced AND excluded.clock_synced",
        as_sent: "true",
        // A page ends early if its texts come to more than 4 MiB.
        page: Some("(SELECT m.*, sum(least(octet_length(m.text), 786432)) OVER (ORDER BY m.change) AS bytes,
                row_number() OVER (ORDER BY m.change) AS n
            FROM (SELECT * FROM jarvis.messages WHERE change > $1 AND (origin <> $2 OR $3)
                ORDER BY change LIMIT $4) m) x
            WHERE n = 1 OR bytes <= 4194304 ORDER BY change"),
        compared: false,
        ..Spec::of("messages", Some("message"), Op::InsertMessage)
    };
    file: FileTable {
        columns: "rid id conversation owner seq role kind text meta wall_unix_ms clock_synced monotonic_ns
            boot device",
        shape: "ruiistttTifiii",
        ..FileTable::of("messages")
    };
    fn owner(&self) -> Option<Uuid> {
        Some(self.owner)
    }
    fn device(&self) -> Option<&str> {
        Some(&self.device)
    }
}
