//! People.

use uuid::Uuid;

use super::file::Added::{NeverNamed, Null};
use super::{FileTable, Spec};
use crate::store::queue::Op;

synced! {
    /// A person.
    #[derive(Debug)]
    UserRow {
        id: Uuid = UUID.looked_for(),
        name: String = TEXT.here("coalesce(r.house_name, r.name)").at_most(1024).compared(),
        consent_unix_ms: Option<i64> = TIME.there("consent_at").looked_for().compared(),
        created_unix_ms: i64 = TIME.there("created_at"),
        synced: bool = BOOLEAN.here("r.created_synced").there("clock_synced"),
        /// When the name was given: the greater of two wins.
        named: Uuid = UUID.looked_for().compared(),
    }
    table: Spec {
        owner: None,
        joins: "",
        buried_with: &[],
        // The name given later wins, and so does the later consent. A device that sends an older name does
        // not know the newer one: the row then has no origin, and every device reads it.
        on_conflict: "DO UPDATE SET
            name = CASE WHEN excluded.named > t.named THEN excluded.name ELSE t.name END,
            named = greatest(t.named, excluded.named),
            consent_at = greatest(t.consent_at, excluded.consent_at),
            created_at = excluded.created_at, clock_synced = excluded.clock_synced,
            origin = CASE WHEN t.origin = excluded.origin OR (excluded.named >= t.named
                    AND greatest(t.consent_at, excluded.consent_at) IS NOT DISTINCT FROM excluded.consent_at)
                THEN excluded.origin END,
            change = excluded.change
        WHERE excluded.named > t.named
            OR (t.created_at, t.clock_synced) IS DISTINCT FROM (excluded.created_at, excluded.clock_synced)
            OR greatest(t.consent_at, excluded.consent_at) IS DISTINCT FROM t.consent_at",
        as_sent: "t.named >= x.named AND (x.consent_unix_ms IS NULL
            OR t.consent_at >= timestamptz 'epoch' + x.consent_unix_ms * interval '1 ms')",
        ..Spec::of("users", Some("user"), Op::UpsertUser)
    };
    file: FileTable {
        called: "people",
        columns: "rid id name name_key consent_unix_ms created_unix_ms created_synced named house_name",
        shape: "ruttIifuT",
        older: &[7],
        added: &[NeverNamed, Null],
        ..FileTable::of("users")
    };
    fn owner(&self) -> Option<Uuid> {
        Some(self.id)
    }
}
