//! The audit log: who was heard, let in, enrolled or deleted. No device reads it back.

use uuid::Uuid;

use super::{FileTable, Spec};
use crate::store::queue::Op;

synced! {
    /// A row of the audit log.
    #[derive(Debug)]
    AuditRow {
        id: Uuid = UUID.looked_for(),
        owner: Option<Uuid> = UUID.here("u.id")
            .written("(SELECT u.id FROM jarvis.users u WHERE u.id = x.owner)"),
        action: String = TEXT,
        outcome: String = TEXT,
        detail: Option<String> = JSON,
        wall_unix_ms: i64 = TIME.there("wall_time"),
        synced: bool = BOOLEAN.here("r.clock_synced").there("clock_synced"),
        monotonic_ns: i64 = BIGINT,
        boot_id: String = TEXT.here("b.boot_id"),
        device: String = TEXT.here("d.id"),
    }
    table: Spec {
        joins: "JOIN boots b ON b.rid = r.boot JOIN devices d ON d.rid = r.device",
        buried_with: &[],
        on_conflict: "DO UPDATE SET wall_time = excluded.wall_time, clock_synced = true
        WHERE NOT t.clock_synced AND excluded.clock_synced",
        as_sent: "true",
        taken_back: false,
        ..Spec::of("audit", None, Op::AppendAudit)
    };
    file: FileTable {
        called: "audit rows",
        columns: "rid id owner action outcome detail wall_unix_ms clock_synced monotonic_ns boot device",
        shape: "ruIttTifiii",
        ..FileTable::of("audit")
    };
    fn owner(&self) -> Option<Uuid> {
        self.owner
    }
    fn device(&self) -> Option<&str> {
        Some(&self.device)
    }
}
