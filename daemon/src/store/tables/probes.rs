//! A plain table of the tests: it shows that a description and a line of the list are enough. The list has it
//! only if [`WANTED`] is set, since no migration makes it.

use uuid::Uuid;

use super::{FileTable, Spec, Table};
use crate::store::queue::Op;

/// Environment variable of the test process that uses it.
pub(crate) const WANTED: &str = "JARVIS_TEST_PROBES";

pub(super) fn unless_unwanted(all: Vec<&'static Table>) -> Vec<&'static Table> {
    let wanted = std::env::var_os(WANTED).is_some();
    all.into_iter().filter(|table| wanted || table.name != "probes").collect()
}

synced! {
    /// A row of the table.
    #[derive(Debug)]
    ProbeRow {
        id: Uuid = UUID.looked_for(),
        owner: Uuid = UUID.here("u.id"),
        text: String = TEXT.at_most(1000).compared(),
        created_unix_ms: i64 = TIME.there("created_at"),
    }
    table: Spec::of("probes", Some("probe"), Op::UpsertProbe);
    file: FileTable {
        columns: "rid id owner text created_unix_ms",
        shape: "ruiti",
        ..FileTable::of("probes")
    };
    fn owner(&self) -> Option<Uuid> {
        Some(self.owner)
    }
}
